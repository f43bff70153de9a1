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

FULL = "full"
REFERENCES = ("foreground_random", "random")
"""Arms of chance that others are compared with, the stronger one first."""
CONTRASTS = (
    ("svgd_mi", "svgd_mi_delete", "keeping what is labelled"),
    ("svgd_mi", "epistemic", "mutual information, and keeping"),
    ("svgd_mi_delete", "epistemic", "mutual information"),
    ("epistemic_keep", "epistemic", "keeping, without mutual information"),
    ("epistemic", "entropy", "particles instead of a deep ensemble, asking by entropy"),
    ("random", "random_ensemble", "the same, asking by chance"),
)
"""Arms that differ in one thing, and what that is."""
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
    """One training of an arm over all seeds.

    `mean`, `run_std` and `twice_se` are of the test Dice; two error bars of two different things.
    """

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
    seconds: float
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

    @cached_property
    def through(self) -> dict[str, dict[int, Curve]]:
        """`curves` without the whole pool and without seeds that are under way.

        Those are the ones with fewer trainings than the longest.
        """
        longest = max(len(curve) for curves in self.curves.values() for curve in curves.values())
        return {
            arm: {seed: curve for seed, curve in curves.items() if len(curve) == longest}
            for arm, curves in self.curves.items()
            if arm != FULL
        }

    @property
    def full(self) -> float:
        """Test Dice with the whole pool labelled, mean over seeds; NaN where it was not run."""
        curves = self.curves.get(FULL, {})
        return float(np.mean([c[-1].mean for c in curves.values()])) if curves else math.nan

    def saturated(self) -> int | None:
        """The training from which on every arm has at least 99 % of the whole pool's Dice.

        There arms can hardly differ. None where there is no such training, or no whole pool.
        """
        asking = {arm: curves for arm, curves in self.curves.items() if arm != FULL}
        if math.isnan(self.full) or not asking:
            return None
        last = min(len(curve) for curves in asking.values() for curve in curves.values())
        means = [
            [
                float(np.mean([curve[training].mean for curve in curves.values()]))
                for curves in asking.values()
            ]
            for training in range(last)
        ]
        high = [min(each) >= TARGETS[-1] * self.full for each in means]
        below = [training for training, enough in enumerate(high) if not enough]
        first = below[-1] + 1 if below else 0
        return first if first < last else None

    # ------------------------------------------------------------------ label saving

    def needs(self) -> tuple[Need, ...]:
        """Of every arm in `through`, for every target; none while the whole pool was not run."""
        if math.isnan(self.full):
            return ()
        return tuple(
            self._need(arm, curves, target)
            for arm, curves in self.through.items()
            if curves
            for target in TARGETS
        )

    def _need(self, arm: str, curves: dict[int, Curve], target: float) -> Need:
        dice = target * self.full
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
        """Labels of `reference` over labels of `arm`, both the mean over the seeds of both.

        NaN where one of them did not get there with one of these seeds.
        """
        needs = {need.arm: dict(need.by_seed) for need in self.needs() if need.target == target}
        ours, theirs = needs.get(arm, {}), needs.get(reference, {})
        seeds = ours.keys() & theirs.keys()
        spent = sum(ours[seed] for seed in seeds)
        return sum(theirs[seed] for seed in seeds) / spent if seeds else math.nan

    # ------------------------------------------------------------------ seed by seed

    def differences(self, arm: str, reference: str) -> tuple[Paired, Paired] | None:
        """`arm` minus `reference` by seed: Dice after the last training, and area under the curve.

        The area is over different labelled volumes, in the range that both cover, divided by that
        range; so a repeat is worth what it teaches and costs nothing. None where no seed of both is
        `through`.
        """
        ours, theirs = self.through.get(arm, {}), self.through.get(reference, {})
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            return None
        final = paired(
            {seed: ours[seed][-1].mean for seed in seeds},
            {seed: theirs[seed][-1].mean for seed in seeds},
        )
        areas = [(seed, common_areas(ours[seed], theirs[seed])) for seed in seeds]
        known = [(seed, both) for seed, both in areas if both is not None]
        if not known:
            return final, Paired(0, math.nan, math.nan, math.nan, 0)
        first, second = ({seed: both[side] for seed, both in known} for side in (0, 1))
        return final, paired(first, second)


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
        seconds=mean(lambda each: each.seconds),
        rep_ratio=mean(lambda each: each.rep_ratio),
        disagreement=mean(lambda each: each.disagreement),
        classes=tuple(np.mean([each.classes for each in group], axis=0).tolist()),
    )
