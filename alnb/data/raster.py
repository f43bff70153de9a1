"""From strokes to label maps: the exact rule for which pixels a pen covers.

A brush covers every pixel whose centre lies within `radius` of the polyline through its points; a
lasso covers every pixel whose centre lies inside its closed polygon by the even-odd rule (a centre
on an edge belongs to the side of higher row and column). Everything here is a pure function of its
arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from alnb.data.volume import unlabelled
from alnb.errors import BadInput
from alnb.records import IGNORE, Accepted, Content, Floats, LabelMap, Mask, Scribble, Stroke

FAR = 1e6
"""Points further than this many pixels from the origin are moved here: squares stay finite."""

PIECE = 16.0
CHUNK = 1 << 19

Window = tuple[slice, slice]
Floats64 = NDArray[np.float64]


def rasterize(strokes: Iterable[Stroke], base: LabelMap) -> LabelMap:
    """A copy of the (H, W) label map `base` with `strokes` painted over it in order.

    A stroke of label IGNORE erases to IGNORE. Pixels whose class is in a stroke's `keep` when it
    is drawn stay as they are. Strokes may lie partly or wholly outside the slice.
    """
    painted = base.copy()
    for stroke in strokes:
        paint(stroke, painted)
    return painted


def paint(stroke: Stroke, onto: LabelMap) -> Window:
    """Paint one stroke into `onto` in place; returns the window that may have changed."""
    window, ink = cover(stroke, (onto.shape[0], onto.shape[1]))
    region = onto[window]
    if stroke.keep:
        ink = ink & ~np.isin(region, stroke.keep)
    region[ink] = stroke.label
    return window


def bounds(stroke: Stroke, shape: tuple[int, int]) -> Window:
    """The window of an (H, W) slice outside which `stroke` covers nothing; it may be empty."""
    return _bounds(stroke, _points(stroke), shape)


def _bounds(stroke: Stroke, points: Floats64, shape: tuple[int, int]) -> Window:
    reach = stroke.radius if stroke.tool == "brush" else 0.0
    rows, cols = (
        slice(
            min(max(math.floor(low - reach - 0.5), 0), side),
            min(max(math.ceil(high + reach + 0.5), 0), side),
        )
        for low, high, side in zip(
            points.min(axis=0).tolist(), points.max(axis=0).tolist(), shape, strict=True
        )
    )
    return rows, cols


def cover(stroke: Stroke, shape: tuple[int, int]) -> tuple[Window, NDArray[np.bool_]]:
    """The window of `bounds`, and within it the pixels that `stroke` covers."""
    points = _points(stroke)
    window = _bounds(stroke, points, shape)
    size = window[0].stop - window[0].start, window[1].stop - window[1].start
    if 0 in size:
        return window, np.zeros(size, dtype=bool)
    fill = _inside if stroke.tool == "lasso" else _near
    return window, fill(points, stroke.radius, window).reshape(size)


def target(content: Content, shape: tuple[int, int], load: Callable[[str], LabelMap]) -> LabelMap:
    """The (H, W) label map that an answer of any kind stands for, IGNORE where nobody said.

    `load` gives the label map of a SHA-256. BadInput where that map has another shape.
    """
    match content:
        case Scribble(strokes):
            return rasterize(strokes, unlabelled(shape))
        case Mask(blob=blob, strokes=strokes) | Accepted(blob=blob, strokes=strokes):
            base = np.asarray(load(blob))
            if base.shape != shape or base.dtype != np.uint8:
                raise BadInput(
                    f"The label map {blob[:12]} is {base.dtype} of the shape {base.shape}; "
                    f"the slice needs uint8 of {shape}. It belongs to another slice."
                )
            return rasterize(strokes, base)


def merge(maps: Sequence[LabelMap]) -> LabelMap:
    """One target from several people's label maps of a slice.

    Where only some said anything, they are believed; where two differ, the pixel is IGNORE.
    """
    if not maps:
        raise BadInput("There is no label map to merge; give at least one.")
    agreed = maps[0].copy()
    disputed = np.zeros(agreed.shape, dtype=bool)
    for other in maps[1:]:
        silent = agreed == IGNORE
        disputed |= ~silent & (other != IGNORE) & (other != agreed)
        agreed[silent] = other[silent]
    agreed[disputed] = IGNORE
    return agreed


def _points(stroke: Stroke) -> Floats64:
    return np.clip(np.asarray(stroke.points, dtype=np.float64), -FAR, FAR)


def _near(points: Floats64, radius: float, window: Window) -> NDArray[np.bool_]:
    """Pixels of the window whose centre lies within `radius` of the polyline.

    Segments are cut into short pieces, only to know where to look: a pixel within reach of a
    segment is within reach of one of its pieces. The distance is always to the whole segment, and
    from absolute coordinates, so that a window changes no pixel.
    """
    first = np.array([window[0].start, window[1].start])
    stop = np.array([window[0].stop, window[1].stop])
    height, width = (int(size) for size in stop - first)
    ink = np.zeros(height * width, dtype=bool)
    start, along, low, high = _pieces(points, radius, first, stop)
    if not len(start):
        return ink
    reach = min(radius, 4 * FAR) + 0.5
    origin = np.clip(np.floor(low - reach), first, stop)
    size = (np.clip(np.ceil(high + reach), first, stop) - origin).max(axis=0)
    rows, cols = (max(1, int(side)) for side in size)
    origin = origin.astype(np.int64)
    length2 = (along * along).sum(axis=1)
    length2[length2 == 0] = 1.0
    step = max(1, CHUNK // (rows * cols))
    for begin in range(0, len(start), step):
        part = slice(begin, begin + step)
        row = origin[part, 0, None] + np.arange(rows)
        col = origin[part, 1, None] + np.arange(cols)
        away_r = (row + 0.5 - start[part, 0, None])[:, :, None]
        away_c = (col + 0.5 - start[part, 1, None])[:, None, :]
        along_r, along_c = along[part, 0, None, None], along[part, 1, None, None]
        # a segment shorter than floats can square has an end where its distance is least
        with np.errstate(over="ignore"):
            place = (away_r * along_r + away_c * along_c) / length2[part, None, None]
        np.clip(place, 0.0, 1.0, out=place)
        gap_r = away_r - place * along_r
        gap_c = away_c - place * along_c
        hit = gap_r * gap_r + gap_c * gap_c <= radius * radius
        hit &= (row < stop[0])[:, :, None] & (col < stop[1])[:, None, :]
        ink[((row - first[0])[:, :, None] * width + (col - first[1])[:, None, :])[hit]] = True
    return ink


def _pieces(
    points: Floats64, radius: float, first: NDArray[np.int64], stop: NDArray[np.int64]
) -> tuple[Floats64, Floats64, Floats64, Floats64]:
    """Per piece: start and direction of its segment, and the corners of the piece's own box."""
    start = points if len(points) == 1 else points[:-1]
    along = points[1:] - start if len(points) > 1 else np.zeros_like(start)
    if np.abs(along).max() <= max(PIECE, radius):
        end = points[-len(start) :]
        return start, along, np.minimum(start, end), np.maximum(start, end)
    enter, leave = _within(start, along, first - radius - 1.0, stop + radius + 1.0)
    longest = np.abs(along).max(axis=1) * (leave - enter)
    count = np.maximum(1, np.ceil(longest / max(PIECE, radius))).astype(np.int64)
    count[enter > leave] = 0
    segment = np.repeat(np.arange(len(start)), count)
    number = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count)
    width_of = ((leave - enter) / np.maximum(count, 1))[segment]
    begin = start[segment] + (enter[segment] + number * width_of)[:, None] * along[segment]
    end = start[segment] + (enter[segment] + (number + 1) * width_of)[:, None] * along[segment]
    return start[segment], along[segment], np.minimum(begin, end), np.maximum(begin, end)


