"""A trained network and how it runs: over batches of slices, alone or as one of several members."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from alnb.models.dropout import Fixed, dropping
from alnb.models.frame import Frame, rescale
from alnb.models.gradients import last_layer_gradients
from alnb.models.hardware import blocks, channels_last, fast_dtype
from alnb.models.unet import CONVOLUTIONS, bottleneck
from alnb.models.window import Window


@dataclass(frozen=True)
class Model:
    """One published network. Never edited, so any thread may run it while the next one trains.

    Attributes
    ----------
    size : side of the square that `net` sees.
    masks : seed of what Monte Carlo passes drop; drawn by a fit with dropout.
    window, scout : where `net` looks, and the network that finds the place; both or neither.
    """

    net: nn.Module
    classes: int
    size: int
    channels: tuple[int, ...]
    residual_units: int
    masks: int = 0
    window: Window | None = None
    scout: Model | None = None

    @cached_property
    def ready(self) -> tuple[nn.Module, torch.dtype | None]:
        """The network to predict with, and what its input must be; None: leave that to autocast.

        On a CPU that multiplies bfloat16 the convolutions' weights are converted once, instead of
        by autocast in every call: the same numbers, an eighth faster on batches of 16 at 128².
        """
        return ready_to_predict(self.net)

    @property
    def reach(self) -> int:
        """Side of the square frame that holds a whole slice."""
        return self.size if self.window is None else self.window.reach

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters()).device

    @property
    def config(self) -> tuple[int, ...]:
        return (self.classes, self.size, self.residual_units, *self.channels)


class Ready(Protocol):
    """A published network, of slices or of volumes."""

    @property
    def ready(self) -> tuple[nn.Module, torch.dtype | None]:
        """The network to predict with, and what its input must be."""
        ...


class Member(Protocol):
    """One member of a committee, a function of the image alone."""

    @property
    def kind(self) -> Hashable:
        """Members of one kind are `given` the same."""
        ...

    def given(self, batch: Tensor) -> tuple[Any, Tensor]:
        """A batch as the network takes it, and what leads back from there."""
        ...

    def probs(self, back: Any, given: Tensor) -> Tensor:
        """(B, C, *S) float32, at the images' own size."""
        ...

    def log_probs(self, back: Any, given: Tensor, *, coarse: bool) -> Tensor:
        """The logarithms of `probs`; if `coarse`, on the network's grid instead."""
        ...


@dataclass(frozen=True)
class Network:
    """A `Member` that sees slices; thinned if `drops` is given."""

    model: Model
    drops: Fixed | None = None

    @property
    def kind(self) -> tuple[int, torch.device]:
        """Networks of one kind get a slice in the same frame, on the same device."""
        return self.model.reach, self.model.device

    def given(self, batch: Tensor) -> tuple[Frame, Tensor]:
        """(B, 1, H, W) -> their frame, and (B, 1, S, S) in it."""
        frame = Frame(int(batch.shape[2]), int(batch.shape[3]), self.model.reach)
        return frame, frame.images(batch.to(self.model.device))

    @torch.no_grad()
    def probs(self, back: Frame, given: Tensor) -> Tensor:
        """(B, 1, S, S) that `back` made -> (B, C, H, W) float32, at the slices' own size."""
        return back.logits(plain(self._logits(given))).softmax(1)

    @torch.no_grad()
    def log_probs(self, back: Frame, given: Tensor, *, coarse: bool) -> Tensor:
        """The logarithms of `probs`; if `coarse`, on the network's grid instead."""
        frame, logits = back, self._logits(given)
        height, width = frame.inner if coarse else (frame.height, frame.width)
        logs = torch.empty((*logits.shape[:2], height, width), device=logits.device)
        for some in blocks(logs):
            part = plain(logits[some])
            part = frame.inside(part) if coarse else frame.logits(part)
            torch.log_softmax(part, 1, out=logs[some])
        return logs

    def _logits(self, framed: Tensor) -> Tensor:
        with dropping(self.drops):
            window = self.model.window
            if window is None:
                return forward(self.model, framed)
            corners = locate(self.model, framed)
            seen = rescale(window.cut(framed, corners))
            return window.paste(forward(self.model, seen), corners)


