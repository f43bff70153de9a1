"""The panel that shows `alnb.panels.particles`: play, drag, change what acts, and look again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, get_args

import ipywidgets
import numpy as np
import plotly.graph_objects as go

from alnb.panels.aside import Still, told
from alnb.panels.figure import INK, View, compose, title
from alnb.panels.live import DRAGGED, Ask, FigurePanel
from alnb.panels.markup import SafeHTML
from alnb.panels.particles import (
    FRAMES,
    SPREAD,
    WINDOW,
    WITHIN,
    Fading,
    Landscape,
    Manner,
    Relief,
    Start,
    Trajectory,
    fading,
    relief,
    trajectory,
)
from alnb.records import Floats
from alnb.rng import stream

_HILL, _CLIMB, _PUSH, _PARTICLE = "rgba(86, 180, 233, {})", "#009e73", "#cc79a7", "#d55e00"
_FIT = {"constrain": "domain"}
_ARROW = 0.9
"""Length of an arrow, of a direction of length 1."""
_LONGEST = 0.9
_BEAT = 110
"""Milliseconds between two frames: what a kernel and a page keep up with."""
_MANNERS = {
    "SVGD": "gradients are shared, and particles push each other",
    "without push": "gradients are shared, and that is all",
    "each alone": "nothing acts between particles, as in a deep ensemble",
}


def swarm_figure(
    found: Trajectory, ground: Relief, fade: Fading | None = None, frame: int = -1
) -> go.Figure:
    """One frame beside what becomes of the push, without controls."""
    views = [swarm_view(found, ground, frame)]
    return compose(*views, *([] if fade is None else [fading_view(fade)]))


def swarm_view(
    found: Trajectory, ground: Relief, frame: int, *, trails: bool = True, arrows: bool = True
) -> View:
    """A frame on its landscape, in five traces: ground, ways, climbs, pushes, particles."""
    here = found.places[frame]
    ways = found.places[: frame % len(found.places) + 1] if trails else found.places[:0]
    return View(
        traces=(
            _ground(ground),
            _ways(ways),
            _arrows("climb", here, found.climb[frame] if arrows else None, _CLIMB),
            _arrows("push", here, found.push[frame] if arrows else None, _PUSH),
            _particles(here),
        ),
        # a range at each call would take a zoom by hand back; these never change
        xaxis={"range": [-WINDOW, WINDOW], "showticklabels": False, "showgrid": False, **_FIT},
        yaxis={"range": [-WINDOW, WINDOW], "showticklabels": False, "showgrid": False, **_FIT},
        square=True,
    )


def fading_view(fade: Fading) -> View:
    """Push over climb, and K, among more and more weights."""
    return View(
        traces=(
            _line("push ÷ climb", fade.widths, fade.ratio, _PUSH, "solid"),
            _line("K between two particles", fade.widths, fade.kernel, INK, "dot"),
        ),
        xaxis={
            "type": "log",
            "title": title(f"weights per particle, {fade.members} particles"),
            "tickvals": fade.widths,
            "ticktext": [_short(width) for width in fade.widths],
        },
        yaxis={"type": "log", "dtick": 1, "tickformat": "~g", "side": "right"},
    )


def sentence(found: Trajectory, ground: Relief, frame: int) -> str:
    """A frame in words: what acts, how strongly, and how far apart the particles are."""
    step = frame % len(found.places) * WITHIN
    push = f"push {found.ratio[frame]:.2f} of the climb, " if found.ratio.any() else ""
    return (
        (
            f"Step {step}, {found.manner}: {_MANNERS[found.manner]}. {push}spread of the "
            f"particles {found.spread[frame]:.2f}, of the density {ground.spread:.2f}."
        )
        .replace(". push", ". Push")
        .replace(". spread", ". Spread")
    )


def _ground(ground: Relief) -> dict[str, Any]:
    return {
        "type": "contour",
        "x": ground.axis,
        "y": ground.axis,
        "z": ground.density,
        "colorscale": [[0, _HILL.format(0)], [1, _HILL.format(0.75)]],
        "contours": {"start": 0.05, "end": 0.95, "size": 0.15},
        "line": {"width": 0.6, "color": INK},
        "showscale": False,
        "hoverinfo": "skip",
    }


def _ways(ways: Floats) -> dict[str, Any]:
    x, y = _broken(np.moveaxis(ways, 0, 1))
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "line": {"width": 0.8, "color": INK},
        "opacity": 0.55,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _arrows(name: str, here: Floats, by: Floats | None, colour: str) -> dict[str, Any]:
    ends = here[:0] if by is None else _ARROW * by
    length = np.linalg.norm(ends, axis=1, keepdims=True)
    ends = ends * np.minimum(1, _LONGEST / np.maximum(length, 1e-12))
    start = here[: len(ends)]
    x, y = _broken(np.stack([start, start + ends], axis=1))
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": x,
        "y": y,
        "line": {"width": 1.8, "color": colour},
        "marker": {
            "symbol": "arrow",
            "angleref": "previous",
            "size": np.tile([0, 9, 0], len(ends)),
            "color": colour,
        },
        "hoverinfo": "skip",
        "showlegend": True,
    }


def _particles(here: Floats) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "particle",
        "x": here[:, 0],
        "y": here[:, 1],
        "marker": {"size": 8, "color": _PARTICLE, "line": {"width": 1, "color": "#ffffff"}},
        "hoverinfo": "skip",
        "showlegend": True,
    }


def _line(name: str, x: Floats, y: Floats, colour: str, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 2.5, "dash": dash},
        "marker": {"color": colour, "size": 7},
        "hovertemplate": f"{name}: %{{y:.3g}} with %{{x:,}} weights<extra></extra>",
    }


def _broken(lines: Floats) -> tuple[Floats, Floats]:
    """(n, k, 2) lines as one, with gaps between them."""
    gaps = np.full((len(lines), 1, 2), np.nan)
    flat = np.concatenate([lines, gaps], axis=1).reshape(-1, 2)
    return flat[:, 0], flat[:, 1]


def _short(number: float) -> str:
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


class SwarmPart:
    """Particles on a landscape, as a part of a panel, with what can be changed about them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._frame = 0
        self.restless = False
        self._trajectory = lru_cache(maxsize=24)(self._compute)
        self._relief = lru_cache(maxsize=None)(relief)
        self.landscape = _choice(get_args(Landscape), "two hills", "What is climbed")
        self.manner = ipywidgets.ToggleButtons(
            options=get_args(Manner),
            value="SVGD",
            tooltips=[_MANNERS[name] for name in get_args(Manner)],
            style={"button_width": "auto"},
        )
        self.start = _choice(get_args(Start), "all around", "Where particles begin")
        self.members = _choice((1, 2, 5, 12, 25, 50), 25, "How many particles")
        self.arrows = ipywidgets.Checkbox(
            value=True, description="arrows", indent=False, layout={"width": "80px"}
        )
        self.play = ipywidgets.Play(
            min=0, max=FRAMES - 1, interval=_BEAT, show_repeat=False, tooltip="Play"
        )
        self.slider = ipywidgets.IntSlider(
            min=0, max=FRAMES - 1, readout=False, layout={"flex": "1 1 120px", "min_width": "0"}
        )
        self.link = ipywidgets.jslink((self.play, "value"), (self.slider, "value"))
        self.words = SafeHTML("", layout={"min_width": "0"})
        wrap = {"flex_flow": "row wrap", "width": "100%", "align_items": "center"}
        self.controls = ipywidgets.VBox(
            [
                ipywidgets.HBox(
                    [self.landscape, self.start, self.members, self.arrows], layout=wrap
                ),
                ipywidgets.HBox([self.manner], layout=wrap),
                ipywidgets.HBox([self.play, self.slider], layout={**wrap, "flex_flow": "row"}),
            ],
            layout={"width": "100%", "min_width": "0"},
        )
        self.foot = self.words

    @property
    def shown(self) -> Trajectory:
        """The particles in view, at all frames."""
        return self._trajectory(
            self.landscape.value, self.manner.value, self.start.value, self.members.value
        )

    def view(self) -> View:
        found, ground, frame = self.shown, self._relief(self.landscape.value), self.slider.value
        self.words.value = told(sentence(found, ground, frame))
        return swarm_view(found, ground, frame, arrows=self.arrows.value)

    def work(self) -> Callable[[], None] | None:
        return None

    def connect(self, traces: Sequence[Any], say: Callable[[str], None], ask: Ask) -> None:
        for control in (self.landscape, self.manner, self.start, self.members):
            control.observe(lambda _: self._again(ask), "value")
        for control in (self.arrows, self.slider):
            control.observe(lambda _: ask(DRAGGED), "value")

    def _again(self, ask: Ask) -> None:
        """Begin from the first frame, as other particles stand there."""
        self.slider.value = self.play.value = 0
        ask(DRAGGED)

    def _compute(
        self, landscape: Landscape, manner: Manner, start: Start, members: int
    ) -> Trajectory:
        # the same beginning for all manners, so that they compare
        rng = stream(self._seed, "swarm", start, members)
        return trajectory(landscape, manner, rng=rng, members=members, start=start)


