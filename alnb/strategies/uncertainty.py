"""Ask where the model is unsure: scores per pixel, one number per slice, and the top n.

A pixel score maps probabilities (M, B, C, H, W), which sum to 1 over C, to (B, H, W); larger means
less sure. A reduction turns that into (B,). Logarithms are natural, and 0 log 0 is 0. Any number
of trailing axes will do in place of H, W. Most also take the members' sums, see
`alnb.strategies.streaming`, so that a committee of any size is scored in the memory of one.

Sources: BALD, Houlsby et al. 2011, arXiv 1112.5745, and Gal et al. 2017, arXiv 1703.02910 (the mean
Kullback-Leibler divergence of the members from their mean, McCallum and Nigam, ICML 1998, is the
same number); variation ratio, Beluch et al., CVPR 2018; the others are textbook (Settles, "Active
Learning Literature Survey", 2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alnb.errors import BadSelection
from alnb.protocols import Snapshot
from alnb.records import Selection
from alnb.strategies.common import candidates_for
from alnb.strategies.streaming import Need, Sums, entropy_of, lifted, needs_of, streams, summed

if TYPE_CHECKING:
    from torch import Tensor

PixelScore = Callable[["Tensor"], "Tensor"]
Reduction = Callable[["Tensor", "Tensor"], "Tensor"]

_TOP_SHARE = 0.05
_PIXEL = 1.0


@streams("mean")
def entropy(probs: Tensor | Sums) -> Tensor:
    """Entropy of the members' mean: total uncertainty, 0 to ln C."""
    return entropy_of(summed(probs).mean)


@streams("entropy")
def expected_entropy(probs: Tensor | Sums) -> Tensor:
    """Mean of the members' entropies: what stays unsure when they agree, 0 to ln C."""
    return summed(probs).entropy


@streams("mean", "entropy")
def bald(probs: Tensor | Sums) -> Tensor:
    """Entropy of the mean minus mean entropy: the members' disagreement, 0 to min(ln M, ln C).

    One member never disagrees with itself: with M = 1 this is 0 everywhere.
    """
    maps = summed(probs)
    return (entropy_of(maps.mean) - maps.entropy).clamp_min(0.0)


committee_kl = bald
"""Mean Kullback-Leibler divergence of the members from their mean, which is BALD."""


@streams("mean", "entropy")
def scaled_kl(probs: Tensor | Sums) -> Tensor:
    """`committee_kl` in units of ln M, 0 to 1, for display; 0 for a single member."""
    return bald(probs) / math.log(max(2, summed(probs).members))


@streams("mean", "entropy", "log")
def pairwise_kl(probs: Tensor | Sums) -> Tensor:
    """Mean Kullback-Leibler divergence over all ordered pairs of members, hence symmetric.

    Not `committee_kl`, and without an upper limit. The sum over pairs needs no pairs: with means
    over members, it is M / (M - 1) times -sum over classes of mean p · mean ln p, minus the mean
    entropy.
    """
    maps = summed(probs)
    if maps.members == 1:
        return maps.entropy * 0
    cross = -(maps.mean * maps.log).sum(dim=1)
    return (cross - maps.entropy).clamp_min(0.0) * (maps.members / (maps.members - 1))


@streams("mean")
def margin(probs: Tensor | Sums) -> Tensor:
    """1 minus the lead of the likeliest class over the second, 0 to 1."""
    mean = summed(probs).mean
    first, label = mean.max(dim=1, keepdim=True)
    second = mean.scatter(1, label, -1.0).amax(dim=1)
    return 1.0 - (first[:, 0] - second)


@streams("mean")
def least_confidence(probs: Tensor | Sums) -> Tensor:
    """1 minus the probability of the likeliest class, 0 to 1 - 1/C."""
    return 1.0 - summed(probs).mean.amax(dim=1)


@streams("votes")
def variation_ratio(probs: Tensor | Sums) -> Tensor:
    """Share of the members that are outvoted on the likeliest class, 0 to 1 - 1/M."""
    return 1.0 - summed(probs).votes.amax(dim=1)


@streams("spread")
def class_variance(probs: Tensor | Sums) -> Tensor:
    """Variance of each class's probability over the members, summed over classes, 0 to 1.

    Members and classes are never pooled: then a confident agreement would vary as well.
    """
    return summed(probs).spread


def dice_disagreement(probs: Tensor) -> Tensor:
    """(B,) 1 minus the mean Dice of all pairs of members and foreground classes, 0 to 1.

    Dice of soft maps a, b over the slice: 2 sum(a b) / (sum(a²) + sum(b²)), so that equal maps
    have 1. A class that covers less than one pixel in both counts as 1 as well: the Dice of what
    nobody sees is noise. One score per slice, so its reduction is `itself`. 0 for M = 1.
    """
    import torch

    both = _overlaps(probs)
    own = both.diagonal(dim1=2, dim2=3)
    dice = _dice(both, own[..., :, None], own[..., None, :])
    first, second = torch.triu_indices(len(probs), len(probs), offset=1, device=probs.device)
    if not len(first):
        return dice.new_zeros(len(dice))
    return (1.0 - dice[:, :, first, second].mean(dim=(1, 2))).clamp_min(0.0)


