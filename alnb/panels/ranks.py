"""Where a slice would stand if another strategy asked: one ranking of the pool for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alnb.errors import ColdStart
from alnb.records import Rows
from alnb.rng import stream

if TYPE_CHECKING:
    from torch import Tensor

    from alnb.protocols import Strategy
    from alnb.session.session import Session
    from alnb.session.snapshot import PoolSnapshot

DEEPEST = 500
"""Farthest-first order is worked out to this depth; further slices are ranked "after" it."""
SCORED = 240
"""Most slices that a model is run on for a ranking, the query's among them."""

_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Rank:
    """The place of a slice in the order of one strategy.

    place : counted from 1; None if it has none. of : how many were ranked. note : what a number
    alone would not say: "needs a model", "of a sample", "after 500".
    """

    place: int | None
    of: int
    note: str = ""

    def __str__(self) -> str:
        if self.place is None:
            return self.note
        return f"{self.place:,} of {self.of:,}{f' {self.note}' if self.note else ''}"


@dataclass(frozen=True, eq=False)
class Ranking:
    """The order of one strategy over the rows it could have asked for.

    rows : best first, perhaps only the best. of : how many could have been asked. note : why there
    is no order. sample : whether only a sample was ranked.
    """

    rows: Rows
    of: int
    note: str = ""
    sample: bool = False

    def rank(self, row: int) -> Rank:
        """Where a row stands."""
        if self.note:
            return Rank(None, self.of, self.note)
        place = np.flatnonzero(self.rows == row)
        if len(place):
            return Rank(int(place[0]) + 1, len(self.rows) if self.sample else self.of, self._of())
        if self.sample:
            return Rank(None, self.of, "not in the sample")
        if len(self.rows) < self.of:
            return Rank(None, self.of, f"after {len(self.rows):,}")
        return Rank(None, self.of, "not a candidate")

    def _of(self) -> str:
        return "sampled" if self.sample else ""


def ranks_of(rankings: Mapping[str, Ranking], row: int) -> dict[str, Rank]:
    """The place of one row under each strategy."""
    return {name: ranking.rank(row) for name, ranking in rankings.items()}


def rankings(session: Session) -> dict[str, Ranking]:
    """How strategies would order the pool as it stood when the current query was asked.

    Slow: farthest-first runs over the features, and a fitted model over up to `SCORED` slices.
    """
    from alnb.strategies.coreset import CoreSet
    from alnb.strategies.strided import Strided

    snapshot, query = as_asked(session)
    return {
        "coreset": _ranking(session, CoreSet(), snapshot, DEEPEST),
        "strided": _ranking(session, Strided(), snapshot, len(snapshot.candidates)),
        **_by_model(session, snapshot, query),
    }


def _by_model(session: Session, snapshot: PoolSnapshot, query: Rows) -> dict[str, Ranking]:
    """By the model's uncertainty, in one pass over the slices; ties go to the lower row."""
    from alnb.strategies.uncertainty import TopScore, entropy, least_confidence, margin

    of = len(snapshot.candidates)
    scores = {"entropy": entropy, "margin": margin, "least confidence": least_confidence}
    rules = [TopScore(score).per_slice for score in scores.values()]

    def all_at_once(probs: Tensor) -> Tensor:
        import torch

        return torch.stack([rule(probs) for rule in rules], dim=1)

    some = _sample(snapshot.candidates, query, stream(session.seed, "ranks", _number(session)))
    try:
        values = snapshot.reduce(all_at_once, some)
    except ColdStart:
        return dict.fromkeys(scores, Ranking(_NONE, of, "needs a model"))
    sample = len(some) < of
    return {
        name: Ranking(some[np.argsort(-column, kind="stable")], of, sample=sample)
        for name, column in zip(scores, values.T, strict=True)
    }


def as_asked(session: Session) -> tuple[PoolSnapshot, Rows]:
    """The pool as it stood when the current query was asked, with today's model; its rows."""
    snapshot, current = session.snapshot(), session.round
    if current is None:
        return snapshot, _NONE
    query = session.pool.rows(current.query)
    # only where answers go back to the pool may what was asked have been labelled before
    before = session.created.keep_labelled & (snapshot.counts[query] > 1)
    return (
        dataclasses.replace(
            snapshot,
            candidates=np.union1d(snapshot.candidates, query),
            labelled=np.setdiff1d(snapshot.labelled, query[~before]),
        ),
        query,
    )


def _ranking(session: Session, strategy: Strategy, snapshot: PoolSnapshot, depth: int) -> Ranking:
    of = len(snapshot.candidates)
    rng = stream(session.seed, "ranks", _number(session))
    return Ranking(strategy.select(snapshot, min(of, depth), rng=rng).rows, of)


def _number(session: Session) -> int:
    return -1 if session.round is None else session.round.number


def _sample(candidates: Rows, query: Rows, rng: np.random.Generator) -> Rows:
    """Up to `SCORED` candidates, all of the query among them, ascending."""
    rest = np.setdiff1d(candidates, query)
    room = min(len(rest), max(0, SCORED - len(query)))
    return np.union1d(query, rng.choice(rest, size=room, replace=False)).astype(np.int64)
