"""A map of the pool: every slice a point, the query ringed and numbered, a click opens a slice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from alnb.panels.colouring import ASKED, LABELLED, ColourBy, Colouring, colouring
from alnb.panels.covers import Covers, circles, cover_sentence, covers
from alnb.panels.figure import INK, View, compose, plain, title
from alnb.panels.learning import LearnRow
from alnb.panels.live import DRAGGED, REST, Ask, Due, FigurePanel
from alnb.panels.markup import SafeHTML, element
from alnb.panels.places import (
    LIMIT,
    EmbeddingData,
    centres_and_waiting,
    embedding_data,
    no_map,
)
from alnb.records import Floats, SliceId

if TYPE_CHECKING:
    from alnb.session.session import Session

_GL_FROM = 2_000  # fewer are drawn as SVG, which also works in a browser without WebGL
LIVE = 600
"""Of more points, the fading follows a dragged slider only when the hand rests, and circles and
numbers a few times a second: plotly draws every point again for each message of its widget."""
_SLOWLY = 0.25
_DONE = "rgba(213, 94, 0, 0.5)"
_DISC = {"fillcolor": LABELLED, "opacity": 0.13, "line": {"width": 0}}
_OUTLINE = {"line": {"color": ASKED, "width": 1.5, "dash": "dot"}, "opacity": 0.7}
_COMPUTING = "The map appears once the features are computed."
_KEY = f"● unlabelled   ◆ labelled   <span style='color:{ASKED}'>◯ asked, in order</span>"
_HELP = (
    "A slice is covered when a labelled slice lies within r of it, in the space of all features. "
    "The map shows only two directions of that space: whatever is covered lies inside a circle, "
    "but not all that lies inside a circle is covered. Faded points are covered."
)
_EMBEDDING_HELP = "What slices are compared by, on this map and by strategies that use features"
COLOURS: tuple[tuple[str, ColourBy], ...] = (
    ("patient", "patient"),
    ("volume", "volume"),
    ("position in the volume", "position"),
    ("labelled or not", "labelled"),
    ("covered or not", "covered"),
    ("round", "round"),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Reach:
    """What the circles of a map show: covers by labelled slices, at a radius.

    `drawn` says whether there are circles at all. Points covered within `faded` are faded.
    """

    covers: Covers
    radius: float
    faded: float
    drawn: bool = True


def embedding_figure(data: EmbeddingData, colour_by: ColourBy = "patient") -> go.Figure:
    """The map alone."""
    return compose(embedding_view(data, colour_by))


def embedding_view(
    data: EmbeddingData,
    colour_by: ColourBy = "patient",
    note: str = "",
    reach: Reach | None = None,
    heading: str = "",
) -> View:
    """The map as one subplot, in three traces; `note` stands in the middle of an empty one.

    The first trace holds every point in the order of `data` and alone answers the pointer, so a
    click needs no other table than `data.opens`. Labelled ones and the query lie over it. With a
    `reach`, covered points are faded, and circles of its radius lie under labelled points and,
    as outlines, around the query.
    """
    n = len(data.rows)
    inside = None if reach is None else reach.covers.covered(reach.faded)[data.rows]
    colours = colouring(data, colour_by, inside)
    words = f"{heading or _KEY}<br>all {data.pool:,} of the pool"
    if n < data.pool:
        words = f"{heading or _KEY}<br>{n:,} of {data.pool:,}: labelled, asked, a share of each"
    return View(
        traces=(_points(data, colours, reach, inside), _labelled(data, colours), _query(data)),
        xaxis={"showticklabels": False, "title": title(words), **_range(data.xy[:, 0])},
        yaxis={"showticklabels": False, **_range(data.xy[:, 1])},
        note=plain(note),
        square=True,
        shapes=_circles(data, reach),
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


def _range(values: Floats) -> dict[str, Any]:
    """A range of the axis' own: circles shall not shrink the map as they grow.

    A zoom by hand stays until the places change.
    """
    if not len(values):
        return {"range": [-1.0, 1.0]}
    low, high = float(values.min()), float(values.max())
    room = 0.08 * (high - low) or 1.0
    return {"range": [low - room, high + room]}


def _points(
    data: EmbeddingData,
    colours: Colouring,
    reach: Reach | None,
    inside: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    n = len(data.rows)
    return {
        "type": _kind(data),
        "mode": "markers",
        "name": "pool",
        "x": data.xy[:, 0],
        "y": data.xy[:, 1],
        "text": _names(data),
        "customdata": data.status if reach is None else _standing(data, reach.covers),
        "hovertemplate": "%{text}<br>%{customdata}<extra></extra>",
        "showlegend": False,
        "marker": {
            "color": colours.values,
            "coloraxis": "coloraxis",
            "size": 8 if n < 500 else 6 if n < 2000 else 4,
            "opacity": (
                np.full(n, 0.75, dtype=np.float32)
                if inside is None
                else np.where(inside, np.float32(0.4), np.float32(0.95))
            ),
            "line": {"width": 0.5, "color": INK},
        },
    }


@lru_cache(maxsize=2)
def _names(data: EmbeddingData) -> list[str]:
    """Per point, which slice it is; a dragged slider asks for the same ones ten times a second."""
    return [
        f"<b>{plain(slice_id)}</b><br>patient {plain(patient)}<br>position {position:.2f}"
        for slice_id, patient, position in zip(
            data.opens, data.patient.tolist(), data.position.tolist(), strict=True
        )
    ]


@lru_cache(maxsize=2)
def _standing(data: EmbeddingData, covers: Covers) -> tuple[str, ...]:
    """Per point, how it stands and how far the nearest labelled slice is; whatever the radius."""
    if not len(covers.centres):
        return data.status
    return tuple(
        f"{status}<br>{distance:.3g} from the nearest labelled slice" if distance > 0 else status
        for status, distance in zip(data.status, covers.distance[data.rows].tolist(), strict=True)
    )


def _circles(data: EmbeddingData, reach: Reach | None) -> tuple[dict[str, Any], ...]:
    """Discs of all labelled points as one shape, so that they merge, and outlines of the query."""
    radius = reach.radius if reach is not None and reach.drawn else 0.0
    shapes = []
    for chosen, look in ((data.labelled, _DISC), (data.waiting, _OUTLINE)):
        path = circles(data.xy[chosen], radius)
        place = {"type": "path", "layer": "below", "fillrule": "nonzero"}
        shapes.append({**place, "path": path or "M0,0Z", "visible": bool(path), **look})
    return tuple(shapes)


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


@dataclass(frozen=True, eq=False)
class _Worked:
    """What is worked out off the loop: places on the map, and covers in feature space."""

    features: Floats
    xy: Floats
    covers: Covers


class EmbeddingPart:
    """The map of a session as a part of a panel, with colours, features and covers to choose.

    Features are projected once for each embedding, and distances are worked out once for each
    change of the labelled slices or the query, on whichever thread calls the work; in between
    only colours, circles and marks change. `on_pick` gets the slice of a clicked point.
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
        self._ask: Ask = lambda _: None
        self._data = no_map(len(session.pool))
        self._shown: tuple[Any, ...] = ()
        self._due: Due[_Worked] = Due()
        self._embedding = ""
        self._radius = 0.0
        self._faded = 0.0
        self._resting = 0.0
        self._chosen_radius = False
        self._setting = False
        wide = {"flex": "1 1 190px", "min_width": "0", "max_width": "260px"}
        narrow = {"description_width": "70px"}
        self.colour = ipywidgets.Dropdown(
            options=COLOURS, description="colour by", layout=wide, style=narrow
        )
        self.embedding = ipywidgets.Dropdown(
            options=session.embeddings,
            value=session.embedding,
            description="features",
            tooltip=_EMBEDDING_HELP,
            layout=wide,
            style=narrow,
        )
        self.drawn = ipywidgets.Checkbox(
            value=True,
            description="circles",
            indent=False,
            tooltip=_HELP,
            layout={"width": "86px", "flex": "none"},
        )
        self.radius = ipywidgets.FloatSlider(
            value=0.0,
            min=0.0,
            max=1.0,
            step=0.005,
            description="r",
            readout_format=".3g",
            tooltip=_HELP,
            disabled=True,
            layout={"flex": "1 1 200px", "min_width": "0", "max_width": "420px"},
            style={"description_width": "14px"},
        )
        self.learning = LearnRow(session)
        self.sentence = SafeHTML("", layout={"min_width": "0"})
        row = {"flex_flow": "row wrap", "width": "100%"}
        self.controls = ipywidgets.VBox(
            [
                ipywidgets.HBox([self.colour, self.embedding], layout=row),
                ipywidgets.HBox([self.drawn, self.radius], layout=row),
            ],
            layout={"width": "100%", "min_width": "0"},
        )
        self.foot = ipywidgets.VBox(
            [self.sentence, self.learning.widget], layout={"width": "100%", "min_width": "0"}
        )

    @property
    def restless(self) -> bool:
        """Whether an encoder is being trained, whose progress is to be seen."""
        return self.learning.running

    def view(self) -> View:
        self.learning.refresh()
        self._show_embeddings()
        worked = self._due.value
        if worked is None:
            note = f"There is no map: {self._due.error}" if self._due.error else _COMPUTING
            self.sentence.value = ""
            return embedding_view(no_map(len(self._session.pool)), self.colour.value, note)
        self._show_radius(worked.covers)
        shown = (self._session.state.rounds, worked)
        if len(shown) != len(self._shown) or any(
            a is not b for a, b in zip(shown, self._shown, strict=True)
        ):
            self._data = embedding_data(self._session, worked.xy, limit=self._limit)
            self._shown = shown
        words = cover_sentence(worked.covers, self._radius)
        self.sentence.value = element("div", words, cls="alnb-covers", title=_HELP)
        if time.monotonic() >= self._resting or len(self._data.rows) <= LIVE:
            self._faded = self._radius
        reach = Reach(worked.covers, self._radius, self._faded, self.drawn.value)
        return embedding_view(self._data, self.colour.value, reach=reach)

    def work(self) -> Callable[[], None] | None:
        session = self._session
        centres, waiting = centres_and_waiting(session)
        rounds = len(session.state.rounds)
        learnt = session.state.embeddings.get(session.embedding)
        name = session.embedding
        key = (name, learnt, rounds, centres.tobytes(), waiting.tobytes())

        def compute() -> _Worked:
            from alnb.embed.project import pca_map

            features = session.features(name)
            before = self._due.value
            same = before is not None and before.features is features
            xy = before.xy if same and before else pca_map(features, dims=2)
            return _Worked(features, xy, covers(features, centres, waiting))

        return self._due.work(key, compute)

    def connect(self, traces: Sequence[Any], say: Callable[[str], None], ask: Ask) -> None:
        self._say, self._ask = say, ask
        self.learning.say = say
        traces[0].on_click(self._clicked)
        for control in (self.colour, self.drawn):
            control.observe(lambda _: ask(DRAGGED), "value")
        self.radius.observe(self._dragged, "value")
        self.embedding.observe(self._embedding_chosen, "value")
        self.learning.on_begin = lambda: ask(DRAGGED)

    # ---- controls ----

    def _show_embeddings(self) -> None:
        session = self._session
        self._setting = True
        try:
            if self.embedding.options != session.embeddings:
                self.embedding.options = session.embeddings
            self.embedding.value = session.embedding
        finally:
            self._setting = False

    def _show_radius(self, covers: Covers) -> None:
        """Follow the cover radius, until a person has moved the slider on these features."""
        if self._session.embedding != self._embedding:
            self._embedding, self._chosen_radius = self._session.embedding, False
        scale = covers.scale
        self._radius = self._radius if self._chosen_radius else scale
        most = max(1.25 * scale, self._radius) or 1.0
        self._setting = True
        try:
            self.radius.disabled = not scale
            if self.radius.max != most or not self._shows(self._radius):
                with self.radius.hold_trait_notifications():
                    self.radius.max, self.radius.step = most, most / 200
                    self.radius.value = self._radius
        finally:
            self._setting = False

    def _shows(self, radius: float) -> bool:
        """Whether the slider stands there; the browser moves it to the next of its steps."""
        return bool(abs(self.radius.value - radius) <= self.radius.step)

    def _dragged(self, _: Any) -> None:
        if not self._setting and not self._shows(self._radius):
            self._radius, self._chosen_radius = self.radius.value, True
            self._resting = time.monotonic() + REST
            self._ask(DRAGGED if len(self._data.rows) <= LIVE else _SLOWLY)

    def _embedding_chosen(self, change: Any) -> None:
        if self._setting or change["new"] is None:
            return
        try:
            self._session.use_embedding(change["new"])
        except Exception as error:  # the widget machinery would swallow it
            _log.exception("Choosing the features %s failed.", change["new"])
            self._say(f"The features {change['new']} could not be chosen: {error}")

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
