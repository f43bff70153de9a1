"""Whole volumes out of a learner: label map, uncertainty, and what is done to the map after it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alnb.data.volume import Spacing
from alnb.models.infer import BATCH, MemberLearner, Predictor, batches, in_slices
from alnb.records import Floats, LabelMap


@dataclass(frozen=True, eq=False)
class VolumePrediction:
    """What a learner says of a volume; all arrays are (Z, H, W), on the volume's own grid.

    Attributes
    ----------
    labels : uint8 class codes, the most probable one, or what post-processing made of it.
    uncertainty : float32, entropy of the class probabilities (mean over the members) over ln C:
        0 certain, 1 all classes equally probable. Of the model, so it knows no post-processing.
    information : float32, the part of `uncertainty` that comes from the members' disagreement:
        mutual information of label and member, over ln C as well (BALD; Houlsby et al., arXiv
        1112.5745). None where there is one member.
    removed : voxels that post-processing gave another class; 0 without it.
    """

    labels: LabelMap
    uncertainty: NDArray[np.float32]
    information: NDArray[np.float32] | None = None
    removed: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take."""
        more = 0 if self.information is None else self.information.nbytes
        return self.labels.nbytes + self.uncertainty.nbytes + more


def predict(
    learner: Predictor,
    image: Floats,
    *,
    largest_component: bool = False,
    spacing_mm: Spacing | None = None,
    batch: int = BATCH,
) -> VolumePrediction:
    """Label map and uncertainty of a volume. image: (Z, H, W). ColdStart before the first fit.

    largest_component : keep one piece of each class, see `largest_components`, which alone looks
        at `spacing_mm`.

    Probabilities are streamed, `batch` slices and one member at a time; none are kept. A learner of
    volumes gives all slices at once.
    """
    shape = image.shape
    labels = np.empty(shape, np.uint8)
    uncertainty = np.empty(shape, np.float32)
    information: NDArray[np.float32] | None = None
    classes = start = 0
    for mean, within in _moments(in_slices(learner), batches(learner, image, batch=batch)):
        stop, classes = start + len(mean), mean.shape[1]
        whole = _entropy(mean)
        labels[start:stop] = mean.argmax(1).to(torch.uint8).cpu().numpy()
        uncertainty[start:stop] = whole.cpu().numpy()
        if within is not None:
            information = np.empty(shape, np.float32) if information is None else information
            # exactly 0 for members that agree, whatever the last digit says
            information[start:stop] = (whole - within).clamp_min(0).cpu().numpy()
        start = stop
    if not largest_component:
        return VolumePrediction(labels, uncertainty, information)
    kept = largest_components(labels, classes, spacing_mm=spacing_mm)
    return VolumePrediction(kept, uncertainty, information, int((kept != labels).sum()))


def _moments(
    learner: Predictor, images: Iterable[Tensor]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Per batch (B, C, H, W) mean probabilities and the members' mean entropy, (B, H, W).

    The mean is that of `infer.mean_probs`. There is no entropy (None) where one member is all.
    """
    if not isinstance(learner, MemberLearner):
        for stacked in learner.probs(images):
            alone = len(stacked) == 1
            yield (
                stacked.mean(0),
                None if alone else torch.stack(list(map(_entropy, stacked))).mean(0),
            )
        return
    for members in learner.log_probs(images):
        mean = next(members).exp()
        second = next(members, None)
        if second is None:
            yield mean, None
            continue
        within = _entropy(mean)
        for count, member in enumerate(chain((second,), members), start=2):
            probs = member.exp()
            mean.lerp_(probs, 1 / count)
            within.lerp_(_entropy(probs), 1 / count)
        yield mean, within


def _entropy(probs: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W): entropy over ln C, within 0..1."""
    nats: Tensor = torch.special.entr(probs).sum(1)
    return nats.div_(math.log(probs.shape[1])).clamp_(0, 1)


def largest_components(
    labels: LabelMap, classes: int, *, keep: int = 1, spacing_mm: Spacing | None = None
) -> LabelMap:
    """A copy of `labels` in which each foreground class has at most `keep` pieces, the largest.

    labels : (Z, H, W), codes below `classes`. spacing_mm : (z, y, x), voxels count as cubes
        without it. ValueError for a `keep` below 1: a class would be wiped out.

    Voxels that touch, if only by a corner, are one piece: neighbouring slices are millimetres
    apart and breathing shifts them, so that one organ may go on diagonally. Of equal pieces the
    first in reading order stays.

    A voxel that is taken away gets the class of the nearest voxel that stays, background or not:
    a speck of cavity inside muscle becomes muscle, where background would tear a hole, and a
    second heart in the liver, whose pieces go together, becomes background. It depends on no
    order of classes, and a class that has pieces keeps one.
    """
    from scipy.ndimage import distance_transform_edt

    if keep < 1:
        raise ValueError(f"keep is {keep}; each class keeps 1 piece or more.")
    gone = np.zeros(labels.shape, np.bool_)
    for label in range(1, classes):
        gone |= _small_pieces(labels == label, keep)
    kept = labels.copy()
    if gone.any():
        # whatever lies beyond a rim of one voxel is farther away than some voxel of the rim
        box = _box(gone, rim=1)
        nearest = distance_transform_edt(
            gone[box],
            sampling=(1.0, 1.0, 1.0) if spacing_mm is None else spacing_mm,
            return_distances=False,
            return_indices=True,
        )
        inside = gone[box]
        kept[box][inside] = labels[box][tuple(index[inside] for index in nearest)]
    return kept


def _small_pieces(mask: NDArray[np.bool_], keep: int) -> NDArray[np.bool_]:
    """The voxels of all but the `keep` largest pieces."""
    from scipy.ndimage import label

    if not mask.any():
        return mask
    box = _box(mask, rim=0)
    pieces, count = label(mask[box], structure=np.ones((3, 3, 3)))
    small = np.zeros(mask.shape, np.bool_)
    if count > keep:
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        sizes[0] = 0
        order = np.argsort(-sizes, kind="stable")
        gone = np.ones(count + 1, np.bool_)
        gone[0] = gone[order[:keep]] = False
        small[box] = gone[pieces]
    return small


def _box(mask: NDArray[np.bool_], *, rim: int) -> tuple[slice, ...]:
    """The smallest box around a mask that holds something, and `rim` voxels more on all sides."""
    box = []
    for axis, size in enumerate(mask.shape):
        held = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(0, held[0] - rim), min(size, held[-1] + 1 + rim)))
    return tuple(box)
