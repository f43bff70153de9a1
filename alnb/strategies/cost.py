"""Score per second: what a label teaches, divided by how long it is expected to take.

A batch of the n highest scores is the right answer to "n slices". When the budget is an annotator's
time, a slice with five structures must teach more than one with a single blob. Ratios are the
greedy rule of the knapsack, and of cost-sensitive active learning (Settles, Craven and Friedland,
"Active learning with real annotation costs", NIPS workshop 2008).

A cost is any function ``(snapshot, rows) -> (K,) seconds``, above 0. Three are here, none of which
knows an annotator until it is told: fit `ByStructures` to seconds that were measured. Only the
proportions of a cost matter for what is chosen.

Cost of computing: the base's, and the cost function's. Cold start: the base's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from alnb.errors import BadInput, BadSelection
from alnb.protocols import Snapshot, Strategy
from alnb.records import Floats, Rows, Selection
from alnb.strategies.common import candidates_for
from alnb.strategies.scoring import descending, non_negative, scores_of
from alnb.strategies.streaming import Sums, streams, summed
from alnb.strategies.uncertainty import TopScore

if TYPE_CHECKING:
    from torch import Tensor

Cost = Callable[[Snapshot, Rows], Floats]


@streams("mean")
def structures(probs: Tensor | Sums) -> Tensor:
    """(M, B, C, H, W) -> (B,): how many foreground classes the members' mean predicts."""
    import torch

    mean = summed(probs).mean
    foreground = range(1, mean.shape[1])
    labels = mean.argmax(dim=1).flatten(1)
    if not foreground:
        return torch.zeros(len(labels))
    return torch.stack([(labels == c).any(dim=1) for c in foreground]).sum(dim=0).float()


@dataclass(frozen=True)
class Constant:
    """Every slice takes as long; a volume takes as long as its slices."""

    seconds: float = 60.0

    def __post_init__(self) -> None:
        _check(self.seconds > 0, self)

    def __call__(self, snapshot: Snapshot, rows: Rows) -> Floats:
        """(K,) seconds."""
        return self.seconds * _slices(snapshot, rows)


@dataclass(frozen=True)
class ByArea:
    """`each` seconds per slice and `per_megapixel` for a million pixels, summed over a volume.

    It reads the images of the rows, and needs no model. Assumed numbers: fit your own.
    """

    each: float = 10.0
    per_megapixel: float = 600.0

    def __post_init__(self) -> None:
        _check(self.each >= 0 <= self.per_megapixel and self.each + self.per_megapixel > 0, self)

    def __call__(self, snapshot: Snapshot, rows: Rows) -> Floats:
        """(K,) seconds."""
        areas = [
            batch.shape[-2] * batch.shape[-1] for batch in snapshot.images(rows) for _ in batch
        ]
        slices = _slices(snapshot, rows)
        owner = np.repeat(np.arange(len(rows)), slices)
        pixels = np.bincount(owner, weights=areas, minlength=len(rows))
        return self.each * slices + self.per_megapixel * pixels / 1e6


@dataclass(frozen=True)
class ByStructures:
    """`each` seconds per slice and `per_structure` for each foreground class predicted in it.

    The model predicts; the reference is never looked at, also in a simulated experiment, because
    knowing what an unlabelled slice holds would be foresight. ColdStart before the first fit.
    Assumed numbers: use `fitted` with your own.
    """

    each: float = 10.0
    per_structure: float = 15.0

    def __post_init__(self) -> None:
        _check(self.each > 0 <= self.per_structure, self)

    @classmethod
    def fitted(cls, found: Floats, seconds: Floats) -> ByStructures:
        """The model that fits measured slices best, by least squares with neither number below 0.

        found : (S,) how many structures each slice held; seconds : (S,) how long it took. BadInput
        unless there are two slices or more and all seconds are above 0.
        """
        from scipy.optimize import nnls

        found, seconds = np.asarray(found, dtype=float), np.asarray(seconds, dtype=float)
        if len(found) != len(seconds) or len(seconds) < 2 or not (seconds > 0).all():
            raise BadInput(
                f"{len(found)} numbers of structures and {len(seconds)} of seconds: a fit needs "
                "the same number of both, at least 2, and seconds above 0."
            )
        (each, per_structure), _ = nnls(np.stack([np.ones(len(found)), found], axis=1), seconds)
        # An empty slice still has to be looked at: without a floor it would be free.
        return cls(max(float(each), float(seconds.min()) / 10), float(per_structure))

    def __call__(self, snapshot: Snapshot, rows: Rows) -> Floats:
        """(K,) seconds."""
        per_slice = self.each + self.per_structure * snapshot.reduce(structures, rows)
        return _slices(snapshot, rows) * per_slice


@dataclass(frozen=True, repr=False)
class CostAware:
    """The n candidates with the largest score per predicted second; ties are broken by chance.

    base : any strategy that scores each row, at least 0. cost : ``(snapshot, rows) -> (K,)``
    seconds. BadSelection if a score is negative or a cost is not a number above 0.

    The score of a pick is the ratio. For a core-set with costs the distance has to be divided at
    every pick, which a wrapper cannot do.
    """

    base: Strategy = field(default_factory=TopScore)
    cost: Cost = field(default_factory=ByStructures)

    def __repr__(self) -> str:
        return f"CostAware({self.base!r}, {getattr(self.cost, '__name__', repr(self.cost))})"

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates, the most profitable first."""
        rows = candidates_for(snapshot, n)
        scores = non_negative(
            scores_of(self.base, snapshot, rng=rng),
            why="divided by seconds, a negative score would favour what takes long",
        )
        if not n:
            return Selection(rows=rows[:0], scores=np.empty(0))
        seconds = np.asarray(self.cost(snapshot, rows), dtype=np.float64)
        if seconds.shape != rows.shape or not (np.isfinite(seconds) & (seconds > 0)).all():
            raise BadSelection(
                f"{self} needs a number of seconds above 0 for each of {len(rows)} rows; the cost "
                f"gave shape {seconds.shape}, smallest {seconds.min(initial=np.inf):.4g}."
            )
        ratio = scores / seconds
        order = descending(ratio, rng=rng)[:n]
        return Selection(rows=rows[order], scores=ratio[order])


def _slices(snapshot: Snapshot, rows: Rows) -> Rows:
    return np.array([len(snapshot.pool.slices[row]) for row in rows], dtype=np.int64)


def _check(fine: bool, cost: object) -> None:
    if not fine:
        raise ValueError(f"{cost!r} is no cost: seconds must be 0 or more, and above 0 in all.")
