"""One loss for batches in which some slices carry masks and others scribbles."""

from __future__ import annotations

from torch import Tensor

from alnb.losses.full import mask_loss
from alnb.losses.weak import scribble_loss
from alnb.records import IGNORE


def mixed_loss(logits: Tensor, target: Tensor, whole: Tensor | None = None) -> Tensor:
    """`mask_loss` on whole slices and `scribble_loss` on the others, weighted by their numbers.

    Logits (B, C, H, W), target (B, H, W) -> scalar, float32. `whole` (B,) bool says which slices
    were labelled everywhere; without it, those that hold no IGNORE. A trainer passes it, because
    padding and rotation bring IGNORE into the target of a whole mask.
    """
    if whole is None:
        whole = (target != IGNORE).flatten(1).all(1)
    masks = int(whole.sum())
    if masks == 0:
        return scribble_loss(logits, target)
    if masks == len(target):
        return mask_loss(logits, target)
    share = masks / len(target)
    from_masks = mask_loss(logits[whole], target[whole])
    return share * from_masks + (1 - share) * scribble_loss(logits[~whole], target[~whole])
