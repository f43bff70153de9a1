"""Who lies farthest from all centres: bounds for many rows, exact distances for a working set.

A row's distance to its nearest centre only ever falls, so that one that is out of date is an upper
bound. The rows of largest bound are brought up to date against all the centres they missed, in one
product of matrices, and picks come out of this small working set for as long as its largest
distance exceeds every bound outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alnb.records import Rows
from alnb.strategies.cloud import TINY, UP, Centres, Cloud, Points, Room, Singles

TIE = 1 - 1e-12
"""Squared distances whose ratio is above this are equal, so that rounding breaks no tie."""

_FIRST, _LEAST = 1024, 512
"""Rows of the first working set, and of the smallest."""

_HOT = 128
"""Rows whose distances from each other are known."""

_FEW = 16
"""Of so many rows distances are computed at a time, for those that will be picked next."""

_MEASURED = 256
"""Rows measured at a time."""

Top = tuple[int, float, float]
"""A row, its squared distance, and the largest key: squared distance times weight."""


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
        self._lifted = None if weight is None else (weight * UP).astype(np.float32)
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
            for start in range(0, len(places), _MEASURED):
                self._measure(near, places[start : start + _MEASURED])
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

        def task(part: slice, room: Room) -> None:
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
        lifted = np.where(near.squared > 0, near.squared * UP + TINY, near.squared)
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

        def task(part: slice, room: Room) -> _Near:
            return self._brought(rows[part], room)

        centres.keep(centres.count)
        parts = cloud.spread(task, len(rows), int(missed.sum()))
        return _joined(parts or [self._brought(rows, Room(cloud))])

    def _brought(self, rows: Rows, room: Room) -> _Near:
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

        def task(part: slice, room: Room) -> None:
            bound = self._bound[part]
            if (bound >= 0).any():
                near = cloud.near(part, room.points)
                self._bring(near, cloud.reach[part], bound, range(stop), room)

        self._centres.keep(stop)
        cloud.spread(task, cloud.length, stop * cloud.length)
        self._known[:] = stop
        self._swept = True

    def _bring(
        self, points: Singles, reach: Singles, squared: Singles, missed: range, room: Room
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
