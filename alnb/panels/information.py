"""How much the images of a pool tell about each other, and how much of that is how they lie.

Images are not registered, so that mutual information measures above all whether two of them show
the same field of view. What outlines alone share is therefore shown beside it, on the same scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from alnb.panels.colouring import LABELLED
from alnb.panels.figure import View, compose, plain, title
from alnb.panels.places import centres_and_waiting, labelled_rows, opened_by, shown_rows
from alnb.records import Floats, Rows, SliceId

if TYPE_CHECKING:
    from alnb.session.session import Session
    from alnb.strategies.redundancy import Redundancy

Order = Literal["patient", "likeness"]

MOST = 60
"""Most items that a matrix shows: beyond it, cells are too small to point at."""
_SCALE = (
    (0.0, "rgba(0, 114, 178, 0.04)"),
    (0.35, "rgba(86, 180, 233, 0.65)"),
    (0.7, "#e69f00"),
    (1.0, "#b33c00"),
)


@dataclass(frozen=True, eq=False)
class Information:
    """What images of a pool share with each other; n of them.

    Attributes
    ----------
    rows : (n,) pool rows, by patient, volume and place.
    opens : per item, the slice that stands for it.
    patient : (n,) names.
    labelled : (n,) whether there is a finished answer.
    nats : (n, n) mutual information; on the diagonal the entropy of each.
    field : (n, n) what the outlines of bodies share alone.
    bias : about what two independent images are said to share.
    bins, voxels : Q and V, of which the bias is (Q - 1)² / 2V.
    masked : whether voxels outside of either body were left out.
    pool : how many items the pool has.
    """

    rows: Rows
    opens: tuple[SliceId, ...]
    patient: NDArray[np.str_]
    labelled: NDArray[np.bool_]
    nats: Floats
    field: Floats
    bias: float
    bins: int
    voxels: int
    masked: bool
    pool: int

    @cached_property
    def others(self) -> NDArray[np.bool_]:
        """(n, n) which pairs are of two patients."""
        return np.asarray(self.patient[:, None] != self.patient)

    @property
    def share(self) -> float:
        """Outlines' part of what images of two patients share; NaN where there are no two."""
        told = float(self.nats[self.others].sum())
        return float(self.field[self.others].sum()) / told if told > 0 else float("nan")

    def order(self, by: Order) -> Rows:
        """Places from first to last: by patient, or such that those that share much are near."""
        everything: Rows = np.arange(len(self.rows), dtype=np.int64)
        if by == "patient" or len(everything) < 3:
            return everything
        from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
        from scipy.spatial.distance import squareform

        own = np.sqrt(np.maximum(np.diag(self.nats), 1e-12))
        # 1 where nothing is shared, 0 where two images tell each other completely
        apart = np.clip(1 - self.nats / np.outer(own, own), 0, 1)
        np.fill_diagonal(apart, 0)
        pairs = squareform((apart + apart.T) / 2, checks=False)
        tree = optimal_leaf_ordering(linkage(pairs, "average"), pairs)
        found: Rows = leaves_list(tree).astype(np.int64)
        return found


