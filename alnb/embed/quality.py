"""How good an embedding is for choosing slices, measured without labels.

Retrieval says whether slices of one scan or patient lie together, cover radii how few slices stand
for all. A slice resembles its neighbours, and the same place in the patient's other scans, so that
even pixels retrieve well, and one kind of mate hides the other: a nearest slice in the other phase
of the heart is right for the patient and wrong for the volume. So compare with chance and with
other embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput
from alnb.records import Floats, Rows

Points = NDArray[np.float64]

_ROUNDING = 1e-12
"""Squared distances that differ by less than this share of the squared norms are equal.

The expanded form |x|^2 + |y|^2 - 2 x.y is sure to no more, and float32 features mean no more.
"""

_BLOCK_VALUES = 2**21


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What the nearest row tells about a row.

    Attributes
    ----------
    recall : share of rows whose nearest row is of the same group; NaN if no row counts.
    chance : what picking any other row in place of the nearest would give.
    rows : how many rows count: those with another of their group among the rows that may answer.
    """

    recall: float
    chance: float
    rows: int


@dataclass(frozen=True, slots=True)
class Quality:
    """Measures of one embedding of a pool.

    Attributes
    ----------
    volume, patient : is the nearest other row of the same volume, of the same patient?
    across : is the nearest row of another volume of the same patient? Counts only patients with
        several volumes.
    budgets : numbers of slices.
    radii : the cover radius at each budget, in units of the features' spread: see `radii`.
    """

    volume: Retrieval
    patient: Retrieval
    across: Retrieval
    budgets: tuple[int, ...]
    radii: tuple[float, ...]


def quality(
    features: Floats,
    patient: Rows,
    volume: Rows,
    *,
    percents: Sequence[int] = (2, 3, 4, 5),
    first: int | None = None,
) -> Quality:
    """Retrieval by Euclidean distance, and cover radii at `percents` of the rows.

    features : (N, D). patient, volume : (N,) codes; equal volume codes of two patients are two
    volumes. first : the row that opens the cover, by default the one nearest to the mean. A budget
    is rounded down, to at least one row. O(N² D), in blocks; BadInput if a feature is not finite.
    """
    points, norms = _centred(features)
    patient, volume = _codes(patient, len(points)), _codes(volume, len(points))
    volume = _codes(patient * (volume.max() + 1) + volume, len(points))
    own = np.arange(len(points))
    nearest, nearest_across = _nearest(points, norms, (own, volume))
    budgets = tuple(max(1, len(points) * percent // 100) for percent in percents)
    if first is None:
        first = int(np.argmin(norms))
    return Quality(
        volume=_retrieval(nearest, volume, own),
        patient=_retrieval(nearest, patient, own),
        across=_retrieval(nearest_across, patient, volume),
        budgets=budgets,
        radii=tuple(_radii(points, norms, budgets, first).tolist()),
    )


def recall_at_1(features: Floats, groups: Rows) -> float:
    """Share of rows whose nearest other row has the same group; 1 is best.

    features : (N, D), compared by Euclidean distance as they are; the lowest row wins a tie, so
    also among duplicates. groups : (N,) codes. Rows alone in their group are left out, though they
    may be another's nearest; NaN if that leaves none. O(N² D), in blocks. BadInput if a feature is
    not finite.
    """
    points, norms = _centred(features)
    own = np.arange(len(points))
    (nearest,) = _nearest(points, norms, (own,))
    return _retrieval(nearest, _codes(groups, len(points)), own).recall


def radii(features: Floats, budgets: Sequence[int], *, first: int) -> Points:
    """(len(budgets),) largest distance of a row to its nearest centre, with that many centres.

    The centres are taken greedily, the farthest row next, from row `first` on (Gonzalez, 1985). In
    units of the rows' root mean square distance to their mean, so that embeddings of any scale and
    width compare; 0 when all rows are equal. O(max(budgets) N D). BadInput if a feature is not
    finite or a budget outside 1..N.
    """
    points, norms = _centred(features)
    return _radii(points, norms, budgets, first)


def _radii(points: Points, norms: Points, budgets: Sequence[int], first: int) -> Points:
    rows = len(points)
    if not 0 <= first < rows:
        raise BadInput(f"first is row {first}; it must be one of 0..{rows - 1}.")
    wanted = np.asarray(budgets, dtype=np.int64)
    if not ((wanted >= 1) & (wanted <= rows)).all():
        raise BadInput(f"Budgets are {wanted.tolist()}; each must be from 1 to the {rows} rows.")
    spread = float(norms.mean())
    if spread == 0:
        return np.zeros(len(wanted))
    nearest = np.full(rows, np.inf)
    squared = np.empty(wanted.max(initial=0))
    for taken in range(len(squared)):
        centre = int(np.argmax(nearest >= nearest.max() - _ROUNDING * norms)) if taken else first
        distance = norms + norms[centre] - 2.0 * (points @ points[centre])
        distance[distance <= _ROUNDING * (norms + norms[centre])] = 0.0
        np.minimum(nearest, distance, out=nearest)
        squared[taken] = nearest.max()
    scaled: Points = np.sqrt(squared[wanted - 1] / spread)
    return scaled


def _nearest(points: Points, norms: Points, apart: Sequence[Rows]) -> list[Rows]:
    """Per code array in `apart`, each row's nearest row of another code; any row if there is none.

    The first codes are each row's own; every further array merges codes of the one before.
    """
    rows = len(points)
    found = [np.empty(rows, dtype=np.int64) for _ in apart]
    size = max(1, _BLOCK_VALUES // max(rows, 1))
    for start in range(0, rows, size):
        block = slice(start, start + size)
        scale = norms[block, None] + norms
        distance = points[block] @ points.T
        distance *= -2.0
        distance += scale
        scale *= _ROUNDING
        for codes, nearest in zip(apart, found, strict=True):
            distance[codes[block, None] == codes] = np.inf
            least = distance.min(axis=1, keepdims=True)
            # The first within rounding is the lowest row of a tie.
            nearest[block] = np.argmax(distance <= least + scale, axis=1)
    return found


def _retrieval(nearest: Rows, groups: Rows, apart: Rows) -> Retrieval:
    """Recall over rows that have a mate of their group outside their `apart`, which refines it."""
    kept_out = np.bincount(apart)[apart]
    mates = np.bincount(groups)[groups] - kept_out
    counted = mates > 0
    if not counted.any():
        return Retrieval(recall=float("nan"), chance=float("nan"), rows=0)
    hits = groups[nearest[counted]] == groups[counted]
    chances = mates[counted] / (len(groups) - kept_out[counted])
    return Retrieval(float(hits.mean()), float(chances.mean()), int(counted.sum()))


def _codes(groups: Rows, rows: int) -> Rows:
    """Codes renumbered from 0."""
    groups = np.asarray(groups)
    if groups.shape != (rows,):
        raise BadInput(f"Groups have shape {groups.shape}; {rows} rows of features need one each.")
    codes: Rows = np.unique(groups, return_inverse=True)[1]
    return codes


def _centred(features: Floats) -> tuple[Points, Points]:
    """Features moved to mean zero in float64, where products lose fewest digits, and |x|^2."""
    features = np.asarray(features)
    if features.ndim != 2 or not len(features):
        raise BadInput(f"Features have shape {features.shape}; they must be (N, D), N at least 1.")
    points = features.astype(np.float64)
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise BadInput(f"Row {row} has features that are not finite; encode the pool again.")
    points -= points.mean(axis=0)
    return points, np.einsum("nd,nd->n", points, points)
