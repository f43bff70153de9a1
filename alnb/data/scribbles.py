"""Scribbles that a person might have drawn, simulated from a reference label map."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alnb.data.raster import cover
from alnb.errors import BadInput
from alnb.records import LabelMap, Stroke

Path = NDArray[np.float64]
Distance = NDArray[np.float64]
Region = NDArray[np.bool_]

SMALL = 10
NEAR, FAR = 5.0, 40.0
# Longest strokes as a share of the slice's pixels; three classes and both background strokes
# then stay below the 5 % that manual scribbles of cardiac sets reach.
STROKE_SHARE, LOOP_SHARE, FAR_SHARE = 0.009, 0.012, 0.008


def scribble_from_mask(
    mask: LabelMap,
    *,
    rng: np.random.Generator,
    classes: int,
    thickness: float = 2.5,
    jitter_px: float = 1.5,
    bias_px: float = 0.0,
    missed_class: int | None = None,
) -> tuple[Stroke, ...]:
    """One stroke along the middle of every connected part of every class of an (H, W) label map.

    Parts below 10 pixels are left out unless a class has no larger one. The background gets a
    loop around the foreground, 5 to 40 pixels away where there is room, and one stroke far from
    it. A stroke follows the longest path in the skeleton of its eroded part, shaken by a smooth
    displacement of up to `jitter_px`, and is as thin as it must be to stay inside its class.

    thickness : width of a stroke in pixels, where it fits.
    bias_px : shift of every stroke in a random direction, by which it may leave its class.
    missed_class : a class that this annotator never draws; the other strokes stay the same.
    """
    if not (thickness >= 1 and jitter_px >= 0 and bias_px >= 0 and classes >= 2):
        raise BadInput(
            f"thickness={thickness}, jitter_px={jitter_px}, bias_px={bias_px}, classes={classes}: "
            "a stroke is at least 1 pixel wide, displacements are 0 or more, and there are at "
            "least 2 classes."
        )
    room = mask.size / thickness
    strokes: list[Stroke] = []
    for label in range(1, classes):
        region = mask == label
        for part, corner in _parts(region):
            path = _excerpt(_middle(part, rng) + corner, STROKE_SHARE * room, rng)
            shaken = _shaken(path, jitter_px, rng)
            strokes.append(_fitted((shaken, path), label, region, thickness))
    region = mask == 0
    for path in _background(region, room, rng):
        strokes.append(_fitted((_shaken(path, jitter_px, rng), path), 0, region, thickness))
    moved = [_moved(stroke, bias_px, rng) for stroke in strokes]
    return tuple(stroke for stroke in moved if stroke.label != missed_class)


def _parts(region: Region) -> Iterator[tuple[Region, Path]]:
    """Connected parts of 10 pixels or more, or else the largest, each in a box with its corner."""
    from scipy.ndimage import find_objects, label

    inside = _box(region)
    if inside is None:
        return
    numbered, count = label(region[inside], np.ones((3, 3), dtype=int))
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    keep = np.flatnonzero(sizes >= SMALL)
    boxes = find_objects(numbered)
    for index in keep if len(keep) else [int(sizes.argmax())]:
        rows, cols = boxes[index]
        corner = np.array([inside[0].start + rows.start, inside[1].start + cols.start])
        yield numbered[rows, cols] == index + 1, corner.astype(np.float64)


def _box(region: Region) -> tuple[slice, slice] | None:
    """The least window that holds all of a region; None where it is empty."""
    rows, cols = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def _middle(part: Region, rng: np.random.Generator) -> Path:
    """Pixel centres along the longest path in the skeleton of a part eroded by 1 to 3 pixels."""
    from scipy.ndimage import distance_transform_edt
    from skimage.morphology import skeletonize

    framed = np.zeros((part.shape[0] + 2, part.shape[1] + 2), dtype=bool)
    framed[1:-1, 1:-1] = part
    depth = distance_transform_edt(framed)
    erosion = min(float(rng.integers(1, 4)), depth.max() - 0.5)
    skeleton = _opened(skeletonize(_largest(depth > erosion)), rng)
    pixels = set(zip(*(side.tolist() for side in np.nonzero(skeleton)), strict=True))
    path: Path = np.array(_longest(pixels), dtype=np.float64) - 0.5
    return path


def _largest(region: Region) -> Region:
    """The largest connected part, as it lies."""
    from scipy.ndimage import label

    numbered, count = label(region, np.ones((3, 3), dtype=int))
    if count == 1:
        return region
    largest: Region = numbered == np.bincount(numbered[region]).argmax()
    return largest


def _opened(skeleton: Region, rng: np.random.Generator) -> Region:
    """A skeleton that closes on itself, such as that of the myocardium, with a gap in the loop.

    Its border is free.
    """
    from scipy.ndimage import binary_dilation, label

    numbered, count = label(~skeleton)
    if count == 1:
        return skeleton
    hole = ~skeleton & (numbered != numbered[0, 0])
    loop = np.argwhere(skeleton & binary_dilation(hole, np.ones((3, 3), dtype=bool)))
    gap = loop[rng.integers(len(loop))]
    distance = np.hypot(*(np.indices(skeleton.shape) - gap[:, None, None]))
    rest = skeleton & (distance > 2.5)
    return _largest(rest) if rest.any() else skeleton


def _longest(pixels: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest shortest path: from any pixel to the farthest, and from there once more."""
    start = min(pixels)
    end = next(iter(reversed(_reached(pixels, start))))
    came = _reached(pixels, end)
    here = next(iter(reversed(came)))
    path = [here]
    while here != end:
        here = came[here]
        path.append(here)
    return path