def forward(model: Ready, images: Tensor) -> Tensor:
    """(B, 1, *S) in 0..1 -> logits (B, C, *S), in the fastest number format of the device."""
    net, dtype = model.ready
    images = channels_last(images)
    with fast(images.device) if dtype is None else nullcontext():
        logits: Tensor = net(images if dtype is None else images.to(dtype))
    return logits


def locate(model: Model, framed: Tensor) -> Tensor:
    """(B, 1, reach, reach) -> (B, 2) corners of the windows, by the model's scout."""
    assert model.window is not None, "a scout looks for the place of a window"
    assert model.scout is not None, "a window has a scout"
    small = functional.interpolate(framed, (model.scout.size,) * 2, mode="bilinear", antialias=True)
    background = forward(model.scout, small).float().softmax(1)[:, 0]
    return model.window.corners(1 - background)


def plain(logits: Tensor) -> Tensor:
    """In float32, channels first; otherwise resampling and softmax take far longer on a CPU."""
    return torch.empty(logits.shape, device=logits.device).copy_(logits)


def probs(networks: Sequence[Member], images: Iterable[Tensor]) -> Iterator[Tensor]:
    """(B, 1, *S) -> (M, B, C, *S) float32, summing to 1 over C, on the images' device."""
    for batch in images:
        members = [network.probs(*given) for network, given in _given(networks, batch)]
        yield torch.stack([member.to(batch.device) for member in members])


def log_probs(
    networks: Sequence[Member], images: Iterable[Tensor], *, coarse: bool = False
) -> Iterator[Iterator[Tensor]]:
    """Per batch, each network's (B, C, *S) log-probabilities, on the networks' device.

    If `coarse`, S is the image's size on the network's grid.
    """
    return (
        (network.log_probs(*given, coarse=coarse) for network, given in _given(networks, batch))
        for batch in images
    )


def _given(
    networks: Sequence[Member], batch: Tensor
) -> Iterator[tuple[Member, tuple[Any, Tensor]]]:
    """Each network with the batch as it takes it, made once for all of a kind."""
    made: dict[Hashable, tuple[Any, Tensor]] = {}
    for network in networks:
        if network.kind not in made:
            made[network.kind] = network.given(batch)
        yield network, made[network.kind]


@torch.no_grad()
def features(model: Model, batch: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, D) float32: the mean of the deepest activation over what `net` sees."""
    frame = Frame(int(batch.shape[2]), int(batch.shape[3]), model.reach)
    seen, _ = _seen(model, frame.images(batch.to(model.device)))
    with fast(model.device):
        deepest = bottleneck(model.net, channels_last(seen))
    return deepest.float().mean((2, 3)).to(batch.device)


def gradients(model: Model, batch: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, G) float32, see `last_layer_gradients`; the loss is at full size."""
    frame = Frame(int(batch.shape[2]), int(batch.shape[3]), model.reach)
    seen, corners = _seen(model, frame.images(batch.to(model.device)))

    def logits(net: nn.Module, images: Tensor) -> Tensor:
        found: Tensor = net(images)
        if corners is not None and model.window is not None:
            found = model.window.paste(found, corners)
        return frame.logits(found)

    return last_layer_gradients(model.net, seen, logits).to(batch.device)


@torch.no_grad()
def _seen(model: Model, framed: Tensor) -> tuple[Tensor, Tensor | None]:
    """What the network sees of slices in their frame, and the corners of the windows, if any.

    Intensities are rescaled within the window, so that what is bright far away changes nothing.
    """
    if model.window is None:
        return framed, None
    corners = locate(model, framed)
    return rescale(model.window.cut(framed, corners)), corners


def ready_to_predict(net: nn.Module) -> tuple[nn.Module, torch.dtype | None]:
    """See `Model.ready`."""
    device = next(net.parameters()).device
    dtype = fast_dtype(device)
    if device.type != "cpu" or dtype is None:
        return net, None
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, CONVOLUTIONS):
            module.to(dtype)
    return net, dtype


def fast(device: torch.device) -> torch.autocast:
    """Autocast to `fast_dtype`, if the device has one."""
    dtype = fast_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
