"""What several strategies would ask now, side by side: shared slices, pictures, places."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray

from alnb.palette import OKABE_ITO
from alnb.panels.live import UNSEEN, Due, Refresher, pen_of, run_beside
from alnb.panels.places import opened_by
from alnb.panels.thumbs import Thumbs
from alnb.records import Floats, Pool, Rows, SliceId
from alnb.rng import stream
from alnb.session.comparing import Comparison
from alnb.store.events import Entry

if TYPE_CHECKING:
    from alnb.protocols import Strategy
    from alnb.session.session import Session

FRONT = Path(__file__).parent / "front"
BINS = 5
"""Fifths of the way from a volume's first slice to its last."""
NAMES = ("random", "strided", "coreset")
"""Compared by default, besides the strategy in charge: they need no model."""

_SAMPLE = 400  # rows whose distances stand for the pool's
_WAIT = "Asking the strategies …"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pick:
    """One item that a strategy would ask.

    Attributes
    ----------
    slice_id : the item, or the middle slice of a volume.
    score : None where the strategy gives none.
    patient, place : whose it is, and which slice of how many.
    others : the other strategies that would ask it too.
    """

    slice_id: SliceId
    score: float | None
    patient: str
    place: str
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """The query of one strategy, in picking order, and what it is like as a whole.

    Attributes
    ----------
    volumes, patients : how many the query touches.
    neighbours : pairs of adjacent slices of one volume, which look much alike.
    spread : mean distance between two of its items in the session's features, as a multiple of
        that between two items of the pool; None below two items.
    positions : (BINS,) how many of its items lie in each fifth of their volume.
    note : why the query is not quite its own, or would not be asked; else empty.
    """

    name: str
    picks: tuple[Pick, ...]
    volumes: int
    patients: int
    neighbours: int
    spread: float | None
    positions: tuple[int, ...]
    note: str = ""

    def sentence(self) -> str:
        """The numbers in words."""
        parts = [_count(self.patients, "patient"), _count(self.volumes, "volume")]
        if self.neighbours:
            parts.append(f"{_count(self.neighbours, 'pair')} of adjacent slices")
        if self.spread is not None:
            parts.append(f"spread {self.spread:.2g} × the pool's")
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Board:
    """Several strategies on one moment of a session.

    Attributes
    ----------
    n, free : items asked of each, out of how many.
    wishes : one per strategy that could choose.
    overlap : (S, S) items that two of them both ask.
    pool : (BINS,) share of the free items in each fifth of their volume.
    problems : per strategy that could not choose, why.
    """

    n: int
    free: int
    wishes: tuple[Wish, ...]
    overlap: NDArray[np.int64]
    pool: tuple[float, ...]
    problems: Mapping[str, str]

    @property
    def expected(self) -> float:
        """Items that two random queries share on average."""
        return self.n * self.n / max(1, self.free)

    def by_chance(self, shared: int) -> float:
        """Probability that two random queries share at least so many items."""
        from scipy.stats import hypergeom

        return float(hypergeom.sf(shared - 1, self.free, self.n, self.n))

    @cached_property
    def frames(self) -> dict[SliceId, tuple[str, str]]:
        """Colour and line of the frame of each slice that several ask, most wanted first.

        Fourteen differ; beyond them they repeat.
        """
        wanted = {p.slice_id: p.others for w in self.wishes for p in w.picks if p.others}
        order = sorted(wanted, key=lambda s: (-len(wanted[s]), str(s)))
        looks = [(colour, line) for line in ("solid", "dashed") for colour in OKABE_ITO]
        return {s: looks[place % len(looks)] for place, s in enumerate(order)}

    def sentence(self) -> str:
        """What to read first: how much chance would share, and which two agree most."""
        words = f"Each asks {self.n}. Two random queries would share {self.expected:.1f}."
        pairs = [(int(self.overlap[a, b]), a, b) for b in range(len(self.wishes)) for a in range(b)]
        if not pairs:
            return words
        most, a, b = max(pairs, key=lambda pair: (pair[0], -pair[1], -pair[2]))
        if not most:
            return f"{words} No two of these strategies agree on a single one."
        names = f"{self.wishes[a].name} and {self.wishes[b].name}"
        return f"{words} Most alike are {names}: {self.cell(a, b)}."

    def cell(self, a: int, b: int) -> str:
        """One pair in words."""
        shared = int(self.overlap[a, b])
        if a == b:
            return f"{shared} asked"
        if not shared:
            return f"0 of {self.n} shared"
        chance = self.by_chance(shared)
        odds = "less than 0.1 %" if chance < 0.001 else f"{100 * chance:.2g} %"
        return f"{shared} of {self.n} shared, by chance in {odds} of cases"


