"""What a comparison of arms over seeds gave: curves over labels, label saving, paired differences.

An arm is a way of asking. All numbers of a reference come from the same study: a saving is against
chance that was run beside it, a target is a share of the Dice of the whole pool by the same
trainer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from alnb.rng import stream
from alnb.session.statistics import (
    Paired,
    aubc,
    labels_to_reach,
    paired,
    run_std,
    twice_bootstrap_se,
)
from alnb.session.tables import aligned, csv_text, quoted, shown

FULL = "full"
REFERENCES = ("foreground_random", "random")
"""Arms of chance that others are compared with, the stronger one first."""
TARGETS = (0.90, 0.95, 0.99)
"""Shares of the Dice of the whole pool."""


@dataclass(frozen=True, eq=False)
class Trained:
    """One training of one arm and seed, measured on the test volumes.

    Attributes
    ----------
    training : its number, from 0.
    draws, unique : volumes asked for until then, the start included, and how many different ones.
    start, pool : volumes that began, and all that can be labelled, those included.
    dice : (V, C - 1) 3D Dice of the committee's mean per test volume and foreground class.
    seconds : wall clock of the training.
    validation : mean Dice on the validation volumes; NaN where they were not looked at.
    rep_ratio, disagreement : how much the members pushed each other, median over the training; and
        the share of voxels on which two of them differed at its end. NaN where nobody looked.
    """

    arm: str
    seed: int
    training: int
    draws: int
    unique: int
    start: int
    pool: int
    dice: NDArray[np.float64]
    seconds: float = math.nan
    validation: float = math.nan
    rep_ratio: float = math.nan
    disagreement: float = math.nan

    @property
    def mean(self) -> float:
        """Dice, mean over the volumes where it is defined, then over classes."""
        return float(self.classes.mean())

    @property
    def classes(self) -> NDArray[np.float64]:
        """(C - 1,) mean over the volumes where it is defined."""
        found: NDArray[np.float64] = np.nanmean(self.dice, axis=0)
        return found

    @property
    def share(self) -> float:
        """Different labelled volumes of all that can be labelled."""
        return self.unique / self.pool

    @property
    def asked_share(self) -> float:
        """The same without the start, on both sides."""
        rest = self.pool - self.start
        return (self.unique - self.start) / rest if rest else math.nan


@dataclass(frozen=True, slots=True)
class Point:
    """One training of an arm over all seeds; `mean` and `run_std` are of the test Dice."""

    arm: str
    training: int
    seeds: int
    draws: float
    unique: float
    share: float
    asked_share: float
    mean: float
    run_std: float
    twice_se: float
    rep_ratio: float
    disagreement: float
    classes: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """How many labels an arm took for a share `target` of the whole pool's Dice, `dice`.

    labels, run_std : different volumes, mean and deviation over the seeds that reached it; NaN
        unless all of them did, since those that did not would have needed more.
    reached, seeds : how many seeds reached it, of how many.
    by_seed : (seed, labels), NaN where it was not reached.
    """

    arm: str
    target: float
    dice: float
    labels: float
    run_std: float
    reached: int
    seeds: int
    by_seed: tuple[tuple[int, float], ...]


Curve = list[Trained]


@dataclass(frozen=True, eq=False)
class Study:
    """Results of all arms and seeds so far.

    title, notes : what was run, and sentences that belong beside its numbers.
    classes : names of all classes, background first.
    """

    title: str
    notes: tuple[str, ...]
    classes: tuple[str, ...]
    trained: tuple[Trained, ...]

    @cached_property
    def curves(self) -> dict[str, dict[int, Curve]]:
        """Trainings in order, by arm and seed; arms in the order in which they came."""
        found: dict[str, dict[int, Curve]] = {}
        for each in sorted(self.trained, key=lambda each: each.training):
            found.setdefault(each.arm, {}).setdefault(each.seed, []).append(each)
        return {arm: found[arm] for arm in dict.fromkeys(each.arm for each in self.trained)}

    def points(self) -> tuple[Point, ...]:
        """Per arm and training, over the seeds that were measured there."""
        groups: dict[tuple[str, int], list[Trained]] = {}
        for arm, curves in self.curves.items():
            for seed in sorted(curves):
                for each in curves[seed]:
                    groups.setdefault((arm, each.training), []).append(each)
        return tuple(_point(group) for _, group in sorted(groups.items(), key=self._place))

    def _place(self, group: tuple[tuple[str, int], object]) -> tuple[int, int]:
        arm, training = group[0]
        return list(self.curves).index(arm), training

    @property
    def full(self) -> float:
        """Test Dice with the whole pool labelled, mean over seeds; NaN where it was not run."""
        curves = self.curves.get(FULL, {})
        return float(np.mean([c[-1].mean for c in curves.values()])) if curves else math.nan

    # ------------------------------------------------------------------ label saving

    def needs(self) -> tuple[Need, ...]:
        """Of every arm but the whole pool, for every target; none while that was not run."""
        if math.isnan(self.full):
            return ()
        return tuple(
            self._need(arm, target) for arm in self.curves if arm != FULL for target in TARGETS
        )

    def _need(self, arm: str, target: float) -> Need:
        dice, curves = target * self.full, self.curves[arm]
        found = {
            seed: labels_to_reach([t.unique for t in curve], [t.mean for t in curve], dice)
            for seed, curve in sorted(curves.items())
        }
        known = [labels for labels in found.values() if not math.isnan(labels)]
        all_did = len(known) == len(found)
        return Need(
            arm,
            target,
            dice,
            float(np.mean(known)) if all_did else math.nan,
            run_std(known) if all_did else math.nan,
            len(known),
            len(found),
            tuple(found.items()),
        )

    def saving(self, arm: str, reference: str, target: float) -> float:
        """Labels of `reference` over labels of `arm`; NaN where one of them did not get there."""
        needs = {(need.arm, need.target): need.labels for need in self.needs()}
        missing = math.nan
        return needs.get((reference, target), missing) / needs.get((arm, target), missing)

    # ------------------------------------------------------------------ seed by seed

    def differences(self, arm: str, reference: str) -> tuple[Paired, Paired] | None:
        """`arm` minus `reference` by seed: Dice after as many trainings, and area under the curve.

        The area is over different labelled volumes, in the range that both cover, divided by that
        range; so a repeat is worth what it teaches and costs nothing. None without common seeds.
        """
        ours, theirs = self.curves.get(arm, {}), self.curves.get(reference, {})
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            return None
        last = {seed: min(len(ours[seed]), len(theirs[seed])) - 1 for seed in seeds}
        final = paired(
            {seed: ours[seed][last[seed]].mean for seed in seeds},
            {seed: theirs[seed][last[seed]].mean for seed in seeds},
        )
        areas = [(seed, common_areas(ours[seed], theirs[seed])) for seed in seeds]
        known = [(seed, both) for seed, both in areas if both is not None]
        if not known:
            return final, Paired(0, math.nan, math.nan, math.nan, 0)
        first, second = ({seed: both[side] for seed, both in known} for side in (0, 1))
        return final, paired(first, second)

    # ------------------------------------------------------------------ as text

    def to_table(self) -> str:
        """Everything a reader needs, as text."""
        parts = [self.title, *self._finals(), *self._needs(), *self._differences()]
        return "\n".join([*parts, "", *self.notes])

    def _finals(self) -> list[str]:
        head = ["arm", "seeds", "trainings", "draws", "unique", "of all", "of asked", "Dice"]
        head += ["run std", "2 boot SE", *self.classes[1:], "disagree", "push/climb"]
        last: dict[str, Point] = {}
        for point in self.points():
            # the last training that all seeds have reached
            if point.seeds == len(self.curves[point.arm]):
                last[point.arm] = point
        return ["", "after the last training:", *aligned(head, map(_cells, last.values()))]

    def _needs(self) -> list[str]:
        needs = self.needs()
        if not needs:
            return []
        head = ["arm", "target", "Dice", "labels", "run std", "of all", "reached"]
        head += [f"saving vs {name}" for name in REFERENCES]
        pool = self.trained[0].pool
        body = [
            [
                *(n.arm, f"{n.target:.0%}", shown(n.dice), shown(n.labels, 1), shown(n.run_std, 1)),
                *(_percent(n.labels / pool), f"{n.reached} of {n.seeds}"),
                *(shown(self.saving(n.arm, name, n.target), 2) for name in REFERENCES),
            ]
            for n in needs
        ]
        title = f"labels for a share of {shown(self.full)}, the Dice of the whole pool:"
        return ["", title, *aligned(head, body)]

    def _differences(self) -> list[str]:
        head = ["arm", "minus", "seeds", "Dice at the end", "95 %", "won", "area", "95 %", "won"]
        body = []
        for reference in REFERENCES:
            for arm in self.curves:
                found = None if arm in (FULL, reference) else self.differences(arm, reference)
                if found is not None:
                    cells = [cell for each in found for cell in _difference(each)]
                    body.append([arm, reference, str(found[0].seeds), *cells])
        return ["", "seed by seed:", *aligned(head, body)] if body else []

    # ------------------------------------------------------------------ as CSV

    def trainings_csv(self) -> str:
        """One line per arm, seed and training."""
        names = ["arm", "seed", "training", "draws", "unique", "share", "asked_share", "mean"]
        names += ["seconds", "validation", "rep_ratio", "disagreement"]
        rows = [
            [*(getattr(each, name) for name in names), *each.classes.tolist()]
            for curves in self.curves.values()
            for _, curve in sorted(curves.items())
            for each in curve
        ]
        return csv_text([*names, *quoted(self.classes[1:])], rows)

    def points_csv(self) -> str:
        """One line per arm and training: Dice against the share of labels, over seeds."""
        names = [name for name in Point.__slots__ if name != "classes"]
        rows = [[*(getattr(p, name) for name in names), *p.classes] for p in self.points()]
        return csv_text([*names, *quoted(self.classes[1:])], rows)

    def needs_csv(self) -> str:
        """One line per arm, target and seed; labels are empty where it was not reached."""
        pool = self.trained[0].pool
        rows = [
            [need.arm, need.target, need.dice, seed, labels, labels / pool]
            for need in self.needs()
            for seed, labels in need.by_seed
        ]
        return csv_text(["arm", "target", "dice", "seed", "labels", "share"], rows)


def common_areas(ours: Curve, theirs: Curve) -> tuple[float, float] | None:
    """Area of each under Dice over different labelled volumes, over the range that both cover.

    Trainings with the same labels, as repeats give them, count as their mean. None where the two
    have no range in common.
    """
    curves = [_by_labels(curve) for curve in (ours, theirs)]
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if not low < high:
        return None
    inside = np.unique(np.clip(np.concatenate([x for x, _ in curves]), low, high))
    first, second = (aubc(inside, np.interp(inside, x, y)) for x, y in curves)
    return first, second


def _by_labels(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    labels = np.array([each.unique for each in curve], dtype=float)
    x, place = np.unique(labels, return_inverse=True)
    y = np.bincount(place, [each.mean for each in curve]) / np.bincount(place)
    return x, y


def _point(group: list[Trained]) -> Point:
    first = group[0]

    def mean(of: Callable[[Trained], float]) -> float:
        return float(np.mean([of(each) for each in group]))

    # (seeds, volumes): every seed is measured on the same volumes
    table = np.stack([np.nanmean(each.dice, axis=1) for each in group])
    rng = stream(0, "bootstrap", first.arm, first.training)
    return Point(
        arm=first.arm,
        training=first.training,
        seeds=len(group),
        draws=mean(lambda each: each.draws),
        unique=mean(lambda each: each.unique),
        share=mean(lambda each: each.share),
        asked_share=mean(lambda each: each.asked_share),
        mean=mean(lambda each: each.mean),
        run_std=run_std([each.mean for each in group]),
        twice_se=twice_bootstrap_se(table, rng=rng),
        rep_ratio=mean(lambda each: each.rep_ratio),
        disagreement=mean(lambda each: each.disagreement),
        classes=tuple(np.mean([each.classes for each in group], axis=0).tolist()),
    )


def _cells(p: Point) -> list[str]:
    counts = [p.arm, str(p.seeds), str(p.training + 1), shown(p.draws, 1), shown(p.unique, 1)]
    shares = [_percent(p.share), _percent(p.asked_share)]
    bars = (p.mean, p.run_std, p.twice_se, *p.classes)
    return [*counts, *shares, *map(shown, bars), shown(p.disagreement, 4), shown(p.rep_ratio, 4)]


def _difference(p: Paired) -> list[str]:
    if not p.seeds:
        return ["–", "–", "–"]
    return [f"{p.mean:+.4f}", f"± {shown(p.half, 4)}", f"{p.won} of {p.seeds}"]


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.1%}"
