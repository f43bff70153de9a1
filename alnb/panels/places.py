"""Where the items of a pool lie and how they stand, as a record: what a map shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alnb.records import Floats, Pool, Rows, SliceId
from alnb.rng import stream

if TYPE_CHECKING:
    from alnb.session.session import Session
    from alnb.session.state import SessionState

Strings = NDArray[np.str_]

LIMIT = 20_000
"""Most points shown; above this a browser no longer moves the map fluently."""
NEVER = -1
"""The round of what was never asked."""


@dataclass(frozen=True, eq=False)
class EmbeddingData:
    """The points of a map, in ascending pool order; n of them.

    Attributes
    ----------
    rows : (n,) pool rows.
    opens : per point, the slice that a click opens: the item itself, or the middle of a volume.
    xy : (n, 2) places.
    patient, volume : (n,) names.
    position : (n,) place along the axis, 0 first slice to 1 last.
    labelled : (n,) whether there is a finished answer.
    round : (n,) the last round that asked for it, or NEVER.
    asked : (n,) place in the open query, counted from 1; 0 if it is not in it.
    waiting : (n,) whether it is in the open query and not dealt with yet.
    pool : how many items the whole pool has.
    """

    rows: Rows
    opens: tuple[SliceId, ...]
    xy: Floats
    patient: Strings
    volume: Strings
    position: Floats
    labelled: NDArray[np.bool_]
    round: Rows
    asked: Rows
    waiting: NDArray[np.bool_]
    pool: int

    @cached_property
    def status(self) -> tuple[str, ...]:
        """Per point, in words: labelled or not, and when it was asked."""
        words = []
        for labelled, number, asked in zip(
            self.labelled.tolist(), self.round.tolist(), self.asked.tolist(), strict=True
        ):
            when = f", asked in round {number + 1}" if number != NEVER else ""
            place = f" as number {asked}" if asked else ""
            words.append(("labelled" if labelled else "unlabelled") + when + place)
        return tuple(words)


def embedding_data(
    session: Session, xy: Floats | None = None, *, limit: int = LIMIT
) -> EmbeddingData:
    """Where each slice of the pool lies, and how it stands with it.

    xy: (N, 2) places of the whole pool; by default the two principal components of the session's
    features. A pool of more than `limit` items is sub-sampled (`shown_rows`).
    """
    pool, state = session.pool, session.state
    xy = places(session) if xy is None else xy
    rounds = np.full(len(pool), NEVER, dtype=np.int64)
    for each in state.rounds:
        rounds[pool.rows(each.query)] = each.number
    asked = np.zeros(len(pool), dtype=np.int64)
    waiting = np.zeros(len(pool), dtype=np.bool_)
    if state.rounds and not state.rounds[-1].closed:
        query = pool.rows(state.rounds[-1].query)
        pending = set(session.pending)
        asked[query] = np.arange(1, len(query) + 1)
        waiting[query] = [bool(pending.intersection(pool.slices[row])) for row in query]
    labelled = labelled_rows(pool, state)

    rows = shown_rows(pool, keep=labelled | (asked > 0), limit=limit)
    opens = tuple(opened_by(pool, row) for row in rows)
    patients = {name: volume.patient for name, volume in session.cohort.volumes.items()}
    return EmbeddingData(
        rows=rows,
        opens=opens,
        xy=np.asarray(xy, dtype=np.float32)[rows],
        patient=np.array([patients[slice_id.volume] for slice_id in opens], dtype=np.str_),
        volume=np.array([slice_id.volume for slice_id in opens], dtype=np.str_),
        position=np.asarray(pool.position)[rows],
        labelled=labelled[rows],
        round=rounds[rows],
        asked=asked[rows],
        waiting=waiting[rows],
        pool=len(pool),
    )


def no_map(pool: int) -> EmbeddingData:
    """A map without points yet, of a pool of so many items."""
    none = np.empty(0, dtype=np.int64)
    never, nameless = none.astype(np.bool_), none.astype(np.str_)
    return EmbeddingData(
        rows=none,
        opens=(),
        xy=np.empty((0, 2), dtype=np.float32),
        patient=nameless,
        volume=nameless,
        position=np.empty(0),
        labelled=never,
        round=none,
        asked=none,
        waiting=never,
        pool=pool,
    )


def places(session: Session) -> Floats:
    """(N, 2) principal components of the session's features; slow at the first call."""
    from alnb.embed.project import pca_map

    return pca_map(session.features(), dims=2)


def centres_and_waiting(session: Session) -> tuple[Rows, Rows]:
    """Rows with a finished answer, and those of the open query without one, in its order."""
    pool, state = session.pool, session.state
    labelled = np.flatnonzero(labelled_rows(pool, state))
    if not state.rounds or state.rounds[-1].closed:
        return labelled, np.empty(0, dtype=np.int64)
    pending = set(session.pending)
    query = pool.rows(state.rounds[-1].query)
    open_ = [bool(pending.intersection(pool.slices[row])) for row in query]
    return labelled, query[np.array(open_, dtype=np.bool_)]


def opened_by(pool: Pool, row: int) -> SliceId:
    """The slice that stands for a row: the item itself, or the middle of a volume."""
    return pool.slices[row][len(pool.slices[row]) // 2]


def labelled_rows(pool: Pool, state: SessionState) -> NDArray[np.bool_]:
    """(N,) whether each item has an answer; a volume from that of its first slice on."""
    labelled = state.labelled
    return np.array([not labelled.isdisjoint(slices) for slices in pool.slices], dtype=np.bool_)


def shown_rows(pool: Pool, keep: NDArray[np.bool_], limit: int = LIMIT) -> Rows:
    """Ascending rows to show: all of `keep`, and others up to `limit`, in step over the volumes.

    The others are the same at every call, except that a newly kept row may displace one.
    """
    if len(pool) <= limit:
        return np.arange(len(pool), dtype=np.int64)
    # Shuffle, then give each row its rank within its volume as a share of that volume: taking
    # the lowest shares first takes the same share of every volume.
    shuffled = stream(0, "map").permutation(len(pool))
    by_volume = shuffled[np.argsort(pool.volume[shuffled], kind="stable")]
    _, first, size = np.unique(pool.volume[by_volume], return_index=True, return_counts=True)
    share = np.empty(len(pool))
    share[by_volume] = (np.arange(len(pool)) - np.repeat(first, size)) / np.repeat(size, size)
    order = np.lexsort((shuffled, share, ~keep))
    return np.sort(order[: max(limit, int(keep.sum()))]).astype(np.int64)
