"""Exact farthest-first traversal (greedy k-center) that looks at few distances.

Source: Gonzalez, Theoretical Computer Science 38, 1985. The outcome is that of the plain method in
float64: rows whose squared distances differ by less than a part in 10^12 tie, and the lowest wins.
How it comes about is told in `alnb.strategies.frontier` and, of distances, `alnb.strategies.cloud`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alnb.errors import PoolExhausted
from alnb.records import Floats, Rows
from alnb.strategies.cloud import Centres, Cloud, Points
from alnb.strategies.frontier import Frontier


@dataclass(frozen=True, eq=False)
class Cover:
    """What `KCenter` chose.

    Attributes
    ----------
    rows : (n,) in picking order.
    distances : (n,) of each pick to its nearest centre when it was picked, never rising unless
        costs differ; the very first pick without any centre has infinity.
    radii : (n,) the cover radius after each pick: the largest distance of any row to its nearest
        centre, never rising.
    """

    rows: Rows
    distances: Points
    radii: Points


class KCenter:
    """Greedy k-center that remembers: centres come and go, picks go on where they stopped.

    A pick is the candidate farthest from its nearest centre, Euclidean; the lowest row wins a tie,
    and none is picked twice, duplicates or not. It becomes a centre. Since picks depend only on
    those before, n picks and then m are the same as n + m.

    x : (N, D) features of the whole pool, which must not change; no copy is made. centres : rows
    that count as covered from the start. candidates : rows that may be picked, by default all
    that are no centres; a centre that may be picked as well lies at distance 0.
    cost : (N,) positive; picks then have the largest distance per cost. volume, cap : (N,) codes,
    and how many picks one code may have in the life of this object; a code that has them is no
    candidate any more.

    BadInput if a feature is not finite, ValueError for bad rows, costs or caps.
    """

    def __init__(
        self,
        x: Floats,
        *,
        centres: Rows | Sequence[int] = (),
        candidates: Rows | Sequence[int] | None = None,
        cost: Floats | None = None,
        volume: Rows | None = None,
        cap: int | None = None,
    ) -> None:
        self._cloud = Cloud(x)
        length = self._cloud.length
        self._is_centre = as_mask(centres, length, "centres")
        self._open = (
            ~self._is_centre if candidates is None else as_mask(candidates, length, "candidates")
        )
        self._weight = None if cost is None else _weight(cost, length)
        if (volume is None) != (cap is None):
            raise ValueError("volume and cap belong together; give both or neither.")
        if volume is not None and (len(volume) != length or not length or volume.min() < 0):
            raise ValueError(f"volume needs {length} codes, one per row, of 0 or more.")
        if cap is not None and cap < 1:
            raise ValueError(f"cap is {cap}; a volume needs at least 1 pick.")
        self._volume = volume
        self._quota = None if volume is None else np.full(volume.max() + 1, cap)
        self._begin()

    def _begin(self) -> None:
        """Measure anew from the present centres."""
        self._centres = Centres(self._cloud)
        known = np.flatnonzero(self._is_centre)
        # Neighbouring rows are alike: in a scattered order the first few tell most.
        scattered = np.argsort(np.arange(len(known)) * 0.6180339887498949 % 1)
        self._centres.append(known[scattered])
        self._picks = Frontier(
            self._cloud, self._centres, self._open & ~self._is_centre, self._weight
        )
        self._rest: Frontier | None = None
        self._alone = False  # no row needs the care of `_rest`

    @property
    def centres(self) -> Rows:
        """Rows that count as covered, ascending."""
        return np.flatnonzero(self._is_centre)

    @property
    def candidates(self) -> Rows:
        """Rows that can still be picked, ascending."""
        return np.flatnonzero(self._open)

    @property
    def radius(self) -> float:
        """Largest distance of any row to its nearest centre; infinite without centres."""
        with self._cloud.calm():
            return self._radius()

    def _radius(self) -> float:
        if not self._cloud.length:
            return 0.0
        if not self._centres.count:
            return float("inf")
        # Where picks are the farthest candidates, only other rows need a look of their own.
        plain = self._weight is None and self._quota is None
        if self._rest is None and not self._alone:
            rest = ~self._is_centre & ~self._open if plain else ~self._is_centre
            self._alone = not rest.any()
            self._rest = None if self._alone else Frontier(self._cloud, self._centres, rest)
        tops = [
            self._picks.top() if plain else None,
            None if self._rest is None else self._rest.top(),
        ]
        # The first in a tie may lie nearer than the farthest by the width of the tie.
        return self._length(max((top[2] for top in tops if top is not None), default=0.0))

    def take(self, n: int, *, first: int | None = None) -> Cover:
        """Pick n more. first : the pick that opens an empty set of centres.

        PoolExhausted if fewer can be picked, ValueError if `first` is needed and no candidate.
        """
        with self._cloud.calm():
            return self._take(n, first)

    def _take(self, n: int, first: int | None) -> Cover:
        count = self._countable()
        if not 0 <= n <= count:
            raise PoolExhausted(f"Asked for {n} of {count} candidates; ask for fewer.")
        rows = np.empty(n, dtype=np.int64)
        distances, radii = np.zeros(n), np.empty(n)
        for turn in range(n):
            if self._centres.count:
                top = self._picks.top()
            elif first is not None and 0 <= first < self._cloud.length and self._open[first]:
                top = first, np.inf, np.inf
            else:
                raise ValueError(
                    f"Without centres, first must be one of the candidates, not {first}."
                )
            if top is None:
                # All that is left lies on centres, and more such centres change nothing.
                radii[turn:] = self._radius()
                rows[turn:] = left = self._on_centres(n - turn)
                self._close(left)
                self._count(left)
                break
            rows[turn], distances[turn] = top[0], self._length(top[1])
            self._close(rows[turn : turn + 1])
            self._count(rows[turn : turn + 1])
            radii[turn] = self._radius()
        if self._weight is None:
            distances = np.minimum.accumulate(distances)
        return Cover(rows, distances, np.minimum.accumulate(radii))

    def add(self, rows: Rows | Sequence[int]) -> None:
        """Make `rows` centres, such as those that were answered; they can be picked no more."""
        chosen = as_mask(rows, self._cloud.length, "rows")
        self._close(np.flatnonzero(chosen & ~self._is_centre))
        # A centre that could be picked again cannot from now on.
        self._open[chosen] = False

    def skip(self, rows: Rows | Sequence[int]) -> None:
        """Make `rows` candidates no more, and no centres either: as if they had not been picked.

        The rows that a centre among them kept near are measured anew.
        """
        chosen = as_mask(rows, self._cloud.length, "rows")
        undone = chosen & self._is_centre
        self._open[chosen] = False
        self._is_centre[chosen] = False
        if undone.any():
            self._begin()
        else:
            self._picks.discard(np.flatnonzero(chosen))
            self._rest, self._alone = None, False

    def _close(self, rows: Rows) -> None:
        """Make centres of rows that are none."""
        self._open[rows] = False
        self._is_centre[rows] = True
        for frontier in (self._picks, self._rest):
            if frontier is not None:
                frontier.discard(rows)
        self._centres.append(rows)

    def _count(self, rows: Rows) -> None:
        """Take picks off the quotas of their volumes, and close the volumes that are full."""
        if self._quota is None or self._volume is None:
            return
        codes = self._volume[rows]
        np.subtract.at(self._quota, codes, 1)
        full = np.unique(codes[self._quota[codes] <= 0])
        if len(full):
            shut = np.flatnonzero(np.isin(self._volume, full) & self._open)
            self._open[shut] = False
            self._picks.discard(shut)

    def _countable(self) -> int:
        """How many picks are left, caps considered."""
        if self._quota is None or self._volume is None:
            return int(np.count_nonzero(self._open))
        held = np.bincount(self._volume[self._open], minlength=len(self._quota))
        return int(np.minimum(held, self._quota).sum())

    def _on_centres(self, n: int) -> Rows:
        """The first n candidates, all of which lie on centres, that the quotas allow."""
        rows = np.flatnonzero(self._open)
        if self._quota is not None and self._volume is not None:
            codes = self._volume[rows]
            order = np.argsort(codes, kind="stable")
            _, start, held = np.unique(codes[order], return_index=True, return_counts=True)
            earlier = np.empty(len(rows), dtype=np.int64)
            earlier[order] = np.arange(len(rows)) - np.repeat(start, held)
            rows = rows[earlier < self._quota[codes]]
        return rows[:n]

    def _length(self, squared: float) -> float:
        return float(np.sqrt(squared)) / self._cloud.scale


def as_mask(rows: Rows | Sequence[int], length: int, what: str) -> NDArray[np.bool_]:
    """(length,) true at `rows`; ValueError if one is out of range."""
    rows = np.asarray(rows, dtype=np.int64)
    if len(rows) and not (rows.min() >= 0 and rows.max() < length):
        raise ValueError(
            f"{what} hold rows {rows.min()} to {rows.max()}; they must be 0..{length - 1}."
        )
    mask = np.zeros(length, dtype=np.bool_)
    mask[rows] = True
    return mask


def _weight(cost: Floats, length: int) -> Points | None:
    """(N,) factors of squared distances: 1 for the cheapest row, and None if all cost the same."""
    cost = np.asarray(cost, dtype=np.float64)
    if cost.shape != (length,) or not (np.isfinite(cost) & (cost > 0)).all():
        raise ValueError(f"cost needs {length} finite numbers above 0, one per row.")
    share = cost.min(initial=np.inf) / cost
    if share.min(initial=1.0) < 1e-6:
        raise ValueError(
            f"cost reaches from {cost.min()} to {cost.max()}; a factor of a million is the most."
        )
    return None if (share == 1).all() else share**2
