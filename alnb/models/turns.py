"""The augmentation of WSL4MIS, for a whole batch at once: quarter turns, mirrors, small rotations.

Of every two slices one is turned by a multiple of 90 degrees and mirrored; of the others, every
second one is rotated by up to 20 degrees. Everything moves by nearest neighbour. What comes in
from outside is IGNORE in a label map, never background, and the darkest value in an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from alnb.records import IGNORE

if TYPE_CHECKING:
    from torch import Generator


@dataclass(frozen=True)
class Turns:
    """Ranges of the change.

    Attributes
    ----------
    flip : share of slices that are turned by k · 90 degrees, k in 0..3, and mirrored.
    rotate : share of the others that are rotated.
    degrees : largest rotation either way.
    jitter : largest relative change of contrast, and largest offset as a share of the image's
        range; 0 is the published augmentation.
    """

    flip: float = 0.5
    rotate: float = 0.5
    degrees: float = 20.0
    jitter: float = 0.0

    def draw(self, batch: int, generator: Generator) -> Tensor:
        """(batch, 2, 2) maps from output to input coordinates (x, y), on the generator's device."""

        def chance() -> Tensor:
            return torch.rand(batch, generator=generator, device=generator.device)

        flips, rotates = chance() < self.flip, chance() < self.rotate
        quarter = (chance() * 4).floor() * (math.pi / 2)
        angle = (chance() * 2 - 1) * math.radians(self.degrees)
        mirrors_x = chance() < 0.5
        angle = torch.where(flips, quarter, torch.where(rotates, angle, 0.0))
        cos, sin = torch.cos(angle), torch.sin(angle)
        turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
        mirror = torch.ones(batch, 1, 2, device=generator.device)
        mirror[flips & mirrors_x, 0, 0] = -1
        mirror[flips & ~mirrors_x, 0, 1] = -1
        return turn * mirror

    def __call__(
        self, images: Tensor, target: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Images (B, 1, S, S) and target (B, S, S) uint8, both changed alike; new tensors."""
        images, target = turned(images, target, self.draw(len(images), generator))
        if self.jitter:
            shape = (2, len(images), 1, 1, 1)
            gain, shift = (
                torch.rand(shape, generator=generator, device=images.device) * 2 - 1
            ) * self.jitter
            low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
            images = low + (images - low) * (1 + gain) + shift * (high - low)
        return images, target


def turned(images: Tensor, target: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 1, S, S) and target (B, S, S) uint8 under the maps `turn` (B, 2, 2)."""
    theta = torch.cat([turn, torch.zeros_like(turn[:, :, :1])], 2)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    # zeros come in from outside, so values are shifted to make 0 mean "darkest" and IGNORE
    low = images.amin((1, 2, 3), keepdim=True)
    code = target.unsqueeze(1).float() - IGNORE
    moved = functional.grid_sample(images - low, grid, mode="nearest", align_corners=False) + low
    labels = functional.grid_sample(code, grid, mode="nearest", align_corners=False)
    return moved, (labels.squeeze(1) + IGNORE).to(torch.uint8)
