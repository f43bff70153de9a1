"""The frame that all panels share: one look on light and dark pages, and one way to redraw."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go
import traitlets

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
    colours : the colour axis that the markers refer to as "coloraxis"; one for the whole figure.
    shapes : drawn below or above the traces, in the units of the axes; always as many.
    """

    traces: tuple[Mapping[str, Any], ...]
    xaxis: Mapping[str, Any]
    yaxis: Mapping[str, Any]
    note: str = ""
    square: bool = False
    colours: Mapping[str, Any] = field(default_factory=dict)
    shapes: tuple[Mapping[str, Any], ...] = ()


def title(text: str) -> dict[str, Any]:
    """The title of an axis."""
    return {"text": text, "font": {"size": 12}}


def plain(text: object) -> str:
    """`text` as plotly will show it: its markup characters escaped."""
    return html.escape(str(text), quote=False)


def compose(*views: View) -> go.Figure:
    """One figure with the views from left to right, each with axes and a legend of its own."""
    traces, layout = _arrange(views)
    return go.Figure(data=traces, layout=layout)


_SCRIPT = """
export default () => {
  let figure;
  const plotly = (model) => {
    const blob = () => new Blob([model.get("_plotly")], { type: "text/javascript" });
    globalThis.alnbPlotly ??= import(URL.createObjectURL(blob()));
    return globalThis.alnbPlotly;
  };
  return {
    initialize({ model }) {
      figure = plotly(model).then((module) => {
        const made = module.default();
        made.initialize({ model });
        return made;
      });
    },
    async render({ model, el }) {
      return (await figure).render({ model, el });
    },
  };
};
"""


class _Complete(go.FigureWidget):
    """A figure widget that tells a page of itself once, when it is complete, and loads at ease.

    plotly's own tells of an empty figure as soon as it exists, and of what is in it in a second
    message. Its 5 MB of script are read anew for each figure, and what has not read its script
    within two seconds never hears of a change: on a busy page, figures stayed blank. Here a page
    reads it once, and a small script waits for it.
    """

    _esm = _SCRIPT
    _plotly = traitlets.Unicode(str(go.FigureWidget._esm)).tag(sync=True)
    _told = False

    def open(self) -> None:
        """Tell nobody while the figure is being made."""
        if self._told:
            super().open()

    def tell(self) -> None:
        """Tell the page of the figure as it is now, and from now on of every change."""
        self._told = True
        self.open()


class Screen:
    """A figure widget that shows views and sends to the browser what differs from the last ones.

    A zoom by hand stays. Traces are matched by position: a view keeps their number, but for the
    first view, which may gain some. A property that is given once has to be given always.
    """

    def __init__(self, *views: View) -> None:
        self._traces, self._layout = _arrange(views)
        self._behind = False
        self.widget = _Complete(data=self._traces, layout=self._layout)
        # the only way to these settings: FigureWidget has no public one
        self.widget._config = {"responsive": True, "displayModeBar": False}
        self.widget.tell()

    def show(self, *views: View) -> None:
        """Show `views` instead of the last ones, in one message (two if there are more lines)."""
        traces, layout = _arrange(views)
        # plotly compares as well, but only after an expensive validation of everything
        changes = [_differing(*pair) for pair in zip(traces, self._traces, strict=False)]
        change = _differing(layout, self._layout)
        added = traces[len(self._traces) :]
        self._traces, self._layout = traces, layout
        if not (added or change or any(changes)):
            return
        if added:
            self.widget.add_traces(added)
        with self.widget.batch_update():
            for trace, new in zip(self.widget.data, changes, strict=False):
                trace.update(new)
            self.widget.layout.update(change)
        self._behind = True

    def renew(self) -> None:
        """Let a view born later (a reload, a second tab, a slow first load) start from here.

        It would start from the traits as they were at construction; plotly renews them only in
        the method called here, and no box calls it. It sends the whole figure.
        """
        if self._behind:
            self._behind = False
            self.widget._repr_mimebundle_()


def _differing(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in new.items() if not _same(value, old.get(key))}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and not _differing(one, other)
    return bool(one == other)


def _arrange(views: Sequence[View]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Traces and layout of the views from left to right.

    The traces stand in the opposite order: those of the last view come first, so they keep their
    places when the first view gains a line.
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
        layout["shapes"] += [
            {**shape, "xref": f"x{nth}", "yref": f"y{nth}"} for shape in view.shapes
        ]
        if view.colours:
            layout["coloraxis"] = dict(view.colours)
            layout["margin"]["r"] = COLOUR_BAR if view.colours["showscale"] else MARGIN
    return traces, layout


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
        "shapes": [],
    }


def _note(text: str, x: float) -> dict[str, Any]:
    place = {"xref": "paper", "yref": "paper", "x": x, "y": 0.5, "xanchor": "center"}
    return {**place, "text": text, "showarrow": False, "font": {"size": 14, "color": INK}}
