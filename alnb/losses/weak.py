"""Losses for scribbles: only drawn pixels speak; IGNORE pixels get exactly zero gradient.

Every function takes logits (B, C, H, W) and an integer target (B, H, W) in 0..C-1 or IGNORE, or as
well those of volumes, (B, C, Z, H, W) and (B, Z, H, W), and returns a scalar. All arithmetic is
float32, whatever the logits are, because a sum over a slice's pixels overflows the 8 bits of a
bfloat16 mantissa. Where nothing was drawn the loss is a connected 0, so that ``backward`` gives
zeros and not NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from alnb.records import IGNORE

SMOOTH = 1e-5
"""Added to numerator and denominator of a Dice ratio (Vepa et al. use the same value)."""


def partial_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of -ln p over the drawn pixels: pCE. Source: Tang et al., CVPR 2018."""
    drawn = (target != IGNORE).sum().clamp(min=1)
    return _cross_entropy(logits, target, "sum") / drawn


def class_averaged_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes drawn in the batch of the mean -ln p within the class.

    A thin wall of forty drawn pixels counts as much as four thousand pixels of background.
    """
    count = torch.bincount(target.flatten().long(), minlength=IGNORE + 1)
    count[IGNORE] = 0
    present = count > 0
    share = present / (count.clamp(min=1) * present.sum().clamp(min=1))
    return (_cross_entropy(logits, target, "none") * share[target.long()]).sum()


def partial_dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice over the drawn pixels, squared denominators, mean over all classes.

    ``2 Σ p g / (Σ p² + Σ g²)`` per class over the whole batch, background included. On targets
    without IGNORE it equals
    ``monai.losses.DiceLoss(softmax=True, to_onehot_y=True, squared_pred=True, batch=True)``.
    """
    drawn = (target != IGNORE).unsqueeze(1)
    label = torch.where(drawn, target.unsqueeze(1), 0).long()
    # where, not a product: a logit that is no number must not leak out as 0 · NaN
    p = torch.where(drawn, _heard(logits, drawn).softmax(1), 0.0)
    g = torch.zeros_like(p).scatter_(1, label, drawn.to(p.dtype))
    pixels = (0, *range(2, p.dim()))
    overlap, size = (p * g).sum(pixels), (p.square() + g).sum(pixels)
    return 1 - ((2 * overlap + SMOOTH) / (size + SMOOTH)).mean()


def scribble_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Half class-averaged cross-entropy, half Dice, both on drawn pixels alone."""
    return 0.5 * (class_averaged_cross_entropy(logits, target) + partial_dice(logits, target))


def _cross_entropy(logits: Tensor, target: Tensor, reduction: str) -> Tensor:
    drawn = (target != IGNORE).unsqueeze(1)
    return functional.cross_entropy(
        _heard(logits, drawn), target.long(), ignore_index=IGNORE, reduction=reduction
    )


def _heard(logits: Tensor, drawn: Tensor) -> Tensor:
    """Logits in float32, 0 where nobody drew: there they have no say, be they NaN or infinite.

    Ignoring a pixel in the loss alone is not enough, since its softmax would turn a gradient of 0
    into 0 · NaN.
    """
    return torch.where(drawn, logits.float(), 0.0)
