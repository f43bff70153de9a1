"""What acts between the members of a committee, and whether it makes them differ.

The curves are those of `SVGDCommittee.diagnostics`; a plain ensemble beside them is the control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from alnb.palette import OKABE_ITO
from alnb.panels.figure import FAINT, INK, View, compose, plain, title
from alnb.records import Floats, Rows

if TYPE_CHECKING:
    from alnb.models.svgd_committee import Moment

Measure = Literal["push", "kernel", "bandwidth"]

_WORDS = {
    "push": "push ÷ climb",
    "kernel": "least and largest K of two members",
    "bandwidth": "bandwidth h",
}
MEASURES: tuple[tuple[str, Measure], ...] = (
    ("push ÷ climb", "push"),
    ("K", "kernel"),
    ("h", "bandwidth"),
)
HONEST = (
    "Among the many weights of networks the push is all but lost: K goes to 1/(M + 1) for every "
    "pair. What is left is that members share each other's gradients a little. Nothing in that "
    "keeps them apart: if they differ more than a deep ensemble, they may only have learnt less."
)
"""What to expect of Stein variational gradient descent between networks."""
EMPTY = "The first record appears after the first training."
_NO_RECORD = "This committee has no record of its training."
_DASHES = ("solid", "dash", "dot", "dashdot")
_HEAT = ((0.0, "#e6f1f9"), (1.0, "#0072b2"))  # opaque, so that numbers suit either page


@dataclass(frozen=True, eq=False)
class Line:
    """One committee over its training; T records, M members, L kernels (one per layer, or 1).

    Attributes
    ----------
    name : of the committee.
    step : (T,) steps taken before each record.
    push : (T,) length of the push over that of the climb, mean over the members.
    least, most : (T,) smallest and largest K of two members, over all kernels.
    bandwidth : (T,) h, median over the kernels.
    disagreement : (T,) share of the probe's pixels on which two members differ.
    kernel : (T, M, M) K, mean over the kernels.
    layers : L.
    """

    name: str
    step: Rows
    push: Floats
    least: Floats
    most: Floats
    bandwidth: Floats
    disagreement: Floats
    kernel: Floats
    layers: int = 1

    @property
    def members(self) -> int:
        """M; 0 where there is no record."""
        return int(self.kernel.shape[1])


@dataclass(frozen=True, eq=False)
class CommitteeData:
    """Committees side by side. `note` says why one of them has no record, if that is so."""

    lines: tuple[Line, ...]
    note: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is no record at all."""
        return not any(len(line.step) for line in self.lines)

    @property
    def steps(self) -> Rows:
        """All steps of which any committee has a record, ascending."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *(x.step for x in self.lines)]))


def committee_data(diagnostics: Mapping[str, Sequence[Moment]], note: str = "") -> CommitteeData:
    """The diagnostics of committees by name, as arrays; a line without points where there are none.

    Of a committee trained with ``control="ensemble"`` the forces are those that would have acted.
    """
    return CommitteeData(
        tuple(_line_of(name, moments) for name, moments in diagnostics.items()), note
    )


def diagnostics_of(learner: Any) -> tuple[Sequence[Moment], str]:
    """A learner's diagnostics, and a sentence where it has none."""
    found = getattr(learner, "diagnostics", None)
    if found is None:
        name = type(learner).__name__
        return (), (
            f"{name} is no committee of particles, so nothing acts between members. Open the "
            "project with learner=SVGDCommittee(), and train."
        )
    return found, "" if found else _NO_RECORD


def _line_of(name: str, moments: Sequence[Moment]) -> Line:
    forces = [moment.forces for moment in moments]
    ends = np.array([force.off_diagonal for force in forces]).reshape(-1, 2)
    kernels = [force.kernel.mean(axis=0) for force in forces]
    return Line(
        name,
        np.array([moment.step for moment in moments], dtype=np.int64),
        np.array([force.rep_ratio for force in forces]),
        ends[:, 0],
        ends[:, 1],
        np.array([np.median(force.bandwidth) for force in forces]),
        np.array([moment.disagreement for moment in moments]),
        np.stack(kernels) if kernels else np.empty((0, 0, 0)),
        len(forces[0].kernel) if forces else 1,
    )


# ---------------------------------------------------------------------- views


def committee_figure(data: CommitteeData, measure: Measure = "push", step: int = -1) -> go.Figure:
    """Forces, disagreement and K of the first committee side by side, without controls."""
    step = int(data.steps[-1]) if step < 0 and len(data.steps) else step
    return compose(
        force_view(data, measure, step), disagreement_view(data, step), kernel_view(data, step)
    )


def force_view(data: CommitteeData, measure: Measure, step: int) -> View:
    """What acts, in two traces per committee: a line, or the two ends of a band."""
    pairs = [_forces(at, line, measure, step) for at, line in enumerate(data.lines)]
    log = measure != "kernel"
    return View(
        traces=tuple(trace for pair in pairs for trace in pair),
        xaxis={"title": title(f"steps<br>{_WORDS[measure]}"), "rangemode": "tozero"},
        yaxis={
            "type": "log" if log else "linear",
            "tickformat": "~g",
            "dtick": "D2" if log else None,
            "rangemode": "normal" if log else "tozero",
        },
        note=(plain(data.note) or EMPTY).replace(". ", ".<br>") if data.empty else "",
        shapes=(_level(data, measure),),
    )


