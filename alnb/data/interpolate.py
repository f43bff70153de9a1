"""What two labelled slices suggest for those between them: shape-based interpolation.

A region is taken for a surface: its signed distance map is positive inside and negative outside,
and the maps of two slices are blended in proportion to how near each slice is (Raya & Udupa, IEEE
TMI 9(1), 1990). Each pixel goes to the class whose blended distance is largest. What nobody drew
is a region as well, of the label IGNORE, so a lassoed structure is interpolated against a rest of
which nothing is known; on two complete slices there is none.

Between two complete slices each class first moves along the line from its one centre to the other,
and what ends on the way, as the background, by the mean of these moves: shapes that lie aside of
each other overlap too little, or not at all, and blended in place they would shrink or be lost. The
background gives way where a class moves to.

Where the two slices do not speak of the same classes:

- A class that one slice holds and the other, complete, does not, tapers: its absence counts as a
  surface as far outside as its own deepest pixel lies inside, so that the last of it is gone half
  way.
- If the other slice is incomplete, nobody knows whether the class goes on. It is left out, and its
  pixels are IGNORE.
- Where a slice is incomplete, a class is continued only if its two regions overlap (Dice at least
  `OVERLAP`): strokes that merely cross say nothing of a shape.
- A pixel of which one slice says nothing can only become what the other says there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput
from alnb.records import IGNORE, LabelMap

OVERLAP = 0.25
"""Least Dice between the two regions of a class of which one belongs to an incomplete slice."""

Depth = NDArray[np.float64]


def between(
    maps: Mapping[int, LabelMap], *, pixel_mm: tuple[float, float] = (1.0, 1.0)
) -> dict[int, LabelMap]:
    """Label maps for the unlabelled slices between labelled ones, by slice index.

    maps : the labelled slices, (H, W) uint8 of one shape, IGNORE where nobody said. pixel_mm : the
        (row, col) size of a pixel, by which distances are measured.

    Each comes from the nearest labelled slice below and above, which are taken to be equally
    spaced. A slice of which nothing can be said is left out.
    """
    found: dict[int, LabelMap] = {}
    for low, high in pairwise(sorted(maps)):
        inside = range(low + 1, high)
        shares = [(index - low) / (high - low) for index in inside]
        made = blend(maps[low], maps[high], shares, pixel_mm=pixel_mm)
        found |= {i: each for i, each in zip(inside, made, strict=True) if (each != IGNORE).any()}
    return found


def blend(
    first: LabelMap,
    second: LabelMap,
    shares: Sequence[float],
    *,
    pixel_mm: tuple[float, float] = (1.0, 1.0),
) -> list[LabelMap]:
    """The label maps on the way from `first`, at share 0, to `second`, at share 1."""
    if first.shape != second.shape:
        raise BadInput(
            f"Slices of {first.shape} and {second.shape} pixels cannot be blended; give label maps "
            "of one volume."
        )
    if not shares:
        return []
    one, two = _comparable(first, second)
    window, around = _window(one, two)
    one, two = one[window], two[window]
    codes = np.union1d(one, two)
    pairs = [_depths(one == code, two == code, pixel_mm) for code in codes.tolist()]
    silent = (first[window] == IGNORE) | (second[window] == IGNORE)
    complete = not silent.any()
    moves = _moves(one, two, codes) if complete else np.zeros((len(codes), 2))
    made = []
    for share in shares:
        blended = [
            (1.0 - share) * _moved(a, share * by) + share * _moved(b, (share - 1.0) * by)
            for (a, b), by in zip(pairs, moves, strict=True)
        ]
        # equal but for the last bits is equal, whichever slice is called the first
        levels = np.round(blended, 9)
        if complete and codes[0] == 0 and len(codes) > 1:
            # the background has no one move: where a class has moved to, it gives way
            claimed = levels[1:].max(axis=0)
            levels[0] = np.where(claimed > 0, np.minimum(levels[0], -claimed), levels[0])
        inner = codes[np.argmax(levels, axis=0)].astype(np.uint8)
        inner[silent & (inner != one) & (inner != two)] = IGNORE
        whole = np.full(first.shape, around, np.uint8)
        whole[window] = inner
        made.append(whole)
    return made


def _moves(one: LabelMap, two: LabelMap, codes: NDArray[np.uint8]) -> Depth:
    """(len(codes), 2) way of every class's centre from slice to slice, in pixels (row, col)."""
    found, sizes = np.full((len(codes), 2), np.nan), np.zeros(len(codes))
    for place, code in enumerate(codes.tolist()):
        here, there = np.argwhere(one == code), np.argwhere(two == code)
        if code != 0 and len(here) and len(there):
            found[place] = there.mean(axis=0) - here.mean(axis=0)
            sizes[place] = min(len(here), len(there))
    common = np.average(found[sizes > 0], axis=0, weights=sizes[sizes > 0]) if sizes.any() else 0.0
    return np.where(np.isnan(found), common, found)