def dice_to_mean(probs: Tensor) -> Tensor:
    """(B,) 1 minus the mean Dice of each member and foreground class with the members' mean.

    As `dice_disagreement` otherwise. With its sign turned it is the expected Dice, of which the
    lowest is asked (Lüth et al., "nnActive", 2025, arXiv 2511.19183).
    """
    both = _overlaps(probs)
    own = both.diagonal(dim1=2, dim2=3)
    dice = _dice(both.mean(dim=3), own, both.mean(dim=(2, 3))[..., None])
    return (1.0 - dice.mean(dim=(1, 2))).clamp_min(0.0)


@streams()
def itself(pixels: Tensor, probs: Tensor) -> Tensor:
    """The score as it is, for one that is a number per slice already, (B,)."""
    return pixels


@streams()
def mean(pixels: Tensor, probs: Tensor) -> Tensor:
    """Mean over the slice: slices of any size compare."""
    return pixels.flatten(1).mean(dim=1)


@streams()
def total(pixels: Tensor, probs: Tensor) -> Tensor:
    """Sum over the slice, which favours large images (Nath et al. 2021, arXiv 2101.02323)."""
    return pixels.flatten(1).sum(dim=1)


@streams("mean")
def fg_mean(pixels: Tensor, probs: Tensor | Sums) -> Tensor:
    """Mean weighted by the probability of foreground, 1 minus the mean of class 0.

    The sea of background does not water down a small structure; 0 where there is no foreground.
    """
    weight = 1.0 - summed(probs).mean[:, 0].flatten(1)
    weight = weight.clamp_min(0.0)
    whole = weight.sum(dim=1)
    weighted = (pixels.flatten(1) * weight).sum(dim=1)
    return weighted / whole.masked_fill(whole == 0, 1.0)


@streams()
def topk_mean(pixels: Tensor, probs: Tensor) -> Tensor:
    """Mean over the 5 % of pixels with the largest score, at least one."""
    flat = pixels.flatten(1)
    k = max(1, round(_TOP_SHARE * flat.shape[1]))
    return flat.topk(k, dim=1).values.mean(dim=1)


@dataclass(frozen=True)
class SliceScore:
    """`score` of the pixels, then `reduction`; streamed if both of them are."""

    score: PixelScore
    reduction: Reduction

    def __call__(self, probs: Tensor) -> Tensor:
        """(M, B, C, H, W) -> (B,), in float32 or better."""
        return self.reduction(self.score(probs), probs)

    @property
    def needs(self) -> frozenset[Need] | None:
        """What the two need together; None if one of them wants all members at once."""
        parts = needs_of(self.score), needs_of(self.reduction)
        return None if parts[0] is None or parts[1] is None else parts[0] | parts[1]


@dataclass(frozen=True, repr=False)
class TopScore:
    """The n candidates with the largest score; ties are broken by chance.

    score : a pixel score such as `entropy`. reduction : how a slice's pixels become one number.
    Both are plain functions of tensors, so that one's own is as good as these; a score that is a
    number per slice already goes with `itself`. ColdStart before
    the first fit; BadSelection if the model's probabilities give scores that are not numbers.
    """

    score: PixelScore = entropy
    reduction: Reduction = mean

    def __repr__(self) -> str:
        return f"TopScore({_name(self.score)}, {_name(self.reduction)})"

    @property
    def per_slice(self) -> SliceScore:
        """(M, B, C, H, W) -> (B,), for `Snapshot.reduce`."""
        return SliceScore(self.score, self.reduction)

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates, highest score first, with their scores."""
        rows = candidates_for(snapshot, n)
        scores = snapshot.reduce(self.per_slice, rows)
        broken = np.flatnonzero(~np.isfinite(scores))
        if len(broken):
            raise BadSelection(
                f"{self} is not a number for {len(broken)} of {len(rows)} candidates, first "
                f"{snapshot.pool.ids[rows[broken[0]]]}. The model's outputs are broken: train it "
                "again, or ask with a strategy that needs no model."
            )
        order = np.lexsort((rng.permutation(len(rows)), -scores))[:n]
        return Selection(rows=rows[order], scores=scores[order])


def _overlaps(probs: Tensor) -> Tensor:
    """(B, C - 1, M, M) sums over the slice of the products of two members' foreground."""
    flat = lifted(probs)[:, :, 1:].flatten(3).permute(1, 2, 0, 3)
    return flat @ flat.mT


def _dice(both: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Soft Dice from the sums of products and squares; 1 where both are less than a pixel."""
    empty = (first < _PIXEL) & (second < _PIXEL)
    return (2 * both / (first + second).masked_fill(empty, 1.0)).masked_fill(empty, 1.0)


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", repr(function))
