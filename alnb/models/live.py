"""Live proposals: a label map of one slice from the strokes drawn so far, while a person draws.

Strokes spread over the slice by a random walk that edges hold back (Grady, TPAMI 2006). On its way
every pixel is drawn a little towards the classes whose strokes are near and of the same grey, and
towards what a trained network thinks where there is one (Grady, CVPR 2005). There is nothing to
train, so the first stroke of the first round already has a proposal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput
from alnb.models.live_features import (
    Field,
    Window,
    around,
    closeness,
    greys_of,
    grown,
    shrunk,
    shrunk_labels,
)
from alnb.models.live_shape import slim, touching
from alnb.models.live_walk import edge_weights, walk
from alnb.models.prior import with_far_background
from alnb.records import IGNORE, Floats, LabelMap

if TYPE_CHECKING:
    from torch import Tensor

# Lengths are in pixels of a slice of 256. A stroke speaks for pixels within about _REACH of it and
# within _TONE of its grey.
_REACH = 12.0
_TONE = 0.06
# how much an edge holds a walker back, and the least that leads across one: see `edge_weights`
_STEEPNESS = 10.0
_LEAST_EDGE = 1e-3
# how strongly a pixel is drawn to strokes near and alike, to a network's opinion that no such
# stroke contradicts, and at least: see `walk`
_HEARSAY = 3e-4
_TRUST = 0.2
_LEAST_PULL = 1e-5
# a structure may lie this many times as far from its stroke as its border does in the middle of it
_GIRTH = 1.5
# how far from the strokes a structure may extend, as a share of their extent and at least
_MARGIN = 0.75
_LEAST_MARGIN = 24


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the proposals of one slice share; never edited, so any thread may use it.

    Attributes
    ----------
    grey : (H, W) float32 in 0..1, lightly smoothed.
    channels : (F, H, W) float32 in which edges are looked for; the first is `grey`.
    prior : (C, H, W) float32 class probabilities of the trained network; None before there is one.
    """

    grey: Field
    channels: Field
    prior: Field | None


@dataclass(frozen=True, eq=False)
class Proposal:
    """A label map of a whole slice, and how sure each pixel of it is.

    Attributes
    ----------
    labels : (H, W) uint8 class codes, never IGNORE.
    confidence : (H, W) float32 in 0..1: by how much the class is more probable than the second; 1
        where a person drew.
    """

    labels: LabelMap
    confidence: Field


