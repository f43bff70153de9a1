"""A map of the pool: every slice a point, the query ringed and numbered, a click opens a slice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
import plotly.graph_objects as go

from alnb.panels.colouring import ASKED, ColourBy, Colouring, colouring
from alnb.panels.figure import INK, View, compose, plain, title
from alnb.panels.live import FigurePanel
from alnb.panels.places import LIMIT, NEVER, EmbeddingData, embedding_data, no_map, places
from alnb.records import Floats, SliceId

if TYPE_CHECKING:
    from alnb.session.session import Session

_GL_FROM = 2_000  # fewer are drawn as SVG, which also works in a browser without WebGL
_DONE = "rgba(213, 94, 0, 0.5)"
_COMPUTING = "The map appears once the features are computed."
_KEY = f"● unlabelled   ◆ labelled   <span style='color:{ASKED}'>◯ asked, in order</span>"

_log = logging.getLogger(__name__)


def embedding_figure(data: EmbeddingData, colour_by: ColourBy = "patient") -> go.Figure:
    """The map alone."""
    return compose(embedding_view(data, colour_by))


def embedding_view(data: EmbeddingData, colour_by: ColourBy = "patient", note: str = "") -> View:
    """The map as one subplot, in three traces; `note` stands in the middle of an empty one.

    The first trace holds every point in the order of `data` and alone answers the pointer, so a
    click needs no other table than `data.opens`. Labelled ones and the query lie over it.
    """
    n, colours = len(data.rows), colouring(data, colour_by)
    words = f"{_KEY}<br>all {data.pool:,} of the pool"
    if n < data.pool:
        words = f"{_KEY}<br>{n:,} of {data.pool:,}: labelled, asked, a share of each volume"
    return View(
        traces=(_points(data, colours), _labelled(data, colours), _query(data)),
        xaxis={"showticklabels": False, "title": title(words)},
        yaxis={"showticklabels": False},
        note=plain(note),
        square=True,
        colours={
            "cmin": colours.span[0],
            "cmax": colours.span[1],
            "colorscale": colours.scale,
            "showscale": n > 0 and bool(colours.ticks),
            "colorbar": {
                "thickness": 10,
                "len": 0.9,
                "outlinewidth": 0,
                "xanchor": "left",
                "ticks": "",
                "tickvals": [value for value, _ in colours.ticks],
                "ticktext": [plain(name) for _, name in colours.ticks],
            },
        },
    )


def _kind(data: EmbeddingData) -> str:
    """One kind for all three traces: WebGL is painted over SVG, whatever the order."""
    return "scattergl" if data.pool > _GL_FROM else "scatter"


def _points(data: EmbeddingData, colours: Colouring) -> dict[str, Any]:
    n = len(data.rows)
    return {
        "type": _kind(data),
        "mode": "markers",
        "name": "pool",
        "x": data.xy[:, 0],
        "y": data.xy[:, 1],
        "text": [
            f"<b>{plain(slice_id)}</b><br>patient {plain(patient)}<br>position {position:.2f}"
            for slice_id, patient, position in zip(
                data.opens, data.patient.tolist(), data.position.tolist(), strict=True
            )
        ],
        "customdata": _status(data),
        "hovertemplate": "%{text}<br>%{customdata}<extra></extra>",
        "showlegend": False,
        "marker": {
            "color": colours.values,
            "coloraxis": "coloraxis",
            "size": 8 if n < 500 else 6 if n < 2000 else 4,
            "opacity": 0.75,
            "line": {"width": 0.5, "color": INK},
        },
    }


def _status(data: EmbeddingData) -> list[str]:
    words = []
    for labelled, number, asked in zip(
        data.labelled.tolist(), data.round.tolist(), data.asked.tolist(), strict=True
    ):
        when = f", asked in round {number + 1}" if number != NEVER else ""
        place = f" as number {asked}" if asked else ""
        words.append(("labelled" if labelled else "unlabelled") + when + place)
    return words


def _labelled(data: EmbeddingData, colours: Colouring) -> dict[str, Any]:
    rows = np.flatnonzero(data.labelled)
    return {
        "type": _kind(data),
        "mode": "markers",
        "name": "labelled",
        "x": data.xy[rows, 0],
        "y": data.xy[rows, 1],
        "hoverinfo": "skip",
        "showlegend": False,
        "marker": {
            "color": colours.values[rows],
            "coloraxis": "coloraxis",
            "symbol": "diamond",
            "size": 11,
            "line": {"width": 1.5, "color": INK},
        },
    }


def _query(data: EmbeddingData) -> dict[str, Any]:
    places = np.flatnonzero(data.asked)
    places = places[np.argsort(data.asked[places])]
    return {
        "type": _kind(data),
        "mode": "markers+text",
        "name": "asked now",
        "x": data.xy[places, 0],
        "y": data.xy[places, 1],
        "text": [str(number) for number in data.asked[places]],
        "textposition": "top right",
        "textfont": {
            "color": [ASKED if waiting else _DONE for waiting in data.waiting[places]],
            "size": 13,
            "weight": "bold",
        },
        "hoverinfo": "skip",
        "showlegend": False,
        "marker": {
            "symbol": "circle-open",
            "color": ASKED,
            "size": 17,
            "line": {"width": 2.5},
            "opacity": np.where(data.waiting[places], 1.0, 0.4),
        },
    }


class EmbeddingPart:
    """The map of a session as a part of a panel, with the choice of its colours.

    The features are projected once per round, on whichever thread calls the work; in between only
    the colours and marks change. `on_pick` gets the slice of a clicked point.
    """

    def __init__(
        self,
        session: Session,
        on_pick: Callable[[SliceId], Any] | None = None,
        *,
        limit: int = LIMIT,
    ) -> None:
        self._session = session
        self._on_pick = on_pick
        self._limit = limit
        self._say: Callable[[str], None] = lambda _: None
        self._data = no_map(len(session.pool))
        self._xy: Floats | None = None
        self._note = _COMPUTING
        self._rounds = -1
        self.control = ipywidgets.Dropdown(
            options=[
                ("patient", "patient"),
                ("volume", "volume"),
                ("position in the volume", "position"),
                ("labelled or not", "labelled"),
                ("round", "round"),
            ],
            description="colour by",
            layout={"width": "260px", "max_width": "100%"},
        )

    def view(self) -> View:
        if self._xy is not None:
            self._data = embedding_data(self._session, self._xy, limit=self._limit)
        return embedding_view(
            self._data, self.control.value, self._note if self._xy is None else ""
        )

    def work(self) -> Callable[[], None] | None:
        rounds = len(self._session.state.rounds)
        if rounds == self._rounds:
            return None
        self._rounds = rounds
        return self._project

    def connect(self, traces: Sequence[Any], say: Callable[[str], None]) -> None:
        self._say = say
        traces[0].on_click(self._clicked)

    def _project(self) -> None:
        try:
            self._xy = places(self._session)
        except Exception as error:  # on a worker thread nobody else would ever hear of it
            _log.exception("The map of the pool could not be computed.")
            self._note = f"There is no map: {error}"

    def _clicked(self, _trace: Any, points: Any, _state: Any) -> None:
        if not points.point_inds:
            return
        slice_id = self._data.opens[points.point_inds[0]]
        try:
            if self._on_pick is not None:
                self._on_pick(slice_id)
            self._say(f"{slice_id} was picked on the map.")
        except Exception as error:  # the widget machinery would swallow it
            _log.exception("Picking %s failed.", slice_id)
            self._say(f"{slice_id} could not be opened: {error}")


class EmbeddingPanel(FigurePanel):
    """The map of a session's pool, live; `on_pick` gets the slice of a clicked point."""

    def __init__(
        self,
        session: Session,
        on_pick: Callable[[SliceId], Any] | None = None,
        labeller: Any = None,
        *,
        limit: int = LIMIT,
    ) -> None:
        part = EmbeddingPart(session, on_pick, limit=limit)
        super().__init__(session, [part], labeller=labeller)
