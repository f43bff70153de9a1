"""A learner over whole volumes, streamed in small batches so that memory stays flat.

What comes out is by slices throughout, whether a learner looks at slices or at volumes: see
`in_slices`, which is the one place that knows the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alnb.protocols import GradientLearner
from alnb.records import Floats, LabelMap, Unit

BATCH = 16
"""Slices per forward pass: beyond this a CPU gains nothing, and 16 slices of 512² still fit."""


class Predictor(Protocol):
    """The half of a `Learner` that needs no training."""

    @property
    def unit(self) -> Unit:
        """What one image is."""
        ...

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """See `Learner.probs`."""
        ...

    def features(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """See `Learner.features`."""
        ...


@runtime_checkable
class MemberLearner(Protocol):
    """What a learner may offer besides: its members one after another, instead of all at once."""

    def log_probs(
        self, images: Iterable[Tensor], *, coarse: bool = False
    ) -> Iterator[Iterator[Tensor]]:
        """See `member_log_probs`. ColdStart before the first fit."""
        ...


def member_log_probs(
    learner: Predictor, images: Iterable[Tensor], *, coarse: bool = False
) -> Iterator[Iterator[Tensor]]:
    """Per batch (B, 1, H, W), an iterator over the members' log-probabilities, (B, C, H, W) each.

    A learner of volumes takes (B, 1, Z, H, W) and gives (B, C, Z, H, W) each. They are on the
    learner's device; use up a batch before the next. If `coarse`, H and W are those of the slice on
    the learner's own grid, where that is not the slice's: the same field of view, without the time
    that resampling takes. A learner that is no `MemberLearner` computes all members at once, never
    coarse; there, the logarithm of 0 is the lowest number.
    """
    if isinstance(learner, MemberLearner):
        return learner.log_probs(images, coarse=coarse)
    return (map(_finite_log, stacked) for stacked in learner.probs(images))


def stacked_probs(
    learner: Predictor, images: Iterable[Tensor], *, coarse: bool = False
) -> Iterator[Tensor]:
    """As `Learner.probs`; if `coarse`, on the learner's own grid, see `member_log_probs`."""
    if not coarse or not isinstance(learner, MemberLearner):
        return learner.probs(images)
    return (
        torch.stack([member.exp() for member in members])
        for members in learner.log_probs(images, coarse=True)
    )


def mean_probs(learner: Predictor, images: Iterable[Tensor]) -> Iterator[Tensor]:
    """(B, 1, H, W) -> (B, C, H, W): the mean over the members, of whom one at a time is held.

    Batches are slices, see `batches`.
    """
    learner = in_slices(learner)
    if not isinstance(learner, MemberLearner):
        yield from (stacked.mean(0) for stacked in learner.probs(images))
        return
    for members in learner.log_probs(images):
        mean = next(members).exp()
        for count, member in enumerate(members, start=2):
            mean.lerp_(member.exp(), 1 / count)
        yield mean


def predict_volume(learner: Predictor, volume: Floats, *, batch: int = BATCH) -> LabelMap:
    """Most probable class of every voxel. (Z, H, W) intensities -> (Z, H, W) uint8."""
    means = mean_probs(learner, batches(learner, volume, batch=batch))
    return torch.cat([mean.argmax(1).to(torch.uint8).cpu() for mean in means]).numpy()


def volume_probs(learner: Predictor, volume: Floats, *, batch: int = BATCH) -> NDArray[np.float32]:
    """Class probabilities, the mean over the members. (Z, H, W) -> (Z, C, H, W) float32."""
    means = mean_probs(learner, batches(learner, volume, batch=batch))
    return torch.cat([mean.cpu() for mean in means]).numpy()


@dataclass(frozen=True)
class InSlices:
    """A learner of volumes as one of slices: a batch is all slices of one volume, in order.

    What it says of the volume as a whole, its features, it says of each slice.
    """

    learner: Predictor
    unit: ClassVar[Unit] = "slice"

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(Z, 1, H, W) -> (M, Z, C, H, W)."""
        return map(_slices, self.learner.probs(map(_volume, images)))

    def log_probs(
        self, images: Iterable[Tensor], *, coarse: bool = False
    ) -> Iterator[Iterator[Tensor]]:
        """(Z, 1, H, W) -> (Z, C, H, W) of each member; if `coarse`, at the nearest planes."""
        for batch in images:
            members = next(member_log_probs(self.learner, [_volume(batch)], coarse=coarse))
            yield (_planes(_slices(member), len(batch)) for member in members)

    def features(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(Z, 1, H, W) -> (Z, D)."""
        for batch in images:
            yield next(iter(self.learner.features([_volume(batch)]))).expand(len(batch), -1)

    def gradients(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(Z, 1, H, W) -> (Z, G), of a `GradientLearner`."""
        learner = cast("GradientLearner", self.learner)
        for batch in images:
            yield next(iter(learner.gradients([_volume(batch)]))).expand(len(batch), -1)


def in_slices(learner: Predictor) -> Predictor:
    """`learner` itself if it is one of slices, else `InSlices` of it, which takes `batches`."""
    return learner if learner.unit == "slice" else InSlices(learner)


def batches(learner: Predictor, volume: Floats, *, batch: int = BATCH) -> Iterator[Tensor]:
    """(Z, H, W) -> what `in_slices(learner)` takes of it: (B, 1, H, W), or all Z slices at once."""
    return batched(volume, batch=len(volume) if learner.unit == "volume" else batch)


def batched(slices: Iterable[Floats], *, batch: int = BATCH) -> Iterator[Tensor]:
    """(H, W) arrays of any sizes -> (B, 1, H, W) float32 tensors, in order.

    A batch ends at `batch` slices or where the size changes, so every batch has one shape.
    """
    waiting: list[Floats] = []
    for image in slices:
        if waiting and (len(waiting) == batch or waiting[0].shape != image.shape):
            yield _stack(waiting)
            waiting = []
        waiting.append(image)
    if waiting:
        yield _stack(waiting)


def _finite_log(probs: Tensor) -> Tensor:
    logs = (probs if probs.dtype == torch.float64 else probs.float()).log()
    return logs.clamp_min(torch.finfo(logs.dtype).min)


def _volume(slices: Tensor) -> Tensor:
    """(Z, 1, H, W) -> (1, 1, Z, H, W)."""
    return slices.transpose(0, 1)[None]


def _slices(maps: Tensor) -> Tensor:
    """(..., 1, C, Z, H, W) -> (..., Z, C, H, W), no copy."""
    return maps.squeeze(-5).transpose(-4, -3)


def _planes(maps: Tensor, depth: int) -> Tensor:
    """Of (z, ...) planes the nearest of each of `depth` slices that fill the same length."""
    if len(maps) == depth:
        return maps
    middles = (torch.arange(depth, device=maps.device) + 0.5) * (len(maps) / depth)
    return maps[middles.long()]


def _stack(slices: Sequence[Floats]) -> Tensor:
    return torch.from_numpy(np.stack(slices).astype(np.float32, copy=False))[:, None]
