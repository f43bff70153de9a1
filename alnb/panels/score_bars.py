"""Why these candidates? What a model doubts, less what is labelled already, item by item.

The score is that of `alnb.strategies.nath`: S = alpha H^ - MI^ / alpha over the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from alnb.errors import ColdStart
from alnb.panels.colouring import ASKED, LABELLED
from alnb.panels.figure import INK, View, compose, plain, title
from alnb.panels.places import opened_by
from alnb.panels.ranks import as_asked
from alnb.records import Floats, ItemId, Rows, SliceId

if TYPE_CHECKING:
    from alnb.session.session import Session
    from alnb.strategies.nath import EntropyMinusMI

MOST = 400
"""Most candidates that a model is run on, the query's among them."""
SHOWN = 48
"""Most bars: beyond it, they are too thin to point at."""
_NAMED = 26
_UNSURE, _ALIKE = "#56b4e9", "#cc79a7"
_WIDTH = 0.76
_BELOW = 0.07
EMPTY = "The bars appear after the first training."


@dataclass(frozen=True, eq=False)
class ScoreBars:
    """Candidates, largest score first; n of them.

    Attributes
    ----------
    rows : (n,) pool rows.
    items, opens : per candidate, what is asked, and the slice that a click opens.
    doubt : (n,) H in nats, as the strategy reduces it over the item.
    known : (n,) MI with what is labelled, in nats.
    up, down : (n,) alpha H^ and -MI^ / alpha, which sum to `score`.
    chosen : (n,) whether it is in the open query; without one, whether it would be asked next.
    again : (n,) whether it is labelled already, and may be asked again.
    alpha : the strategy's.
    of : how many candidates there are; n may be a part of them.
    open : whether a query is open.
    model : names the model whose doubt it is.
    """

    rows: Rows
    items: tuple[ItemId, ...]
    opens: tuple[SliceId, ...]
    doubt: Floats
    known: Floats
    up: Floats
    down: Floats
    chosen: NDArray[np.bool_]
    again: NDArray[np.bool_]
    alpha: float
    of: int
    open: bool
    model: str = ""

    @property
    def score(self) -> Floats:
        """(n,) S."""
        return self.up + self.down

    @property
    def first(self) -> Rows:
        """Places of at most `SHOWN` bars: the best, and all that were chosen; ascending."""
        places = np.arange(len(self.rows))
        chosen = np.flatnonzero(self.chosen)[:SHOWN]
        best = places[~np.isin(places, chosen)][: SHOWN - len(chosen)]
        return np.union1d(chosen, best).astype(np.int64)


def strategy_within(strategy: Any) -> EntropyMinusMI | None:
    """The `EntropyMinusMI` inside of wrappers; None if there is none."""
    from alnb.strategies.nath import EntropyMinusMI

    if isinstance(strategy, EntropyMinusMI):
        return strategy
    inner = (getattr(strategy, name, None) for name in ("strategy", "then"))
    return next((found for each in inner if each and (found := strategy_within(each))), None)


def score_bars(
    session: Session, strategy: EntropyMinusMI | None = None, *, n: int = 6
) -> ScoreBars:
    """How the candidates of the open query score, with today's model; slow.

    strategy : the session's, or one with the defaults, unless given. n : how many would be asked,
    where no query is open. ColdStart while nothing is trained.
    """
    from alnb.strategies.nath import EntropyMinusMI, hatted

    chooser = strategy or strategy_within(session.strategy) or EntropyMinusMI()
    chooser = cast("EntropyMinusMI", session.lasting(chooser))
    is_open = bool(session.pending)
    snapshot, query = as_asked(session) if is_open else (session.snapshot(), np.empty(0, np.int64))
    if snapshot.learner is None:
        raise ColdStart(EMPTY)
    rows = _some(snapshot.candidates, query)
    doubt, known = chooser.terms(snapshot, rows)
    up = chooser.alpha * hatted(doubt, chooser.hat)
    down = -hatted(known, chooser.hat) / chooser.alpha
    order = np.argsort(-(up + down), kind="stable")
    rows = rows[order]
    fit = session.last_fit
    return ScoreBars(
        rows,
        tuple(session.pool.ids[row] for row in rows.tolist()),
        tuple(opened_by(session.pool, row) for row in rows.tolist()),
        doubt[order],
        known[order],
        up[order],
        down[order],
        np.isin(rows, query) if is_open else np.arange(len(rows)) < n,
        np.isin(rows, snapshot.labelled),
        chooser.alpha,
        len(snapshot.candidates),
        is_open,
        "" if fit is None else fit.badge,
    )


