"""Dropout that is told what to drop, so that torch's global random state stays where it is.

Whether a network drops is a matter of the call, not of the network: within `dropping`, on the
thread that entered it, `Dropout` drops; elsewhere it passes everything on. So batch norm stays in
evaluation mode during Monte Carlo passes, and another thread may use the same network meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alnb.rng import stream, torch_generator

if TYPE_CHECKING:
    from torch import Generator

RATES = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Per level of the encoder, the finest first: those of the U-Net of WSL4MIS."""

Source = Callable[["Dropout", Tensor], Tensor]
"""(where, what comes in) -> factors that it is multiplied by: 0, or 1 / (1 - rate)."""

_source: ContextVar[Source | None] = ContextVar("alnb_dropout", default=None)


@contextmanager
def dropping(source: Source | None) -> Iterator[None]:
    """Within the block, on this thread, `Dropout` multiplies by what `source` gives."""
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


class Dropout(nn.Module):
    """Sets a share `rate` of its input to 0 and scales up the rest, within `dropping`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"A dropout rate of {rate} is outside 0 <= rate < 1.")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape; a new tensor if something is dropped."""
        source = _source.get()
        return x if source is None or not self.rate else x * source(self, x)

    def extra_repr(self) -> str:
        """The rate, for the printed network."""
        return f"rate={self.rate}"


class Fresh:
    """For training: every item of every step loses other values, drawn from `generator`."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def __call__(self, place: Dropout, x: Tensor) -> Tensor:
        """Factors of the shape of `x`."""
        chance = torch.rand(x.shape, generator=self._generator, device=x.device)
        return _factors(chance, place.rate).to(x.dtype)


class Fixed:
    """For one Monte Carlo pass: the same values are missing for every item, in every batch.

    So the pass is one thinned network, a function of the image alone: scored again, in a batch
    with others, a slice gets the same numbers (Kirsch et al., NeurIPS 2019, arXiv 1906.08158, call
    it consistent dropout). `seed` and `number` decide what is missing, the same on any device.
    """

    def __init__(self, seed: int, number: int) -> None:
        self._generator = torch_generator(stream(seed, "pass", number))
        self._kept: dict[Dropout, Tensor] = {}

    def __call__(self, place: Dropout, x: Tensor) -> Tensor:
        """Factors of the shape of one item of `x`."""
        if place not in self._kept:
            chance = torch.rand((1, *x.shape[1:]), generator=self._generator)
            order = torch.channels_last if chance.dim() == 4 else torch.contiguous_format
            factors = _factors(chance, place.rate).contiguous(memory_format=order)
            self._kept[place] = factors.to(x.device, x.dtype)
        return self._kept[place]


def _factors(chance: Tensor, rate: float) -> Tensor:
    return (chance >= rate) / (1 - rate)
