"""Strategies that change another: compose them instead of giving each strategy more flags."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from alnb.errors import ColdStart
from alnb.protocols import Snapshot, Strategy
from alnb.records import Rows, Selection
from alnb.strategies.common import Narrowed, as_asked, candidates_for

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmStart:
    """`first` until there is something to learn from, then `then`.

    `first` chooses while nothing is labelled, and whenever `then` raises ColdStart.
    """

    first: Strategy
    then: Strategy

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """What the strategy in charge selects."""
        candidates_for(snapshot, n)
        # A batch that another wrapper has half chosen is still the first one.
        if not len(as_asked(snapshot).labelled):
            return self.first.select(snapshot, n, rng=rng)
        try:
            return self.then.select(snapshot, n, rng=rng)
        except ColdStart:
            return self.first.select(snapshot, n, rng=rng)


def smallest_cap(volume: Rows, cap: int, n: int) -> int:
    """`cap`, or the least larger one under which n of these items fit.

    volume : (K,) volume code of each item, K >= n. The cap is met by the sum of min(size, cap).
    """
    _, sizes = np.unique(volume, return_counts=True)
    while np.minimum(sizes, cap).sum() < n:
        cap += 1
    return cap


@dataclass(frozen=True)
class PerVolume:
    """At most `cap` rows of one volume in a batch, since neighbouring slices look alike.

    Picks of `strategy` are taken in order until one would break the cap; its volume is then
    closed and `strategy` chooses on, with what is already taken counting as labelled. A greedy
    strategy thus gives exactly its greedy answer under the cap. When the candidates cannot fill
    the batch under the cap, the cap is raised by the least that fits and a warning is logged: a
    person waiting for n slices gets n slices.

    Put `WithControl` outside of it, or the cap thins out the control rows.
    """

    strategy: Strategy
    cap: int = 1

    def __post_init__(self) -> None:
        if self.cap < 1:
            raise ValueError(f"cap is {self.cap}; a batch needs at least 1 row per volume.")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n rows; scores and origin are those that `strategy` gave when it picked them."""
        candidates = candidates_for(snapshot, n)
        volume = snapshot.pool.volume
        cap = smallest_cap(volume[candidates], self.cap, n)
        if cap > self.cap:
            _log.warning(
                "%d slices do not fit with %d per volume; up to %d are taken.", n, self.cap, cap
            )
        used = np.zeros(int(volume.max(initial=-1)) + 1, dtype=np.int64)
        narrowed = Narrowed.of(snapshot)
        parts: list[Selection] = []
        missing = n
        while missing:
            batch = self.strategy.select(narrowed, missing, rng=rng)
            fits = _occurrence(volume[batch.rows]) < (cap - used)[volume[batch.rows]]
            kept = _head(batch, len(fits) if fits.all() else int(np.argmin(fits)))
            np.add.at(used, volume[kept.rows], 1)
            rest = narrowed.candidates[~np.isin(narrowed.candidates, kept.rows)]
            narrowed = narrowed.to(rest[used[volume[rest]] < cap], taken=kept.rows)
            parts.append(kept)
            missing -= len(kept.rows)
        return _joined(parts)


@dataclass(frozen=True)
class Subsample:
    """`strategy` on m candidates drawn uniformly, for pools too large to score as a whole.

    At least as many candidates as are asked for are drawn.
    """

    strategy: Strategy
    m: int = 500

    def __post_init__(self) -> None:
        if self.m < 1:
            raise ValueError(f"m is {self.m}; at least 1 candidate must be drawn.")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """What `strategy` selects among the drawn candidates."""
        candidates = candidates_for(snapshot, n)
        size = min(len(candidates), max(self.m, n))
        drawn = rng.choice(candidates, size=size, replace=False)
        return self.strategy.select(Narrowed.of(snapshot).to(drawn), n, rng=rng)


@dataclass(frozen=True)
class WithControl:
    """A share of every batch is drawn uniformly, marked "control"; `strategy` chooses the rest.

    Measured before they are trained on, control rows estimate how the model does on the whole
    pool, which rows chosen for being difficult cannot. They are drawn first, from all candidates
    that are not labelled, and sit at random places of the batch, so that their place tells an
    annotator nothing. A fraction of a row is given by chance: a share of 0.1 in batches of 5 is
    one control row in every second batch, on average.
    """

    strategy: Strategy
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; it must lie between 0 and 1.")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n rows; control rows have no score (NaN)."""
        candidates = candidates_for(snapshot, n)
        fresh = np.setdiff1d(candidates, snapshot.labelled, assume_unique=True)
        count = min(int(self.share * n + rng.random()), n, len(fresh))
        control = rng.choice(fresh, size=count, replace=False)
        place = np.zeros(n, dtype=np.bool_)
        place[rng.choice(n, size=count, replace=False)] = True

        rows, scores = np.empty(n, dtype=np.int64), np.full(n, np.nan)
        origin = np.full(n, "control", dtype=object)
        rows[place] = control
        if count < n:
            rest = np.setdiff1d(candidates, control, assume_unique=True)
            narrowed = Narrowed.of(snapshot).to(rest, taken=control)
            chosen = self.strategy.select(narrowed, n - count, rng=rng)
            rows[~place], scores[~place] = chosen.rows, chosen.scores
            origin[~place] = chosen.origin or ("",) * (n - count)
        return Selection(rows=rows, scores=scores, origin=tuple(origin))


def _occurrence(codes: Rows) -> Rows:
    """How often each code has come before: 0 for the first time."""
    seen: dict[int, int] = {}
    earlier = np.empty(len(codes), dtype=np.int64)
    for place, code in enumerate(codes.tolist()):
        earlier[place] = seen.get(code, 0)
        seen[code] = earlier[place] + 1
    return earlier


def _head(selection: Selection, length: int) -> Selection:
    return Selection(
        rows=selection.rows[:length],
        scores=selection.scores[:length],
        origin=selection.origin[:length],
    )


def _joined(parts: list[Selection]) -> Selection:
    if not parts:
        return Selection(rows=np.empty(0, dtype=np.int64), scores=np.empty(0))
    origin = [part.origin or ("",) * len(part.rows) for part in parts]
    return Selection(
        rows=np.concatenate([part.rows for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        origin=tuple(word for words in origin for word in words) if any(map(any, origin)) else (),
    )
