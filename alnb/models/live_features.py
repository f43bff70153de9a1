"""What the strokes on one slice say about its other pixels, before anything spreads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alnb.records import IGNORE, Floats, LabelMap

Field = NDArray[np.float32]
Window = tuple[slice, slice]

_BINS = 16
_CELLS_A_REACH = 1.5


def greys_of(image: Floats) -> Field:
    """(H, W) float32 from 0 to 1 between the 0.5 and 99.5 % of the values; 0 where not finite."""
    values = np.asarray(image, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, np.float32)
    low, high = np.percentile(values[finite], [0.5, 99.5])
    scaled = (np.where(finite, values, low) - low) / max(float(high - low), 1e-12)
    greys: Field = np.clip(scaled, 0.0, 1.0).astype(np.float32)
    return greys


def around(mask: NDArray[np.bool_], share: float, least: int) -> Window:
    """The box of a mask that is not empty, wider by `share` of its longer side on every side.

    By at least `least` pixels; it ends at the image's own border.
    """
    spans = []
    for axis, side in zip((1, 0), mask.shape, strict=True):
        hit = np.flatnonzero(mask.any(axis=axis))
        spans.append((int(hit[0]), int(hit[-1]) + 1, side))
    margin = max(least, round(share * max(stop - start for start, stop, _ in spans)))
    rows, columns = (
        slice(max(0, start - margin), min(side, stop + margin)) for start, stop, side in spans
    )
    return rows, columns


def shrunk(values: Field, step: int) -> Field:
    """(..., H, W) -> (..., ceil(H / step), ceil(W / step)): means of blocks, also of cut ones."""
    if step == 1:
        return values
    height, width = values.shape[-2:]
    rows, columns = np.arange(0, height, step), np.arange(0, width, step)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=-2), columns, axis=-1)
    counts = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    mean: Field = (sums / counts).astype(np.float32)
    return mean


def shrunk_labels(labels: LabelMap, step: int, classes: int) -> LabelMap:
    """The class that most of a block's pixels have that have one; IGNORE for none and for a tie.

    Background must fill its block, so that a thin stroke is never lost in a far field that was
    only assumed.
    """
    if step == 1:
        return labels
    shares = shrunk(np.stack([labels == code for code in range(classes)]).astype(np.float32), step)
    shares[0] *= shares[0] > 0.999
    best = shares.argmax(axis=0)
    top = shares.max(axis=0)
    alone = (shares == top).sum(axis=0) == 1
    small: LabelMap = np.where((top > 0) & alone, best, IGNORE).astype(np.uint8)
    return small


def grown(values: Field, step: int, shape: tuple[int, int]) -> Field:
    """(C, h, w) of blocks -> (C, *shape) of pixels, linear between the middles of the blocks."""
    if step == 1:
        return values
    down, across = (
        _between(count, step, side) for count, side in zip(values.shape[1:], shape, strict=True)
    )
    large: Field = np.matmul(down, values @ across.T)
    return large


def _between(count: int, step: int, side: int) -> Field:
    """(side, count) weights of the blocks' middles for every pixel."""
    place = np.clip((np.arange(side) + 0.5) / step - 0.5, 0, count - 1)
    low = np.minimum(place.astype(np.int64), max(count - 2, 0))
    part = (place - low).astype(np.float32)
    weights = np.zeros((side, count), np.float32)
    weights[np.arange(side), low] = 1 - part
    weights[np.arange(side), np.minimum(low + 1, count - 1)] += part
    return weights


def closeness(grey: Field, marks: Field, reach: float, tone: float) -> Field:
    """Kernel density of marked pixels in place and grey at once: alike and near counts most.

    ``out[k, p] = Σ_q marks[k, q] exp(-|p - q|² / 2 reach²) exp(-(grey_p - grey_q)² / 2 tone²)``
    up to a factor, on a coarse grid of rows, columns and greys (Chen, Paris and Durand, SIGGRAPH
    2007), so its time hardly depends on `reach` or on how much is marked.

    grey: (H, W) in 0..1. marks: (K, H, W). reach: pixels. tone: greys. Returns (K, H, W).
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    height, width = grey.shape
    cell = max(1.0, reach / _CELLS_A_REACH)
    rows, columns = np.indices(grey.shape, dtype=np.float32) / np.float32(cell)
    tones = grey * (_BINS - 1)
    size = (int((height - 1) / cell) + 2, int((width - 1) / cell) + 2, _BINS)
    spread = (reach / cell, reach / cell, tone * (_BINS - 1))
    places = np.stack([rows, columns, tones])
    out = np.zeros(marks.shape, np.float32)
    for index, mark in enumerate(marks):
        hit = mark > 0
        if not hit.any():
            continue
        bins = np.ravel_multi_index(tuple(np.rint(places[:, hit]).astype(np.int64)), size)
        grid = np.bincount(bins, mark[hit], int(np.prod(size))).reshape(size)
        smooth = gaussian_filter(grid.astype(np.float32), spread, mode="constant", truncate=3.0)
        out[index] = map_coordinates(smooth, places, order=1, mode="nearest")
    return out
