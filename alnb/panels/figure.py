"""The frame that all panels share: one look on light and dark pages, and one way to redraw."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

INK = "#7a7a7a"
"""Text: at least 4.2 to 1 on white and on the near-black of JupyterLab's dark theme alike."""
FAINT = "rgba(128, 128, 128, 0.25)"
HEIGHT = 360
MARGIN = 12
COLOUR_BAR = 110
"""Pixels for the colour bar and its names at the right edge."""
GAP = 0.04
"""Share of the width between two subplots."""

_AXIS = {
    "showgrid": True,
    "gridcolor": FAINT,
    "linecolor": FAINT,
    "zeroline": False,
    "ticks": "",
    "automargin": True,
}
_LEGEND = {
    "orientation": "h",
    # relative to the plot, a wide legend would push the margins and squeeze the plots
    "xref": "container",
    "yref": "container",
    "xanchor": "left",
    "yanchor": "top",
    "y": 1,
    "bgcolor": "rgba(0, 0, 0, 0)",
    "tracegroupgap": 0,
}


@dataclass(frozen=True, eq=False)
class View:
    """What fills one subplot, as plain plotly properties.

    Attributes
    ----------
    traces : one mapping per trace, without its axes.
    xaxis, yaxis : properties of the axes.
    note : a sentence in the middle, for a plot that has nothing to show yet.
    square : whether both axes have the same scale, as a map needs.
    colours : the colour axis that the markers refer to as "coloraxis"; of the last view only.
    """

    traces: tuple[Mapping[str, Any], ...]
    xaxis: Mapping[str, Any]
    yaxis: Mapping[str, Any]
    note: str = ""
    square: bool = False
    colours: Mapping[str, Any] = field(default_factory=dict)


def plain(text: object) -> str:
    """`text` as plotly will show it: its markup characters escaped."""
    return html.escape(str(text), quote=False)


def compose(*views: View) -> go.Figure:
    """One figure with the views from left to right, each with axes and a legend of its own.

    The traces stand in the opposite order: those of the last view come first, so they keep their
    places when an earlier view gains a line.
    """
    width = (1 - GAP * (len(views) - 1)) / len(views)
    traces: list[dict[str, Any]] = []
    layout = _look()
    for place, view in reversed(list(enumerate(views))):
        nth = "" if place == 0 else str(place + 1)
        left = place * (width + GAP)
        traces += [
            {**trace, "xaxis": f"x{nth}", "yaxis": f"y{nth}", "legend": f"legend{nth}"}
            for trace in view.traces
        ]
        span = {"domain": [left, left + width], "anchor": f"y{nth}"}
        shown = {"visible": not view.note}
        layout[f"xaxis{nth}"] = {**_AXIS, **span, **shown, **view.xaxis}
        layout[f"yaxis{nth}"] = {**_AXIS, "anchor": f"x{nth}", **shown, **view.yaxis}
        if view.square:
            layout[f"yaxis{nth}"]["scaleanchor"] = f"x{nth}"
        layout[f"legend{nth}"] = {**_LEGEND, "x": left}
        layout["annotations"].append(_note(view.note, left + width / 2))
        if view.colours:
            layout["coloraxis"] = dict(view.colours)
            layout["margin"]["r"] = COLOUR_BAR if view.colours["showscale"] else MARGIN
    return go.Figure(data=traces, layout=layout)


def redraw(widget: go.FigureWidget, figure: go.Figure) -> None:
    """Make `widget` show `figure` by sending what differs, a zoom by hand left as it is.

    Traces are matched by position; what a figure emits once it has to emit always, since a
    property left out keeps its value.
    """
    traces = [_changeable(trace.to_plotly_json()) for trace in figure.data]
    if len(figure.data) > len(widget.data):
        widget.add_traces(figure.data[len(widget.data) :])
    with widget.batch_update():
        for old, new in zip(widget.data, traces, strict=False):
            old.update({"visible": True, **new})
        for old in widget.data[len(traces) :]:
            old.update(visible=False)
        layout = figure.layout.to_plotly_json()
        widget.layout.update({key: layout[key] for key in layout if key != "template"})
    # A view born later (a reload, a second tab, a slow first load) starts from the traits as they
    # were at construction; plotly renews them only in this method, which no container calls.
    widget._repr_mimebundle_()


def _changeable(trace: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in trace.items() if key not in ("type", "uid")}


def _look() -> dict[str, Any]:
    clear = "rgba(0, 0, 0, 0)"
    return {
        "template": "none",
        "height": HEIGHT,
        "autosize": True,
        "margin": {"l": MARGIN, "r": MARGIN, "t": 48, "b": 48},
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "font": {"color": INK, "size": 12, "family": "system-ui, -apple-system, sans-serif"},
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "annotations": [],
    }


def _note(text: str, x: float) -> dict[str, Any]:
    place = {"xref": "paper", "yref": "paper", "x": x, "y": 0.5, "xanchor": "center"}
    return {**place, "text": text, "showarrow": False, "font": {"size": 14, "color": INK}}
