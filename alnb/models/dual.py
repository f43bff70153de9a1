"""The 2D U-Net of the WSL4MIS family, with one decoder or two.

Encoder of five levels; the decoder goes up by a 1 x 1 convolution, bilinear doubling, the skip
connection and a block. The second decoder reads the same levels after whole channels were dropped,
so that the two disagree (Luo et al., MICCAI 2022, arXiv 2203.02106); it trains and never answers.
Dropout draws from a generator that is handed in: torch's global random state stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Generator

CHANNELS = (16, 32, 64, 128, 256)
DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Between the two convolutions of each encoder level."""
CHANNEL_DROPOUT = 0.5
"""Share of each level's channels that the second decoder does not see."""


def dual_unet(
    classes: int,
    *,
    generator: Generator,
    channels: Sequence[int] = CHANNELS,
    dual: bool = True,
) -> DualUNet:
    """A network whose every initial weight is decided by `generator` (on the CPU)."""
    # on "meta" no weight is drawn yet, so the global generator stays where it is
    with torch.device("meta"):
        net = DualUNet(classes, tuple(channels), dual=dual)
    net = net.to_empty(device="cpu")
    for module in net.modules():
        _initialise(module, generator)
    return net


class DualUNet(nn.Module):
    """(B, 1, H, W) -> logits (B, classes, H, W) of the main decoder and, in training, the other.

    H and W are multiples of ``2 ** (len(channels) - 1)``.
    """

    def __init__(self, classes: int, channels: tuple[int, ...], *, dual: bool) -> None:
        super().__init__()
        # a shallower network keeps the shares of the deepest levels
        shares = DROPOUT[-len(channels) :]
        self.encoder = nn.ModuleList(
            _Block(inside, outside, share)
            for inside, outside, share in zip((1, *channels), channels, shares, strict=False)
        )
        self.main = _Decoder(classes, channels)
        self.auxiliary = _Decoder(classes, channels) if dual else None

    def levels(self, images: Tensor, generator: Generator | None = None) -> list[Tensor]:
        """The encoder's activations, finest first. `generator` drops while training."""
        found: list[Tensor] = []
        x = images
        for block in self.encoder:
            x = block(functional.max_pool2d(x, 2) if found else x, generator)
            found.append(x)
        return found

    def forward(self, images: Tensor, generator: Generator | None = None) -> tuple[Tensor, ...]:
        """(main,) in evaluation mode, or with one decoder; else (main, auxiliary)."""
        levels = self.levels(images, generator)
        main: Tensor = self.main(levels)
        if self.auxiliary is None or not self.training:
            return (main,)
        thinned = [_dropped(x, CHANNEL_DROPOUT, generator, whole=True) for x in levels]
        return main, self.auxiliary(thinned)

    def bottleneck(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, D, h, w): the deepest activation."""
        return self.levels(images)[-1]


class _Block(nn.Module):
    """Twice convolution, batch norm and leaky ReLU, with dropout between."""

    def __init__(self, inside: int, outside: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.first = nn.Conv2d(inside, outside, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(outside)
        self.second = nn.Conv2d(outside, outside, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        x = functional.leaky_relu(self.first_norm(self.first(x)))
        if self.training and self.share:
            x = _dropped(x, self.share, generator)
        return functional.leaky_relu(self.second_norm(self.second(x)))


class _Decoder(nn.Module):
    """From the deepest level up to logits at the size of the finest."""

    def __init__(self, classes: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        pairs = list(zip(channels[::-1], channels[-2::-1], strict=False))
        self.narrow = nn.ModuleList(nn.Conv2d(deep, fine, 1) for deep, fine in pairs)
        self.blocks = nn.ModuleList(_Block(2 * fine, fine, 0.0) for _, fine in pairs)
        self.out = nn.Conv2d(channels[0], classes, 3, padding=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        *skips, x = levels
        for narrow, block, skip in zip(self.narrow, self.blocks, reversed(skips), strict=True):
            up = functional.interpolate(
                narrow(x), scale_factor=2, mode="bilinear", align_corners=True
            )
            x = block(torch.cat([skip, up], 1))
        logits: Tensor = self.out(x)
        return logits


def _dropped(
    x: Tensor, share: float, generator: Generator | None, *, whole: bool = False
) -> Tensor:
    """`x` with `share` of its values (of its channels if `whole`) at 0, the others scaled up."""
    if generator is None:
        raise ValueError("A network in training drops by a generator; hand one in, or call eval().")
    shape = (*x.shape[:2], 1, 1) if whole else x.shape
    kept = torch.rand(shape, generator=generator, device=x.device) >= share
    return x * (kept / (1 - share)).to(x.dtype)


def _initialise(module: nn.Module, generator: Generator) -> None:
    """torch's own default distributions, drawn from `generator`."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
        reach = 1 / math.sqrt(module.weight[0].numel())
        assert module.bias is not None, "every convolution here has a bias"
        nn.init.uniform_(module.bias, -reach, reach, generator=generator)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()
