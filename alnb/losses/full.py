"""Loss for slices that are labelled everywhere; a stray IGNORE pixel is masked in both terms."""

from __future__ import annotations

from torch import Tensor

from alnb.losses.weak import partial_cross_entropy, partial_dice


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """½ (cross-entropy + Dice). Logits (B, C, H, W), target (B, H, W) -> scalar, float32.

    The cross-entropy is the plain mean over pixels: a whole mask shows how common each class is,
    which strokes do not. Source of the pair: Vepa et al., 2024.
    """
    return 0.5 * (partial_cross_entropy(logits, target) + partial_dice(logits, target))