def board(session: Session, compared: Comparison) -> Board:
    """What a comparison on this session gives to look at. Embeds the pool if that was not done."""
    pool = session.pool
    free = np.flatnonzero(session.candidates()[0])
    features = session.features()
    usual = _spread(features, _sample(free))
    wanted = compared.wanted()
    wishes = []
    for name, query in compared.queries.items():
        rows = pool.rows(query)
        picks = []
        for item, row, score in zip(query, rows.tolist(), compared.scores[name], strict=True):
            shown = opened_by(pool, row)
            volume = session.cohort.volumes[shown.volume]
            place = (
                f"slice {shown.index + 1} of {volume.shape[0]}"
                if len(pool.slices[row]) == 1
                else f"{len(pool.slices[row])} slices"
            )
            others = tuple(other for other in wanted[item] if other != name)
            picks.append(Pick(shown, score, volume.patient, place, others))
        own = _spread(features, rows)
        wishes.append(
            Wish(
                name=name,
                picks=tuple(picks),
                volumes=len(np.unique(pool.volume[rows])),
                patients=len(np.unique(pool.patient[rows])),
                neighbours=_neighbours(pool, rows),
                spread=own / usual if own is not None and usual else None,
                positions=tuple(_fifths(pool, rows).tolist()),
                note=compared.notes.get(name, ""),
            )
        )
    fifths = _fifths(pool, free)
    return Board(
        n=compared.n,
        free=len(free),
        wishes=tuple(wishes),
        overlap=compared.overlap(),
        pool=tuple((fifths / max(1, fifths.sum())).tolist()),
        problems=compared.problems,
    )


def _fifths(pool: Pool, rows: Rows) -> Rows:
    place = np.minimum((np.asarray(pool.position)[rows] * BINS).astype(np.int64), BINS - 1)
    return np.bincount(place, minlength=BINS)


def _neighbours(pool: Pool, rows: Rows) -> int:
    """Pairs of rows that are adjacent slices of one volume."""
    held = {pool.slices[row][0] for row in rows.tolist() if len(pool.slices[row]) == 1}
    return sum(SliceId(s.volume, s.index + 1) in held for s in held)


def _sample(rows: Rows) -> Rows:
    if len(rows) <= _SAMPLE:
        return rows
    return stream(0, "spread").choice(rows, _SAMPLE, replace=False)


def _spread(features: Floats, rows: Rows) -> float | None:
    """Mean Euclidean distance between two of `rows`; None below two."""
    if len(rows) < 2:
        return None
    from scipy.spatial.distance import pdist

    return float(pdist(features[rows].astype(np.float64)).mean())


def board_message(found: Board, pictures: Callable[[SliceId], str]) -> dict[str, Any]:
    """The board as the browser reads it: plain text, and a picture's address for each slice."""
    names = [wish.name for wish in found.wishes]
    return {
        "names": names,
        "n": found.n,
        "expected": found.expected,
        "sentence": found.sentence(),
        "overlap": found.overlap.tolist(),
        "cells": [
            [f"{one} and {other}: {found.cell(a, b)}" for b, other in enumerate(names)]
            for a, one in enumerate(names)
        ],
        "pool": list(found.pool),
        "wishes": [
            {
                "name": wish.name,
                "sentence": wish.sentence(),
                "note": wish.note,
                "positions": list(wish.positions),
                "picks": [_pick_message(number, pick, found) for number, pick in _numbered(wish)],
            }
            for wish in found.wishes
        ],
        "pictures": {
            str(pick.slice_id): pictures(pick.slice_id)
            for wish in found.wishes
            for pick in wish.picks
        },
        "problems": [[name, why] for name, why in found.problems.items()],
    }


def _numbered(wish: Wish) -> list[tuple[int, Pick]]:
    return list(enumerate(wish.picks, start=1))


def _pick_message(number: int, pick: Pick, found: Board) -> dict[str, Any]:
    score = "" if pick.score is None else f"score {pick.score:.3g}"
    also = f"also asked by {', '.join(pick.others)}" if pick.others else ""
    where = f"{pick.slice_id.volume}, {pick.place}"
    colour, line = found.frames.get(pick.slice_id, ("", ""))
    return {
        "slice": {"volume": pick.slice_id.volume, "index": pick.slice_id.index},
        "picture": str(pick.slice_id),
        "caption": [pick.slice_id.volume, pick.place, score],
        "title": " · ".join(filter(None, (f"{number}. {where}", score, also))),
        "colour": colour,
        "line": line,
        "wanted": 1 + len(pick.others),
    }