def _reached(
    pixels: set[tuple[int, int]], start: tuple[int, int]
) -> dict[tuple[int, int], tuple[int, int]]:
    """Breadth first: every pixel that can be reached, nearest first, and the one before it."""
    came = {start: start}
    waiting = deque([start])
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    while waiting:
        row, col = here = waiting.popleft()
        for down, right in steps:
            beside = row + down, col + right
            if beside in pixels and beside not in came:
                came[beside] = here
                waiting.append(beside)
    return came


def _background(region: Region, room: float, rng: np.random.Generator) -> Iterator[Path]:
    """A loop around everything that is not background, and a stroke far from it."""
    from scipy.ndimage import distance_transform_edt

    if not region.any():
        return
    bare = bool(region.all())
    distance = np.full(region.shape, np.inf) if bare else distance_transform_edt(region)
    if distance.max() < NEAR or 1 in region.shape:
        for part, corner in _parts(region):
            yield _excerpt(_middle(part, rng) + corner, LOOP_SHARE * room, rng)
        return
    if not bare:
        yield _excerpt(_loop(distance, rng), LOOP_SHARE * room, rng)
    yield _stray(distance, FAR_SHARE * room, rng)


def _loop(distance: Distance, rng: np.random.Generator) -> Path:
    """The longest line at one distance from the foreground."""
    from skimage.measure import find_contours

    wanted = float(rng.uniform(NEAR + 2, 0.5 * FAR))
    farthest = float(distance.max())
    level = min(wanted, max(NEAR - 1, 0.7 * farthest))
    # where there is room, the line cannot slip between every second pixel
    step = 2 if min(farthest, *distance.shape) >= 4 * NEAR else 1
    lines = find_contours(distance[::step, ::step], level)
    line: Path = max(lines, key=len)[:: 2 // step] * step + 0.5
    if np.hypot(*(line[0] - line[-1])) < 3:
        line = np.roll(line, -int(rng.integers(len(line))), axis=0)
    return line


def _stray(distance: Distance, length: float, rng: np.random.Generator) -> Path:
    """A gently bending line of about `length` pixels, far from the foreground."""
    enough = min(FAR, 0.7 * float(distance.max()))
    places = np.flatnonzero(distance >= enough)
    best = _centre(int(places[rng.integers(len(places))]), distance)[None]
    for _ in range(12):
        start = _centre(int(places[rng.integers(len(places))]), distance)
        heading, bend = float(rng.uniform(-np.pi, np.pi)), float(rng.normal(0, 0.04))
        ahead = _walk(distance, start, heading, bend, length)
        behind = _walk(distance, start, heading + np.pi, -bend, length - 2 * len(ahead))
        line = np.concatenate([behind[::-1], start[None], ahead])
        best = max(best, line, key=len)
        if 2 * len(best) >= length:
            break
    return best


def _centre(place: int, distance: Distance) -> Path:
    row, col = divmod(place, distance.shape[1])
    return np.array([row + 0.5, col + 0.5])


def _walk(distance: Distance, start: Path, heading: float, bend: float, length: float) -> Path:
    """Steps of two pixels until the foreground, the border or `length` is near."""
    steps = np.arange(max(0, int(length / 2)))
    angle = heading + bend * 2 * steps
    line: Path = start + 2 * np.cumsum(np.stack([np.sin(angle), np.cos(angle)], axis=1), axis=0)
    cell = np.floor(line).astype(int)
    free = ((cell >= 2) & (cell < np.array(distance.shape) - 2)).all(axis=1)
    row, col = np.clip(cell, 0, np.array(distance.shape) - 1).T
    free &= distance[row, col] >= NEAR
    return line[: len(free) if free.all() else int(np.argmin(free))]


def _excerpt(path: Path, length: float, rng: np.random.Generator) -> Path:
    """A stretch of at most `length` pixels from anywhere along the path."""
    along = np.concatenate([[0.0], np.hypot(*np.diff(path, axis=0).T).cumsum()])
    spare = along[-1] - length
    if spare <= 0:
        return path
    begin = float(rng.uniform(0, spare))
    first, last = np.searchsorted(along, [begin, begin + max(length, 2.0)])
    stretch: Path = path[first : max(last, first + 1)]
    return stretch


def _fitted(paths: tuple[Path, Path], label: int, region: Region, thickness: float) -> Stroke:
    """A stroke along one of the paths, shaken or still, that covers nothing outside `region`.

    Each is tried ever thinner; at a radius of half a pixel a still path of pixel centres covers
    these pixels alone.
    """
    shaken, path = paths
    # every third point is what a quick hand leaves; the ends stay
    sparse = np.concatenate([shaken[:-1:3], shaken[-1:]])
    for points in (sparse, path):
        for radius in (thickness / 2, max(0.35 * thickness, 0.5), 0.5):
            stroke = _stroke(points, label, radius)
            window, ink = cover(stroke, (region.shape[0], region.shape[1]))
            if ink.any() and not (ink & ~region[window]).any():
                return stroke
    row, col = path[len(path) // 2]
    return _stroke(np.floor([[row, col]]) + 0.5, label, 0.5)


def _shaken(path: Path, most: float, rng: np.random.Generator) -> Path:
    from scipy.ndimage import gaussian_filter1d

    noise = gaussian_filter1d(rng.normal(size=path.shape), max(2.0, len(path) / 8), axis=0)
    largest = float(np.hypot(*noise.T).max())
    moved: Path = path + noise * (most * float(rng.uniform(0.4, 1.0)) / max(largest, 1e-9))
    return moved


def _moved(stroke: Stroke, most: float, rng: np.random.Generator) -> Stroke:
    heading, far = float(rng.uniform(-np.pi, np.pi)), most * float(rng.uniform(0.5, 1.0))
    if not most:
        return stroke
    points = np.array(stroke.points) + far * np.array([np.sin(heading), np.cos(heading)])
    return replace(stroke, points=tuple((float(r), float(c)) for r, c in points))


def _stroke(points: Path, label: int, radius: float) -> Stroke:
    rounded = np.round(points, 2)
    return Stroke(tuple((float(r), float(c)) for r, c in rounded), label, round(radius, 3))
