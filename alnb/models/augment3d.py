"""Random change of whole volumes; `alnb.models.augment.apply` carries it out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alnb.models.augment import Change

if TYPE_CHECKING:
    from torch import Generator


@dataclass(frozen=True)
class VolumeAugment:
    """Ranges of random change of volumes; a range of 0 switches a change off.

    Attributes
    ----------
    rotate : degrees either way about each of the three axes, as if voxels of the network's grid
        were cubes.
    scale : largest factor of zoom, in or out.
    move : largest displacement either way along each axis, as a share of its length.
    gamma, gain : largest factor either way, drawn on a log scale.
    shift, noise : largest offset, and largest standard deviation of white noise, for intensities
        in 0..1.
    share : the share of volumes that change at all; the others pass as they are.
    """

    rotate: float = 10.0
    scale: float = 1.15
    move: float = 0.05
    gamma: float = 1.5
    gain: float = 1.2
    shift: float = 0.05
    noise: float = 0.05
    share: float = 0.9

    def draw(self, shape: tuple[int, ...], generator: Generator) -> Change:
        """Parameters for a batch of `shape` (B, 1, Z, H, W), on the generator's device."""
        size, device = shape[0], generator.device

        def uniform(reach: float, *dims: int) -> Tensor:
            unit = torch.rand(size, *dims, generator=generator, device=device)
            return (2 * unit - 1) * reach

        active = (uniform(1.0) < 2 * self.share - 1).float()
        turn = _rotation(uniform(math.radians(self.rotate), 3) * active[:, None])
        zoom = torch.exp(uniform(math.log(self.scale)) * active)[:, None, None]
        # affine grids go by (x, y, z), from -1 to 1 whatever an axis' length
        sides = torch.tensor(shape[:1:-1], dtype=torch.float32, device=device)
        turn = turn * zoom * sides[None, None, :] / sides[None, :, None]
        move = uniform(2 * self.move, 3) * active[:, None]
        column = active[:, None, None, None, None]
        noise = torch.randn(shape, generator=generator, device=device)
        return Change(
            theta=torch.cat([turn, move[:, :, None]], 2),
            warp=None,
            gamma=torch.exp(uniform(math.log(self.gamma), 1, 1, 1, 1) * column),
            gain=torch.exp(uniform(math.log(self.gain), 1, 1, 1, 1) * column),
            shift=uniform(self.shift, 1, 1, 1, 1) * column,
            noise=noise * uniform(self.noise, 1, 1, 1, 1) * column,
        )


def _rotation(angles: Tensor) -> Tensor:
    """(B, 3) radians about each axis -> (B, 3, 3), one turn after the other."""
    cos, sin = angles.cos(), angles.sin()
    whole = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
    for axis in range(3):
        turn = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        one, other = [place for place in range(3) if place != axis]
        turn[:, one, one] = turn[:, other, other] = cos[:, axis]
        turn[:, one, other], turn[:, other, one] = -sin[:, axis], sin[:, axis]
        whole = whole @ turn
    return whole
