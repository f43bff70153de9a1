"""Ask what the committee is unsure of and what is unlike the labelled images.

Source: Nath et al., "Diminishing uncertainty within the training pool", IEEE TMI 2021, arXiv
2101.02323. With H the entropy of the members' mean over an item's voxels, MI the mutual information
of its image with the labelled ones, and hats that bring both to one scale over the candidates,

    S = alpha H^ - MI^ / alpha

and the n largest are asked. The paper sums H over the volume; the mean is the default here, since a
sum favours large images. Hats, alpha, and how MI goes over the labelled set are not stated in the
paper and are assumed. H is the entropy of the mean, not BALD, which that work calls "epistemic".

Where labelled rows stay candidates (the paper's "NoDelete"), MI is what keeps them from being asked
for ever: an image tells all about itself. That is strong with ``aggregate="max"``, and diluted by
the number of labelled rows with "mean".

Cost: one pass of the model over the K candidates, one reading of K + L images, and K joint
histograms for each row that was labelled since the last query. Cold start: ColdStart until a model
is fitted, and while nothing is labelled if the score is redundancy alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from alnb.errors import BadSelection, ColdStart
from alnb.protocols import Snapshot
from alnb.records import Floats, Rows, Selection
from alnb.strategies.common import candidates_for
from alnb.strategies.mutual_information import Matrix
from alnb.strategies.redundancy import Redundancy
from alnb.strategies.scoring import descending
from alnb.strategies.streaming import Sums, streams, summed
from alnb.strategies.uncertainty import PixelScore, SliceScore, entropy, mean, topk_mean, total

if TYPE_CHECKING:
    from torch import Tensor

Hat = Literal["minmax", "zscore", "rank"]
Reduce = Literal["mean", "sum", "fg_mean", "topk_mean"]

_HAIR = 1e-12


@streams("mean")
def foreground_entropy(probs: Tensor | Sums) -> Tensor:
    """`entropy` without the term of class 0, as later code of the same authors has it."""
    import torch

    found: Tensor = torch.special.entr(summed(probs).mean[:, 1:]).sum(dim=1)
    return found


@streams("mean")
def foreground_sums(pixels: Tensor, probs: Tensor | Sums) -> Tensor:
    """(B, 2) the two sums of `fg_mean`, over whose slices a volume's own can be taken."""
    import torch

    weight = (1.0 - summed(probs).mean[:, 0].flatten(1)).clamp_min(0.0)
    return torch.stack([(pixels.flatten(1) * weight).sum(dim=1), weight.sum(dim=1)], dim=1)


def hatted(values: Floats, how: Hat) -> Matrix:
    """(K,) values on a scale of their own, larger staying larger; all 0 where all are equal.

    "minmax" goes from 0 to 1, "zscore" has mean 0 and deviation 1, "rank" goes from 0 to 1 in
    equal steps, ties sharing the mean of theirs.
    """
    found: Matrix = np.asarray(values, dtype=np.float64)
    low, high = found.min(initial=np.inf), found.max(initial=-np.inf)
    # what rounding leaves of a difference between equal values is none
    if not high - low > _HAIR * max(abs(low), abs(high)):
        return np.zeros(len(found))
    if how == "minmax":
        found = (found - low) / (high - low)
    elif how == "zscore":
        found = (found - found.mean()) / found.std()
    else:
        _, place, times = np.unique(found, return_inverse=True, return_counts=True)
        middle = np.cumsum(times) - (times + 1) / 2
        found = middle[place] / (len(found) - 1)
    return found


