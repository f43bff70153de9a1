"""Learning curves: Dice per class and their mean, against slices or against a person's time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import ipywidgets
import plotly.graph_objects as go

from alnb.palette import class_colour
from alnb.panels.figure import INK, View, compose, plain, title
from alnb.panels.live import DRAGGED, Ask, FigurePanel
from alnb.records import Metrics, Round

if TYPE_CHECKING:
    from collections.abc import Callable

    from alnb.session.session import Session

Spent = Literal["slices", "seconds"]

_SPLITS = {"val": "validation", "test": "test", "new": "new slices"}
_DASHES = {"val": "solid", "test": "dash", "new": "dot"}
_SYMBOLS = {"val": "circle", "test": "square", "new": "diamond"}
_EMPTY = "The first point appears after the first training."


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: Dice (None where undefined) and what had been spent when it was trained."""

    round: int
    slices: int
    seconds: float
    volumes: int
    dice: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: class `label` on `split`, or the mean over the foreground classes (None)."""

    split: str
    label: int | None
    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class CurveData:
    """All lines of a learning curve, and what its x axis counts."""

    x: Spent
    curves: tuple[Curve, ...]


def curve_data(rounds: Iterable[Round], classes: Sequence[str], x: Spent = "slices") -> CurveData:
    """One curve per foreground class and one for their mean, on each split that was measured.

    rounds: as in the session's state. classes: names, background first. Every round is a point; a
    second measurement of the same round, split and number of slices replaces the first.
    """
    latest: dict[str, dict[tuple[int, int], Metrics]] = {}
    for each in rounds:
        for metrics in each.metrics:
            latest.setdefault(metrics.split, {})[each.number, metrics.labelled] = metrics
    known = [split for split in _SPLITS if split in latest]
    other = sorted(set(latest) - set(known))
    return CurveData(
        x,
        tuple(
            _curve(split, label, classes, latest[split])
            for split in known + other
            for label in (*range(1, len(classes)), None)
        ),
    )


def _curve(
    split: str,
    label: int | None,
    classes: Sequence[str],
    latest: dict[tuple[int, int], Metrics],
) -> Curve:
    points = tuple(
        Point(
            number,
            metrics.labelled,
            metrics.seconds,
            metrics.volumes,
            metrics.mean if label is None else metrics.dice[label - 1],
        )
        for (number, _), metrics in latest.items()
    )
    return Curve(split, label, "mean" if label is None else classes[label], points)


def curve_figure(data: CurveData) -> go.Figure:
    """The learning curve alone."""
    return compose(curve_view(data))


def curve_view(data: CurveData) -> View:
    """The learning curve as one subplot; an instruction where there is no point yet."""
    unit, seconds = _time_unit(data)
    spent = "slices labelled" if data.x == "slices" else f"annotation time ({unit})"
    most = max((point.slices for curve in data.curves for point in curve.points), default=0)
    first = data.curves[0].split if data.curves else ""
    return View(
        traces=tuple(_trace(curve, data.x, seconds, first) for curve in data.curves),
        # tozero and include leave a zoom by hand alone, a fixed range would take it back
        xaxis={
            "title": title(spent),
            "rangemode": "tozero",
            "nticks": most + 1 if data.x == "slices" and most < 9 else 0,  # no half slices
        },
        yaxis={
            "title": title("Dice"),
            "autorangeoptions": {"include": [0, 1]},
            "tickformat": ".1f",
        },
        note="" if data.curves else _EMPTY,
    )


def _trace(curve: Curve, x: Spent, unit: float, first: str) -> dict[str, Any]:
    mean, leads = curve.label is None, curve.split == first
    split = _SPLITS.get(curve.split, curve.split)
    colour = INK if curve.label is None else class_colour(curve.label)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(f"mean, {split}" if mean else curve.name),
        "x": [p.slices if x == "slices" else p.seconds / unit for p in curve.points],
        "y": [p.dice for p in curve.points],
        "text": [_hover(curve, split, point) for point in curve.points],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {
            "color": colour,
            "width": (4 if mean else 2) if leads else (2.5 if mean else 1.5),
            "dash": _DASHES.get(curve.split, "dashdot"),
        },
        "marker": {
            "color": colour,
            "size": (9 if mean else 6) if leads else (7 if mean else 5),
            "symbol": _SYMBOLS.get(curve.split, "x"),
        },
        "opacity": 1 if leads or mean else 0.6,
        # a class is named once; its lines on the other splits come and go with the same click
        "legendgroup": f"{curve.split}:mean" if mean else f"class {curve.label}",
        "showlegend": mean or leads,
    }


def _hover(curve: Curve, split: str, point: Point) -> str:
    of = "slices" if curve.split == "new" else "volumes"
    dice = "undefined" if point.dice is None else f"{point.dice:.3f}"
    return (
        f"<b>{plain(curve.name)}</b> Dice {dice}, {plain(split)}<br>"
        f"round {point.round + 1}: {point.slices} slice{'s' * (point.slices != 1)} in "
        f"{_duration(point.seconds)}<br>"
        f"measured on {point.volumes} {of}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _time_unit(data: CurveData) -> tuple[str, float]:
    longest = max((p.seconds for curve in data.curves for p in curve.points), default=0.0)
    if longest < 180:
        return "s", 1.0
    return ("min", 60.0) if longest < 3 * 3600 else ("h", 3600.0)


class CurvePart:
    """The learning curve of a session as a part of a panel, with the choice of its x axis."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.foot = None
        self.restless = False
        self.controls = ipywidgets.ToggleButtons(
            options=[("over slices", "slices"), ("over time", "seconds")],
            tooltips=["against slices labelled", "against measured annotation time"],
            style={"button_width": "auto"},
        )

    def view(self) -> View:
        session = self._session
        return curve_view(curve_data(session.state.rounds, session.classes, self.controls.value))

    def work(self) -> Callable[[], None] | None:
        return None

    def connect(self, traces: Sequence[Any], say: Callable[[str], None], ask: Ask) -> None:
        self.controls.observe(lambda _: ask(DRAGGED), "value")


class CurvePanel(FigurePanel):
    """The learning curve of a session, live."""

    def __init__(self, session: Session, labeller: Any = None) -> None:
        super().__init__(session, [CurvePart(session)], labeller=labeller)
