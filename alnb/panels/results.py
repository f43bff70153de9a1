"""Whole volumes measured: a point for each volume and class, a click opens its worst slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import ipywidgets
import numpy as np
import plotly.graph_objects as go

from alnb.errors import AlnbError
from alnb.palette import class_colour, class_rgb
from alnb.panels.figure import FAINT, INK, View, compose, plain, title
from alnb.panels.live import DRAGGED, Ask, Due, FigurePanel
from alnb.panels.markup import Safe, SafeHTML, element, together
from alnb.records import SliceId
from alnb.session.scores import ClassScore, Spread, VolumeScores

if TYPE_CHECKING:
    from alnb.session.session import Session

Measure = Literal["dice", "hd95", "nsd"]

_WIDTH = 0.36
"""Half the width of a box; classes stand 1 apart."""
_EMPTY = "The volumes appear after the first training."
_SPLITS = (("validation", "val"), ("test", "test"))
_RIGHT = (("HD95", "hd95"), ("surface Dice", "nsd"))
_PICK = "Click a volume to see its numbers and open its worst slice."


@dataclass(frozen=True, slots=True)
class Point:
    """One volume and class: where it stands, what it says, and the slice that it opens.

    `missed` marks a volume in which only one of prediction and reference has the class: its HD95
    is no distance that was measured, so it stands above all others.
    """

    volume: str
    x: float
    y: float
    missed: bool
    words: str
    opens: SliceId


@dataclass(frozen=True)
class ResultData:
    """What one plot of results shows.

    Attributes
    ----------
    measure, axis : which number, and how its axis is called, with unit.
    classes : names of the foreground classes, from left to right.
    points : per class, its volumes in order; a volume stands at the same place in every class.
    model : names the model that was measured, and on what.
    """

    measure: Measure
    axis: str
    classes: tuple[str, ...]
    points: tuple[tuple[Point, ...], ...]
    model: str


def result_data(scores: VolumeScores, measure: Measure = "dice") -> ResultData:
    """Arrange scores for a plot. Undefined ones are left out."""
    volumes = scores.volumes
    places = np.linspace(-0.7 * _WIDTH, 0.7 * _WIDTH, len(volumes)) if len(volumes) > 1 else [0.0]
    offset = dict(zip(volumes, places, strict=True))
    top = _top(scores, measure)
    points = []
    for label in range(1, len(scores.classes)):
        of_class = [
            (score, getattr(score, measure)) for score in scores.scores if score.label == label
        ]
        points.append(
            tuple(
                Point(
                    score.volume,
                    label - 1 + float(offset[score.volume]),
                    top if _above(score, measure) else float(value),
                    score.missed,
                    _words(score, scores.tolerance),
                    SliceId(score.volume, score.worst),
                )
                for score, value in of_class
                if value is not None
            )
        )
    units = "/".join(dict.fromkeys(score.unit for score in scores.scores))
    axes = {"dice": "3D Dice", "hd95": f"HD95 ({units})"}
    axis = axes.get(measure, f"surface Dice at {scores.tolerance:g} {units}")
    return ResultData(measure, axis, scores.classes[1:], tuple(points), scores.title())


def _above(score: ClassScore, measure: Measure) -> bool:
    return measure == "hd95" and score.missed


def _top(scores: VolumeScores, measure: Measure) -> float:
    """Where volumes stand that have no distance: above all that have one."""
    known = [s.hd95 for s in scores.scores if s.hd95 is not None and not s.missed]
    return 1.12 * max(known, default=1.0) if measure == "hd95" else 1.0


def _words(score: ClassScore, tolerance: float) -> str:
    lines = [f"<b>{plain(score.volume)}</b>", f"{plain(score.name)}: Dice {score.dice:.3f}"]
    if score.missed:
        lines.append("missed: prediction or reference lacks it")
    elif score.hd95 is not None and score.nsd is not None:
        lines.append(f"HD95 {score.hd95:.1f} {score.unit}")
        lines.append(f"surface Dice {score.nsd:.3f} at {tolerance:g} {score.unit}")
    lines.append(f"worst in slice {score.worst + 1}")
    return "<br>".join(lines)


def results_figure(scores: VolumeScores) -> go.Figure:
    """Dice and HD95 side by side."""
    return compose(*(result_view(result_data(scores, measure)) for measure in ("dice", "hd95")))


def result_view(
    data: ResultData | None, classes: int = 0, picked: str = "", note: str = ""
) -> View:
    """A box and a strip of points per class: first the traces of all boxes, then of all points.

    classes : how many there are where `data` is None; the number of traces never changes.
    picked : the volume whose points are ringed.
    """
    points = ((),) * classes if data is None else data.points
    names = () if data is None else data.classes
    labels = range(1, len(points) + 1)
    shares = data is None or data.measure != "hd95"
    return View(
        traces=(
            *(_box(label, of) for label, of in zip(labels, points, strict=True)),
            *(_strip(label, of, picked) for label, of in zip(labels, points, strict=True)),
        ),
        xaxis={
            "title": title(plain(_below(data))),
            "tickvals": list(range(len(names))),
            "ticktext": [plain(name) for name in names],
            "range": [-0.5, len(points) - 0.5],
            "showgrid": False,
        },
        yaxis={
            "title": title("" if data is None else data.axis),
            "range": [-0.02, 1.03] if shares else None,
            "rangemode": "tozero",
            "autorange": not shares,
            # between two plots there is no room for an axis
            "side": "left" if data is None or data.measure == "dice" else "right",
        },
        note=plain(note),
    )


def _below(data: ResultData | None) -> str:
    if data is None:
        return ""
    return data.model if data.measure == "dice" else "each volume at its place in every class"


def _box(label: int, points: Sequence[Point]) -> dict[str, Any]:
    red, green, blue = class_rgb(label)
    known = [point.y for point in points if not point.missed]
    return {
        "type": "box",
        "x": [label - 1] * len(known),
        "y": known,
        "width": 2 * _WIDTH,
        "boxpoints": False,
        "whiskerwidth": 0.3,
        "fillcolor": f"rgba({red}, {green}, {blue}, 0.10)",
        "line": {"width": 1.5, "color": f"rgba({red}, {green}, {blue}, 0.65)"},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _strip(label: int, points: Sequence[Point], picked: str) -> dict[str, Any]:
    rings = [point.volume == picked for point in points]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [point.x for point in points],
        "y": [point.y for point in points],
        "text": [point.words for point in points],
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
        # the highest Dice and the zero of distances lie on the frame
        "cliponaxis": False,
        "marker": {
            "color": class_colour(label),
            "symbol": ["x" if point.missed else "circle" for point in points],
            "size": [12 if ring else 7 for ring in rings],
            "opacity": [1.0 if ring or not picked else 0.55 for ring in rings],
            "line": {"width": [2.5 if ring else 0.5 for ring in rings], "color": INK},
        },
    }


# ---------------------------------------------------------------------- tables below the plots


def summary_html(scores: VolumeScores) -> Safe:
    """Mean and deviation per class, and what the numbers mean."""
    units = dict.fromkeys(score.unit for score in scores.scores)
    rows = [
        (
            row.name if len(units) == 1 else f"{row.name} ({row.unit})",
            _shown(row.dice, 3),
            _shown(row.hd95, 1),
            _shown(row.nsd, 3),
            str(row.missed) if row.missed else "–",
        )
        for row in scores.summary()
    ]
    unit = "/".join(units)
    head = ("", "3D Dice", f"HD95 ({unit})", f"surface Dice at {scores.tolerance:g} {unit}")
    notes = ". ".join((scores.title(), *scores.notes()))
    return together(
        _table((*head, "missed"), rows), element("p", f"{notes}.", cls="alnb-results-note"), _STYLE
    )


def volume_html(scores: VolumeScores, volume: str) -> Safe:
    """The numbers of one volume; an invitation where none was picked."""
    found = [score for score in scores.scores if score.volume == volume]
    if not found:
        return together(element("p", _PICK, cls="alnb-results-note"), _STYLE)
    unit = found[0].unit
    head = (volume, "3D Dice", f"HD95 ({unit})", "surface Dice", "worst slice")
    rows = [
        (
            score.name,
            f"{score.dice:.3f}",
            "missed" if score.missed else _number(score.hd95, 1),
            _number(score.nsd, 3),
            str(score.worst + 1),
        )
        for score in found
    ]
    return together(_table(head, rows), _STYLE)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Safe:
    return element(
        "table",
        element("tr", *(element("th", words) for words in head)),
        *(element("tr", *(element("td", cell) for cell in row)) for row in rows),
        cls="alnb-results",
    )


def _shown(found: Spread, digits: int) -> str:
    plus = "" if found.std is None else f" ± {found.std:.{digits}f}"
    return f"{_number(found.mean, digits)}{plus}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


_STYLE = Safe(f"""<style>
.alnb-results {{ border-collapse: collapse; line-height: 1.5; font-variant-numeric: tabular-nums;
  color: var(--jp-ui-font-color1, #1f2328); font-size: 13px; }}
.alnb-results tr, .alnb-results td, .alnb-results th {{ background: none !important; }}
.alnb-results td, .alnb-results th {{ padding: 1px 18px 1px 0; text-align: left; border: 0; }}
.alnb-results tr:first-child th {{ border-bottom: 1px solid {FAINT}; }}
.alnb-results-note {{ max-width: 560px; margin: 4px 0; line-height: 1.4; font-size: 12px;
  color: var(--jp-ui-font-color2, #6a737d); }}
</style>""")


# ---------------------------------------------------------------------- live


class Scored:
    """The scores of a session's last model on the split that is chosen, worked out off the loop.

    The scores of the model before stay until those of the last one are there.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._due: Due[VolumeScores] = Due()
        self._told = 0
        self.split = "val"
        self.picked = ""
        self.closed = False
        self.running = False

    @property
    def scores(self) -> VolumeScores | None:
        """The scores to show, or None."""
        found = self._due.value
        return found if found is not None and found.split == self.split else None

    @property
    def note(self) -> str:
        """Why there is nothing to show; empty if there is something."""
        if self.scores is not None:
            return ""
        if self._session.state.checkpoint is None:
            return _EMPTY
        error = self._due.error
        if error is not None and not self.running and self._due.key == self._key:
            return str(error) if isinstance(error, AlnbError) else "The measurement failed."
        return f"Measuring volume {self._told} …" if self._told else "Measuring …"

    @property
    def _key(self) -> tuple[str | None, str]:
        return self._session.state.checkpoint, self.split

    def work(self) -> Callable[[], None] | None:
        """The measurement that is due."""
        if self._session.state.checkpoint is None or self.closed:
            return None
        split = self.split

        def compute() -> VolumeScores:
            return self._session.score_volumes(
                split, on_volume=self._count, stopped=lambda: self.closed or self.split != split
            )

        run = self._due.work(self._key, compute)
        if run is None:
            return None
        self.running, self._told = True, 0

        def measured() -> None:
            try:
                run()
            finally:
                self.running = False

        return measured

    def _count(self, _: str) -> None:
        self._told += 1


class ResultPart:
    """One measure of a session's volumes as a part of a panel."""

    def __init__(
        self,
        scored: Scored,
        classes: int,
        controls: ipywidgets.ToggleButtons,
        on_pick: Callable[[SliceId], Any] | None,
    ) -> None:
        self._scored = scored
        self._classes = classes
        self._on_pick = on_pick
        self._data: ResultData | None = None
        self._say: Callable[[str], None] = lambda _: None
        self._ask: Ask = lambda _: None
        self.controls = controls
        self.foot = SafeHTML("", layout={"min_width": "0"})
        self.measure: Measure = "dice"

    @property
    def restless(self) -> bool:
        """Whether volumes are being measured."""
        return self._scored.running

    def view(self) -> View:
        scored = self._scored
        scores = scored.scores
        self._data = None if scores is None else result_data(scores, self.measure)
        self.foot.value = "" if scores is None else self.below(scores)
        return result_view(self._data, self._classes, scored.picked, scored.note)

    def below(self, scores: VolumeScores) -> Safe:
        """What stands below the plot."""
        return summary_html(scores)

    def work(self) -> Callable[[], None] | None:
        return self._scored.work()

    def connect(self, traces: Sequence[Any], say: Callable[[str], None], ask: Ask) -> None:
        self._say, self._ask = say, ask
        for place, trace in enumerate(traces[self._classes :]):
            trace.on_click(lambda _, points, __, place=place: self._clicked(place, points))
        self.controls.observe(self._chosen, "value")

    def _chosen(self, change: Any) -> None:
        self._scored.split = change["new"]
        self._ask(DRAGGED)

    def _clicked(self, place: int, points: Any) -> None:
        if not points.point_inds or self._data is None:
            return
        point = self._data.points[place][points.point_inds[0]]
        self._scored.picked = point.volume
        where = f"{point.volume}, slice {point.opens.index + 1}"
        self._say(f"{where}: here {self._data.classes[place]} has most wrong pixels.")
        if self._on_pick is not None:
            self._on_pick(point.opens)
        self._ask(DRAGGED)


class _Distances(ResultPart):
    """HD95 or surface Dice, with the picked volume below."""

    def view(self) -> View:
        self.measure = self.controls.value
        return super().view()

    def below(self, scores: VolumeScores) -> Safe:
        return volume_html(scores, self._scored.picked)

    def _chosen(self, change: Any) -> None:
        self._ask(DRAGGED)


class ResultPanel(FigurePanel):
    """Dice and surface distances of the last model on whole volumes, live.

    Show it by ending a cell with it. With a `labeller`, a click on a volume shows the slice there
    in which the clicked class has most wrong pixels.
    """

    def __init__(self, session: Session, labeller: Any = None) -> None:
        self._scored = Scored(session)
        classes = len(session.classes) - 1
        on_pick = None if labeller is None else labeller.show
        splits = ipywidgets.ToggleButtons(
            options=_SPLITS,
            tooltips=["patients by whom models are chosen", "patients to report on; look seldom"],
            style={"button_width": "auto"},
        )
        distances = ipywidgets.ToggleButtons(
            options=_RIGHT,
            tooltips=[
                "95 % of the surfaces lie nearer together than this",
                "share of the surfaces that lies within the tolerance",
            ],
            style={"button_width": "auto"},
        )
        parts = [
            ResultPart(self._scored, classes, splits, on_pick),
            _Distances(self._scored, classes, distances, on_pick),
        ]
        super().__init__(session, parts, labeller=labeller)

    def close(self) -> None:
        """Follow the session no longer, and measure no more."""
        self._scored.closed = True
        super().close()