class BoardView(anywidget.AnyWidget):
    """Draws a board message in the browser; everything in it enters the page as text."""

    _esm = FRONT / "board.js"
    _css = FRONT / "board.css"
    board = traitlets.Dict().tag(sync=True)
    line = traitlets.Unicode(_WAIT).tag(sync=True)
    busy = traitlets.Bool(True).tag(sync=True)
    opens = traitlets.Bool(False).tag(sync=True)


class StrategyComparison:
    """What several strategies would ask now: shared slices, pictures in picking order, places.

    Show it by ending a cell with it. It shows the moment at which it was made, while people talk
    about it; "Compare again" asks once more, and a line says when the session has moved on.

    Parameters
    ----------
    strategies : names, objects or functions, as `session.compare_strategies` takes them; by default
        three that need no model, and the one in charge.
    n : items asked of each; by default as many as the current query has, at most 8.
    labeller : shows the slice of a picture that is clicked; anything with ``show(slice_id)``.

    Attributes
    ----------
    widget : what to display.
    shown : the `Board` in view, or None while the strategies are being asked.
    """

    def __init__(
        self,
        session: Session,
        strategies: Sequence[Any] | None = None,
        n: int | None = None,
        *,
        labeller: Any = None,
    ) -> None:
        self._session = session
        self._strategies = _default(session) if strategies is None else tuple(strategies)
        self._n = n
        self._labeller = labeller
        self._thumbs = Thumbs(session.cohort)
        self._due: Due[tuple[Board, dict[str, Any], Comparison, Hashable]] = Due()
        self._times = 1
        self.widget = BoardView(opens=labeller is not None)
        self.widget.on_msg(self._receive)
        self._refresher = Refresher(self._draw, busy=pen_of(labeller))
        self._ends = [session.subscribe(self._heard), session.watch(self._watched)]
        self._refresher.ask()

    @property
    def shown(self) -> Board | None:
        return None if self._due.value is None else self._due.value[0]

    def again(self) -> None:
        """Ask the strategies once more, as the session is now; any thread may."""
        self._times += 1
        self._refresher.ask()

    def close(self) -> None:
        """Follow the session no longer; the last picture stays."""
        for end in self._ends:
            end()
        self._refresher.close()

    def to_table(self) -> str:
        """The overlap as a Markdown table, and below it what there is to say."""
        return _WAIT if self._due.value is None else self._due.value[2].to_table()

    def _heard(self, entry: Entry) -> None:
        if not isinstance(entry.event, UNSEEN):
            self._refresher.ask()

    def _watched(self, what: str) -> None:
        if what in ("embedding", "strategies"):
            self._refresher.ask()

    def _moment(self) -> tuple[Hashable, ...]:
        """All that the queries depend on."""
        session = self._session
        fit, state = session.last_fit, session.state
        own = tuple(getattr(session, "strategies", ()))
        return (
            len(state.rounds),
            len(state.labelled) + len(state.skipped),
            None if fit is None else fit.number,
            session.embedding,
            state.embeddings.get(session.embedding),
            own,
        )

    def _draw(self) -> None:
        work = self._due.work(self._times, self._compare)
        if work is not None:
            self.widget.busy, self.widget.line = True, _WAIT
            run_beside(self._refresher, work)
        if self._due.key != self._times:
            return
        if self._due.value is None:
            self.widget.line = f"They could not be compared: {self._due.error}"
            self.widget.busy = False
            return
        _, message, _, moment = self._due.value
        old = moment != self._moment()
        self.widget.line = "The session has moved on since. Compare again." if old else ""
        self.widget.busy = False
        if self.widget.board != message:
            self.widget.board = message

    def _compare(self) -> tuple[Board, dict[str, Any], Comparison, Hashable]:
        session, moment = self._session, self._moment()
        n = self._n
        if n is None:
            n = min(8, len(session.round.query)) if session.round is not None else 6
        compared = session.compare_strategies(self._strategies, n)
        found = board(session, compared)
        return found, board_message(found, self._thumbs.data_url), compared, moment

    def _receive(self, _: object, content: Any, __: object) -> None:
        try:
            match content:
                case {"kind": "again"}:
                    self.again()
                case {"kind": "open", "slice": {"volume": str(name), "index": int(index)}}:
                    if self._labeller is not None:
                        self._labeller.show(SliceId(name, index))
        except Exception as error:  # the widget machinery would swallow it
            _log.exception("a message of the board failed")
            self.widget.line = f"That did not work: {error}"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        found = self.widget._repr_mimebundle_(**options)
        data, more = found if isinstance(found, tuple) else (found, {})
        return {**(data or {}), "text/plain": self.to_table()}, more


def _default(session: Session) -> tuple[Strategy | str, ...]:
    charge = session.strategy_name
    named = charge if charge in session.strategies else session.strategy
    return NAMES if named in NAMES else (*NAMES, named)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
