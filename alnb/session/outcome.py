"""What an experiment over seeds and budgets gave: numbers per budget, as a table and as CSV."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from alnb.rng import stream
from alnb.session.ledger import Ledger
from alnb.session.statistics import aubc, run_std, twice_bootstrap_se
from alnb.session.tables import aligned, csv_text, quoted, shown


@dataclass(frozen=True, eq=False)
class Measured:
    """One round of one seed, measured on the test volumes.

    Attributes
    ----------
    budget, share, slices, steps : as asked for ("5%"), as a share of the pool that was really
        labelled, as slices, and the training steps of each network.
    validation : (M,) mean Dice of every network on the validation volumes.
    dice : (M, V, C - 1) 3D Dice per network, test volume and foreground class.
    spent : what the labels cost until then.
    """

    seed: int
    round: int
    budget: str
    share: float
    slices: int
    steps: int
    validation: tuple[float, ...]
    dice: NDArray[np.float64]
    spent: Ledger

    @property
    def chosen(self) -> int:
        """The network that validated best, the first in a tie."""
        return int(np.argmax(self.validation))


@dataclass(frozen=True, slots=True)
class Point:
    """One budget over all seeds.

    Attributes
    ----------
    mean, run_std, twice_se : test Dice of the chosen network; its deviation over seeds; and twice
        its bootstrap error over test volumes. Two error bars of two different things.
    networks_mean, networks_std : mean over all networks instead, which is what one network that
        nobody chose would give; and its deviation over seeds.
    classes : the chosen network's Dice per foreground class.
    """

    budget: str
    slices: int
    share: float
    steps: int
    seeds: int
    mean: float
    run_std: float
    twice_se: float
    networks_mean: float
    networks_std: float
    classes: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """An experiment's results.

    title, notes : what was run, and sentences that belong beside its numbers.
    classes : names of all classes, background first.
    """

    title: str
    notes: tuple[str, ...]
    classes: tuple[str, ...]
    measured: tuple[Measured, ...]

    def points(self) -> tuple[Point, ...]:
        """Per budget, over the seeds that were measured there."""
        rounds = sorted({m.round for m in self.measured})
        return tuple(_point([m for m in self.measured if m.round == r]) for r in rounds)

    def areas(self) -> tuple[tuple[str, float, float], ...]:
        """(name, mean, deviation over seeds) of whole curves; every name says its axis."""
        curves = [
            sorted((m for m in self.measured if m.seed == seed), key=lambda m: m.round)
            for seed in sorted({m.seed for m in self.measured})
        ]
        longest = max(len(curve) for curve in curves)
        whole = [curve for curve in curves if len(curve) == longest]
        found = [("final Dice", [_dice(curve[-1]) for curve in whole])]
        if longest > 1:
            areas = [aubc([m.share for m in c], [_dice(m) for m in c]) for c in whole]
            found.append(("AUBC, axis: share of the pool labelled", areas))
        low = [[_dice(m) for m in c if 2 <= _percent(m.budget) <= 5] for c in whole]
        if all(low):
            means = [float(np.mean(values)) for values in low]
            found.append(("mean over the budgets of 2 to 5 %", means))
        return tuple((name, float(np.mean(v)), run_std(v)) for name, v in found)

    def to_table(self) -> str:
        """Everything a reader needs, as text."""
        names = [*_HEAD, *self.classes[1:]]
        body = [_cells(point) for point in self.points()]
        lines = aligned(names, body)
        areas = [f"{name}: {mean:.3f}{_plus(std)}" for name, mean, std in self.areas()]
        return "\n".join([self.title, *lines, *areas, *self._costs(), *self.notes])

    def _costs(self) -> list[str]:
        final = max(m.round for m in self.measured)
        spent = [m.spent for m in self.measured if m.round == final]

        def mean(name: str) -> float:
            return float(np.mean([getattr(each, name) for each in spent]))

        held = spent[0]
        return [
            f"cost until the last budget, mean over seeds: {mean('slices'):.0f} slices in "
            f"{mean('volumes'):.0f} volumes, {mean('pixels'):.0f} labelled pixels "
            f"({mean('foreground'):.0f} foreground), {mean('strokes'):.0f} strokes, "
            f"{mean('seconds'):.0f} s of drawing, {mean('repeats'):.0f} repeats, "
            f"{mean('control'):.0f} by control; as long as {mean('full_masks'):.1f} full masks "
            "(model: a slice of scribbles takes 1/15 of a mask); "
            f"training {mean('fit_seconds'):.0f} s",
            f"outside the budget: validation masks of {held.validation_volumes} volumes, "
            f"{held.validation_slices} slices, {held.validation_pixels} pixels",
        ]

    def to_csv(self) -> str:
        """One line per budget."""
        names = [f.name for f in dataclasses.fields(Point) if f.name != "classes"]
        rows = [[*(getattr(p, name) for name in names), *p.classes] for p in self.points()]
        return csv_text([*names, *quoted(self.classes[1:])], rows)

    def runs_csv(self) -> str:
        """One line per seed, budget and network, with what the labels cost until then."""
        spent = [f.name for f in dataclasses.fields(Ledger) if f.name not in ("round", "slices")]
        head = ["seed", "budget", "slices", "steps", "network", "chosen", "validation", "test"]
        rows = [
            [
                *(m.seed, m.budget, m.slices, m.steps, number + 1, int(number == m.chosen)),
                *(m.validation[number], float(dice.mean()), *dice.mean(0).tolist()),
                *(getattr(m.spent, name) for name in spent),
            ]
            for m in self.measured
            for number, dice in enumerate(m.dice)
        ]
        return csv_text([*head, *quoted(self.classes[1:]), *spent], rows)


_HEAD = ["budget", "slices", "steps", "seeds", "Dice", "run std", "2 boot SE", "all nets", "std"]


def _point(rows: Sequence[Measured]) -> Point:
    first = rows[0]
    # (seeds, volumes, classes): every seed is measured on the same volumes
    chosen = np.stack([m.dice[m.chosen] for m in rows])
    networks = [float(m.dice.mean()) for m in rows]
    return Point(
        budget=first.budget,
        slices=first.slices,
        share=first.share,
        steps=first.steps,
        seeds=len(rows),
        mean=float(chosen.mean()),
        run_std=run_std(chosen.mean((1, 2))),
        twice_se=twice_bootstrap_se(chosen.mean(2), rng=stream(0, "bootstrap", first.budget)),
        networks_mean=float(np.mean(networks)),
        networks_std=run_std(networks),
        classes=tuple(chosen.mean((0, 1)).tolist()),
    )


def _dice(measured: Measured) -> float:
    return float(measured.dice[measured.chosen].mean())


def _percent(budget: str) -> Fraction:
    return Fraction(budget.removesuffix("%"))


def _cells(p: Point) -> list[str]:
    bars = (p.mean, p.run_std, p.twice_se, p.networks_mean, p.networks_std, *p.classes)
    return [p.budget, str(p.slices), str(p.steps), str(p.seeds), *map(shown, bars)]


def _plus(std: float) -> str:
    return "" if np.isnan(std) else f" ± {std:.3f} (run std)"
