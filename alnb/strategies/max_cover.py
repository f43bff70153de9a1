"""Suggestive annotation: of the most uncertain rows, those that represent the pool best.

Source: Yang et al., "Suggestive annotation", MICCAI 2017, arXiv 1706.04737. Of the unlabelled rows
U, the 2n most uncertain are shortlisted; out of these, rows are added one by one to S so that

    F(S) = sum over x in U of max over y in S of cos(x, y)

grows most, cos being that of the learner's features. F is monotone and submodular, so that the
greedy S reaches at least 1 - 1/e = 63 % of the best F that n rows of the shortlist can have.

Uncertainty there is the standard deviation of a pixel's probability over bootstrapped networks,
averaged over the image: `member_deviation`, here averaged over the classes as well. It takes a
committee: for a single net it is 0 everywhere, and the shortlist is then chance; give the base
``TopScore(entropy)``. Negative cosines count as 0, as if S had held a row unlike all others from
the start; without that F could fall, and the guarantee with it.

Cost: the base's, features of the whole unlabelled pool (one more pass of the learner), and
O(n K D) for the cosines, O(n^2 K) for the picks. Cold start: ColdStart until a model is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alnb.protocols import Snapshot, Strategy
from alnb.records import Floats, Rows, Selection
from alnb.strategies.common import as_asked, candidates_for
from alnb.strategies.scoring import descending, scores_of
from alnb.strategies.streaming import lifted
from alnb.strategies.uncertainty import TopScore

if TYPE_CHECKING:
    from torch import Tensor

Matrix = NDArray[np.float64]

_TIE = 1 - 1e-12
"""Gains whose ratio is above this are equal, so that rounding breaks no tie."""


def member_deviation(probs: Tensor) -> Tensor:
    """(M, B, C, H, W) -> (B, H, W): deviation over the members, mean over the classes; 0 to 1/2."""
    return lifted(probs).std(dim=0, correction=0).mean(dim=1)


def directions(features: Floats) -> Matrix:
    """(N, D) rows of length 1; rows of zeros stay zeros, unlike everything."""
    points = features.astype(np.float64)
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(norms > 0, norms, 1.0)


def max_cover(similar: Floats, covered: Floats, n: int) -> tuple[Rows, Floats]:
    """n columns of `similar`, chosen greedily, and the gain in F of each.

    similar : (U, S) similarity of each row that counts to each row that may be chosen; below 0
    counts as 0. covered : (U,) the largest similarity to what is chosen already, 0 or more. The
    first column wins a tie. Gains never rise.
    """
    best = covered.astype(np.float64)
    free = np.ones(similar.shape[1], dtype=np.bool_)
    picks, gains = np.empty(n, dtype=np.int64), np.empty(n)
    for turn in range(n):
        gain = np.maximum(similar - best[:, None], 0.0).sum(axis=0)
        gain[~free] = -1.0
        place = int(np.argmax(gain >= gain.max() * _TIE))
        picks[turn], gains[turn] = place, gain[place]
        free[place] = False
        np.maximum(best, similar[:, place], out=best)
    # A tie within rounding may hand out a gain that is a rounding error above the last one.
    return picks, np.minimum.accumulate(gains)


@dataclass(frozen=True)
class SuggestiveAnnotation:
    """The `factor` n most uncertain candidates, and of them the n that cover the pool best.

    base : any strategy that scores each row. factor : size of the shortlist in batches, 2 as in
    the source. The score of a pick is its gain in F, never rising.

    Rows that a wrapper has already taken into the batch cover the pool too, so that under
    `PerVolume` the answer is the greedy one under the cap.
    """

    base: Strategy = field(default_factory=lambda: TopScore(member_deviation))
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not self.factor >= 1:
            raise ValueError(f"factor is {self.factor}; the shortlist must hold n rows at least.")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates in the order of the greedy cover."""
        rows = candidates_for(snapshot, n)
        if not n:
            return Selection(rows=rows[:0], scores=np.empty(0))
        scores = scores_of(self.base, snapshot, rng=rng)
        size = int(min(len(rows), np.ceil(self.factor * n)))
        shortlist = rows[descending(scores, rng=rng)[:size]]

        asked = as_asked(snapshot)
        taken = np.setdiff1d(snapshot.labelled, asked.labelled)
        pool = np.union1d(asked.candidates, taken)
        unlabelled = np.setdiff1d(pool, asked.labelled)
        if not len(unlabelled):
            # With labelled rows as the only candidates nothing is left to be covered.
            return Selection(rows=shortlist[:n], scores=np.zeros(n))
        everything = np.union1d(pool, shortlist)
        unit = directions(snapshot.learned(everything))

        def of(some: Rows) -> Matrix:
            return unit[np.searchsorted(everything, some)]

        covered = (of(unlabelled) @ of(taken).T).max(axis=1, initial=0.0)
        picks, gains = max_cover(of(unlabelled) @ of(shortlist).T, covered, n)
        return Selection(rows=shortlist[picks], scores=gains)
