"""Log-likelihoods of a segmentation network whose likelihood is written as "log(L_Dice)".

The words leave open whether the Dice *loss* is to be made small or a likelihood to be made large,
so there are two readings, and for comparison the usual losses::

    L = 1 - 2 Σ y ŷ / (Σ y² + Σ ŷ²)        mean over the classes, sums over the drawn pixels

    "neg_log_dice_loss"   ln p = -ln(L + ε)      its slope grows as L vanishes: clip gradients
    "log_dice"            ln p = ln(1 - L)       the logarithm of the Dice coefficient
    "ce"                  ln p = -cross-entropy, the mean over drawn pixels
    "dice_ce"             ln p = -L - cross-entropy

All are largest for the reference itself. IGNORE pixels are heard nowhere. Nothing is multiplied by
the number of training items, so a weight decay is a stronger prior than its number says.

Source of the words: Nath et al., IEEE TMI 2021, arXiv 2101.02323.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from alnb.losses.weak import partial_cross_entropy, partial_dice

Likelihood = Literal["neg_log_dice_loss", "log_dice", "ce", "dice_ce"]

EPSILON = 1e-5
"""Added to a Dice loss before its logarithm is taken: the slope is at most 1 / ε times its own."""
FLOOR = 1e-3
"""Dice below which `log_dice` goes on as its tangent, so that a cold start has a finite slope."""


def log_likelihood(
    logits: Tensor,
    target: Tensor,
    likelihood: Likelihood = "neg_log_dice_loss",
    *,
    epsilon: float = EPSILON,
) -> Tensor:
    """ln p of the drawn pixels. Logits (B, C, H, W), target (B, H, W) -> scalar, float32.

    Where nothing was drawn the slope is 0. ValueError for another name.
    """
    if likelihood == "neg_log_dice_loss":
        # rounding may bring a perfect loss below 0
        return -(partial_dice(logits, target).clamp(min=0) + epsilon).log()
    if likelihood == "log_dice":
        loss = partial_dice(logits, target)
        steep = math.log(FLOOR) + (1 - loss - FLOOR) / FLOOR
        return torch.where(loss <= 1 - FLOOR, torch.log1p(-loss.clamp(max=1 - FLOOR)), steep)
    if likelihood == "ce":
        return -partial_cross_entropy(logits, target)
    if likelihood == "dice_ce":
        return -partial_dice(logits, target) - partial_cross_entropy(logits, target)
    raise ValueError(_unknown(likelihood))


@dataclass(frozen=True)
class MinusLog:
    """The loss -ln p of (logits, target, whole), as `alnb.models.learners.SingleNet` takes it.

    Attributes
    ----------
    likelihood, epsilon : see `log_likelihood`.
    """

    likelihood: Likelihood = "neg_log_dice_loss"
    epsilon: float = EPSILON

    def __post_init__(self) -> None:
        if self.likelihood not in get_args(Likelihood):
            raise ValueError(_unknown(self.likelihood))

    def __call__(self, logits: Tensor, target: Tensor, whole: Tensor | None = None) -> Tensor:
        """A scalar, float32; `whole` says nothing that `target` does not."""
        return -log_likelihood(logits, target, self.likelihood, epsilon=self.epsilon)


def _unknown(likelihood: object) -> str:
    known = ", ".join(f"'{name}'" for name in get_args(Likelihood))
    return f"A likelihood {likelihood!r} is not known; there are {known}."
