"""Training augmentation for a whole batch at once, on its device, with one resampling.

Parameters are drawn first and applied second, so a batch can be augmented again in the same way,
and the random stream does not depend on the pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from alnb.models.frame import rescale
from alnb.records import IGNORE

if TYPE_CHECKING:
    from torch import Generator


@dataclass(frozen=True, eq=False)
class Change:
    """What happens to each of the B images of one batch, slices or (with one axis more) volumes.

    Attributes
    ----------
    theta : (B, 2, 3) affine from output to input coordinates, in -1..1 across the image.
    warp : (B, 2, G, G) smooth displacement on a coarse grid, in the same units, or None; of slices
        alone.
    gamma, gain, shift : (B, 1, 1, 1) intensities become ``gain * x ** gamma + shift``.
    noise : (B, 1, H, W), added last.
    """

    theta: Tensor
    warp: Tensor | None
    gamma: Tensor
    gain: Tensor
    shift: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Augment:
    """Ranges of random change; a range of 0 switches a change off.

    Attributes
    ----------
    rotate : degrees either way.
    scale : largest factor of zoom, in or out.
    move : largest displacement either way, as a share of the side.
    warp : standard deviation of the smooth displacement at its grid points, as a share of the side.
    flip : mirror images too. Off unless left and right mean nothing: a mirrored left kidney is not
        a right one.
    gamma, gain : largest factor either way, drawn on a log scale.
    shift, noise : largest offset, and largest standard deviation of white noise, for intensities
        in 0..1.
    share : the share of images that change at all; the others pass as they are.
    """

    rotate: float = 30.0
    scale: float = 1.25
    move: float = 0.1
    warp: float = 0.0
    flip: bool = False
    gamma: float = 1.5
    gain: float = 1.2
    shift: float = 0.1
    noise: float = 0.05
    share: float = 0.9

    def draw(self, shape: tuple[int, int, int, int], generator: Generator) -> Change:
        """Parameters for a batch of `shape` (B, 1, H, W), on the generator's device."""
        size = shape[0]

        def uniform(reach: float, *dims: int) -> Tensor:
            unit = torch.rand(size, *dims, generator=generator, device=generator.device)
            return (2 * unit - 1) * reach

        active = (uniform(1.0) < 2 * self.share - 1).float()
        angle = uniform(math.radians(self.rotate)) * active
        zoom = torch.exp(uniform(math.log(self.scale)) * active)
        mirror = torch.where(uniform(1.0, 2) * active[:, None] * self.flip > 0, -1.0, 1.0)
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
        move = uniform(2 * self.move, 2) * active[:, None]
        column = active[:, None, None, None]

        def normal(*dims: int) -> Tensor:
            return torch.randn(dims, generator=generator, device=generator.device)

        return Change(
            theta=torch.cat([turn * mirror[:, :, None], move[:, :, None]], 2),
            warp=normal(size, 2, 6, 6) * (2 * self.warp) * column if self.warp else None,
            gamma=torch.exp(uniform(math.log(self.gamma), 1, 1, 1) * column),
            gain=torch.exp(uniform(math.log(self.gain), 1, 1, 1) * column),
            shift=uniform(self.shift, 1, 1, 1) * column,
            noise=normal(*shape) * uniform(self.noise, 1, 1, 1) * column,
        )


@dataclass(frozen=True, eq=False)
class Windows:
    """The part of each of B square images that is looked at.

    Attributes
    ----------
    centre : (B, 2) row and column of its centre, 0..1 along the image's side.
    side : of the window, as a share of the image's side.
    size : pixels along the window's side after cutting.
    """

    centre: Tensor
    side: float
    size: int


def apply(
    images: Tensor, target: Tensor, change: Change, windows: Windows | None = None
) -> tuple[Tensor, Tensor]:
    """Images (B, 1, H, W) in 0..1 and target (B, H, W) uint8, or volumes, both changed alike.

    Images are interpolated linearly and continued by their edge; labels move by nearest neighbour
    and are IGNORE where they come from outside. Neither argument is changed.

    windows : change these parts of the images only, and return them: (B, 1, size, size) and
        (B, size, size). The change is of the window, so that 0.1 moves by a tenth of its side, and
        what it brings in from outside the window is what lies there. Then `change` is one for
        images of the window's size. Intensities are rescaled within the window first.
    """
    theta, warp, shape = change.theta, change.warp, images.shape[2:]
    if windows is not None:
        shape = torch.Size((windows.size, windows.size))
        middle = 2 * windows.centre.flip(1) - 1
        theta = theta * windows.side
        theta = torch.cat([theta[:, :, :2], theta[:, :, 2:] + middle[:, :, None]], 2)
        warp = None if warp is None else warp * windows.side
    grid = functional.affine_grid(theta, [len(images), 1, *shape], align_corners=False)
    if warp is not None:
        warp = functional.interpolate(warp, shape, mode="bicubic", align_corners=True)
        grid = grid + warp.movedim(1, 3)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if windows is not None:
        moved = rescale(moved)
    # zeros come in from outside, so the codes are shifted to make 0 mean IGNORE on the way
    code = (target.float() - IGNORE).unsqueeze(1)
    labels = functional.grid_sample(code, grid, mode="nearest", align_corners=False)
    shaded = moved.clamp(min=0).pow(change.gamma) * change.gain + change.shift + change.noise
    return shaded, (labels.squeeze(1) + IGNORE).to(torch.uint8)
