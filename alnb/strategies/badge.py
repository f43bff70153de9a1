"""BADGE: slices whose gradients are large and point in different directions.

Source: Ash et al., "Deep batch active learning by diverse, uncertain gradient lower bounds", ICLR
2020, arXiv 1906.03671; k-means++: Arthur and Vassilvitskii, SODA 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alnb.protocols import Snapshot
from alnb.records import Floats, Rows, Selection
from alnb.strategies.common import begun, candidates_for, in_order
from alnb.strategies.neighbours import Doubles, Flags, Points


class Embedding(Protocol):
    """Rows in a space of their own, of which k-means++ asks lengths and distances alone.

    norms : (N,) squared lengths.
    """

    @property
    def norms(self) -> Doubles: ...

    def to(self, row: int) -> Doubles:
        """(N,) squared distances of all rows to one, exactly 0 to itself."""
        ...


@dataclass(frozen=True, eq=False)
class Explicit:
    """Rows given as (N, G) numbers."""

    norms: Doubles
    points: Points

    @classmethod
    def of(cls, x: Floats) -> Explicit:
        """From (N, G); BadInput if a number is not finite."""
        return cls(np.einsum("ng,ng->n", x, x, dtype=np.float64), Points.of(x))

    def to(self, row: int) -> Doubles:
        """(N,) squared distances."""
        return self.points.to(row)


@dataclass(frozen=True, eq=False)
class RankOne:
    """Rows a b^T given by their factors (N, A) and (N, B), never multiplied out.

    This is the gradient of a classifier of whole slices: a is probability minus label, b the
    activations. |a b^T - a' b'^T|^2 = |a|^2 |b|^2 + |a'|^2 |b'|^2 - 2 (a.a') (b.b').
    """

    a: Doubles
    b: Doubles
    norms: Doubles

    @classmethod
    def of(cls, a: Floats, b: Floats) -> RankOne:
        """From the factors, as many rows in each."""
        left: Doubles = a.astype(np.float64)
        right: Doubles = b.astype(np.float64)
        norms = np.einsum("na,na->n", left, left) * np.einsum("nb,nb->n", right, right)
        return cls(left, right, norms)

    def to(self, row: int) -> Doubles:
        """(N,) squared distances; those that rounding would blur are taken from the products."""
        scale = self.norms + self.norms[row]
        squared: Doubles = scale - 2.0 * (self.a @ self.a[row]) * (self.b @ self.b[row])
        for near in np.flatnonzero(squared < 1e-8 * scale).tolist():
            away = np.outer(self.a[near], self.b[near]) - np.outer(self.a[row], self.b[row])
            squared[near] = np.sum(away * away)
        return np.maximum(squared, 0.0, out=squared)


def k_means_pp(
    space: Embedding,
    candidates: Rows | Sequence[int],
    n: int,
    *,
    rng: np.random.Generator,
    centres: Rows | Sequence[int] = (),
) -> tuple[Rows, Doubles]:
    """n distinct rows of `candidates` by k-means++, and each one's distance when it was picked.

    Each is drawn with probability proportional to its squared distance to the nearest pick or
    centre. Without centres the first is the longest row, and its distance is its length. When all
    that is left lies on a pick, the rest is drawn uniformly. O((n + centres) N G).
    """
    rows = np.asarray(candidates, dtype=np.int64)
    nearest = np.full(len(rows), np.inf)
    for centre in centres:
        np.minimum(nearest, space.to(int(centre))[rows], out=nearest)
    free = np.ones(len(rows), dtype=np.bool_)
    picks, distances = np.empty(n, dtype=np.int64), np.empty(n)
    for turn in range(n):
        if turn == 0 and not len(centres):
            place = int(np.argmax(space.norms[rows]))
            distances[turn] = space.norms[rows[place]]
        else:
            place = _draw(np.where(free, nearest, 0.0), free, rng)
            distances[turn] = nearest[place]
        picks[turn], free[place] = rows[place], False
        np.minimum(nearest, space.to(int(rows[place]))[rows], out=nearest)
    return picks, np.sqrt(distances)


@dataclass(frozen=True)
class BADGE:
    """k-means++ over the gradients of the last layer: unsure slices that would teach differently.

    A slice's gradient is that of its mean pixel cross-entropy to the model's own labels, see
    `alnb.models.gradients.last_layer_gradients`: long where the model is unsure. The source has
    classified images, whose gradient is the product of error and activation; for a segmented slice
    it is the mean of these products over pixels, computed exactly.

    from_labelled : let labelled rows count as picks; they do not in the source. Picks of a batch
    that a wrapper has half chosen always count.

    Where the authors' code differs: it never ends once every row that is left equals a pick.

    Cost: a forward pass over the candidates and O(n K G). ColdStart until a model is fitted. The
    score is the distance to the nearest pick, for the first pick the length of its gradient.
    """

    from_labelled: bool = False

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates; scores are distances between gradients."""
        candidates = in_order(snapshot.pool, candidates_for(snapshot, n))
        known = snapshot.labelled if self.from_labelled else begun(snapshot)
        space = Explicit.of(snapshot.gradients(np.concatenate([candidates, known])))
        k = len(candidates)
        picks, distances = k_means_pp(
            space, np.arange(k), n, rng=rng, centres=np.arange(k, k + len(known))
        )
        return Selection(rows=candidates[picks], scores=distances)


def _draw(weight: Doubles, free: Flags, rng: np.random.Generator) -> int:
    whole = weight.sum()
    if not whole > 0:
        return int(rng.choice(np.flatnonzero(free)))
    return int(rng.choice(len(weight), p=weight / whole))
