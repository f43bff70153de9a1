"""Oracles that answer from what a cohort already holds, so that the loop runs without a person."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alnb.data.cohort import Cohort
from alnb.data.scribbles import scribble_from_mask
from alnb.errors import BadInput
from alnb.records import Annotation, Mask, Scribble, SliceId
from alnb.rng import stream
from alnb.store.blobs import npy

OracleKind = Literal["scribble", "simulated", "mask"]


@dataclass(frozen=True)
class SimulatedOracle:
    """Answers with what `cohort` holds.

    kind : "scribble" gives the stored expert scribble, "simulated" draws strokes from the
        reference mask (the same strokes for the same slice and seed), "mask" gives the mask.

    BadInput when the slice has no such thing.
    """

    cohort: Cohort
    kind: OracleKind = "scribble"
    seed: int = 0
    name: str = "oracle"

    def annotate(self, slice_id: SliceId) -> tuple[Annotation, dict[str, NDArray[np.uint8]]]:
        """The answer, and the label maps that it names by SHA-256."""
        if self.kind == "simulated":
            mask = self._stored(slice_id, "reference mask", self.cohort.reference(slice_id))
            rng = stream(self.seed, "oracle", str(slice_id))
            strokes = scribble_from_mask(mask, rng=rng, classes=len(self.cohort.classes))
            return Annotation(slice_id, Scribble(strokes), self.name), {}
        if self.kind == "scribble":
            stored = self._stored(slice_id, "scribble", self.cohort.scribble(slice_id))
        else:
            stored = self._stored(slice_id, "reference mask", self.cohort.reference(slice_id))
        sha = hashlib.sha256(npy(stored)).hexdigest()
        return Annotation(slice_id, Mask(sha), self.name), {sha: stored}

    def _stored(
        self, slice_id: SliceId, what: str, value: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        if value is None:
            raise BadInput(
                f"{slice_id} has no {what}, which an oracle of kind {self.kind!r} needs. "
                "Choose another kind, or a cohort that holds it."
            )
        return value
