"""Random views of a batch for contrastive learning: all at once, on its device, one resampling.

Crop, mirror and affine map are composed into one grid, so a view is interpolated once and not three
times. Parameters are drawn first and applied second, as in `alnb.models.augment`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Generator

_TRIES = 10
_TAPS = 5
_FAINT = 1e-6
_BLUR_SIDE = 256


@dataclass(frozen=True, eq=False)
class View:
    """What happens to each of the B images of one batch; coordinates are -1..1 across the image.

    Attributes
    ----------
    turn : (B, 2, 2) from output to cropped coordinates; `move` (B, 2) is added, x first.
    zoom, corner : (B, 2) from cropped to input coordinates: ``zoom * x + corner``.
    kernel : (B, 5) weights of the blur along each axis, summing to 1.
    hole : (B, 4) left, top, right and bottom of the erased box, in 0..1; empty where nothing is.
    """

    turn: Tensor
    move: Tensor
    zoom: Tensor
    corner: Tensor
    kernel: Tensor
    hole: Tensor


@dataclass(frozen=True)
class Views:
    """Ranges of random change, by default those of Vepa et al. 2024; intensities keep their scale.

    Attributes
    ----------
    crop : smallest share of the area that a crop keeps; its aspect ratio is 3:4 to 4:3.
    flip : the share of images that are mirrored left to right.
    rotate, shear : degrees either way; shear is along the rows.
    move : largest displacement either way, as a share of the side.
    scale : least and largest factor of size.
    blur : least and largest standard deviation, in pixels of a 256 x 256 image; (0, 0) is none.
    erase : the share of images in which a box of .02 to .33 of the area, 0.3 to 3.3 times as high
        as wide, becomes 0.
    """

    crop: float = 0.8
    flip: float = 0.5
    rotate: float = 15.0
    shear: float = 10.0
    move: float = 0.2
    scale: tuple[float, float] = (0.8, 1.2)
    blur: tuple[float, float] = (0.1, 2.0)
    erase: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop is {self.crop}; it is a share of the area, in (0, 1].")
        for name in ("flip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, in 0..1.")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}; it must be (least, largest), both positive.")
        if not 0 <= self.blur[0] <= self.blur[1]:
            raise ValueError(f"blur is {self.blur}; it must be (least, largest), not negative.")

    @classmethod
    def gentle(cls) -> Views:
        """Small changes, no mirror images and no boxes: what a short training can see through.

        Large ones take away what tells slices apart by their place and size.
        """
        return cls(
            crop=0.95, flip=0.0, rotate=5.0, shear=3.0, move=0.03, scale=(0.95, 1.05), erase=0.0
        )

    def draw(self, count: int, side: int, generator: Generator) -> View:
        """Parameters for `count` images of `side` x `side`, on the generator's device."""

        def uniform(low: float, high: float, *dims: int) -> Tensor:
            unit = torch.rand(count, *dims, generator=generator, device=generator.device)
            return low + (high - low) * unit

        zoom, corner = _crop(uniform, self.crop)
        mirror = torch.where(uniform(0, 1) < self.flip, -1.0, 1.0)
        zoom = zoom * torch.stack([mirror, torch.ones_like(mirror)], 1)
        angle = uniform(-math.radians(self.rotate), math.radians(self.rotate))
        slant = torch.tan(uniform(-math.radians(self.shear), math.radians(self.shear)))
        size = uniform(*self.scale)
        move = uniform(-2 * self.move, 2 * self.move, 2)
        # output to input: undo the move, the rotation, the shear and the scale, in this order
        cos, sin = torch.cos(angle), torch.sin(angle)
        top = torch.stack([cos + slant * sin, sin - slant * cos], 1)
        turn = torch.stack([top, torch.stack([-sin, cos], 1)], 1) / size[:, None, None]
        return View(
            turn=turn,
            move=-(turn @ move[:, :, None])[:, :, 0],
            zoom=zoom,
            corner=corner,
            kernel=_kernel(uniform(*self.blur) * (side / _BLUR_SIDE)),
            hole=_hole(uniform, self.erase),
        )


def apply(images: Tensor, view: View) -> Tensor:
    """Views (B, 1, S, S) of `images` (B, 1, S, S); what lies outside a crop or an image is 0."""
    side = images.shape[3]
    axis = (torch.arange(side, device=images.device) * 2 + 1) / side - 1
    turn = view.zoom[:, :, None] * view.turn
    start = view.zoom * view.move + view.corner
    # one addition per point: what its column gives and what its row gives
    columns = turn[:, None, :, 0] * axis[:, None] + start[:, None]
    rows = turn[:, None, :, 1] * axis[:, None]
    grid = rows[:, :, None] + columns[:, None]
    moved = functional.grid_sample(images, grid, align_corners=False)
    low, high = _cropped(view, axis)
    moved *= ((axis >= low) & (axis <= high)).unsqueeze(1)
    return _erased(_blurred(moved, view.kernel), view.hole)


