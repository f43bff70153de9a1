"""A trained network of volumes and how it runs: on one grid, or patch by patch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from alnb.models.hardware import channels_last
from alnb.models.network import fast, forward, plain, ready_to_predict
from alnb.models.unet import bottleneck
from alnb.models.volume_samples import Shape, stretched

_PATCHES = 4
"""Patches per forward pass."""


@dataclass(frozen=True)
class VolumeModel:
    """One published network. Never edited, so any thread may run it while the next one trains.

    Attributes
    ----------
    size : grid that whole volumes are stretched to; None for patches.
    patch : voxels of a patch; None for whole volumes.
    """

    net: nn.Module
    classes: int
    size: Shape | None
    patch: Shape | None
    channels: tuple[int, ...]
    residual_units: int

    @cached_property
    def ready(self) -> tuple[nn.Module, torch.dtype | None]:
        """See `alnb.models.network.Model.ready`."""
        return ready_to_predict(self.net)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters()).device

    @property
    def config(self) -> tuple[int, ...]:
        """Classes, residual units, 1 for patches, three sides, channels."""
        sides = self.size or self.patch
        assert sides is not None, "a model has one of the two"
        return (self.classes, self.residual_units, int(self.size is None), *sides, *self.channels)


@dataclass(frozen=True)
class VolumeNetwork:
    """A `Member` that sees volumes. `overlap` of neighbouring patches, as a share of their side."""

    model: VolumeModel
    overlap: float = 0.5

    @property
    def kind(self) -> tuple[Shape | None, torch.device]:
        """Networks of one kind get a volume on the same grid, on the same device."""
        return self.model.size, self.model.device

    def given(self, batch: Tensor) -> tuple[Shape, Tensor]:
        """(B, 1, Z, H, W) -> their own size, and the volumes on the grid, if there is one."""
        own = int(batch.shape[2]), int(batch.shape[3]), int(batch.shape[4])
        return own, _given(self.model, batch)

    @torch.no_grad()
    def probs(self, back: Shape, given: Tensor) -> Tensor:
        """(B, C, Z, H, W) float32, at the volumes' own size."""
        return stretched(self._logits(given), back).softmax(1)

    @torch.no_grad()
    def log_probs(self, back: Shape, given: Tensor, *, coarse: bool) -> Tensor:
        """The logarithms of `probs`; if `coarse`, on the network's grid instead."""
        logits = self._logits(given)
        return (logits if coarse else stretched(logits, back)).log_softmax(1)

    def _logits(self, given: Tensor) -> Tensor:
        if self.model.patch is None:
            return plain(forward(self.model, given))
        from monai.inferers.utils import sliding_window_inference  # monai takes seconds to import

        logits = sliding_window_inference(
            given,
            self.model.patch,
            _PATCHES,
            lambda patches: plain(forward(self.model, patches)),
            overlap=self.overlap,
            mode="gaussian",
        )
        assert isinstance(logits, Tensor), "one network gives one map"
        return logits


@torch.no_grad()
def features(model: VolumeModel, batch: Tensor) -> Tensor:
    """(B, 1, Z, H, W) -> (B, D) float32: the mean of the deepest activation over the volume."""
    given = _given(model, batch)
    if model.size is None:
        stride = 2 ** (len(model.channels) - 1)  # the most that any strides come to
        more = [-side % stride for side in given.shape[2:]]
        given = functional.pad(given, [value for extra in more[::-1] for value in (0, extra)])
    with fast(model.device):
        deepest = bottleneck(model.net, channels_last(given))
    return deepest.float().mean((2, 3, 4)).to(batch.device)


def _given(model: VolumeModel, batch: Tensor) -> Tensor:
    clean = torch.nan_to_num(batch.float().to(model.device), posinf=0.0, neginf=0.0)
    return clean if model.size is None else stretched(clean, model.size)
