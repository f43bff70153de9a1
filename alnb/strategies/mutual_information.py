"""How much two images tell about each other: mutual information of grey levels, as pure functions.

Two images on one grid, their grey levels quantised to codes a, b in 0..Q-1, have at the same voxel

    MI = sum over a, b of P(a, b) ln[ P(a, b) / (P(a) P(b)) ]   nats, from 0 to the entropy of each.

Redundancy to what is labelled already is one half of the score of Nath et al. (IEEE TMI 2021,
arXiv 2101.02323), who state neither bins, nor grid, nor range; those here are assumed. It is no
kin of BALD, the mutual information of prediction and parameters.

Nothing is registered, so that MI measures above all whether two images show the same field of view:
independent textures within one sphere share .5 nats, which vanish when a sphere is moved away.
`shared_field` measures that part alone, and a mask of bodies takes it out.

The plug-in estimate of independent images is about (Q - 1)² / (2 V) instead of 0 (`bias`), which is
why Q stays small. Miller and Madow's correction (Miller 1955) takes that off.

Counting is exact everywhere. Two thirds of the time of a pair go into reading its V codes, so that
large images are counted two pairs at a time, in one table of three images.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput
from alnb.records import Floats

if TYPE_CHECKING:
    from torch import Tensor

Codes = NDArray[np.uint16]
Counts = NDArray[np.int64]
Matrix = NDArray[np.float64]
Shape = tuple[int, int, int]

MOST_BINS = 128
LOW, HIGH = 0.5, 99.5
BODY = 0.1
"""Share of the grey window above which a voxel belongs to a body, not to the air around it."""
EDGE = 0.01
"""Share of body that the outer planes of the box around a body have at least."""

_TOGETHER = 1 << 17
"""Voxels from which on a table of three images is cheaper than two tables of two."""
_SMALL = 1 << 16
_CHUNK = 1 << 16
"""Voxels counted at a time, so that what is in between stays in the cache."""
_BLOCK = 64
_COLUMNS = 8
_thread = threading.local()
_ONE_HOT = 1 << 26
_EXACT = 1 << 23


@dataclass(frozen=True)
class Quantiser:
    """Brings images to codes on one grid.

    bins : Q, 2 to 128. side, depth : a slice becomes side x side pixels, a volume depth³ voxels.
    mask : "body" leaves out voxels outside of either image's body, by giving them the code Q.
    """

    bins: int = 32
    side: int = 128
    depth: int = 64
    mask: Literal["none", "body"] = "none"

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= MOST_BINS:
            raise ValueError(
                f"bins is {self.bins}; it must be 2 to {MOST_BINS}. With more, chance alone gives "
                "images much in common."
            )
        if self.side < 1 or self.depth < 1:
            raise ValueError(f"side is {self.side}, depth {self.depth}; both must be 1 or more.")
        if self.mask not in ("none", "body"):
            raise ValueError(f"mask is {self.mask!r}; it must be 'none' or 'body'.")

    @property
    def levels(self) -> int:
        """How many codes there are: Q, and one more for what is masked."""
        return self.bins + (self.mask == "body")

    def grid(self, *, solid: bool) -> Shape:
        """(Z, H, W) of what is compared: slices, or whole volumes if `solid`."""
        return (self.depth,) * 3 if solid else (1, self.side, self.side)

    def name(self, *, solid: bool) -> str:
        """Changes whenever the codes of an image do."""
        grid = "x".join(map(str, self.grid(solid=solid)))
        return f"{LOW}-{HIGH} body>{BODY} edge>{EDGE} bins={self.bins} {grid} mask={self.mask}"

    def __call__(self, image: Floats, *, solid: bool) -> Codes:
        """(Z, H, W) image -> (V,) codes 0..Q-1; outside the body Q if that is masked."""
        small = self.window(image, solid=solid)
        codes = np.minimum((small * self.bins).astype(np.uint16), np.uint16(self.bins - 1))
        if self.mask == "body":
            codes[small <= BODY] = self.bins
        return codes.ravel()

    def body(self, image: Floats, *, solid: bool) -> NDArray[np.bool_]:
        """(Z, H, W) image -> (V,) which voxels of the grid lie in the body."""
        return self.window(image, solid=solid).ravel() > BODY

    def window(self, image: Floats, *, solid: bool) -> NDArray[np.float32]:
        """(Z, H, W) image -> grey values from 0 to 1 on the grid, cropped to the body.

        0 and 1 are the 0.5th and 99.5th percentile of the image, else its extremes; a constant
        image is 0 everywhere, which no body holds. BadInput for values that are not finite.
        """
        grid = self.grid(solid=solid)
        if image.ndim != 3 or not image.size or not np.isfinite(image).all():
            raise BadInput(
                f"An image of the shape {image.shape} cannot be compared; it takes (Z, H, W), at "
                "least one voxel, and finite values. Check its file."
            )
        low, high = (float(value) for value in np.percentile(image, [LOW, HIGH]))
        if not high > low:
            low, high = float(image.min()), float(image.max())
        if not high > low:
            return np.zeros(grid, dtype=np.float32)
        scaled = np.clip((image.astype(np.float64) - low) / (high - low), 0.0, 1.0)
        return _resized(scaled[_box(scaled > BODY)].astype(np.float32), grid)


def joint_counts(one: Codes, others: Codes | Sequence[Codes], levels: int) -> Counts:
    """(V,) and m times (V,) codes -> (m, levels, levels): how often each pair of codes occurs."""
    found = np.empty((len(others), levels, levels), dtype=np.int64)
    step = 2 if one.size >= _TOGETHER and levels**3 <= _SMALL else 1
    for start in range(0, len(others), step):
        table = _table([one, *others[start : start + step]], levels)
        if table.ndim == 2:
            found[start] = table
        else:
            found[start], found[start + 1] = table.sum(axis=2), table.sum(axis=1)
    return found


def joint_counts_by_products(one: Tensor, others: Tensor, levels: int) -> Tensor:
    """The same by matrix products, where the tensors lie: (l, V), (m, V) -> (l, m, Q, Q) int64.

    What an accelerator does best. One-hot codes are 0 and 1, and sums below 2^24 of them are exact
    in float32, also where products are rounded to TF32.
    """
    import torch

    found = torch.zeros(
        len(one) * levels, len(others) * levels, dtype=torch.int64, device=one.device
    )
    step = max(1, _ONE_HOT // (levels * max(1, len(one), len(others))))
    step = min(step, _EXACT)
    for start in range(0, one.shape[1], step):
        left, right = (_one_hot(part[:, start : start + step], levels) for part in (one, others))
        found += (left @ right.T).long()
    return found.view(len(one), levels, len(others), levels).transpose(1, 2)


def information(counts: Counts, *, miller_madow: bool = False) -> Matrix:
    """(..., Q, Q) joint counts -> (...) mutual information in nats, at least 0.

    0 where nothing was counted. With `miller_madow`, the bias of occupied bins is taken off.
    """
    whole = counts.sum(axis=(-2, -1))
    left, right = counts.sum(axis=-1), counts.sum(axis=-2)
    n = np.maximum(whole, 1)
    table = _weighted_logs(int(whole.max(initial=0)))
    both = table[counts].sum(axis=(-2, -1))
    found = np.log(n) + (both - table[left].sum(axis=-1) - table[right].sum(axis=-1)) / n
    if miller_madow:
        occupied = np.count_nonzero(left, axis=-1) + np.count_nonzero(right, axis=-1)
        found += (occupied - np.count_nonzero(counts, axis=(-2, -1)) - 1) / (2 * n)
    clamped: Matrix = np.maximum(found, 0.0)
    return clamped


def between(
    rows: Codes,
    columns: Codes,
    quantiser: Quantiser,
    *,
    wanted: NDArray[np.bool_] | None = None,
    miller_madow: bool = False,
    threads: int | None = None,
    products: str | None = None,
) -> Matrix:
    """(K, V) and (L, V) codes -> (K, L) mutual information; NaN where it is not `wanted`.

    threads : as many columns are counted at once, one per core unless given.
    products : a device such as "cuda", to count there by matrix products; None does so on a GPU if
        there is one. The counts are the same.
    """
    found = np.full((len(rows), len(columns)), np.nan)
    asked = np.ones(found.shape, dtype=np.bool_) if wanted is None else wanted
    if products := products or _accelerator():
        _by_products(
            found, asked, rows, columns, quantiser=quantiser, device=products, miller=miller_madow
        )
        return found

    def fill(column: int) -> None:
        places = np.flatnonzero(asked[:, column])
        for part in _parts(places):
            counts = joint_counts(columns[column], [rows[row] for row in part], quantiser.levels)
            inside = counts[:, : quantiser.bins, : quantiser.bins]
            found[part, column] = information(inside, miller_madow=miller_madow)

    workers = min(threads or os.cpu_count() or 1, len(columns))
    if workers < 2:
        # a new thread begins with memory of its own, which few pairs are not worth
        for column in range(len(columns)):
            fill(column)
        return found
    with ThreadPoolExecutor(max_workers=workers) as pool:
        list(pool.map(fill, range(len(columns))))
    return found


def _by_products(
    found: Matrix,
    asked: NDArray[np.bool_],
    rows: Codes,
    columns: Codes,
    *,
    quantiser: Quantiser,
    device: str,
    miller: bool,
) -> None:
    """Fill in what is asked, a few columns at a time, with whatever rows any of them wants."""
    import torch

    def there(codes: Codes) -> Tensor:
        return torch.from_numpy(codes.astype(np.int16)).to(device)

    for start in range(0, len(columns), _COLUMNS):
        across = slice(start, start + _COLUMNS)
        right = there(columns[across])
        for part in _parts(np.flatnonzero(asked[:, across].any(axis=1))):
            counts = joint_counts_by_products(there(rows[part]), right, quantiser.levels)
            inside = counts[..., : quantiser.bins, : quantiser.bins].cpu().numpy()
            fresh = information(inside, miller_madow=miller)
            found[part, across] = np.where(asked[part, across], fresh, np.nan)


def _accelerator() -> str | None:
    import torch

    return "cuda" if torch.cuda.is_available() else None


def shared_field(one: NDArray[np.bool_], others: NDArray[np.bool_]) -> Matrix:
    """(K, V) and (L, V) bodies -> (K, L): what two images share by their field of view alone."""
    inside = one.astype(np.float32) @ others.astype(np.float32).T
    left, right = one.sum(axis=1)[:, None], others.sum(axis=1)[None]
    first = np.rint(inside).astype(np.int64)
    counts = np.stack(
        [one.shape[1] - left - right + first, right - first, left - first, first], axis=-1
    )
    return information(counts.reshape(*first.shape, 2, 2))


def bias(bins: int, voxels: int) -> float:
    """About what independent images of `voxels` voxels are said to share, in nats."""
    return (bins - 1) ** 2 / (2 * voxels)


def _box(body: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The box around a body, without outer planes that hold next to nothing of it."""
    sides = []
    for axis in range(body.ndim):
        others = tuple(other for other in range(body.ndim) if other != axis)
        held = np.flatnonzero(body.mean(axis=others) >= EDGE)
        sides.append(slice(int(held[0]), int(held[-1]) + 1) if len(held) else slice(None))
    return tuple(sides)