@dataclass(frozen=True, repr=False)
class EntropyMinusMI:
    """The n candidates with the largest alpha H^ - MI^ / alpha; ties are broken by chance.

    Attributes
    ----------
    uncertainty : a score of pixels, or None to ask by redundancy alone.
    reduce : how an item's pixels become one number: "mean", "sum" as in the paper, "fg_mean"
        (weighted by the probability of foreground) or "topk_mean" (the 5 % of each slice's pixels
        with the largest score). A volume's is over all of its voxels.
    redundancy : mutual information with what is labelled, or None to ask by uncertainty alone.
    alpha : above 1, uncertainty weighs more; redundancy below.
    hat : brings both to one scale: "minmax", "zscore" or "rank", see `hatted`.

    Rows that a wrapper has already taken into the batch count as labelled. BadSelection if the
    model's probabilities give scores that are not numbers.
    """

    uncertainty: PixelScore | None = entropy
    reduce: Reduce = "mean"
    redundancy: Redundancy | None = field(default_factory=Redundancy)
    alpha: float = 1.0
    hat: Hat = "minmax"

    def __post_init__(self) -> None:
        if self.uncertainty is None and self.redundancy is None:
            raise ValueError("Both terms are switched off; give uncertainty, redundancy or both.")
        if not (np.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha is {self.alpha}; it must be a number above 0.")
        if self.reduce not in ("mean", "sum", "fg_mean", "topk_mean"):
            raise ValueError(
                f"reduce is {self.reduce!r}; it must be one of mean, sum, fg_mean, topk_mean."
            )
        if self.hat not in ("minmax", "zscore", "rank"):
            raise ValueError(f"hat is {self.hat!r}; it must be one of minmax, zscore, rank.")

    def __repr__(self) -> str:
        name = getattr(self.uncertainty, "__name__", repr(self.uncertainty))
        return (
            f"EntropyMinusMI({name}, {self.reduce}, {self.redundancy!r}, alpha={self.alpha:g}, "
            f"hat={self.hat})"
        )

    def terms(self, snapshot: Snapshot, rows: Rows) -> tuple[Matrix, Matrix]:
        """(len(rows),) H and MI as they are, before their hats; 0 for one that is switched off."""
        unsure = redundant = np.zeros(len(rows))
        if self.uncertainty is not None:
            unsure = self._unsure(self.uncertainty, snapshot, rows)
        elif not len(snapshot.labelled):
            raise ColdStart(
                "Nothing is labelled yet, so nothing is redundant. Label an item, or wrap the "
                "strategy: WarmStart(Strided(), ...)."
            )
        if self.redundancy is not None:
            redundant = self.redundancy.to_labelled(snapshot, rows)
        return unsure, redundant

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates, highest score first, with their scores."""
        rows = candidates_for(snapshot, n)
        if not n:
            return Selection(rows=rows[:0], scores=np.empty(0))
        unsure, redundant = self.terms(snapshot, rows)
        scores = self.alpha * hatted(unsure, self.hat)
        scores -= hatted(redundant, self.hat) / self.alpha
        order = descending(scores, rng=rng)[:n]
        return Selection(rows=rows[order], scores=scores[order])

    def _unsure(self, score: PixelScore, snapshot: Snapshot, rows: Rows) -> Matrix:
        """(len(rows),) of each item's voxels together; `Snapshot.reduce` gives means of slices."""
        reductions = {"mean": mean, "sum": total, "fg_mean": foreground_sums}
        reduction = reductions.get(self.reduce, topk_mean)
        found = snapshot.reduce(SliceScore(score, reduction), rows)
        broken = np.flatnonzero(~np.isfinite(found.reshape(len(rows), -1)).all(axis=1))
        if len(broken):
            raise BadSelection(
                f"{self} is not a number for {len(broken)} of {len(rows)} candidates, first "
                f"{snapshot.pool.ids[rows[broken[0]]]}. The model's outputs are broken: train it "
                "again, or ask with a strategy that needs no model."
            )
        values: Matrix = np.asarray(found, dtype=np.float64)
        if self.reduce == "sum":
            values = values * [len(snapshot.pool.slices[row]) for row in rows]
        elif self.reduce == "fg_mean":
            pair = values.reshape(-1, 2)
            values = pair[:, 0] / np.where(pair[:, 1] > 0, pair[:, 1], 1.0)
        return values