def _moved(depth: Depth, by: NDArray[np.float64]) -> Depth:
    """A distance map moved by some pixels, and continued at its rim."""
    from scipy.ndimage import shift

    if np.abs(by).max() < 1e-9:
        return depth
    moved: Depth = shift(depth, by, order=1, mode="nearest")
    return moved


def _comparable(first: LabelMap, second: LabelMap) -> tuple[LabelMap, LabelMap]:
    """Copies in which a class that cannot be continued is IGNORE."""
    maps = first.copy(), second.copy()
    complete = [bool((each != IGNORE).all()) for each in maps]
    if all(complete):
        return maps
    for code in np.union1d(first, second).tolist():
        here, there = first == code, second == code
        size = int(here.sum()), int(there.sum())
        if all(size):
            kept = 2 * int((here & there).sum()) >= OVERLAP * sum(size)
        else:
            # it may end on the way only if the slice without it is known to be without it
            kept = complete[0] if not size[0] else complete[1]
        if not kept:
            for each in maps:
                each[each == code] = IGNORE
    return maps


def _window(first: LabelMap, second: LabelMap) -> tuple[tuple[slice, slice], int]:
    """A window around all that is not one label everywhere else, and that label.

    Its rim of one pixel keeps distances exact: the pixel outside that is nearest to a region lies
    straight beside it.
    """
    around = int(first[0, 0])
    rows, cols = np.nonzero((first != around) | (second != around))
    if not len(rows):
        return (slice(0, 1), slice(0, 1)), around
    return (
        slice(max(0, int(rows.min()) - 1), int(rows.max()) + 2),
        slice(max(0, int(cols.min()) - 1), int(cols.max()) + 2),
    ), around


def _depths(
    here: NDArray[np.bool_], there: NDArray[np.bool_], pixel_mm: tuple[float, float]
) -> tuple[Depth, Depth]:
    """The signed distance maps of a class on two slices, one of which may lack it, or be full."""
    one, two = signed_distance(here, pixel_mm), signed_distance(there, pixel_mm)
    if one is None and two is None:
        # all of a slice or nothing of it: the nearer slice decides
        return np.where(here, 1.0, -1.0), np.where(there, 1.0, -1.0)
    if one is None:
        assert two is not None
        return _beyond(two, full=bool(here.all())), two
    return (one, _beyond(one, full=bool(there.all()))) if two is None else (one, two)


def _beyond(known: Depth, *, full: bool) -> Depth:
    """Where there is no edge: as deep as the other slice is at its deepest, on the other side."""
    return np.full(known.shape, (-known).max() if full else -known.max())


def signed_distance(region: NDArray[np.bool_], pixel_mm: tuple[float, float]) -> Depth | None:
    """Distance of each pixel's centre to the nearest pixel of the other side, negative outside.

    In mm, and to that pixel's rim, so the edge runs between pixels and none lies on it. None where
    a region is empty or full. The border of the slice is no edge.
    """
    if region.all() or not region.any():
        return None
    return np.where(region, _to_rim(~region, pixel_mm), -_to_rim(region, pixel_mm))


def _to_rim(pixels: NDArray[np.bool_], pixel_mm: tuple[float, float]) -> Depth:
    """Distance of every pixel's centre to the closed squares of `pixels`."""
    from scipy.ndimage import distance_transform_edt

    # of a square, the point nearest to a centre is its middle, a corner or the middle of a side:
    # on a lattice of half pixels, distances between points are those to squares
    rows, cols = pixels.shape
    lattice = np.ones((2 * rows + 1, 2 * cols + 1), dtype=bool)
    for row in range(3):
        for col in range(3):
            lattice[row : row + 2 * rows : 2, col : col + 2 * cols : 2] &= ~pixels
    away = distance_transform_edt(lattice, sampling=(pixel_mm[0] / 2, pixel_mm[1] / 2))
    centres: Depth = away[1::2, 1::2]
    return centres