def two_views(images: Tensor, views: Views, generator: Generator) -> Tensor:
    """(B, 1, S, S) -> (2B, 1, S, S): rows 0..B-1 one view of each, B..2B-1 another of the same."""
    twice = torch.cat([images, images])
    return apply(twice, views.draw(len(twice), int(twice.shape[3]), generator))


class _Uniform(Protocol):
    """Numbers (B, *dims) between `low` and `high`."""

    def __call__(self, low: float, high: float, *dims: int) -> Tensor: ...


def _crop(uniform: _Uniform, least: float) -> tuple[Tensor, Tensor]:
    """Zoom and corner (B, 2) of a box of random area and ratio: the first of ten that fits."""
    area = uniform(least, 1, _TRIES)
    ratio = torch.exp(uniform(math.log(3 / 4), math.log(4 / 3), _TRIES))
    boxes = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 2)
    box, fits = _first(boxes, (boxes <= 1).all(2))
    box = torch.where(fits[:, None], box, 1.0)
    return box, uniform(-1, 1, 2) * (1 - box)


def _hole(uniform: _Uniform, share: float) -> Tensor:
    """(B, 4) left, top, right, bottom of the erased box; all 0 where there is none."""
    area = uniform(0.02, 0.33, _TRIES)
    ratio = torch.exp(uniform(math.log(0.3), math.log(3.3), _TRIES))
    boxes = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], 2)
    box, fits = _first(boxes, (boxes < 1).all(2))
    corner = uniform(0, 1, 2) * (1 - box)
    drawn = fits & (uniform(0, 1) < share)
    return torch.cat([corner, corner + box], 1) * drawn[:, None]


def _first(boxes: Tensor, good: Tensor) -> tuple[Tensor, Tensor]:
    """Of (B, T, 2) the first good one of each row, and whether there is any."""
    first = good.int().argmax(1)
    return boxes[torch.arange(len(boxes), device=boxes.device), first], good.any(1)


def _cropped(view: View, axis: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S, 1) least and largest x of each row that lie inside the crop, in output coordinates."""
    # turn . (x, y) + move is in -1..1 for both coordinates; 0 as a slope leaves all or nothing
    slope = view.turn[:, None, :, 0]
    slope = torch.where(slope.abs() < 1e-9, 1e-9, slope)
    rest = view.turn[:, None, :, 1] * axis[:, None] + view.move[:, None]
    ends = torch.stack([(-1 - rest) / slope, (1 - rest) / slope], 3)
    low, high = ends.amin(3).amax(2), ends.amax(3).amin(2)
    return low.unsqueeze(2), high.unsqueeze(2)


def _kernel(sigma: Tensor) -> Tensor:
    """(B,) standard deviations in pixels -> (B, 5) weights; 0 leaves the image as it is."""
    offset = torch.arange(_TAPS, device=sigma.device) - _TAPS // 2
    weight = torch.exp(-0.5 * (offset / sigma[:, None].clamp(min=1e-3)) ** 2)
    # products of far smaller weights are denormal numbers, ten times as slow on a CPU
    weight = torch.where(weight < _FAINT, 0.0, weight)
    return weight / weight.sum(1, keepdim=True)


def _blurred(images: Tensor, kernel: Tensor) -> Tensor:
    """Each image with its own kernel along rows and columns; the border is mirrored."""
    count, side = images.shape[0], _TAPS // 2
    # one image per channel, so that a grouped convolution gives every image its kernel; on a CPU
    # one pass of 25 taps is up to four times as fast as two passes of five
    stack = functional.pad(images.view(1, count, *images.shape[2:]), [side] * 4, mode="reflect")
    square = kernel[:, None, :, None] * kernel[:, None, None]
    stack = functional.conv2d(stack, square, groups=count)
    return stack.view_as(images)


def _erased(images: Tensor, hole: Tensor) -> Tensor:
    """`images` with 0 where the pixel's centre lies in the box."""
    height, width = images.shape[2:]
    row = (torch.arange(height, device=images.device) + 0.5) / height
    column = (torch.arange(width, device=images.device) + 0.5) / width
    left, top, right, bottom = hole[:, :, None].unbind(1)
    rows = (row >= top) & (row < bottom)
    columns = (column >= left) & (column < right)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :]).unsqueeze(1), 0.0)