@dataclass(frozen=True)
class LiveProposer:
    """Makes proposals from strokes; keeps nothing between calls, so one serves all slices.

    Attributes
    ----------
    classes : C, background included.
    cells : most grid cells on which the walk runs; a larger window is walked on a coarser grid.
    """

    classes: int
    cells: int = 16_384

    def __post_init__(self) -> None:
        if not 2 <= self.classes < IGNORE:
            raise ValueError(f"A proposal needs 2 to {IGNORE - 1} classes, not {self.classes}.")

    def prepare(
        self,
        image: Floats,
        features: Floats | Tensor | None = None,
        prior: NDArray[np.float32] | None = None,
    ) -> Prepared:
        """What is needed of one slice once, before its first stroke.

        Parameters
        ----------
        image : (H, W); values that are not finite count as the darkest.
        features : (F, h, w) of any size, such as a network's; edges are sought in them too.
        prior : (C, H, W) class probabilities of the trained network.

        BadInput for other shapes.
        """
        from scipy.ndimage import gaussian_filter

        if image.ndim != 2 or not image.size:
            raise BadInput(f"A slice of shape {image.shape} has no proposals: it must be (H, W).")
        if prior is not None and prior.shape != (self.classes, *image.shape):
            raise BadInput(
                f"The network's probabilities are {prior.shape}; {self.classes} classes on this "
                f"slice need {(self.classes, *image.shape)}."
            )
        grey = gaussian_filter(greys_of(image), 1.0)
        channels = grey[None]
        if features is not None:
            channels = np.concatenate([channels, _maps(features, image.shape)])
        return Prepared(grey, channels, None if prior is None else _probabilities(prior))

    def propose(self, prepared: Prepared, labels: LabelMap) -> Proposal | None:
        """The proposal for strokes drawn so far; None where nothing is drawn.

        labels: (H, W) uint8 codes, IGNORE where nobody said. Drawn pixels keep their class. Without
        a network's opinion every part of a foreground class touches a stroke of it, what no stroke
        reaches is background, and so is everything where only background is drawn.

        BadInput if `labels` is of another size than the slice, or has a class that does not exist.
        """
        self._check(prepared, labels)
        drawn = labels != IGNORE
        if not drawn.any():
            return None
        prior = prepared.prior
        if prior is None:
            everywhere: Field = np.zeros((self.classes, *labels.shape), np.float32)
            everywhere[0] = 1.0
            if not (drawn & (labels != 0)).any():
                return _proposal(everywhere, labels)
            seeds, subject = with_far_background(labels), drawn & (labels != 0)
        else:
            everywhere = prior.copy()
            seeds, subject = labels, drawn | (prior[0] < 0.5)
        window = around(subject, _MARGIN, round(_LEAST_MARGIN * self._scale(labels)))
        everywhere[(slice(None), *window)] = self._inside(prepared, labels, seeds, window)
        if prior is None:
            everywhere = touching(everywhere, labels)
        return _proposal(everywhere, labels)

    def _inside(
        self, prepared: Prepared, labels: LabelMap, seeds: LabelMap, window: Window
    ) -> Field:
        """Probabilities (C, h, w) within the window."""
        shape = labels[window].shape
        step = max(1, int(np.ceil(np.sqrt(np.prod(shape) / self.cells))))
        grey = shrunk(prepared.grey[window], step)
        strokes = shrunk_labels(labels[window], step, self.classes)
        known = shrunk_labels(seeds[window], step, self.classes)
        reach = _REACH * self._scale(labels) / step
        prior = prepared.prior
        if prior is None:
            target, pull = self._hearsay(grey, known, reach, alone=not (labels == 0).any())
            known = _framed(known, window, labels.shape)
        else:
            opinion = shrunk(prior[(slice(None), *window)], step)
            target, pull = self._corrected(grey, strokes, reach, opinion)
        weights = edge_weights(
            shrunk(prepared.channels[(slice(None), *window)], step), _STEEPNESS, _LEAST_EDGE
        )
        found, _ = walk(weights, known, target, pull)
        if prior is None:
            found = slim(found, strokes, _GIRTH)
        return grown(found, step, shape)

    def _hearsay(
        self, grey: Field, known: LabelMap, reach: float, *, alone: bool
    ) -> tuple[Field, Field]:
        """What strokes near and alike say, and how strongly.

        alone: no background is drawn yet; then what is unlike all strokes is background.
        """
        codes = np.arange(self.classes, dtype=np.uint8)[:, None, None]
        marks = (known == codes).astype(np.float32)
        counts = marks.sum(axis=(1, 2), keepdims=True)
        density = closeness(grey, marks, reach, _TONE) / np.maximum(counts, 1)
        at_strokes = density.max(axis=0)[known != IGNORE]
        usual = float(np.median(at_strokes)) if at_strokes.size else 1.0
        heard = density.sum(axis=0)
        pull = _HEARSAY * heard / (heard + 0.5 * usual + 1e-12)
        if alone:
            density[0] += 0.15 * usual
            pull = np.maximum(pull, 0.5 * _HEARSAY)
        density += 1e-9
        return density / density.sum(axis=0), np.maximum(pull, _LEAST_PULL)

    def _corrected(
        self, grey: Field, strokes: LabelMap, reach: float, opinion: Field
    ) -> tuple[Field, Field]:
        """The network's opinion, silent where strokes near and alike contradict it."""
        believed = opinion.argmax(axis=0)
        wrong = (strokes != IGNORE) & (strokes != believed)
        marks = np.stack([wrong, strokes != IGNORE]).astype(np.float32)
        against, _ = closeness(grey, marks, reach, _TONE)
        usual = float(np.median(against[wrong])) if wrong.any() else 1.0
        doubt = against / (against + 0.2 * usual + 1e-12)
        return opinion, np.maximum(_TRUST * (1 - doubt) ** 2, _LEAST_PULL)

    def _scale(self, labels: LabelMap) -> float:
        """Pixels of this slice to one of a slice of 256."""
        return float(max(labels.shape)) / 256

    def _check(self, prepared: Prepared, labels: LabelMap) -> None:
        if labels.shape != prepared.grey.shape:
            raise BadInput(
                f"Strokes of shape {labels.shape} do not fit a slice of {prepared.grey.shape}."
            )
        strange = labels[(labels != IGNORE) & (labels >= self.classes)]
        if strange.size:
            raise BadInput(
                f"Class {strange.flat[0]} is drawn; codes are 0 to {self.classes - 1}, and "
                f"{IGNORE} where nobody said."
            )


def _maps(features: Floats | Tensor, shape: tuple[int, ...]) -> Field:
    """Feature maps at the slice's size, each between 0 and 1 like its greys."""
    from skimage.transform import resize

    maps = np.asarray(features, dtype=np.float32)
    if maps.ndim != 3 or not maps.size:
        raise BadInput(f"Features of shape {maps.shape} are no maps: they must be (F, h, w).")
    return np.stack([greys_of(resize(one, shape, order=1)) for one in maps])


def _probabilities(prior: NDArray[np.float32]) -> Field:
    """The prior where it is a distribution; uniform where it is not finite."""
    clean = np.where(np.isfinite(prior), np.clip(prior, 0, None), 0).astype(np.float32) + 1e-6
    total: Field = clean / clean.sum(axis=0)
    return total


def _framed(known: LabelMap, window: Window, shape: tuple[int, ...]) -> LabelMap:
    """Background on the sides of the window that lie inside the slice: no stroke reaches there."""
    framed = known.copy()
    rows, columns = window
    sides = (
        (rows.start > 0, np.s_[0]),
        (rows.stop < shape[0], np.s_[-1]),
        (columns.start > 0, np.s_[:, 0]),
        (columns.stop < shape[1], np.s_[:, -1]),
    )
    for within, side in sides:
        if within:
            edge = framed[side]
            edge[edge == IGNORE] = 0
    return framed


def _proposal(probs: Field, labels: LabelMap) -> Proposal:
    drawn = labels != IGNORE
    best = probs.argmax(axis=0).astype(np.uint8)
    two = np.partition(probs, len(probs) - 2, axis=0)[-2:]
    confidence = np.clip(two[1] - two[0], 0, 1).astype(np.float32)
    return Proposal(
        np.where(drawn, labels, best).astype(np.uint8),
        np.where(drawn, np.float32(1), confidence).astype(np.float32),
    )
