"""Core-set selection by greedy k-center: ask for what lies farthest from all that is known.

Sources: Gonzalez, Theoretical Computer Science 38, 1985 (the greedy and its factor 2); Sener and
Savarese, ICLR 2018, arXiv 1708.00489 (for active learning).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput, PoolExhausted
from alnb.protocols import Snapshot
from alnb.records import Floats, Rows, Selection
from alnb.strategies.common import candidates_for

Points = NDArray[np.float64]

_CLOSE = 1e-8
"""Squared distances below this share of the squared norms are recomputed from differences.

Above it, the expanded form |x|^2 + |c|^2 - 2 x.c keeps half of the digits of float64 or more.
"""

_BLOCK = 256

_TIE = 1 - 1e-12
"""Squared distances whose ratio is above this are equal, so that rounding breaks no tie."""


@dataclass(frozen=True, eq=False)
class Cover:
    """What `k_center` chose.

    Attributes
    ----------
    rows : (n,) in picking order.
    distances : (n,) of each pick to its nearest centre when it was picked, never rising; the very
        first pick without any centre has infinity.
    radii : (n,) the cover radius after each pick: the largest distance of any row to its nearest
        centre, never rising.
    """

    rows: Rows
    distances: Points
    radii: Points


def k_center(
    x: Floats,
    *,
    centres: Rows | Sequence[int],
    candidates: Rows | Sequence[int],
    n: int,
    first: int | None = None,
) -> Cover:
    """Greedy k-center: n times the candidate farthest from its nearest centre; Euclidean.

    x : (N, D) features of the whole pool. centres : rows that count as covered from the start.
    candidates : rows that may be picked; each at most once, also among duplicates, and the lowest
    row wins a tie. first : the pick that opens an empty set of centres; ignored when there are
    centres. Since picks depend only on those before, asking for n and then for m more, with the n
    as centres, equals asking for n + m. O((n + centres) N D).

    BadInput if a feature is not finite, PoolExhausted if n > K, ValueError for bad rows.
    """
    points, norms = _centred(x)
    may_pick = _as_mask(candidates, len(points), "candidates")
    if not 0 <= n <= may_pick.sum():
        raise PoolExhausted(f"Asked for {n} of {may_pick.sum()} candidates; ask for fewer.")
    known = np.flatnonzero(_as_mask(centres, len(points), "centres"))
    nearest = _from_centres(points, norms, known)
    if n and not len(known) and (first is None or not may_pick[first]):
        raise ValueError(f"Without centres, first must be one of the candidates, not {first}.")

    rows = np.empty(n, dtype=np.int64)
    distances, radii = np.empty(n), np.empty(n)
    live, settled = np.arange(len(points)), 0
    for turn in range(n):
        if settled > len(live) // 4:
            # What is taken or lies on a centre can neither be picked nor come closer.
            open_ = may_pick | (nearest > 0)
            live, points, norms = live[open_], points[open_], norms[open_]
            nearest, may_pick, settled = nearest[open_], may_pick[open_], 0
        if turn == 0 and not len(known):
            place = int(first or 0)
        else:
            # Duplicates of a taken row lie at distance 0 as it does: only a mask tells them apart.
            gap = np.where(may_pick, nearest, -1.0)
            place = int(np.argmax(gap >= gap.max() * _TIE))
        rows[turn], distances[turn] = live[place], nearest[place]
        may_pick[place] = False
        settled += 1
        _lower(nearest, points, norms, place, points @ points[place])
        radii[turn] = nearest.max()
    return Cover(rows, np.sqrt(np.minimum.accumulate(distances)), np.sqrt(radii))


def cover_radius(x: Floats, centres: Rows | Sequence[int]) -> float:
    """Largest distance of any row of `x` to its nearest centre; infinite without centres."""
    points, norms = _centred(x)
    known = np.flatnonzero(_as_mask(centres, len(points), "centres"))
    nearest = _from_centres(points, norms, known)
    return float(np.sqrt(nearest.max(initial=0.0)))


def medoid(x: Floats, candidates: Rows) -> int:
    """The candidate with the least sum of squared distances to the pool; lowest row in a tie.

    That sum is N |x - mean|^2 plus a constant, so that it is the candidate nearest to the mean.
    """
    _, norms = _centred(x)
    return int(candidates[np.argmin(norms[candidates])])


def _centred(x: Floats) -> tuple[Points, Points]:
    """Features moved to mean zero in float64, where products lose fewest digits, and |x|^2."""
    if x.ndim != 2:
        raise BadInput(f"Features have shape {x.shape}; k-center needs (rows, features).")
    points = x.astype(np.float64)
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise BadInput(f"Row {row} has features that are not finite; encode the pool again.")
    points -= points.mean(axis=0) if len(points) else 0.0
    return points, np.einsum("nd,nd->n", points, points)


def _as_mask(rows: Rows | Sequence[int], length: int, what: str) -> NDArray[np.bool_]:
    rows = np.asarray(rows, dtype=np.int64)
    if len(rows) and not (rows.min() >= 0 and rows.max() < length):
        raise ValueError(
            f"{what} hold rows {rows.min()} to {rows.max()}; they must be 0..{length - 1}."
        )
    mask = np.zeros(length, dtype=np.bool_)
    mask[rows] = True
    return mask


def _from_centres(points: Points, norms: Points, centres: Rows) -> Points:
    """(N,) squared distance to the nearest of `centres`; many at a time, in one product."""
    nearest = np.full(len(points), np.inf)
    nearest[centres] = 0.0
    for start in range(0, len(centres), _BLOCK):
        block = centres[start : start + _BLOCK]
        for row, products in zip(block, points[block] @ points.T, strict=True):
            _lower(nearest, points, norms, row, products)
    return nearest


def _lower(nearest: Points, points: Points, norms: Points, row: int, products: Points) -> None:
    """Lower `nearest`, in place, to the squared distance from `row`; products are x . x_row."""
    scale = norms + norms[row]
    squared = scale - 2.0 * products
    # Rounding leaves near-duplicates slightly below or above zero: difference first, then square.
    close = np.flatnonzero((squared < _CLOSE * scale) & (nearest > 0))
    difference = points[close] - points[row]
    squared[close] = np.einsum("nd,nd->n", difference, difference)
    np.minimum(nearest, np.maximum(squared, 0.0), out=nearest)
    nearest[row] = 0.0


@dataclass(frozen=True)
class CoreSet:
    """Farthest-first over the session's features; what is labelled counts as covered.

    Neither labels nor model enter, unless the features come from one: the order is a ranking that
    can be computed once. `start` opens a session in which nothing is labelled: "medoid", "random"
    (as in the experiments of Vepa et al., arXiv 2411.15763) or a row; if that row is no candidate
    any more, the candidate nearest to it.

    The score of a pick is its distance to the nearest centre. The opening pick has infinity, for
    which JSON has no number: the session stores null.
    """

    start: Literal["medoid", "random"] | int = "medoid"

    def __post_init__(self) -> None:
        if isinstance(self.start, str) and self.start not in ("medoid", "random"):
            raise ValueError(f"start is {self.start!r}; it must be 'medoid', 'random' or a row.")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates in farthest-first order; scores are distances."""
        candidates = candidates_for(snapshot, n)
        features = snapshot.features()
        labelled = snapshot.labelled
        first = None if len(labelled) or not n else self._opening(features, candidates, rng)
        cover = k_center(features, centres=labelled, candidates=candidates, n=n, first=first)
        return Selection(rows=cover.rows, scores=cover.distances)

    def _opening(self, features: Floats, candidates: Rows, rng: np.random.Generator) -> int:
        if self.start == "random":
            return int(rng.choice(candidates))
        if self.start == "medoid":
            return medoid(features, candidates)
        if not 0 <= self.start < len(features):
            raise ValueError(
                f"start is row {self.start}; it must be one of 0..{len(features) - 1}."
            )
        if self.start in candidates:
            return self.start
        away = np.linalg.norm(features[candidates] - features[self.start], axis=1)
        return int(candidates[np.argmin(away)])
