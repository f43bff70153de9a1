"""Points of which float32 products tell distances, with bounds of their rounding error.

Products run in float32 and carry a bound of their error; what decides something is computed again
in float64, from differences. Of large data, blocks of rows are worked on by as many threads as the
BLAS behind numpy would use, at most eight; each product runs on one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput
from alnb.records import Floats, Rows

Points = NDArray[np.float64]
Singles = NDArray[np.float32]
Result = TypeVar("Result")

_ROUND = 2.0**-24
"""Largest relative error of one float32 operation."""

_STRIP = 1024
"""Features multiplied at a time, which bounds how far rounding errors add up."""

TINY = np.float32(2.0**-120)
"""Covers what underflow takes away, at the scale that `Cloud` sees to."""

UP = 1 + 2.0**-22
"""Lifts a float64 beyond the rounding of its float32."""

_BATCH = 256
"""Centres per product at most."""

_LARGE = 2**22
"""Data of so many numbers, and so many multiplications, are worth several threads."""

_MOST = 8
"""Threads at most, each of which has a room of its own."""

_ONE_AT_A_TIME = Lock()


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
        self._rooms = [Room(self)]
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

    def spread(self, task: Callable[[slice, Room], Result], rows: int, pairs: int) -> list[Result]:
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
            self._rooms.append(Room(self))
        assert self._workers is not None
        shares = list(self._workers.map(share, range(workers)))
        return [shares[number % workers][number // workers] for number in range(len(parts))]

    def excess(self, reach: Singles) -> Singles:
        """How far rounding may have lifted a squared distance, by the share of one of its ends."""
        return reach * np.float32(2.5 * self.error) + 8 * TINY

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

        def task(part: slice, room: Room) -> None:
            near = self.near(part, room.points)
            for first in range(0, self.width, _STRIP):
                strip = near[:, first : first + _STRIP]
                reach[part] += np.einsum("nd,nd->n", strip, strip)

        # numpy's error state is each thread's own.
        def quiet(part: slice, room: Room) -> None:
            with np.errstate(over="ignore", invalid="ignore"):
                task(part, room)

        self.spread(quiet, self.length, self.length)
        with np.errstate(over="ignore", invalid="ignore"):
            reach *= np.float32(1 + self.error)
            reach += TINY
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


class Room:
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


@lru_cache(maxsize=1)
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController().select(user_api="blas")


def _grown(array: NDArray[Any], length: int) -> NDArray[Any]:
    """`array` with room for `length` rows; the new ones are not set."""
    out = np.empty((length, *array.shape[1:]), dtype=array.dtype)
    out[: len(array)] = array
    return out
