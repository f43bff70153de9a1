"""Embeddings side by side: the same pool, the same colours, and numbers below each map.

The numbers need no label: does the nearest slice come from the same volume or patient, and how
far is the farthest slice from its centre at small budgets (k-center; Vepa et al., arXiv
2411.15763, compare losses so).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ipywidgets
import plotly.graph_objects as go

from alnb.embed.quality import Quality, Retrieval
from alnb.panels.colouring import ColourBy
from alnb.panels.embedding import COLOURS, embedding_view
from alnb.panels.figure import Screen, View, compose, plain
from alnb.panels.live import DRAGGED, UNSEEN, Due, Refresher, pen_of, run_beside
from alnb.panels.markup import Safe, SafeHTML, element, together
from alnb.panels.places import LIMIT, EmbeddingData, embedding_data, no_map
from alnb.records import Floats, SliceId
from alnb.store.events import Entry

if TYPE_CHECKING:
    from alnb.session.session import Session

PERCENTS = (2, 3, 4, 5)
"""Budgets at which cover radii are compared, in percent of the pool."""

_WAIT = "Measured in the background …"
_HELP = {
    "recall": "How often the slice that looks most alike comes from the same volume or patient. "
    "The number in brackets is what chance gives.",
    "radius": "Distance of the farthest slice from its centre when that share of the pool is "
    "chosen farthest first, in units of the spread of the features. Smaller is better.",
}


@dataclass(frozen=True, eq=False)
class Compared:
    """One embedding of a pool.

    Attributes
    ----------
    name : of the features.
    xy : (N, 2) places on its map, or None while there is none.
    quality : what was measured, or None.
    note : why there is no map.
    """

    name: str
    xy: Floats | None = None
    quality: Quality | None = None
    note: str = ""


def compared(session: Session, name: str) -> Compared:
    """Project and measure the features called `name`; slow. A note if they are not there."""
    from alnb.embed.project import pca_map
    from alnb.embed.quality import quality

    if name not in session.embeddings:
        return Compared(name, note=f"{name}: not learnt yet")
    features = session.features(name)
    pool = session.pool
    measured = quality(features, pool.patient, pool.volume, percents=PERCENTS)
    return Compared(name, pca_map(features, dims=2), measured)


def comparison_views(
    session: Session,
    columns: Sequence[Compared],
    colour_by: ColourBy = "patient",
    *,
    limit: int = LIMIT,
) -> tuple[View, ...]:
    """One map for each embedding, all in the same colours."""
    return tuple(
        embedding_view(data, colour_by, column.note, heading=f"<b>{plain(column.name)}</b>")
        for column, data in ((column, _data(session, column, limit=limit)) for column in columns)
    )


def _data(session: Session, column: Compared, *, limit: int) -> EmbeddingData:
    if column.xy is None:
        return no_map(len(session.pool))
    return embedding_data(session, column.xy, limit=limit)


def comparison_figure(
    session: Session, columns: Sequence[Compared], colour_by: ColourBy = "patient"
) -> go.Figure:
    """The maps alone."""
    return compose(*comparison_views(session, columns, colour_by))


def comparison_rows(columns: Sequence[Compared]) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """The table of numbers: what is measured, help, and a cell for each embedding."""
    measured = [column.quality for column in columns]
    rows: list[tuple[str, str, tuple[str, ...]]] = []
    for words, get in _RETRIEVALS:
        cells = tuple("—" if q is None else _recall(get(q)) for q in measured)
        rows.append((words, _HELP["recall"], cells))
    budgets = next((q.budgets for q in measured if q is not None), ())
    for place, percent in enumerate(PERCENTS):
        of = f" ({budgets[place]} slices)" if budgets else ""
        cells = tuple("—" if q is None else f"{q.radii[place]:.2f}" for q in measured)
        rows.append((f"cover radius at {percent} %{of}", _HELP["radius"], cells))
    return tuple(rows)


_RETRIEVALS: tuple[tuple[str, Callable[[Quality], Retrieval]], ...] = (
    ("nearest is of the same volume", lambda q: q.volume),
    ("nearest is of the same patient", lambda q: q.patient),
    ("nearest of another volume is of the same patient", lambda q: q.across),
)


def _recall(found: Retrieval) -> str:
    if not found.rows:
        return "—"
    return f"{100 * found.recall:.0f} % ({100 * found.chance:.0f} %)"


def comparison_html(columns: Sequence[Compared]) -> Safe:
    """The table of numbers as markup."""
    head = element("tr", element("th"), *(element("th", column.name) for column in columns))
    body = (
        element("tr", element("td", words, title=help_), *(element("td", cell) for cell in cells))
        for words, help_, cells in comparison_rows(columns)
    )
    table = element("table", head, *body, cls="alnb-compare")
    return together(table, element("p", _READ, cls="alnb-compare-note"), _STYLE)


_READ = (
    "In brackets: what chance gives. Radii are in units of the spread of the features; less is "
    "better. Neighbouring slices look alike, so the same volume or patient is found easily; "
    "another volume of the same patient is not."
)
_STYLE = Safe("""<style>
.alnb-compare { border-collapse: collapse; line-height: 1.5; font-variant-numeric: tabular-nums;
  color: var(--jp-ui-font-color1, #1f2328); font-size: 13px; }
.alnb-compare tr, .alnb-compare td, .alnb-compare th { background: none !important; }
.alnb-compare td, .alnb-compare th { padding: 1px 22px 1px 0; text-align: left; border: 0; }
.alnb-compare-note { max-width: 640px; margin: 4px 0; line-height: 1.4; font-size: 12px;
  color: var(--jp-ui-font-color2, #6a737d); }
</style>""")


class EmbeddingComparison:
    """Maps of several embeddings of a session's pool, side by side, with numbers below; live.

    Show it by ending a cell with it. What is not learnt yet is drawn as soon as it is.

    Parameters
    ----------
    names : of the features, from left to right.
    on_pick : gets the slice of a clicked point; a `labeller` shows it.
    """

    def __init__(
        self,
        session: Session,
        names: Sequence[str] = ("ntxent", "acdc"),
        *,
        labeller: Any = None,
        limit: int = LIMIT,
    ) -> None:
        self._session = session
        self._labeller = labeller
        self._limit = limit
        self._names = tuple(names)
        self._due: Due[tuple[Compared, ...]] = Due()
        self.colour = ipywidgets.Dropdown(
            options=COLOURS_THERE, description="colour by", layout={"width": "260px"}
        )
        self._screen = Screen(*self._views())
        self.figure = self._screen.widget
        self.table = SafeHTML(_WAIT)
        self.line = ipywidgets.Label("")
        self.widget = ipywidgets.VBox([self.colour, self.figure, self.table, self.line])
        for place in range(len(self._names)):  # the last view's traces come first
            traces = self.figure.data[3 * place : 3 * place + 3]
            traces[0].on_click(self._clicked)
        self._refresher = Refresher(self._draw, busy=pen_of(labeller))
        self._ends = [session.subscribe(self._heard), session.watch(self._watched)]
        self.colour.observe(lambda _: self._refresher.ask(DRAGGED), "value")
        self.refresh()

    @property
    def columns(self) -> tuple[Compared, ...]:
        """What is known of each embedding; without maps while they are worked out."""
        return self._due.value or tuple(Compared(name, note=_WAIT) for name in self._names)

    def refresh(self) -> None:
        """Draw again soon; any thread may ask."""
        self._refresher.ask()

    def close(self) -> None:
        """Follow the session no longer; the last picture stays."""
        for end in self._ends:
            end()
        self._refresher.close()

    def _views(self) -> tuple[View, ...]:
        return comparison_views(self._session, self.columns, self.colour.value, limit=self._limit)

    def _heard(self, entry: Entry) -> None:
        if not isinstance(entry.event, UNSEEN):
            self.refresh()

    def _watched(self, what: str) -> None:
        if what == "embedding":
            self.refresh()

    def _draw(self) -> None:
        session = self._session
        names = self._names
        key = tuple((name, session.state.embeddings.get(name)) for name in names)
        work = self._due.work(
            (session.embeddings, key), lambda: tuple(compared(session, name) for name in names)
        )
        if work is not None:
            run_beside(self._refresher, work)
        if self._due.error is not None:
            self.line.value = f"The embeddings could not be compared: {self._due.error}"
        self._screen.show(*self._views())
        self._screen.renew()
        if self._due.value is not None:
            self.table.value = comparison_html(self.columns)

    def _clicked(self, trace: Any, points: Any, _state: Any) -> None:
        if not points.point_inds:
            return
        slice_id = self._opens(points.point_inds[0])
        if self._labeller is not None:
            self._labeller.show(slice_id)
        self.line.value = f"{slice_id} was picked on the map."

    def _opens(self, point: int) -> SliceId:
        column = next(column for column in self.columns if column.xy is not None)
        return _data(self._session, column, limit=self._limit).opens[point]

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)


COLOURS_THERE = tuple(choice for choice in COLOURS if choice[1] != "covered")
"""Covers differ from one embedding to the next, so they cannot be the same colours."""