class FadingPart:
    """The push among more and more weights, as a part of a panel."""

    def __init__(self, seed: int, members: int = 5) -> None:
        self.restless = False
        self.controls = SafeHTML(told("The same push between particles of more and more weights:"))
        self._fade = fading(rng=stream(seed, "fading", members), members=members)
        some = {int(w): r for w, r in zip(self._fade.widths, self._fade.ratio, strict=True)}
        words = (
            f"With two weights the push is {some[2]:.0f} times the climb. With a million, as in a "
            f"small network, it is {some[1_000_000]:.1%} of it, and K is "
            f"{self._fade.kernel[-1]:.3f} for every pair: 1/(M + 1)."
        )
        small = f"Random particles, {SPREAD:g} apart in each weight; gradients of length 1."
        self.foot = SafeHTML(told(words, quiet=small))

    def view(self) -> View:
        return fading_view(self._fade)

    def work(self) -> Callable[[], None] | None:
        return None

    def connect(self, traces: Sequence[Any], say: Callable[[str], None], ask: Ask) -> None:
        return None


class SwarmPanel(FigurePanel):
    """SVGD to watch: particles on a landscape, and what becomes of their push in a network.

    Show it by ending a cell with it. It needs no session; `seed` decides where particles begin.
    """

    def __init__(self, seed: int = 0) -> None:
        still: Any = Still()
        self.swarm = SwarmPart(seed)
        super().__init__(still, [self.swarm, FadingPart(seed)])


def _choice(options: Sequence[Any], value: Any, help_: str) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(
        options=options, value=value, tooltip=help_, layout={"width": "112px", "flex": "none"}
    )
