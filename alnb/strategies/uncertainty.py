"""Ask where the model is unsure: scores per pixel, one number per slice, and the top n.

A pixel score maps probabilities (M, B, C, H, W), which sum to 1 over C, to (B, H, W); larger means
less sure. A reduction turns that into (B,). Logarithms are natural, and 0 log 0 is 0. Any number
of trailing axes will do in place of H, W.

Sources: BALD, Houlsby et al. 2011, arXiv 1112.5745, and Gal et al. 2017, arXiv 1703.02910 (the mean
Kullback-Leibler divergence of the members from their mean is the same number); the others are
textbook (Settles, "Active Learning Literature Survey", 2009).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alnb.errors import BadSelection
from alnb.protocols import Snapshot
from alnb.records import Selection
from alnb.strategies.common import candidates_for

if TYPE_CHECKING:
    from torch import Tensor

PixelScore = Callable[["Tensor"], "Tensor"]
Reduction = Callable[["Tensor", "Tensor"], "Tensor"]

_TOP_SHARE = 0.05


def entropy(probs: Tensor) -> Tensor:
    """Entropy of the members' mean: total uncertainty, 0 to ln C."""
    return _entropy(_full(probs).mean(dim=0))


def expected_entropy(probs: Tensor) -> Tensor:
    """Mean of the members' entropies: what stays unsure when they agree, 0 to ln C."""
    return _entropy(_full(probs), classes=2).mean(dim=0)


def bald(probs: Tensor) -> Tensor:
    """Entropy of the mean minus mean entropy: the members' disagreement, 0 to min(ln M, ln C).

    One member never disagrees with itself: with M = 1 this is 0 everywhere.
    """
    return (entropy(probs) - expected_entropy(probs)).clamp_min(0.0)


def margin(probs: Tensor) -> Tensor:
    """1 minus the lead of the likeliest class over the second, 0 to 1."""
    best = _full(probs).mean(dim=0).topk(2, dim=1).values
    return 1.0 - (best[:, 0] - best[:, 1])


def least_confidence(probs: Tensor) -> Tensor:
    """1 minus the probability of the likeliest class, 0 to 1 - 1/C."""
    return 1.0 - _full(probs).mean(dim=0).amax(dim=1)


def mean(pixels: Tensor, probs: Tensor) -> Tensor:
    """Mean over the slice: slices of any size compare."""
    return pixels.flatten(1).mean(dim=1)


def total(pixels: Tensor, probs: Tensor) -> Tensor:
    """Sum over the slice, which favours large images (Nath et al. 2021, arXiv 2101.02323)."""
    return pixels.flatten(1).sum(dim=1)


def fg_mean(pixels: Tensor, probs: Tensor) -> Tensor:
    """Mean weighted by the probability of foreground, 1 minus the mean of class 0.

    The sea of background does not water down a small structure; 0 where there is no foreground.
    """
    weight = 1.0 - _full(probs).mean(dim=0)[:, 0].flatten(1)
    weight = weight.clamp_min(0.0)
    whole = weight.sum(dim=1)
    weighted = (pixels.flatten(1) * weight).sum(dim=1)
    return weighted / whole.masked_fill(whole == 0, 1.0)


def topk_mean(pixels: Tensor, probs: Tensor) -> Tensor:
    """Mean over the 5 % of pixels with the largest score, at least one."""
    flat = pixels.flatten(1)
    k = max(1, round(_TOP_SHARE * flat.shape[1]))
    return flat.topk(k, dim=1).values.mean(dim=1)


@dataclass(frozen=True, repr=False)
class TopScore:
    """The n candidates with the largest score; ties are broken by chance.

    score : a pixel score such as `entropy`. reduction : how a slice's pixels become one number.
    Both are plain functions of tensors, so that one's own is as good as these. ColdStart before
    the first fit; BadSelection if the model's probabilities give scores that are not numbers.
    """

    score: PixelScore = entropy
    reduction: Reduction = mean

    def __repr__(self) -> str:
        return f"TopScore({_name(self.score)}, {_name(self.reduction)})"

    def per_slice(self, probs: Tensor) -> Tensor:
        """(M, B, C, H, W) -> (B,), in float32 or better."""
        return self.reduction(self.score(probs), probs)

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


def _full(probs: Tensor) -> Tensor:
    """Half precision cannot hold p log p of a confident pixel, so lift it to float32."""
    import torch

    return probs if probs.dtype == torch.float64 else probs.to(torch.float32)


def _entropy(probs: Tensor, classes: int = 1) -> Tensor:
    """Entropy over the axis `classes`; `entr` is 0 at 0 and lets a NaN through."""
    import torch

    pieces: Tensor = torch.special.entr(probs)
    return pieces.sum(dim=classes)


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", repr(function))
