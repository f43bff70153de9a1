"""A learner over whole volumes, streamed in small batches so that memory stays flat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alnb.protocols import Learner
from alnb.records import Floats, LabelMap

BATCH = 16
"""Slices per forward pass: beyond this a CPU gains nothing, and 16 slices of 512² still fit."""


def predict_volume(learner: Learner, volume: Floats, *, batch: int = BATCH) -> LabelMap:
    """Most probable class of every voxel. (Z, H, W) intensities -> (Z, H, W) uint8."""
    labels = [mean.argmax(1).to(torch.uint8) for mean in _mean_probs(learner, volume, batch)]
    return torch.cat(labels).numpy()


def volume_probs(learner: Learner, volume: Floats, *, batch: int = BATCH) -> NDArray[np.float32]:
    """Class probabilities, the mean over the members. (Z, H, W) -> (Z, C, H, W) float32."""
    return torch.cat(list(_mean_probs(learner, volume, batch))).numpy()


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


def _mean_probs(learner: Learner, volume: Floats, batch: int) -> Iterator[Tensor]:
    for probs in learner.probs(batched(volume, batch=batch)):
        yield probs.mean(0).cpu()


def _stack(slices: Sequence[Floats]) -> Tensor:
    return torch.from_numpy(np.stack(slices).astype(np.float32, copy=False))[:, None]
