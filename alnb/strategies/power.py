"""Noise on a score, so that a batch is not n times the same: Power-X, Softrank-X and Softmax-X.

The n best by a score are often near-duplicates. Sampling them without replacement, with a
probability that grows with the score, costs nothing and spreads them out. It is done by the
Gumbel-top-n trick: the n largest of log weight + Gumbel noise, all drawn at once, are distributed
as n draws one after the other, each proportional to weight among what is left.

With beta the coldness (0 is uniform, infinity is the plain top n), A a row's score and r its rank,
1 for the best, the log weights are

- Power-X    beta ln A: proportional to A^beta. A is floored at 1e-12.
- Softrank-X -beta ln r: like Power-X, whatever the scale of A.
- Softmax-X  beta A.

Source: Kirsch et al., "Stochastic batch acquisition", TMLR 2023, arXiv 2106.12059. There noise of
scale 1/beta is added to ln A, which gives the same order as noise of scale 1 added to beta ln A.

Two mistakes of public code are avoided. Noise goes on the aggregated score of a row, never on each
pixel, where it would average away. And it is drawn from the argument `rng`, not from a generator
of the module's own that ignores the run's seed.

The score that a `Selection` reports is A, without noise, so that rounds and strategies compare; a
pick's place in the batch, which noise decides, is its place in `rows`.

Cost: the base's, and O(K log K). Cold start: the base's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from alnb.protocols import Snapshot, Strategy
from alnb.records import Floats, Rows, Selection
from alnb.strategies.common import candidates_for
from alnb.strategies.scoring import descending, non_negative, scores_of
from alnb.strategies.uncertainty import TopScore

FLOOR = 1e-12
"""A score below it counts as this much: what the model is sure of can still be drawn."""


def gumbel_order(
    log_weight: Floats, scores: Floats, beta: float, *, rng: np.random.Generator
) -> Rows:
    """Positions in the order of being drawn, proportional to exp(beta log_weight), none twice.

    log_weight : (K,), finite. scores : (K,) decide where beta is infinite and weights are equal;
    chance decides after that.
    """
    if math.isinf(beta):
        return descending(log_weight, scores, rng=rng)
    return descending(beta * log_weight + rng.gumbel(size=len(log_weight)), rng=rng)


def log_power(scores: Floats) -> Floats:
    """ln max(A, 1e-12); BadSelection below zero, where A^beta is not defined."""
    scores = non_negative(
        scores,
        why="Power-X draws in proportion to a power of it; use SoftrankX or SoftmaxX for such a "
        "score",
    )
    logs: Floats = np.log(np.maximum(scores, FLOOR))
    return logs


def log_rank(scores: Floats, *, rng: np.random.Generator) -> Floats:
    """-ln rank, the largest score having rank 1; ties are ranked by chance."""
    rank = np.empty(len(scores))
    rank[descending(scores, rng=rng)] = np.arange(1, len(scores) + 1)
    return -np.log(rank)


@dataclass(frozen=True)
class PowerX:
    """n candidates drawn without replacement, in proportion to score^beta.

    base : any strategy that scores each row. beta : 0 is uniform, infinity is the base's top n.
    BadSelection if a score is negative.
    """

    base: Strategy = field(default_factory=TopScore)
    beta: float = 1.0

    def __post_init__(self) -> None:
        _check(self.beta)

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates in the order they are drawn; scores are the base's, without noise."""
        rows = candidates_for(snapshot, n)
        scores = scores_of(self.base, snapshot, rng=rng)
        order = gumbel_order(log_power(scores), scores, self.beta, rng=rng)[:n]
        return Selection(rows=rows[order], scores=scores[order])


@dataclass(frozen=True)
class SoftrankX:
    """n candidates drawn without replacement, in proportion to rank^-beta; rank 1 scores best.

    Only the base's order enters, so that any score will do.
    """

    base: Strategy = field(default_factory=TopScore)
    beta: float = 1.0

    def __post_init__(self) -> None:
        _check(self.beta)

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates in the order they are drawn; scores are the base's, without noise."""
        rows = candidates_for(snapshot, n)
        scores = scores_of(self.base, snapshot, rng=rng)
        order = gumbel_order(log_rank(scores, rng=rng), scores, self.beta, rng=rng)[:n]
        return Selection(rows=rows[order], scores=scores[order])


@dataclass(frozen=True)
class SoftmaxX:
    """n candidates drawn without replacement, in proportion to exp(beta score).

    The score's scale matters: with mean pixel entropies, which lie close together, beta = 1 is
    almost uniform.
    """

    base: Strategy = field(default_factory=TopScore)
    beta: float = 1.0

    def __post_init__(self) -> None:
        _check(self.beta)

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates in the order they are drawn; scores are the base's, without noise."""
        rows = candidates_for(snapshot, n)
        scores = scores_of(self.base, snapshot, rng=rng)
        order = gumbel_order(scores, scores, self.beta, rng=rng)[:n]
        return Selection(rows=rows[order], scores=scores[order])


def _check(beta: float) -> None:
    if not beta >= 0:
        raise ValueError(f"beta is {beta}; it must be 0 or more (infinity is the plain top n).")
