"""Slices of any size in a square frame for a network, and its output back to their size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from alnb.records import IGNORE, LabelMap


@dataclass(frozen=True)
class Frame:
    """Places an (`height`, `width`) slice centred in a `size` x `size` square, longer side filling.

    The aspect ratio is kept. Images are interpolated linearly (with smoothing when they shrink) and
    padded with 0, the background; label maps are padded with IGNORE, since nobody said what is
    there.
    """

    height: int
    width: int
    size: int

    @property
    def inner(self) -> tuple[int, int]:
        """Height and width of the slice inside the square, at least one pixel each."""
        factor = self.size / max(self.height, self.width)
        return max(1, round(self.height * factor)), max(1, round(self.width * factor))

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the slice's first pixel in the square."""
        height, width = self.inner
        return (self.size - height) // 2, (self.size - width) // 2

    def images(self, images: Tensor) -> Tensor:
        """(B, 1, height, width) of any intensities -> (B, 1, size, size) in 0..1."""
        shrinks = self.inner[0] < self.height or self.inner[1] < self.width
        small = torch.nan_to_num(images.float(), posinf=0.0, neginf=0.0)
        if self.inner != (self.height, self.width):
            small = functional.interpolate(small, self.inner, mode="bilinear", antialias=shrinks)
        top, left = self.corner
        square = small.new_zeros(len(small), 1, self.size, self.size)
        square[:, :, top : top + self.inner[0], left : left + self.inner[1]] = rescale(small)
        return square

    def target(self, target: LabelMap) -> LabelMap:
        """(height, width) label map -> (size, size).

        A shrinking map goes by majority of the labelled pixels that fall into a cell, so that a
        stroke one pixel wide stays whole; nearest neighbour would break it into dots. A growing one
        goes by nearest neighbour.
        """
        top, left = self.corner
        height, width = self.inner
        square = np.full((self.size, self.size), IGNORE, np.uint8)
        inside = square[top : top + height, left : left + width]
        if height > self.height or width > self.width:
            rows = (np.arange(height) + 0.5) * self.height // height
            columns = (np.arange(width) + 0.5) * self.width // width
            inside[:] = target[np.ix_(rows.astype(np.intp), columns.astype(np.intp))]
        else:
            inside[:] = _majority(target, height, width)
        return square

    def logits(self, logits: Tensor) -> Tensor:
        """(B, C, size, size) -> (B, C, height, width) float32, linearly interpolated."""
        inside = self.inside(logits).float()
        if self.inner == (self.height, self.width):
            return inside
        return functional.interpolate(inside, (self.height, self.width), mode="bilinear")

    def inside(self, values: Tensor) -> Tensor:
        """(B, C, size, size) -> (B, C, *inner): the slice without the padding, a view."""
        top, left = self.corner
        return values[:, :, top : top + self.inner[0], left : left + self.inner[1]]


def rescale(images: Tensor) -> Tensor:
    """(B, 1, H, W) -> 0..1 per slice: its 0.5th to 99.5th percentile, clipped. Constant gives 0.

    So a learner sees the same picture whatever unit the intensities came in. Percentiles are taken
    over at most some four thousand pixels, because sorting whole slices would dominate inference.
    """
    flat = images.flatten(1)
    some = flat[:, :: max(1, flat.shape[1] // 4096)]
    low, high = (value[:, None, None, None] for value in _quantiles(some, (0.005, 0.995)))
    scaled: Tensor = images.sub(low).div_((high - low).clamp(min=1e-12)).clamp_(0, 1)
    return scaled.mul_(high > low)


def _quantiles(values: Tensor, shares: tuple[float, ...]) -> list[Tensor]:
    """(B, n) -> a (B,) per share, linear between ranks; torch's own sorts, which takes longer."""
    if values.device.type != "cpu":
        return list(values.quantile(values.new_tensor(shares), dim=1))
    last = values.shape[1] - 1
    ranks = [share * last for share in shares]
    below = [int(rank) for rank in ranks]
    above = [min(rank + 1, last) for rank in below]
    ordered = torch.from_numpy(np.partition(values.numpy(), sorted({*below, *above}), axis=1))
    return [
        torch.lerp(ordered[:, lower], ordered[:, upper], rank - lower)
        for rank, lower, upper in zip(ranks, below, above, strict=True)
    ]


def _majority(target: LabelMap, height: int, width: int) -> LabelMap:
    """Commonest label per cell of a coarser grid, the lower code on a tie; IGNORE where none is."""
    row, column = np.nonzero(target != IGNORE)
    label = target[row, column].astype(np.int64)
    cell = (row * height // target.shape[0]) * width + column * width // target.shape[1]
    classes = int(label.max(initial=0)) + 1
    votes = np.bincount(cell * classes + label, minlength=height * width * classes)
    votes = votes.reshape(height, width, classes)
    winner = np.where(votes.any(2), votes.argmax(2), IGNORE)
    return winner.astype(np.uint8)
