"""ProbCover: the slices whose balls of one radius cover the most of the pool.

Source: Yehuda, Dekel, Hacohen and Weinshall, "Active learning through a covering lens", NeurIPS
2022, arXiv 2205.11320.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from alnb.protocols import Snapshot
from alnb.records import Floats, Rows, Selection
from alnb.strategies.clusters import k_means
from alnb.strategies.common import as_asked, begun, candidates_for, in_order, made_once
from alnb.strategies.coreset import k_center
from alnb.strategies.neighbours import Doubles, Points

_SAMPLE = 4000
_BINS = 5

Groups = Literal["volume", "position", "clusters"]


def pure_radius(
    x: Floats,
    group: Rows,
    *,
    purity: float = 0.95,
    rows: Rows | None = None,
) -> float:
    """The largest radius at which the share of pure balls is at least `purity`.

    The ball of a row, all rows nearer than the radius, is pure when they belong to its `group`:
    when the radius is at most its distance to the nearest row of another group. The answer is
    therefore one of these distances, found without a search. rows : the balls to look at, all by
    default; each is measured against the whole pool. Infinite if there is one group.
    """
    everyone = np.arange(len(x)) if rows is None else rows
    return float(np.sqrt(_pure_squared(Points.of(x), group, purity, everyone)))


@dataclass(eq=False)
class Balls:
    """One ball per row, and how many rows that nobody covers yet lie in each.

    Exact, without a graph in memory: when rows become covered, the counts of all balls that hold
    them are lowered, for which their distances are measured once more. Setting up is O(N^2 D),
    and so are all picks together, however many there are.

    Attributes
    ----------
    left : rows that are not covered.
    gain : (N,) how many of them lie in the ball of each row, itself included.
    """

    points: Points
    squared_radius: float
    left: Rows
    gain: Rows

    @classmethod
    def around(cls, points: Points, squared_radius: float, covering: Rows) -> Balls:
        """With the balls of `covering` covered."""
        everyone = np.arange(len(points))
        open_ = np.ones(len(points), dtype=np.bool_)
        for _, inside in points.within(covering, everyone, squared_radius):
            open_ &= ~inside
        left = everyone[open_]
        gain = np.zeros(len(points), dtype=np.int64)
        for row, inside in points.within(everyone, left, squared_radius):
            gain[row] = np.count_nonzero(inside)
        return cls(points, squared_radius, left, gain)

    def copy(self) -> Balls:
        """The same balls, to be covered on their own."""
        return Balls(self.points, self.squared_radius, self.left, self.gain.copy())

    def cover(self, row: int) -> int:
        """Cover the ball of `row`; returns how many rows are new in it."""
        ((_, inside),) = self.points.within(np.array([row]), self.left, self.squared_radius)
        everyone = np.arange(len(self.points))
        for _, near in self.points.within(self.left[inside], everyone, self.squared_radius):
            self.gain -= near
        self.left = self.left[~inside]
        return int(np.count_nonzero(inside))


def max_cover(balls: Balls, candidates: Rows, n: int) -> tuple[Rows, Doubles]:
    """Greedy cover: up to n times the candidate whose ball holds the most uncovered rows.

    Returns the picks and what each of them newly covers, which never rises; it ends early when no
    candidate covers anything new. The first of `candidates` wins a tie. Together the picks cover
    at least 1 - 1/e of what any n candidates could (Nemhauser et al. 1978). `balls` is changed.
    """
    picks: list[int] = []
    gains: list[int] = []
    while len(picks) < n and len(candidates):
        best = int(candidates[np.argmax(balls.gain[candidates])])
        if not balls.gain[best]:
            break
        picks.append(best)
        gains.append(balls.cover(best))
    return np.array(picks, dtype=np.int64), np.array(gains, dtype=np.float64)


@dataclass(frozen=True)
class ProbCover:
    """Greedy cover of the pool by balls of one radius around labelled rows.

    radius : in units of the features; None takes `pure_radius`, measured at 4000 rows drawn from
    larger pools. Its groups stand in for the unknown classes:

    - "volume": a ball should stay within a scan. Where scans have one row, "clusters".
    - "position": five bins along the axis.
    - "clusters": k-means with one cluster per class, as published.

    Labelled rows cover from the start, and once every row is covered, or the radius is 0 since
    the features of different groups coincide, the rest are taken farthest first (`k_center`).

    Where the authors' code differs: it walks over blocks of 500 rows and drops the last one, so
    that N mod 500 rows, or all of a small pool, have no edges; and it draws at random once
    everything is covered.

    Cost: O(N^2 D) twice, in blocks, with neither a graph nor an N x N matrix in memory. Works with
    nothing labelled. Chance breaks ties between counts. The score is the number of rows that are
    newly covered.
    """

    radius: float | None = None
    purity: float = 0.95
    groups: Groups = "volume"

    def __post_init__(self) -> None:
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius is {self.radius}; it must be positive, or None.")
        if not 0 < self.purity <= 1:
            raise ValueError(f"purity is {self.purity}; it must lie above 0 and at most at 1.")
        if self.groups not in ("volume", "position", "clusters"):
            raise ValueError(
                f"groups is {self.groups!r}; it can be 'volume', 'position' or 'clusters'."
            )

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates; scores are rows newly covered, 0 where nothing was left to cover."""
        candidates = in_order(snapshot.pool, candidates_for(snapshot, n))
        balls = made_once(snapshot, self, lambda: self._balls(as_asked(snapshot), rng)).copy()
        for row in begun(snapshot).tolist():
            balls.cover(row)
        rows, gains = max_cover(balls, rng.permutation(candidates), n)
        if len(rows) < n:
            rest = k_center(
                snapshot.features(),
                centres=np.union1d(snapshot.labelled, rows),
                candidates=np.setdiff1d(candidates, rows),
                n=n - len(rows),
                first=int(rng.choice(candidates)),
            )
            rows = np.concatenate([rows, rest.rows])
        return Selection(rows=rows, scores=np.pad(gains, (0, n - len(gains))))

    def _balls(self, snapshot: Snapshot, rng: np.random.Generator) -> Balls:
        points = Points.of(snapshot.features())
        if self.radius is not None:
            return Balls.around(points, self.radius**2, snapshot.labelled)
        order = in_order(snapshot.pool, np.arange(len(points)))
        group = self._group(snapshot, order, rng)
        seen = order
        if len(order) > _SAMPLE:
            seen = rng.choice(order, size=_SAMPLE, replace=False)
        squared = _pure_squared(points, group, self.purity, seen)
        return Balls.around(points, squared, snapshot.labelled)

    def _group(self, snapshot: Snapshot, order: Rows, rng: np.random.Generator) -> Rows:
        """(N,) codes; neither one for all rows nor another for each, if that can be helped."""
        pool = snapshot.pool
        group = np.zeros(len(order), dtype=np.int64)
        if self.groups == "volume":
            group = pool.volume
        elif self.groups == "position":
            group = np.minimum((pool.position * _BINS).astype(np.int64), _BINS - 1)
        if 1 < len(np.unique(group)) < len(group):
            return group
        clusters = np.empty(len(order), dtype=np.int64)
        clusters[order] = k_means(snapshot.features()[order], snapshot.classes, rng=rng)
        return clusters


def _pure_squared(points: Points, group: Rows, purity: float, rows: Rows) -> float:
    """Squared, because the radius is a distance that occurs, which a square root would move."""
    away = np.sort(points.to_other_code(rows, group))
    if not len(away):
        return np.inf
    impure = int((1 - purity) * len(away) + 1e-9)
    return float(away[min(impure, len(away) - 1)])
