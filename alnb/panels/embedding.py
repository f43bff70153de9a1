"""A map of the pool: every slice a point, the query ringed and numbered, a click opens a slice."""

from __future__ import annotations

import colorsys
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import ipywidgets
import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from alnb.palette import OKABE_ITO
from alnb.panels.figure import INK, View, compose, plain, title
from alnb.panels.live import FigurePanel
from alnb.records import Floats, Pool, Rows, SliceId
from alnb.rng import stream

if TYPE_CHECKING:
    from alnb.session.session import Session
    from alnb.session.state import SessionState

ColourBy = Literal["patient", "volume", "position", "labelled", "round"]
Strings = NDArray[np.str_]

LIMIT = 20_000
"""Most points shown; above this a browser no longer moves the map fluently."""
NEVER = -1
"""The round of what was never asked."""

_GL_FROM = 2_000  # fewer are drawn as SVG, which also works in a browser without WebGL
_NAMED = 12  # most categories that a colour bar names; beyond it, the hover text does
_UNLABELLED, _LABELLED, _ASKED = "#9a9a9a", "#0072b2", "#d55e00"
_DONE = "rgba(213, 94, 0, 0.5)"
_VIRIDIS = ("#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b")
_COMPUTING = "The map appears once the features are computed."

_KEY = f"● unlabelled   ◆ labelled   <span style='color:{_ASKED}'>◯ asked, in order</span>"

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, eq=False)
class Colouring:
    """A number per point, and what the numbers mean.

    Attributes
    ----------
    values : (n,) float32 within `span`.
    scale : colour stops from 0 to 1 across the span.
    ticks : values that the colour bar names; none means no colour bar.
    """

    values: Floats
    span: tuple[float, float]
    scale: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]


def embedding_data(
    session: Session, xy: Floats | None = None, *, limit: int = LIMIT
) -> EmbeddingData:
    """Where each slice of the pool lies, and how it stands with it.

    xy: (N, 2) places of the whole pool; by default the two principal components of the session's
    features. A pool of more than `limit` items is sub-sampled (`shown_rows`).
    """
    pool, state = session.pool, session.state
    xy = _places(session) if xy is None else xy
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
    labelled = _labelled_rows(pool, state)

    rows = shown_rows(pool, keep=labelled | (asked > 0), limit=limit)
    opens = tuple(pool.slices[row][len(pool.slices[row]) // 2] for row in rows)
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


def _places(session: Session) -> Floats:
    """(N, 2) principal components of the session's features; slow at the first call."""
    from alnb.embed.project import pca_map

    return pca_map(session.features(), dims=2)


def _labelled_rows(pool: Pool, state: SessionState) -> NDArray[np.bool_]:
    """(N,) whether each item is dealt with, and not by skipping alone."""
    labelled = state.labelled
    done = labelled | {slice_id for slice_id, _ in state.skipped}
    return np.array(
        [done.issuperset(slices) and not labelled.isdisjoint(slices) for slices in pool.slices],
        dtype=np.bool_,
    )


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


def colouring(data: EmbeddingData, by: ColourBy) -> Colouring:
    """Colours of the points by group, by place along the axis, or by how they stand."""
    if by == "position":
        stops = np.linspace(0, 1, len(_VIRIDIS))
        scale = tuple((float(stop), code) for stop, code in zip(stops, _VIRIDIS, strict=True))
        ticks = ((0.0, "first slice"), (0.5, "middle"), (1.0, "last slice"))
        return Colouring(data.position.astype(np.float32), (0.0, 1.0), scale, ticks)
    if by == "labelled":
        codes = np.where(data.labelled, 1, np.where(data.waiting, 2, 0))
        return _steps(codes, (_UNLABELLED, _LABELLED, _ASKED), ("unlabelled", "labelled", "asked"))
    if by == "round":
        last = int(data.round.max(initial=NEVER))
        names = ["not asked", *(f"round {number}" for number in range(last + 1))]
        return _steps(data.round + 1, (_UNLABELLED, *_sequence(last + 1)), names)
    groups = data.patient if by == "patient" else data.volume
    code = {name: place for place, name in enumerate(dict.fromkeys(groups.tolist()))}
    codes = np.array([code[name] for name in groups.tolist()], dtype=np.int64)
    return _steps(codes, _categories(len(code)), list(code))


def _steps(codes: Rows, colours: Sequence[str], names: Sequence[str]) -> Colouring:
    """Whole numbers from 0, each with a colour of its own."""
    colours = tuple(colours) or (_UNLABELLED,)
    k = len(colours)
    scale = tuple(
        (edge / k, code) for place, code in enumerate(colours) for edge in (place, place + 1)
    )
    ticks = tuple((float(place), name) for place, name in enumerate(names)) if k <= _NAMED else ()
    return Colouring(codes.astype(np.float32), (-0.5, k - 0.5), scale, ticks)


def _categories(k: int) -> list[str]:
    """k colours, each apart from its neighbours; those of the palette where they suffice."""
    palette = [code for code in OKABE_ITO if code != _ASKED]
    if k <= len(palette):
        return palette[:k]
    # steps of the golden ratio never bring hues of neighbours close; the lightness, cycling with
    # another period, tells apart hues that come close later, and suits white and black pages
    golden = (5**0.5 - 1) / 2
    tones = [
        colorsys.hls_to_rgb(place * golden % 1, (0.42, 0.54, 0.66)[place % 3], 0.7)
        for place in range(k)
    ]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in tone) for tone in tones]


def _sequence(k: int) -> list[str]:
    """k colours from dark to light along viridis."""
    places = np.linspace(0, len(_VIRIDIS) - 1, k).round().astype(int)
    return [_VIRIDIS[place] for place in places]


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


def _points(data: EmbeddingData, colours: Colouring) -> dict[str, Any]:
    n = len(data.rows)
    return {
        "type": "scattergl" if data.pool > _GL_FROM else "scatter",
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
            "size": 8 if n < 500 else 6 if n < 5000 else 4,
            "opacity": 0.75,
            "line": {"width": 0.5, "color": INK},
        },
    }


def _status(data: EmbeddingData) -> list[str]:
    words = []
    for labelled, number, asked in zip(
        data.labelled.tolist(), data.round.tolist(), data.asked.tolist(), strict=True
    ):
        when = f", asked in round {number}" if number != NEVER else ""
        place = f" as number {asked}" if asked else ""
        words.append(("labelled" if labelled else "unlabelled") + when + place)
    return words


def _labelled(data: EmbeddingData, colours: Colouring) -> dict[str, Any]:
    rows = np.flatnonzero(data.labelled)
    return {
        "type": "scatter",
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
        "type": "scatter",
        "mode": "markers+text",
        "name": "asked now",
        "x": data.xy[places, 0],
        "y": data.xy[places, 1],
        "text": [str(number) for number in data.asked[places]],
        "textposition": "top right",
        "textfont": {
            "color": [_ASKED if waiting else _DONE for waiting in data.waiting[places]],
            "size": 13,
            "weight": 700,
        },
        "hoverinfo": "skip",
        "showlegend": False,
        "marker": {
            "symbol": "circle-open",
            "color": _ASKED,
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
            self._xy = _places(self._session)
        except Exception as error:  # on a worker thread nobody else would ever hear of it
            log.exception("The map of the pool could not be computed.")
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
            log.exception("Picking %s failed.", slice_id)
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