def no_bars() -> ScoreBars:
    """No candidates yet."""
    none, never = np.empty(0), np.empty(0, dtype=np.bool_)
    rows = np.empty(0, dtype=np.int64)
    return ScoreBars(rows, (), (), none, none, none, none, never, never, 1.0, 0, False)


def _some(candidates: Rows, query: Rows) -> Rows:
    """At most `MOST` candidates, all of the query among them, in even steps over the others."""
    if len(candidates) <= MOST:
        return candidates
    rest = np.setdiff1d(candidates, query)
    steps = np.linspace(0, len(rest) - 1, max(0, MOST - len(query))).round().astype(np.int64)
    return np.union1d(query, rest[steps]).astype(np.int64)


def score_figure(data: ScoreBars) -> go.Figure:
    """The bars alone."""
    return compose(score_view(data))


def score_view(data: ScoreBars, picked: int = -1, note: str = "") -> View:
    """A pair of bars per candidate and a dot for their sum, in five traces.

    picked : place of the candidate in view, whose dot is large.
    """
    first = data.first
    x = np.arange(len(first))
    named = len(x) <= _NAMED
    words = [hover(data, at) for at in first.tolist()]
    alpha, under = ("", "") if data.alpha == 1 else (f"{data.alpha:g} ", f" / {data.alpha:g}")
    up, down, score = data.up[first], data.down[first], data.score[first]
    return View(
        traces=(
            _bars(f"{alpha}Ĥ: the model is unsure", x, up, words, _UNSURE),
            _bars(f"−MÎ{under}: like what is labelled", x, down, words, _ALIKE),
            _dots(x, score, words, first == picked),
            _marks("asked" if data.open else "would be asked", score, data.chosen[first]),
            _again(down, data.again[first]),
        ),
        xaxis={
            "title": title(_below(data, len(first))),
            "range": [-0.8, max(len(first), 8) - 0.2],
            "showgrid": False,
            "tickvals": x if named else [],
            "ticktext": [plain(data.items[at]) for at in first.tolist()] if named else [],
            "tickangle": -60,
            "tickfont": {"size": 10},
        },
        yaxis={"title": title("score"), "zeroline": True, "zerolinecolor": INK, "nticks": 8},
        note=plain(note),
    )


def hover(data: ScoreBars, at: int) -> str:
    """A candidate in words, as markup of plotly."""
    return "<br>".join((f"<b>{plain(data.items[at])}</b>", *map(plain, facts(data, at))))


def facts(data: ScoreBars, at: int) -> tuple[str, ...]:
    """A candidate in words: how it stands, and its numbers."""
    standing = f"{at + 1} of {len(data.rows):,}"
    if data.chosen[at]:
        standing += ", asked" if data.open else ", would be asked next"
    if data.again[at]:
        standing += ", labelled already: it would cost nothing"
    return (
        standing,
        f"S = {data.up[at]:.2f} − {-data.down[at]:.2f} = {data.score[at]:.2f}",
        f"H = {data.doubt[at]:.3g} nats, MI = {data.known[at]:.3g} nats",
    )


def _below(data: ScoreBars, shown: int) -> str:
    part = f"the best and the chosen {shown}" if shown < len(data.rows) else f"all {shown}"
    sample = "" if len(data.rows) == data.of else f", a sample of {data.of:,}"
    return f"candidates by score: {part} of {len(data.rows):,}{sample}"


def _bars(name: str, x: Rows, heights: Floats, words: list[str], colour: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": x,
        "y": heights,
        # bars with an offset of their own stand on each other's place
        "offset": -_WIDTH / 2,
        "width": _WIDTH,
        "text": words,
        "textposition": "none",
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": colour, "line": {"width": 0}},
    }


def _dots(x: Rows, score: Floats, words: list[str], picked: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "S, their sum",
        "x": x,
        "y": score,
        "text": words,
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "symbol": "circle",
            "color": INK,
            "size": np.where(picked, 13, 6),
            "line": {"width": 1, "color": "#ffffff"},
        },
    }


def _marks(name: str, score: Floats, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": np.flatnonzero(chosen),
        "y": score[chosen],
        "hoverinfo": "skip",
        "marker": {"symbol": "circle-open", "color": ASKED, "size": 15, "line": {"width": 2.5}},
        "showlegend": True,
    }


def _again(down: Floats, again: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "labelled already",
        "x": np.flatnonzero(again),
        "y": down[again] - _BELOW,
        "hoverinfo": "skip",
        "marker": {"symbol": "diamond", "color": LABELLED, "size": 9, "line": {"width": 0}},
        "showlegend": bool(again.any()),
    }
