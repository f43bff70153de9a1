"""The encoder's network: MONAI's ResNet-18 for one channel and 2-D, and a projection head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch import Generator

PROJECTED = 64
_FEATURES = 512


def features(width: float) -> int:
    """D, the length of an embedding at this width."""
    return int(_FEATURES * width)


def backbone(*, generator: Generator, width: float = 1.0) -> nn.Module:
    """(B, 1, H, W) -> (B, D): the standard ResNet-18 with a 7 x 7 stem and without final layer.

    D is 512 times `width`, which multiplies every number of channels; 0.5 trains about three times
    as fast. The names of the weights are torchvision's. `generator` (on the CPU) decides every
    initial weight, and torch's global one is not touched.
    """
    from monai.networks.nets.resnet import resnet18  # monai takes seconds to import

    # on "meta" no weight is drawn yet, so the global generator stays where it is
    with torch.device("meta"):
        net: nn.Module = resnet18(
            spatial_dims=2,
            n_input_channels=1,
            conv1_t_size=7,
            conv1_t_stride=2,
            widen_factor=width,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        )
    net.avgpool = _Mean()
    return _initialised(net, generator)


def projection(inputs: int, *, generator: Generator) -> nn.Module:
    """(B, inputs) -> (B, 64): Linear, ReLU, Linear, without biases; serves the training alone.

    What is compared by cosine behind it forgets more than an embedding should (Chen et al. 2020,
    arXiv 2002.05709).
    """
    with torch.device("meta"):
        head = nn.Sequential(
            nn.Linear(inputs, inputs, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(inputs, PROJECTED, bias=False),
        )
    return _initialised(head, generator)


class _Mean(nn.Module):
    """(B, D, h, w) -> (B, D, 1, 1) in float32, or a bfloat16 pass would leave features 3 digits."""

    def forward(self, deepest: Tensor) -> Tensor:
        return deepest.float().mean((2, 3), keepdim=True)


def _initialised(net: nn.Module, generator: Generator) -> nn.Module:
    """As torchvision does: He by fan-out for convolutions, uniform for linear, neutral norms."""
    net = net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return net
