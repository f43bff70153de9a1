"""How well labelled slices cover a pool: true distances in feature space, and circles on a map.

The cover radius is that of k-center (Gonzalez 1985; Sener and Savarese, arXiv 1708.00489): the
largest distance of any row to its nearest labelled one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alnb.records import Floats, Rows

_BLOCK = 256
_KAPPA = 4 / 3 * (2**0.5 - 1)
"""Length of the handles with which four cubic curves follow a circle to 0.03 % of its radius."""


@dataclass(frozen=True, eq=False)
class Covers:
    """Every row of a pool and its nearest centre, by Euclidean distance between feature rows.

    Attributes
    ----------
    centres : (C,) labelled rows.
    waiting : (Q,) rows of the open query that wait for an answer, in order.
    nearest : (N,) row of the nearest centre, -1 where there is none.
    distance : (N,) to it; infinite where there is none.
    after : (N,) distance to the nearest of the centres and the waiting rows.
    """

    centres: Rows
    waiting: Rows
    nearest: Rows
    distance: Floats
    after: Floats

    @property
    def radius(self) -> float:
        """The cover radius now; infinite while nothing is labelled."""
        return float(self.distance.max(initial=0.0))

    @property
    def radius_after(self) -> float:
        """The cover radius once the whole query is labelled."""
        return float(self.after.max(initial=0.0))

    @property
    def scale(self) -> float:
        """A radius that is worth looking at: the cover radius, or what the query will give."""
        found = (each for each in (self.radius, self.radius_after) if np.isfinite(each))
        return next(found, 0.0)

    def covered(self, radius: float) -> NDArray[np.bool_]:
        """(N,) which rows have a centre within `radius`."""
        return self.distance <= reach(radius)


def reach(radius: float) -> float:
    """`radius` with room for its rounding: a row that lies on the circle is inside."""
    return radius * (1 + 1e-6)


def covers(features: Floats, centres: Rows, waiting: Rows) -> Covers:
    """Each row's nearest centre. features: (N, D), finite. O((C + Q) N D)."""
    nearest, distance = nearest_of(features, centres)
    _, coming = nearest_of(features, waiting)
    return Covers(
        centres=np.asarray(centres, dtype=np.int64),
        waiting=np.asarray(waiting, dtype=np.int64),
        nearest=nearest,
        distance=distance,
        after=np.minimum(distance, coming),
    )


def nearest_of(features: Floats, centres: Rows) -> tuple[Rows, Floats]:
    """(N,) the nearest of `centres` and the distance to it; -1 and infinity without centres."""
    points = features.astype(np.float64)
    points -= points.mean(axis=0) if len(points) else 0.0
    norms = np.einsum("nd,nd->n", points, points)
    nearest = np.full(len(points), -1, dtype=np.int64)
    least = np.full(len(points), np.inf)
    for start in range(0, len(centres), _BLOCK):
        block = np.asarray(centres[start : start + _BLOCK], dtype=np.int64)
        # |x|^2 is the same for every centre, so that the nearest one is found without it
        partial = norms[block] - 2.0 * points @ points[block].T
        best = partial.argmin(axis=1)
        value = partial[np.arange(len(points)), best]
        closer = value < least
        nearest[closer], least[closer] = block[best[closer]], value[closer]
    if not len(centres):
        return nearest, least
    # a product loses digits where two rows are close; their difference does not
    return nearest, np.linalg.norm(points - points[nearest], axis=1)


def cover_sentence(covers: Covers, radius: float) -> str:
    """What a radius covers, and what the query does to the cover radius, in one line."""
    n = len(covers.distance)
    if not n:
        return ""
    after = "" if not len(covers.waiting) else f"{covers.radius_after:.3g}"
    if not len(covers.centres):
        told = f" This query covers it with a radius of {after}." if after else ""
        return f"Nothing is labelled yet, so nothing is covered.{told}"
    inside = int(covers.covered(radius).sum())
    coming = f" → {after} after this query" if after else ""
    return (
        f"Covered: {inside:,} of {n:,} within r = {radius:.3g}. "
        f"Cover radius now {covers.radius:.3g}{coming}."
    )


def circles(xy: Floats, radius: float) -> str:
    """One SVG path in the units of `xy` (n, 2): a circle around each place; empty if none."""
    if not radius > 0:
        return ""
    return " ".join(_circle(x, y, radius) for x, y in np.asarray(xy, dtype=float).tolist())


def _circle(x: float, y: float, r: float) -> str:
    k = _KAPPA * r
    corners: Sequence[tuple[float, ...]] = (
        (x + r, y + k, x + k, y + r, x, y + r),
        (x - k, y + r, x - r, y + k, x - r, y),
        (x - r, y - k, x - k, y - r, x, y - r),
        (x + k, y - r, x + r, y - k, x + r, y),
    )
    arcs = "".join(
        "C" + " ".join(f"{a:.5g},{b:.5g}" for a, b in zip(each[::2], each[1::2], strict=True))
        for each in corners
    )
    return f"M{x + r:.5g},{y:.5g}{arcs}Z"