def _within(
    start: Floats64, along: Floats64, low: Floats, high: Floats
) -> tuple[Floats64, Floats64]:
    """Where each segment enters and leaves the box from `low` to `high`, 0..1 along it.

    A segment that misses it has enter > leave. (Clipping by slabs, one axis at a time.)
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        first = (low - start) / along
        second = (high - start) / along
    flat = along == 0
    outside = flat & ((start < low) | (start > high))
    near = np.where(flat, np.where(outside, np.inf, -np.inf), np.minimum(first, second))
    far = np.where(flat, np.where(outside, -np.inf, np.inf), np.maximum(first, second))
    enter = np.maximum(near.max(axis=1), 0.0)
    leave = np.minimum(far.min(axis=1), 1.0)
    missed = enter > leave
    return np.where(missed, 1.0, enter), np.where(missed, 0.0, leave)


def _inside(points: Floats64, _: float, window: Window) -> NDArray[np.bool_]:
    """Pixels of the window inside the closed polygon, by counting crossings to their right."""
    rows = np.arange(window[0].start, window[0].stop) + 0.5
    cols = np.arange(window[1].start, window[1].stop) + 0.5
    start, end = points, np.roll(points, -1, axis=0)
    low = np.searchsorted(rows, np.minimum(start[:, 0], end[:, 0]))
    high = np.searchsorted(rows, np.maximum(start[:, 0], end[:, 0]))
    count = high - low
    edge = np.repeat(np.arange(len(points)), count)
    row = low[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    slope = (end[edge, 1] - start[edge, 1]) / (end[edge, 0] - start[edge, 0])
    crossing = start[edge, 1] + (rows[row] - start[edge, 0]) * slope
    to_its_left = np.searchsorted(cols, crossing)
    hits = np.bincount(
        row * (len(cols) + 1) + to_its_left, minlength=len(rows) * (len(cols) + 1)
    ).reshape(len(rows), len(cols) + 1)
    from_right = hits[:, ::-1].cumsum(axis=1)[:, ::-1]
    odd: NDArray[np.bool_] = from_right[:, 1:] % 2 == 1
    return odd