def matrix_rows(session: Session, most: int = MOST) -> Rows:
    """Labelled rows, those of the open query, and others in step over the volumes; ascending."""
    pool = session.pool
    keep = labelled_rows(pool, session.state)
    keep[centres_and_waiting(session)[1]] = True
    chosen = shown_rows(pool, keep, limit=most)
    return chosen[:: max(1, -(-len(chosen) // most))]


def information(
    session: Session,
    rows: Rows | None = None,
    redundancy: Redundancy | None = None,
) -> Information:
    """What the images of `rows` share; slow where they have not been compared yet.

    rows : `matrix_rows` unless given. redundancy : says how images are compared; what it holds is
    not computed again.
    """
    from alnb.strategies.mutual_information import bias
    from alnb.strategies.redundancy import Redundancy

    given: Any = redundancy or Redundancy()
    how = cast("Redundancy", session.lasting(given))
    pool = session.pool
    chosen = matrix_rows(session) if rows is None else np.unique(rows)
    chosen = chosen[np.lexsort((pool.position[chosen], pool.volume[chosen], pool.patient[chosen]))]
    snapshot = session.snapshot()
    opens = tuple(opened_by(pool, row) for row in chosen.tolist())
    volumes = session.cohort.volumes
    grid = how.quantiser.grid(solid=any(len(slices) > 1 for slices in pool.slices))
    voxels = int(np.prod(grid))
    return Information(
        chosen,
        opens,
        np.array([volumes[item.volume].patient for item in opens], dtype=np.str_),
        labelled_rows(pool, session.state)[chosen],
        how.pairs(snapshot, chosen, chosen),
        how.shared_fields(snapshot, chosen, chosen),
        bias(how.quantiser.bins, voxels),
        how.quantiser.bins,
        voxels,
        how.quantiser.mask == "body",
        len(pool),
    )


def information_figure(found: Information, by: Order = "patient") -> go.Figure:
    """Both matrices side by side, without controls."""
    return compose(*information_views(found, by))


def information_views(
    found: Information | None, by: Order = "patient", note: str = ""
) -> tuple[View, View]:
    """Mutual information, and the part of outlines; the same order and the same colours."""
    return (
        _view(found, by, "nats", "mutual information of two images", note),
        _view(found, by, "field", "of it: outlines of the bodies alone", ""),
    )


def sentences(found: Information) -> tuple[str, str]:
    """What to read off the matrices, and what not to."""
    caveat = (
        "The images are not registered: much of what they share is the same field of view, not "
        "the same anatomy."
    )
    if np.isfinite(found.share):
        caveat += (
            f" The outlines of the bodies alone share as much as {found.share:.0%} of what images "
            "of two patients share here."
        )
    if found.masked:
        caveat += " Voxels outside of either body are left out of the first matrix."
    small = (
        f"Two independent images would be said to share about {found.bias:.3f} nats, "
        f"(Q - 1)² / 2V with Q = {found.bins} and V = {found.voxels:,}."
    )
    return caveat, small


def _view(found: Information | None, by: Order, which: str, heading: str, note: str) -> View:
    n = 0 if found is None else len(found.rows)
    order = np.empty(0, dtype=np.int64) if found is None else found.order(by)
    values = np.empty((0, 0)) if found is None else getattr(found, which)[np.ix_(order, order)]
    apart = np.empty(0) if found is None else found.nats[~np.eye(n, dtype=np.bool_)]
    top = float(apart.max(initial=0.0)) or 1.0
    ticks = _ticks(found, order, by)
    axis = {
        "range": [-0.5, n - 0.5],
        "showgrid": False,
        "constrain": "domain",
        "tickvals": [at for at, _ in ticks],
        "ticktext": [plain(words) for _, words in ticks],
        "tickfont": {"size": 10},
    }
    return View(
        traces=(
            _cells(found, order, values, which),
            _labelled(found, order, legend=which == "nats"),
        ),
        xaxis={**axis, "title": title(heading), "showticklabels": False},
        yaxis={**axis, "range": [n - 0.5, -1.9], "showticklabels": which == "nats"},
        note=plain(note),
        square=True,
        colours={
            "cmin": 0.0,
            "cmax": top,
            "colorscale": _SCALE,
            "showscale": n > 0,
            "colorbar": {
                "thickness": 10,
                "len": 0.9,
                "outlinewidth": 0,
                "xanchor": "left",
                "ticks": "",
                "title": {"text": "nats", "side": "right"},
            },
        },
    )


def _cells(found: Information | None, order: Rows, values: Floats, which: str) -> dict[str, Any]:
    places = list(range(len(order)))
    names = [] if found is None else [plain(found.opens[at]) for at in order.tolist()]
    pairs = [[f"<b>{one}</b><br>and {other}" for other in names] for one in names]
    said = "share" if which == "nats" else "have outlines that share"
    return {
        "type": "heatmap",
        "x": places,
        "y": places,
        "z": values,
        "text": pairs,
        "coloraxis": "coloraxis",
        "hovertemplate": f"%{{text}}<br>{said} %{{z:.3f}} nats<extra></extra>",
    }


def _labelled(found: Information | None, order: Rows, *, legend: bool) -> dict[str, Any]:
    held = np.empty(0) if found is None else np.flatnonzero(found.labelled[order])
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "labelled",
        "x": held,
        "y": np.full(len(held), -1.2),
        "marker": {"symbol": "diamond", "size": 7, "color": LABELLED, "line": {"width": 0}},
        "hovertemplate": "labelled<extra></extra>",
        "showlegend": legend and len(held) > 0,
        "cliponaxis": False,
    }


def _ticks(found: Information | None, order: Rows, by: Order) -> list[tuple[float, str]]:
    """The middle of each patient, with the name; none where items stand by likeness."""
    if found is None or by != "patient":
        return []
    names = found.patient[order]
    return [
        (float(np.flatnonzero(names == name).mean()), str(name))
        for name in dict.fromkeys(names.tolist())
    ]
