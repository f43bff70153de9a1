"""Where a slice pixel lies on the canvas and back: the only place that knows flips and aspect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Viewport:
    """Maps continuous slice coordinates (row, col) to canvas coordinates (x, y) and back.

    The canvas has one pixel per voxel; the browser enlarges it, so that a voxel stays a crisp
    rectangle of `pixel_mm` proportions.

    Attributes
    ----------
    shape : (H, W) of the slice.
    pixel_mm : (row, col) size of a pixel in mm; only its proportion matters.
    flip : (rows, cols) whether the display runs against storage order.
    """

    shape: tuple[int, int]
    pixel_mm: tuple[float, float] = (1.0, 1.0)
    flip: tuple[bool, bool] = (False, False)

    def to_canvas(self, row: float, col: float) -> Point:
        """(x, y) in canvas pixels of a place in the slice."""
        height, width = self.shape
        return (width - col if self.flip[1] else col, height - row if self.flip[0] else row)

    def to_slice(self, x: float, y: float) -> Point:
        """(row, col) in the slice of a place on the canvas."""
        height, width = self.shape
        return (height - y if self.flip[0] else y, width - x if self.flip[1] else x)

    def oriented(self, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
        """`pixels` (H, W, ...) as they lie on the canvas."""
        return pixels[:: -1 if self.flip[0] else 1, :: -1 if self.flip[1] else 1]

    def fitted(self, wide: float, tall: float) -> tuple[float, float]:
        """Largest (width, height) in CSS pixels of the slice within a box, in true proportion."""
        across, down = self.shape[1] * self.pixel_mm[1], self.shape[0] * self.pixel_mm[0]
        scale = min(wide / across, tall / down)
        return across * scale, down * scale
