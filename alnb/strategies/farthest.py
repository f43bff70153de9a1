"""Exact farthest-first traversal (greedy k-center) that looks at few distances.

Source: Gonzalez, Theoretical Computer Science 38, 1985. A row's distance to its nearest centre
only ever falls, so that one that is out of date is an upper bound. The rows of largest bound are
brought up to date against all the centres they missed, in one product of matrices, and picks come
out of this small working set for as long as its largest distance exceeds every bound outside.

Products run in float32 and carry a bound of their rounding error; whatever decides a pick is
computed again in float64, from differences. The outcome is that of the plain method in float64:
rows whose squared distances differ by less than a part in 10^12 tie, and the lowest wins.

Of large data, blocks of rows are worked on by as many threads as the BLAS behind numpy would use,
at most eight; each product runs on one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput, PoolExhausted
from alnb.records import Floats, Rows

Points = NDArray[np.float64]
Singles = NDArray[np.float32]
Result = TypeVar("Result")

TIE = 1 - 1e-12
"""Squared distances whose ratio is above this are equal, so that rounding breaks no tie."""

_ROUND = 2.0**-24
"""Largest relative error of one float32 operation."""

_STRIP = 1024
"""Features multiplied at a time, which bounds how far rounding errors add up."""

_TINY = np.float32(2.0**-120)
"""Covers what underflow takes away, at the scale that `Cloud` sees to."""

_UP = 1 + 2.0**-22
"""Lifts a float64 beyond the rounding of its float32."""

_BATCH = 256
"""Centres per product at most, and rows measured at a time."""

_FIRST, _LEAST = 1024, 512
"""Rows of the first working set, and of the smallest."""

_HOT = 128
"""Rows whose distances from each other are known."""

_FEW = 16
"""Of so many rows distances are computed at a time, for those that will be picked next."""

_LARGE = 2**22
"""Data of so many numbers, and so many multiplications, are worth several threads."""

_MOST = 8
"""Threads at most, each of which has a room of its own."""

_ONE_AT_A_TIME = Lock()

Top = tuple[int, float, float]
"""A row, its squared distance, and the largest key: squared distance times weight."""


class Cloud:
    """The rows of `x` as sweeps see them, float32 near the origin, and in float64 when it counts.

    x : (N, D), of any real type; never copied as a whole. Squared distances are in units of
    1 / scale^2, a power of two that keeps squares within range; it is 1 unless values are extreme.
    BadInput if a value is not finite.
    """

    def __init__(self, x: Floats) -> None:
        if x.ndim != 2:
            raise BadInput(f"Features have shape {x.shape}; k-center needs (rows, features).")
        self.x = np.asarray(x)
        self.length, self.width = x.shape
        terms = min(self.width, _STRIP) + self.width // _STRIP
        sums = terms * _ROUND / (1 - terms * _ROUND)
        # |x|^2 + |c|^2 - 2 x.c is off by at most this share of |x|^2 + |c|^2: two sums of
        # products, then moving, scaling and adding up.
        self.error = 2.02 * sums + 16 * _ROUND
        # Rows per block: half a megabyte stays in cache, four make long tasks of large data.
        room = int(np.clip(self.x.size // 256, 2**17, 2**20))
        self.block = int(np.clip(room // max(self.width, 1), 64, 2048))
        self.batch = int(np.clip(2**22 // max(self.width, 1), 16, _BATCH))
        self._rooms = [_Room(self)]
        self._threads = 1
        self._workers: ThreadPoolExecutor | None = None
        self.scale = 1.0
        self._shift: Floats | None = None
        with self.calm(), np.errstate(over="ignore", invalid="ignore"):
            self._frame(self._sample())
            self.reach = self._reach()
            if not np.isfinite(self.reach).all():
                self._check()
                self._frame(np.full((1, self.width), self._largest()))
                self.reach = self._reach()

    def near(self, rows: Rows | slice, out: Singles) -> Singles:
        """(len, D) float32, moved and scaled; in `out`, unless the data itself will do."""
        if self._shift is None and self.scale == 1 and self.x.dtype == np.float32:
            if isinstance(rows, slice):
                found: Singles = self.x[rows]
                return found
            out = out[: len(rows)]
            # "clip" writes straight into `out`; rows have been checked at the door.
            np.take(self.x, rows, axis=0, out=out, mode="clip")
            return out
        part = self.x[rows]
        out = out[: len(part)]
        if self.scale == 1 and self.x.dtype in (np.float32, np.float16):
            return np.subtract(part, np.float32(0) if self._shift is None else self._shift, out=out)
        moved = part.astype(np.float64) * self.scale
        out[:] = moved if self._shift is None else moved - self._shift
        return out

    def between(self, a: Rows, b: Rows) -> Points:
        """(len,) squared distances of the rows `a` to the rows `b`, in float64 from differences."""
        squared = np.empty(len(a))
        step = max(1, 2**17 // max(self.width, 1))
        for start in range(0, len(a), step):
            part = slice(start, start + step)
            difference = self._exact(a[part])
            difference -= self._exact(b[part])
            squared[part] = np.einsum("nd,nd->n", difference, difference)
        return squared

    def from_mean(self, rows: Rows) -> Points:
        """(len,) squared distances of `rows` to the mean of all rows, in float64."""
        total = np.zeros(self.width)
        for start in range(0, self.length, self.block):
            total += self._exact(slice(start, start + self.block)).sum(axis=0)
        mean = total / max(self.length, 1)
        squared = np.empty(len(rows))
        for start in range(0, len(rows), self.block):
            part = slice(start, start + self.block)
            difference = self._exact(rows[part])
            difference -= mean
            squared[part] = np.einsum("nd,nd->n", difference, difference)
        return squared

    def products(self, a: Singles, b: Singles, out: Singles | None = None) -> Singles:
        """a @ b.T, with rounding errors that add up over at most `_STRIP` features."""
        # a BLAS may compute with what lies behind a short row and throw it away, but the flag stays
        with np.errstate(invalid="ignore"):
            total: Singles = np.matmul(a[:, :_STRIP], b[:, :_STRIP].T, out=out)
            for start in range(_STRIP, self.width, _STRIP):
                total += a[:, start : start + _STRIP] @ b[:, start : start + _STRIP].T
        return total

    @contextmanager
    def calm(self) -> Iterator[None]:
        """Within, each product runs on one thread, and `spread` uses as many as there were.

        The threads of one product wait for each other all the time, which on a busy machine takes
        far longer than the product; blocks of rows need not. The number is one for the whole
        process, hence the lock.
        """
        with _ONE_AT_A_TIME:
            before = max((found["num_threads"] for found in _blas().info()), default=1)
            # All of a small pool is soon done by one.
            self._threads = min(before, _MOST) if self.x.size >= _LARGE else 1
            with _blas().limit(limits=1), ThreadPoolExecutor(self._threads) as self._workers:
                yield

    def spread(self, task: Callable[[slice, _Room], Result], rows: int, pairs: int) -> list[Result]:
        """``task(part, room)`` of one block after the other out of `rows`, on several threads.

        pairs : of rows and centres, the work in all; a little of it stays on one thread. A room
        belongs to one task at a time.
        """
        parts = [slice(b, min(b + self.block, rows)) for b in range(0, rows, self.block)]
        workers = min(self._threads, len(parts)) if pairs * self.width >= _LARGE else 1

        def share(number: int) -> list[Result]:
            return [task(part, self._rooms[number]) for part in parts[number::workers]]

        if workers == 1:
            return share(0)
        while len(self._rooms) < workers:
            self._rooms.append(_Room(self))
        assert self._workers is not None
        shares = list(self._workers.map(share, range(workers)))
        return [shares[number % workers][number // workers] for number in range(len(parts))]

    def excess(self, reach: Singles) -> Singles:
        """How far rounding may have lifted a squared distance, by the share of one of its ends."""
        return reach * np.float32(2.5 * self.error) + 8 * _TINY

    def _exact(self, rows: Rows | slice) -> Points:
        part = self.x[rows].astype(np.float64)
        if self.scale != 1:
            part *= self.scale
        return part

    def _sample(self) -> Points:
        size = int(np.clip(2**16 // max(self.width, 1), 16, 2048))
        return self.x[:: max(1, self.length // size)].astype(np.float64)

    def _frame(self, sample: Points) -> None:
        """Choose the scale and, where the rows lie far off the origin for their spread, the shift.

        A shift is any point amid the rows, the same for all; without one, blocks need no copy.
        """
        self.scale, self._shift = 1.0, None
        largest = float(np.abs(sample).max(initial=0.0))
        if not (0 < largest < np.inf):
            return
        whole = int(np.frexp(largest)[1])
        # Two steps, since a power of two that lifts a denormal number is itself too large.
        unit = np.ldexp(np.ldexp(sample, -whole // 2), -whole - (-whole // 2))
        mean = unit.mean(axis=0)
        spread = float(np.abs(unit - mean).max())
        power = whole + (int(np.frexp(spread)[1]) if spread > 2.0**-48 else 0)
        if abs(power) > 40:
            self.scale = float(np.ldexp(1.0, int(np.clip(-power, -1000, 1000))))
        if len(unit) > 1 and (mean**2).sum() > 8 * ((unit - mean) ** 2).sum(axis=1).mean():
            shift = np.ldexp(mean, whole) if self.scale == 1 else (sample * self.scale).mean(axis=0)
            self._shift = shift.astype(np.float32) if self.scale == 1 else shift

    def _reach(self) -> Singles:
        """(N,) squared norms, lifted so that `reach + reach - 2 products` bounds from above.

        What that may be too much is at most `excess` of either.
        """
        reach = np.zeros(self.length, dtype=np.float32)

        def task(part: slice, room: _Room) -> None:
            near = self.near(part, room.points)
            for first in range(0, self.width, _STRIP):
                strip = near[:, first : first + _STRIP]
                reach[part] += np.einsum("nd,nd->n", strip, strip)

        # numpy's error state is each thread's own.
        def quiet(part: slice, room: _Room) -> None:
            with np.errstate(over="ignore", invalid="ignore"):
                task(part, room)

        self.spread(quiet, self.length, self.length)
        with np.errstate(over="ignore", invalid="ignore"):
            reach *= np.float32(1 + self.error)
            reach += _TINY
        return reach

    def _check(self) -> None:
        for row in np.flatnonzero(~np.isfinite(self.reach)).tolist():
            if not np.isfinite(self.x[row]).all():
                raise BadInput(
                    f"Row {row} has features that are not finite; encode the pool again."
                )

    def _largest(self) -> float:
        blocks = range(0, self.length, self.block)
        return max(float(np.abs(self.x[b : b + self.block]).max(initial=0)) for b in blocks)


class _Room:
    """Where one thread puts a block of rows, and their products with some centres."""

    def __init__(self, cloud: Cloud) -> None:
        rows = min(cloud.block, cloud.length)
        self.points = np.empty((rows, cloud.width), dtype=np.float32)
        self.wide = np.empty(cloud.batch * rows, dtype=np.float32)


class Centres:
    """The centres so far, in order, ready for products: -2 times their rows, and their norms.

    As many as 1/32 of the data holds are kept; of a longer list the rest is fetched on demand.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._limit = max(cloud.length // 32, 2**18 // max(cloud.width, 1), 1)
        self._rows = np.empty(16, dtype=np.int64)
        self._doubled = np.empty((0, cloud.width), dtype=np.float32)
        self._kept = self.count = 0

    @property
    def rows(self) -> Rows:
        """(count,) in the order in which they came."""
        return self._rows[: self.count]

    def append(self, rows: Rows) -> None:
        """Add centres at the end."""
        before, self.count = self.count, self.count + len(rows)
        if self.count > len(self._rows):
            self._rows = _grown(self._rows, max(self.count, 2 * before))
        self._rows[before : self.count] = rows

    def part(self, start: int, stop: int) -> tuple[Singles, Singles]:
        """-2 times the rows of centres start..stop-1, and their lifted squared norms."""
        reach = self._cloud.reach[self._rows[start:stop]]
        if stop <= self._limit:
            self.keep(stop)
            return self._doubled[start:stop], reach
        out = np.empty((stop - start, self._cloud.width), dtype=np.float32)
        return np.multiply(self._cloud.near(self._rows[start:stop], out), -2, out=out), reach

    def keep(self, stop: int) -> None:
        """Have the first `stop` at hand, as many as may be: before threads ask for them."""
        stop = min(stop, self._limit)
        if stop > len(self._doubled):
            room = min(max(stop, 2 * len(self._doubled), 16), self._limit)
            self._doubled = _grown(self._doubled, room)
        if stop > self._kept:
            out = self._doubled[self._kept : stop]
            found = self._cloud.near(self._rows[self._kept : stop], out)
            np.multiply(found, -2, out=out)
            self._kept = stop


@dataclass(eq=False)
class _Near:
    """Rows of a working set, with all that is needed to tell which of them is farthest.

    squared : upper bounds of squared distances, -1 where a row has left. slack : `Cloud.excess`
    of their reach. value : squared distances in float64 to the nearest of the first `settled`
    centres; infinite, and 0, where it was never computed. known : how many centres the bounds
    regard.
    """

    rows: Rows
    points: Singles
    reach: Singles
    slack: Singles
    squared: Points
    weight: Points | None
    value: Points
    settled: Rows
    known: int

    def keys(self) -> Points:
        return self.squared if self.weight is None else self.squared * self.weight

    def at(self, which: Rows | NDArray[np.bool_]) -> _Near:
        """A copy of some of them."""
        return _Near(
            self.rows[which],
            self.points[which],
            self.reach[which],
            self.slack[which],
            self.squared[which],
            None if self.weight is None else self.weight[which],
            self.value[which],
            self.settled[which],
            self.known,
        )


@dataclass(eq=False)
class _Hot:
    """The farthest few of a working set, each measured against the others.

    places : where they are in the working set. near : they themselves. exact : whose `value`
    regards every centre. above : (few, few) upper bounds of their squared distances to each
    other, or None for a crowd. outside : what no other member's key exceeds.
    """

    places: Rows
    near: _Near
    exact: NDArray[np.bool_]
    above: Singles | None
    below: Singles | None
    outside: float


class Frontier:
    """Which of its members lies farthest from its nearest centre, each time centres were added.

    Three circles: all members, with bounds that may be long out of date; a working set of those of
    largest bounds, brought up to date now and then; and of these the hot ones, brought up to date
    at every pick at next to no cost, since their distances from each other are known. The pick is
    made among the hot for as long as their largest distance exceeds every bound elsewhere.

    members : (N,) mask. weight : (N,) factors of squared distances, or None for 1.
    """

    def __init__(
        self,
        cloud: Cloud,
        centres: Centres,
        members: NDArray[np.bool_],
        weight: Points | None = None,
    ) -> None:
        self._cloud, self._centres, self._weight = cloud, centres, weight
        self._lifted = None if weight is None else (weight * _UP).astype(np.float32)
        # Upper bounds of the squared distances of members outside of the working set; -1 marks
        # those inside of it and all who are gone.
        self._bound = np.where(members, np.float32(np.inf), np.float32(-1))
        self._known = np.zeros(cloud.length, dtype=np.int32)  # how many centres a bound regards
        self._swept = False
        self._near: _Near | None = None
        self._hot: _Hot | None = None
        self._outside = np.inf  # no member outside of the working set has a larger key
        self._size = _FIRST
        self._stale = 0  # how many of the rows pulled last were out of date
        self._pulled = self._picked = 0.0
        self._top: Top | None = None  # the answer, when this many centres were known:
        self._asked = -1

    def top(self) -> Top | None:
        """The farthest member; None once every member lies on a centre or is gone."""
        if self._asked != self._centres.count:
            self._top, self._asked = self._search(), self._centres.count
        return self._top

    def discard(self, rows: Rows) -> None:
        """These are members no more."""
        self._bound[rows] = -1
        self._asked = -1
        for near in (self._near, None if self._hot is None else self._hot.near):
            if near is not None:
                gone = near.rows == rows[0] if len(rows) == 1 else np.isin(near.rows, rows)
                near.squared[gone] = -1

    def _search(self) -> Top | None:
        size, crowd = 0, _HOT
        while True:
            if self._near is None:
                # Twice as many when most were up to date and nothing came of it all the same: then
                # even a crowd of ties gets in.
                size = max(self._size, 2 * size if 2 * self._stale < size else size)
                self._near = self._pull(size)
            if self._hot is None:
                self._hot = self._heat(self._refreshed(self._near), crowd)
                crowd *= 2
            hot = self._hot
            if self._centres.count - hot.near.known <= _FEW:
                found = self._decide(hot)
                if found is not None:
                    return found
            self._cool(hot)
            largest = float(self._near.keys().max(initial=-1.0))
            if self._near.known < self._centres.count or self._outside < largest * TIE >= 0:
                continue
            if self._outside < 0:
                return None
            if size == 0:
                self._adapt()
            self._release(self._near)

    def _decide(self, hot: _Hot) -> Top | None:
        """The farthest member, if it is among the hot ones."""
        near = hot.near
        self._warm(hot)
        while True:
            keys = near.keys()
            largest = float(keys.max(initial=-1.0))
            if largest < 0 or largest <= hot.outside:
                return None
            ties = (keys >= largest * TIE).nonzero()[0]
            if hot.exact[ties].all():
                break
            self._settle(hot, keys)
        if hot.outside >= largest * TIE:
            return None
        place = ties[near.rows[ties].argmin()]
        return int(near.rows[place]), float(near.squared[place]), largest

    def _warm(self, hot: _Hot) -> None:
        """Bring the hot ones up to date, one centre at a time: as a rule, the pick before."""
        near, cloud = hot.near, self._cloud
        for number in range(near.known, self._centres.count):
            row = self._centres.rows[number]
            place = (near.rows == row).nonzero()[0]
            if len(place) and hot.above is not None and hot.below is not None:
                above, below = hot.above[place[0]], hot.below[place[0]]
            else:
                doubled, reach = self._centres.part(number, number + 1)
                above = cloud.products(near.points, doubled)[:, 0] + near.reach + reach
                below = above - near.slack - cloud.excess(reach)
            maybe = (below < near.squared).nonzero()[0]
            exact = hot.exact[maybe]
            near.squared[maybe] = np.minimum(near.squared[maybe], above[maybe])
            if exact.any():
                # A known distance stays known, or the rows of a tight cluster would be measured
                # anew against all centres after every pick.
                known = maybe[exact]
                direct = cloud.between(near.rows[known], np.broadcast_to(row, known.shape))
                near.value[known] = np.minimum(near.value[known], direct)
                self._correct(near, known)
        near.known = self._centres.count

    def _settle(self, hot: _Hot, keys: Points) -> None:
        """Compute the distances of those that may be farthest, and of a few that come next."""
        near = hot.near
        place = int(keys.argmax())
        # The centre that gave this bound is at most |x| + d away from the origin.
        gap = 3.0 * near.slack[place] + 5.0 * self._cloud.error * near.squared[place]
        least = keys[place] - (gap if near.weight is None else gap * near.weight[place])
        if len(keys) > _FEW:
            least = min(least, np.partition(keys, -_FEW)[-_FEW])
        wanted = (keys >= least) & ~hot.exact & (near.squared >= 0)
        for again in (False, True):
            places = (wanted & ((near.settled > 0) == again)).nonzero()[0]
            for start in range(0, len(places), _BATCH):
                self._measure(near, places[start : start + _BATCH])
        hot.exact[wanted] = True

    def _measure(self, near: _Near, places: Rows) -> None:
        """Let the `value` of some regard every centre."""
        points = near.points[places]
        limit = near.squared[places] + near.slack[places] - near.reach[places]
        value = near.value[places]
        step = max(self._cloud.batch, min(2**16 // len(places), 2**20 // max(self._cloud.width, 1)))
        for start in range(int(near.settled[places].min()), self._centres.count, step):
            stop = min(start + step, self._centres.count)
            doubled, reach = self._centres.part(start, stop)
            below = self._cloud.products(doubled, points)
            below += (reach - self._cloud.excess(reach))[:, None]
            centre, place = np.nonzero(below <= limit)
            rows = near.rows[places[place]]
            direct = self._cloud.between(rows, self._centres.rows[start + centre])
            np.minimum.at(value, place, direct)
        near.value[places] = value
        near.settled[places] = self._centres.count
        self._correct(near, places)

    def _correct(self, near: _Near, places: Rows) -> None:
        """Put distances in the place of bounds; who lies on a centre leaves for good."""
        value = near.value[places]
        gone = (value == 0) | (near.squared[places] < 0)
        near.squared[places] = np.where(gone, -1.0, value)

    def _heat(self, near: _Near, crowd: int) -> _Hot:
        """The `crowd` of largest keys."""
        keys = near.keys()
        rest = max(len(keys) - crowd, 0)
        order = np.argpartition(keys, rest) if rest else np.arange(len(keys))
        hot = near.at(order[rest:])
        above = below = None
        if len(hot.rows) <= 4 * _HOT:
            above = self._cloud.products(hot.points, hot.points)
            above *= -2
            above += hot.reach
            above += hot.reach[:, None]
            below = above - hot.slack
            below -= hot.slack[:, None]
        self._picked += float(len(hot.rows)) ** 2
        outside = max(float(keys[order[:rest]].max(initial=-1.0)), self._outside)
        exact = hot.settled == self._centres.count
        return _Hot(order[rest:], hot, exact, above, below, outside)

    def _cool(self, hot: _Hot) -> None:
        """Note in the working set what came out about the hot ones."""
        near = self._near
        if near is not None:
            hot.near.settled[hot.exact] = hot.near.known
            near.squared[hot.places] = hot.near.squared
            near.value[hot.places] = hot.near.value
            near.settled[hot.places] = hot.near.settled
        self._hot = None

    def _refreshed(self, near: _Near) -> _Near:
        """The working set, up to date, less those that fell below the others if they are many."""
        missed = self._centres.count - near.known
        if not missed:
            return near
        lowest = np.full(len(near.rows), np.inf, dtype=np.float32)

        def task(part: slice, room: _Room) -> None:
            span = range(near.known, self._centres.count)
            self._bring(near.points[part], near.reach[part], lowest[part], span, room)

        self._centres.keep(self._centres.count)
        self._cloud.spread(task, len(near.rows), missed * len(near.rows))
        np.minimum(near.squared, lowest, out=near.squared)
        near.known = self._centres.count
        self._picked += len(near.rows) * (missed + 8.0)
        keep = near.keys() >= max(self._outside, 0.0)
        if 3 * np.count_nonzero(keep) < 2 * len(keep):
            self._return(near.at(~keep))
            self._near = near = near.at(keep)
        return near

    def _release(self, near: _Near) -> None:
        """Dissolve the working set."""
        self._return(near)
        self._near, self._outside = None, np.inf

    def _return(self, near: _Near) -> None:
        lifted = np.where(near.squared > 0, near.squared * _UP + _TINY, near.squared)
        self._bound[near.rows], self._known[near.rows] = lifted, near.known

    def _adapt(self) -> None:
        """Pull more at a time while picks are the lesser work, fewer when they are most of it."""
        if self._picked < self._pulled:
            self._size = min(2 * self._size, max(4 * _FIRST, self._cloud.length // 48))
        elif self._picked > 4 * self._pulled:
            self._size = max(self._size // 2, _LEAST)

    def _pull(self, size: int) -> _Near:
        """A working set out of the `size` members of largest bounds."""
        cloud, centres = self._cloud, self._centres
        if not self._swept:
            self._sweep()
        keys = self._bound
        if self._lifted is not None:
            keys = keys * self._lifted
            keys += np.float32(1e-45)
        least = 0.0
        if size < cloud.length:
            least = max(float(np.partition(keys, cloud.length - size)[cloud.length - size]), 0.0)
        rows = np.flatnonzero(keys >= least)
        self._outside = least if len(rows) < np.count_nonzero(keys >= 0) else -1.0

        # Rows that missed the same centres come together.
        rows = rows[np.argsort(self._known[rows], kind="stable")]
        missed = centres.count - self._known[rows].astype(np.int64)
        self._stale = int(np.count_nonzero(missed))
        self._picked, self._pulled = 0.0, missed.sum() + 128.0 * len(rows) + cloud.length

        def task(part: slice, room: _Room) -> _Near:
            return self._brought(rows[part], room)

        centres.keep(centres.count)
        parts = cloud.spread(task, len(rows), int(missed.sum()))
        return _joined(parts or [self._brought(rows, _Room(cloud))])

    def _brought(self, rows: Rows, room: _Room) -> _Near:
        """Bring rows up to date, the first being furthest behind; those that stay above others."""
        cloud = self._cloud
        start = int(self._known[rows[0]]) if len(rows) else self._centres.count
        points = cloud.near(rows, room.points)
        reach, squared = cloud.reach[rows], self._bound[rows]
        weight = None if self._weight is None else self._weight[rows]
        for first in range(start, self._centres.count, cloud.batch):
            stop = min(first + cloud.batch, self._centres.count)
            self._bring(points, reach, squared, range(first, stop), room)
            keep = (squared if weight is None else squared * weight) >= self._outside
            # Those that fell below need not hear of the other centres now.
            if stop == self._centres.count or 2 * np.count_nonzero(keep) < len(keep):
                self._bound[rows[~keep]] = squared[~keep]
                self._known[rows[~keep]] = stop
                rows, points, reach, squared = rows[keep], points[keep], reach[keep], squared[keep]
                weight = None if weight is None else weight[keep]
        if start == self._centres.count:
            points = points.copy()
        self._bound[rows] = -1
        return _Near(
            rows,
            points,
            reach,
            cloud.excess(reach),
            squared.astype(np.float64),
            weight,
            np.full(len(rows), np.inf),
            np.zeros(len(rows), dtype=np.int64),
            self._centres.count,
        )

    def _sweep(self) -> None:
        """Give all members their first bounds, by the first few centres."""
        cloud = self._cloud
        stop = min(self._centres.count, 64)

        def task(part: slice, room: _Room) -> None:
            bound = self._bound[part]
            if (bound >= 0).any():
                near = cloud.near(part, room.points)
                self._bring(near, cloud.reach[part], bound, range(stop), room)

        self._centres.keep(stop)
        cloud.spread(task, cloud.length, stop * cloud.length)
        self._known[:] = stop
        self._swept = True

    def _bring(
        self, points: Singles, reach: Singles, squared: Singles, missed: range, room: _Room
    ) -> None:
        """Lower the bounds `squared`, in place, to those of the centres they missed."""
        for first in missed[:: self._cloud.batch]:
            last = min(first + self._cloud.batch, missed.stop)
            doubled, reaches = self._centres.part(first, last)
            shape = len(doubled), len(points)
            above = room.wide[: shape[0] * shape[1]].reshape(shape)
            self._cloud.products(doubled, points, out=above)
            above += reaches[:, None]
            lowest = above.min(axis=0)
            lowest += reach
            np.minimum(squared, lowest, out=squared)


def _joined(parts: list[_Near]) -> _Near:
    weights = [part.weight for part in parts if part.weight is not None]
    return _Near(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.reach for part in parts]),
        np.concatenate([part.slack for part in parts]),
        np.concatenate([part.squared for part in parts]),
        np.concatenate(weights) if weights else None,
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.settled for part in parts]),
        parts[0].known,
    )


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


@lru_cache(maxsize=1)
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController().select(user_api="blas")


def _grown(array: NDArray[Any], length: int) -> NDArray[Any]:
    """`array` with room for `length` rows; the new ones are not set."""
    out = np.empty((length, *array.shape[1:]), dtype=array.dtype)
    out[: len(array)] = array
    return out
