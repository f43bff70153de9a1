"""Stochastic batches: judge random groups of rows by their mean, and take the best group.

Groups are random, hence diverse; means keep the score's opinion.

Source: Gaillochet, Desrosiers and Lombaert, "Active learning for medical image segmentation with
stochastic batches", Medical Image Analysis 2023, arXiv 2301.07670. With `size` None a group is as
large as the query and the best group is the answer, as there. With ``size=10`` it is the baseline
of Vepa et al., NeurIPS 2024, arXiv 2411.15763: the best groups in order until n rows are found,
the last of them cut by score.

Unlike public code, groups are drawn from the argument `rng`, anew in every query, and rows left
over form a shorter group instead of being out of reach. Such a group is judged by its mean, as the
others are; being small it comes first, and last, more often than they do.

Cost: the base's, and O(repeats K log K). Cold start: the base's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from alnb.protocols import Snapshot, Strategy
from alnb.records import Floats, Rows, Selection
from alnb.strategies.common import candidates_for
from alnb.strategies.scoring import descending, scores_of
from alnb.strategies.uncertainty import TopScore


def grouped_order(scores: Floats, size: int, *, rng: np.random.Generator) -> Rows:
    """All positions 0..K-1, group by group: a random partition into groups of `size`.

    Groups come by their mean score, rows of one group by their own score, largest first; ties are
    broken by chance. The last group of the partition may be shorter.
    """
    shuffled = rng.permutation(len(scores))
    group = np.empty(len(scores), dtype=np.int64)
    group[shuffled] = np.arange(len(scores)) // size
    means = np.bincount(group, weights=scores) / np.bincount(group)
    place = np.empty(len(means))
    place[descending(means, rng=rng)] = np.arange(len(means))
    return descending(-place[group], scores, rng=rng)


@dataclass(frozen=True)
class StochasticBatches:
    """The best of random groups, by mean score.

    base : any strategy that scores each row; mean pixel entropy as in both sources.
    size : rows per group; None is the number that is asked for. 1 is the base's plain top n.
    repeats : partitions drawn; the one whose n rows have the largest mean score is taken. With
    more of them, chance matters less.

    Under `PerVolume` groups are drawn anew among what is left whenever the cap stops a batch.
    """

    base: Strategy = field(default_factory=TopScore)
    size: int | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is {self.size}; a group holds 1 row or more.")
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; at least 1 partition must be drawn.")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates, the best group first, each with its own score."""
        rows = candidates_for(snapshot, n)
        scores = scores_of(self.base, snapshot, rng=rng)
        size = self.size or max(n, 1)
        batches = [grouped_order(scores, size, rng=rng)[:n] for _ in range(self.repeats)]
        order = max(batches, key=lambda batch: scores[batch].sum())
        return Selection(rows=rows[order], scores=scores[order])