def _resized(image: NDArray[np.float32], grid: Shape) -> NDArray[np.float32]:
    """Linear interpolation along each axis, averaging where the grid is coarser."""
    import torch
    from torch.nn.functional import interpolate

    flat = torch.from_numpy(np.ascontiguousarray(image))[None]
    flat = interpolate(flat, size=grid[1:], mode="bilinear", antialias=True)
    if flat.shape[1] != grid[0]:
        across = flat.transpose(1, 2)
        size = (grid[0], grid[2])
        flat = interpolate(across, size=size, mode="bilinear", antialias=True).transpose(1, 2)
    small: NDArray[np.float32] = flat[0].clamp(0.0, 1.0).numpy()
    return small


def _table(images: Sequence[Codes], levels: int) -> Counts:
    """How often each tuple of codes occurs, one axis per image; at most 2^16 tuples."""
    counts = np.zeros(levels ** len(images), dtype=np.int64)
    packed, wide = _buffers()
    for start in range(0, images[0].size, _CHUNK):
        stop = min(start + _CHUNK, images[0].size)
        part, tuples = packed[: stop - start], wide[: stop - start]
        part[:] = images[0][start:stop]
        for image in images[1:]:
            part *= np.uint16(levels)
            part += image[start:stop]
        tuples[:] = part
        counts += np.bincount(tuples, minlength=len(counts))
    return counts.reshape((levels,) * len(images))


def _buffers() -> tuple[NDArray[np.uint16], NDArray[np.intp]]:
    """Room for a chunk of codes, and for the same as numpy counts them, one pair per thread.

    What is asked for anew in every call costs more time in the operating system than the counting.
    """
    if not hasattr(_thread, "buffers"):
        _thread.buffers = np.empty(_CHUNK, np.uint16), np.empty(_CHUNK, np.intp)
    found: tuple[NDArray[np.uint16], NDArray[np.intp]] = _thread.buffers
    return found


def _one_hot(codes: Tensor, levels: int) -> Tensor:
    """(m, v) codes -> (m levels, v) of 0 and 1."""
    import torch

    level = torch.arange(levels, device=codes.device, dtype=codes.dtype)
    return (codes[:, None] == level[:, None]).flatten(0, 1).float()


@lru_cache(maxsize=4)
def _weighted_logs(most: int) -> Matrix:
    """n ln n for n = 0..most: counts are looked up, which is far cheaper than logarithms."""
    numbers = np.arange(most + 1, dtype=np.float64)
    table: Matrix = numbers * np.log(np.maximum(numbers, 1.0))
    table.flags.writeable = False
    return table


def _parts(places: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(places), _BLOCK):
        yield places[start : start + _BLOCK]
