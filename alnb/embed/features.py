"""Features that need no training: the pixels themselves, small and standardised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput
from alnb.records import Floats

_QUANTILES = (0.05, 0.5, 0.95)
_LIMIT = 3.0


@dataclass(frozen=True)
class PixelFeatures:
    """Each slice averaged down to at most size x size pixels, standardised, flattened.

    The longer side becomes `size` and the shorter one keeps its proportion, centred between
    zeros, so that slices of any size compare. Values are measured from the median in units of the
    range between the 5th and the 95th percentile and cut at three of them: scanner scale, offset
    and a few bright pixels leave no trace. A slice of one value gives zeros.
    """

    size: int = 32

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}; a slice needs at least 1 pixel.")

    @property
    def name(self) -> str:
        """Changes whenever the features do."""
        return f"pixels-{self.size}"

    def __call__(self, images: Iterable[Floats]) -> Floats:
        """(H, W) arrays -> (N, size * size) float32, in one pass over `images`.

        BadInput names the first image that is not 2-D, is empty or holds a value that is not
        finite.
        """
        rows = [self._row(number, np.asarray(image)) for number, image in enumerate(images)]
        width = self.size * self.size
        return np.stack(rows) if rows else np.empty((0, width), dtype=np.float32)

    def _row(self, number: int, image: Floats) -> NDArray[np.float32]:
        if image.ndim != 2 or not image.size:
            raise BadInput(f"Image {number} has shape {image.shape}; it must be (H, W), not empty.")
        small = shrink(image, self.size)
        if not np.isfinite(small).all():
            raise BadInput(f"Image {number} holds values that are not finite; check its file.")
        square = np.zeros((self.size, self.size), dtype=np.float32)
        top, left = ((self.size - side) // 2 for side in small.shape)
        square[top : top + small.shape[0], left : left + small.shape[1]] = standardised(small)
        return square.ravel()


def shrink(image: Floats, size: int) -> Floats:
    """Average `image` over areas so that its longer side is `size`, proportions kept.

    Every target pixel is the mean over the part of the image that it covers, so that nothing
    between grid points is lost; a smaller image is enlarged in the same way.
    """
    longest = max(image.shape)
    height, width = (max(1, round(side * size / longest)) for side in image.shape)
    rows, columns = _averaging(image.shape[0], height), _averaging(image.shape[1], width)
    # Rows first, since it is one product of contiguous arrays with the large image.
    small: Floats = (rows @ image.astype(np.float32, copy=False)) @ columns.T
    return small


def standardised(values: Floats) -> Floats:
    """Values from the median in units of the 5 to 95 % range, cut at 3; constant gives zeros.

    Where that range is empty, most of the slice being one value, the standard deviation is used.
    """
    ordered = np.sort(values, axis=None)
    low, middle, high = (ordered[round(q * (ordered.size - 1))] for q in _QUANTILES)
    spread = high - low
    if spread <= _rounding(low, high):
        spread = values.std()
        if spread <= _rounding(ordered[0], ordered[-1]):
            return np.zeros_like(values)
    cut: Floats = np.clip((values - middle) / spread, -_LIMIT, _LIMIT)
    return cut


def _rounding(low: float, high: float) -> float:
    """What averaging in float32 may leave of a difference between equal values of this size."""
    return 1e-5 * max(abs(low), abs(high))


@lru_cache(maxsize=64)
def _averaging(source: int, target: int) -> NDArray[np.float32]:
    """(target, source) weights, each row summing to 1: overlaps of target and source cells."""
    edges = np.arange(target + 1) * (source / target)
    cells = np.arange(source)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    overlap = np.clip(overlap, 0.0, None)
    weights: NDArray[np.float32]
    weights = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    weights.flags.writeable = False
    return weights
