"""The part of a slice that holds the structures, so that a network need not look at all of it.

Coarse to fine: a small network sees the whole slice and says where the structures are, another one
sees the window around them. The same number of pixels then shows the structures larger, and always
in the middle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from alnb.records import IGNORE, LabelMap

MARGIN = 1.75
"""Side of the window over the largest structure's strokes: these end within it, and the window's
place is found with some error."""
LARGEST = 0.75
"""A window larger than this share of the slice is not worth the search for its place."""
SMALLEST = 0.05
"""Of structures smaller than this share of the slice's side a scout would see three pixels."""
FEWEST = 4
"""Slices that must show a structure before their extent says anything of the others."""
SURE = 8.0
"""Logit of background outside the window, and of every other class below it."""


@dataclass(frozen=True)
class Window:
    """A square window in a square frame of `reach` pixels.

    Attributes
    ----------
    side : as a share of the frame's side.
    row, col : of its centre where nothing is found, 0..1 along the frame's side.
    size : its side in pixels.
    """

    side: float
    row: float
    col: float
    size: int

    @classmethod
    def around(cls, targets: Iterable[LabelMap], size: int) -> Self | None:
        """A window for the foreground of `targets`, (H, W) label maps of any sizes.

        It is `MARGIN` times as wide as the largest one, but does not magnify slices beyond their
        own pixels. None where it would be hardly smaller than the slice, where all structures are
        too small to be found, or where too few slices show any.
        """
        boxes, longest = [], 0
        for target in targets:
            longest = max(longest, *target.shape)
            box = extent(target)
            if box is not None:
                boxes.append(box)
        if len(boxes) < FEWEST:
            return None
        rows, cols, widths = np.array(boxes).T
        widest = float(widths.max())
        side = max(MARGIN * widest, size / longest)
        if widest < SMALLEST or side > LARGEST:
            return None
        return cls(side, float(np.median(rows)), float(np.median(cols)), size)

    @property
    def reach(self) -> int:
        """Side of the frame in pixels."""
        return round(self.size / self.side)

    def holds(self, other: Window) -> bool:
        """Whether it does for what `other` was made for, without being much too large."""
        return self.size == other.size and 0.8 * self.side <= other.side <= self.side

    def centres(self, targets: Iterable[LabelMap]) -> Tensor:
        """(N, 2) row and column of the middle of each target's foreground, 0..1 in its frame."""
        boxes = [extent(target) for target in targets]
        middle = [(self.row, self.col) if box is None else box[:2] for box in boxes]
        return torch.tensor(middle, dtype=torch.float32).reshape(-1, 2)

    def corners(self, foreground: Tensor) -> Tensor:
        """(B, 2) int64 row and column of the windows' first pixel in the frame.

        foreground : (B, s, s) probability of any structure, over the whole frame. A window lies
        around the centroid of what is likelier than not, or at its usual place if that is less
        than two pixels; it never leaves the frame.
        """
        found = torch.where(foreground > 0.5, foreground, 0.0)
        mass = found.sum((1, 2))
        place = (torch.arange(found.shape[1], device=found.device) + 0.5) / found.shape[1]
        sums = torch.stack([found.sum(2) @ place, found.sum(1) @ place], 1)
        usual = torch.tensor([self.row, self.col], device=found.device)
        return self.at(torch.where((mass < 2)[:, None], usual, sums / mass.clamp(min=1)[:, None]))

    def at(self, centres: Tensor) -> Tensor:
        """(B, 2) centres, 0..1 in the frame -> the corners of windows there, kept in the frame."""
        first = (centres * self.reach - self.size / 2).round().long()
        return first.clamp(0, self.reach - self.size)

    def cut(self, images: Tensor, corners: Tensor) -> Tensor:
        """(B, C, reach, reach) -> (B, C, size, size)."""
        rows, cols = self._indices(corners)
        batch = torch.arange(len(images), device=images.device)[:, None, None]
        # the indexed axes come first, the channels last
        return images[batch, :, rows, cols].movedim(3, 1)

    def paste(self, logits: Tensor, corners: Tensor) -> Tensor:
        """(B, C, size, size) -> (B, C, reach, reach); whatever lies outside is background."""
        rows, cols = self._indices(corners)
        batch = torch.arange(len(logits), device=logits.device)[:, None, None]
        shape = (len(logits), logits.shape[1], self.reach, self.reach)
        whole = logits.new_full(shape, -SURE)
        whole[:, 0] = SURE
        whole[batch, :, rows, cols] = logits.movedim(1, 3)
        return whole

    def _indices(self, corners: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.arange(self.size, device=corners.device)
        rows, cols = corners[:, :1] + steps, corners[:, 1:] + steps
        return rows[:, :, None], cols[:, None, :]


def extent(target: LabelMap) -> tuple[float, float, float] | None:
    """Row, column and longer side of the box around the foreground; None where there is none.

    In units of the slice's longer side, which fills its square frame.
    """
    rows, cols = np.nonzero((target != 0) & (target != IGNORE))
    if not len(rows):
        return None
    longer = max(target.shape)
    (top, bottom), (left, right) = (rows.min(), rows.max() + 1), (cols.min(), cols.max() + 1)
    row = (top + bottom - target.shape[0]) / 2 / longer + 0.5
    col = (left + right - target.shape[1]) / 2 / longer + 0.5
    return float(row), float(col), float(max(bottom - top, right - left) / longer)