def disagreement_view(data: CommitteeData, step: int) -> View:
    """How far members differ, a trace per committee."""
    return View(
        traces=tuple(
            _trace(at, line, step, line.disagreement, "%{y:.2%} of the pixels", legend=False)
            for at, line in enumerate(data.lines)
        ),
        xaxis={
            "title": title("steps<br>share of pixels on which two members differ"),
            "rangemode": "tozero",
        },
        yaxis={
            "tickformat": "~%",
            "rangemode": "tozero",
            "nticks": 7,
        },
    )


def kernel_view(data: CommitteeData, step: int, line: int = 0) -> View:
    """K of one committee at the record nearest to `step`, as a heat map with its numbers."""
    shown = data.lines[line] if data.lines else _line_of("", ())
    at = nearest(shown, step)
    kernel = shown.kernel[at] if len(shown.step) else np.empty((0, 0))
    members = np.arange(1, len(kernel) + 1)
    span = 0.5, max(1, len(kernel)) + 0.5
    layers = f", mean of {shown.layers} layers" if shown.layers > 1 else ""
    when = f"K of {plain(shown.name)}, step {shown.step[at]:,}{layers}" if len(kernel) else ""
    return View(
        traces=(
            {
                "type": "heatmap",
                "x": members,
                "y": members,
                "z": kernel,
                "zmin": 0,
                "zmax": 1,
                "colorscale": _HEAT,
                "showscale": False,
                "xgap": 2,
                "ygap": 2,
                "texttemplate": "%{z:.2f}" if 0 < len(kernel) <= 10 else "",
                "hovertemplate": "members %{x} and %{y}: K = %{z:.4f}<extra></extra>",
            },
        ),
        xaxis={
            "range": span,
            "tickvals": members,
            "title": title(f"member<br>{when}"),
            "showgrid": False,
            "constrain": "domain",
        },
        yaxis={
            "range": span[::-1],
            "tickvals": members,
            "showgrid": False,
            "constrain": "domain",
        },
        square=True,
    )


def nearest(line: Line, step: int) -> int:
    """Which record of a committee is nearest to a step; 0 where there is none."""
    return int(np.abs(line.step - step).argmin()) if len(line.step) else 0


def sentences(data: CommitteeData) -> tuple[str, ...]:
    """The records in words: what acted, and who differs more at the end."""
    found = [line for line in data.lines if len(line.step) and line.members > 1]
    if not found:
        return ()
    first = found[0]
    push = _number(float(np.median(first.push)))
    seen = f"{len(first.step)} record{'s' * (len(first.step) != 1)}"
    acted = (
        f"{first.name}: the push was {push} of the climb (median of {seen}). At the end K of two "
        f"members is {first.least[-1]:.2f} to {first.most[-1]:.2f}, and 1/(M + 1) = "
        f"{1 / (first.members + 1):.2f}."
    )
    ends = ", ".join(f"{line.name} {line.disagreement[-1]:.1%}" for line in found)
    return acted, f"Pixels on which two members differ at the end: {ends}."


def _number(value: float) -> str:
    return f"{value:.1%}" if value < 0.995 else f"{value:.2g} times"


def _colour(at: int) -> str:
    return OKABE_ITO[(0, 5, 2, 3)[at % 4]]


def _forces(
    at: int, line: Line, measure: Measure, step: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    none = np.full(len(line.step), np.nan)
    if measure == "kernel":
        lower = _trace(at, line, step, line.least, "least K %{y:.4f}", legend=False)
        upper = _trace(at, line, step, line.most, "largest K %{y:.4f}", legend=True)
        return lower, {**upper, "fill": "tonexty"}
    values, words = {
        "push": (line.push, "push %{y:.3g} of the climb"),
        "bandwidth": (line.bandwidth, "h = %{y:.3g}"),
    }[measure]
    return (
        _trace(at, line, step, none, "", legend=False),
        {**_trace(at, line, step, values, words, legend=True), "fill": "none"},
    )


def _trace(
    at: int, line: Line, step: int, values: Floats, words: str, *, legend: bool
) -> dict[str, Any]:
    """A line whose point at the chosen step is large."""
    name, colour = plain(line.name), _colour(at)
    sizes = np.full(len(line.step), 5)
    sizes[nearest(line, step) : nearest(line, step) + 1] = 11
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": line.step,
        "y": values,
        "line": {"color": colour, "width": 2.5, "dash": _DASHES[at % len(_DASHES)]},
        "marker": {"color": colour, "size": sizes},
        "fillcolor": FAINT,
        "fill": "none",
        "hovertemplate": f"<b>{name}</b>, step %{{x:,}}<br>{words}<extra></extra>",
        "showlegend": legend,
        "legendgroup": name,
    }


def _level(data: CommitteeData, measure: Measure) -> dict[str, Any]:
    """Where the push is as long as the climb, or where K goes to; nothing for a bandwidth."""
    members = max((line.members for line in data.lines), default=0)
    level = 1.0 if measure == "push" else 1 / (members + 1)
    return {
        "type": "line",
        "x0": 0,
        "x1": int(data.steps[-1]) if len(data.steps) else 1,
        "y0": level,
        "y1": level,
        "line": {"color": INK, "width": 1.5, "dash": "dash"},
        "visible": not data.empty and measure != "bandwidth",
    }
