"""What a model says of single slices, held by checkpoint so that looking again costs nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alnb.data.cohort import Cohort
from alnb.data.volume import ArrayCache
from alnb.protocols import Learner
from alnb.records import LabelMap, SliceId

LABEL_BYTES = 64 << 20
PROBABILITY_BYTES = 256 << 20
"""Held up to here, or the volume looked at last where that alone is more."""


class Glimpses:
    """Predictions of single slices.

    A learner of volumes predicts the whole volume, once per checkpoint, and every slice of it is
    held: whoever looks at one is about to look at its neighbours. Its probabilities are held as
    float16. A learner of slices predicts one slice, of which the label map is held.
    """

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._labels = ArrayCache(LABEL_BYTES)
        self._probabilities = ArrayCache(PROBABILITY_BYTES)

    def at_hand(self, learner: Learner, checkpoint: str, slice_id: SliceId) -> bool:
        """Whether the others need no time to speak of: a slice is soon predicted, a volume not."""
        key = checkpoint, slice_id.volume
        return learner.unit == "slice" or (key in self._labels and key in self._probabilities)

    def labels(self, learner: Learner, checkpoint: str, slice_id: SliceId) -> LabelMap:
        """(H, W) uint8, read-only: the most probable class."""
        if learner.unit == "slice":
            return self._labels.get(
                (checkpoint, slice_id), lambda: _likeliest(self._of_slice(learner, slice_id))
            )
        key = checkpoint, slice_id.volume

        def predicted() -> LabelMap:
            # exact, and in one pass with the probabilities that a live proposal will want
            probs = self._of_volume(learner, slice_id)
            self._probabilities.get(key, lambda: probs.astype(np.float16))
            return _likeliest(probs)

        labels: LabelMap = self._labels.get(key, predicted)[slice_id.index]
        return labels

    def probabilities(
        self, learner: Learner, checkpoint: str, slice_id: SliceId
    ) -> NDArray[np.float32]:
        """(C, H, W), mean over the members."""
        if learner.unit == "slice":
            return self._of_slice(learner, slice_id)
        held = self._probabilities.get(
            (checkpoint, slice_id.volume),
            lambda: self._of_volume(learner, slice_id).astype(np.float16),
        )
        found: NDArray[np.float32] = held[slice_id.index].astype(np.float32)
        return found

    def _of_slice(self, learner: Learner, slice_id: SliceId) -> NDArray[np.float32]:
        """(C, H, W)."""
        from alnb.models.infer import volume_probs

        image = self._cohort.slice_image(slice_id)
        found: NDArray[np.float32] = volume_probs(learner, image[None])[0]
        return found

    def _of_volume(self, learner: Learner, slice_id: SliceId) -> NDArray[np.float32]:
        """(Z, C, H, W)."""
        from alnb.models.infer import volume_probs

        return volume_probs(learner, self._cohort.volumes[slice_id.volume].image())


def _likeliest(probs: NDArray[np.float32]) -> LabelMap:
    """(..., C, H, W) -> (..., H, W)."""
    labels: LabelMap = probs.argmax(-3).astype(np.uint8)
    return labels
