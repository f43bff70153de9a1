"""A learner over whole volumes, streamed in small batches so that memory stays flat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alnb.protocols import Learner
from alnb.records import Floats, LabelMap

BATCH = 16
"""Slices per forward pass: beyond this a CPU gains nothing, and 16 slices of 512² still fit."""


@runtime_checkable
class MemberLearner(Protocol):
    """What a learner may offer besides: its members one after another, instead of all at once."""

    def log_probs(
        self, images: Iterable[Tensor], *, coarse: bool = False
    ) -> Iterator[Iterator[Tensor]]:
        """See `member_log_probs`. ColdStart before the first fit."""
        ...


def member_log_probs(
    learner: Learner, images: Iterable[Tensor], *, coarse: bool = False
) -> Iterator[Iterator[Tensor]]:
    """Per batch (B, 1, H, W), an iterator over the members' log-probabilities, (B, C, H, W) each.

    They are on the learner's device; use up a batch before the next. If `coarse`, H and W are those
    of the slice on the learner's own grid, where that is not the slice's: the same field of view,
    without the time that resampling takes. A learner that is no `MemberLearner` computes all
    members at once, never coarse; there, the logarithm of 0 is the lowest number.
    """
    if isinstance(learner, MemberLearner):
        return learner.log_probs(images, coarse=coarse)
    return (map(_finite_log, stacked) for stacked in learner.probs(images))


def stacked_probs(
    learner: Learner, images: Iterable[Tensor], *, coarse: bool = False
) -> Iterator[Tensor]:
    """As `Learner.probs`; if `coarse`, on the learner's own grid, see `member_log_probs`."""
    if not coarse or not isinstance(learner, MemberLearner):
        return learner.probs(images)
    return (
        torch.stack([member.exp() for member in members])
        for members in learner.log_probs(images, coarse=True)
    )


def mean_probs(learner: Learner, images: Iterable[Tensor]) -> Iterator[Tensor]:
    """(B, 1, H, W) -> (B, C, H, W): the mean over the members, of whom one at a time is held."""
    if not isinstance(learner, MemberLearner):
        yield from (stacked.mean(0) for stacked in learner.probs(images))
        return
    for members in learner.log_probs(images):
        mean = next(members).exp()
        for count, member in enumerate(members, start=2):
            mean.lerp_(member.exp(), 1 / count)
        yield mean


def predict_volume(learner: Learner, volume: Floats, *, batch: int = BATCH) -> LabelMap:
    """Most probable class of every voxel. (Z, H, W) intensities -> (Z, H, W) uint8."""
    means = mean_probs(learner, batched(volume, batch=batch))
    return torch.cat([mean.argmax(1).to(torch.uint8).cpu() for mean in means]).numpy()


def volume_probs(learner: Learner, volume: Floats, *, batch: int = BATCH) -> NDArray[np.float32]:
    """Class probabilities, the mean over the members. (Z, H, W) -> (Z, C, H, W) float32."""
    means = mean_probs(learner, batched(volume, batch=batch))
    return torch.cat([mean.cpu() for mean in means]).numpy()


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


def _stack(slices: Sequence[Floats]) -> Tensor:
    return torch.from_numpy(np.stack(slices).astype(np.float32, copy=False))[:, None]
