"""Scribbles and two decoders: dynamically mixed pseudo-labels, DMPLS.

Source: Luo et al., "Scribble-Supervised Medical Image Segmentation via Dual-Branch Network and
Dynamically Mixed Pseudo Labels Supervision", MICCAI 2022, arXiv 2203.02106.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alnb.losses.weak import partial_cross_entropy, partial_dice

SHARE = 0.5
"""Weight of the pseudo-label term in the sum."""


@torch.no_grad()
def mixed_pseudo_label(main: Tensor, auxiliary: Tensor, beta: float) -> Tensor:
    """``argmax_c (beta p_main + (1 - beta) p_auxiliary)``: (B, C, H, W) twice -> (B, H, W) int64.

    No gradient flows through it, and no pixel of it is IGNORE: every pixel gets an opinion.
    """
    mixed = beta * main.float().softmax(1) + (1 - beta) * auxiliary.float().softmax(1)
    return mixed.argmax(1)


def drawn_loss(main: Tensor, auxiliary: Tensor, target: Tensor) -> Tensor:
    """Mean of both decoders' pCE over the drawn pixels; a connected 0 where nothing is drawn."""
    return 0.5 * (partial_cross_entropy(main, target) + partial_cross_entropy(auxiliary, target))


def pseudo_loss(main: Tensor, auxiliary: Tensor, beta: float) -> Tensor:
    """Mean of both decoders' Dice loss against the mixed pseudo-label: all classes, all pixels."""
    label = mixed_pseudo_label(main, auxiliary, beta)
    return 0.5 * (partial_dice(main, label) + partial_dice(auxiliary, label))


def dmpls_loss(
    main: Tensor, auxiliary: Tensor, target: Tensor, beta: float, *, share: float = SHARE
) -> Tensor:
    """`drawn_loss` plus `share` times `pseudo_loss`, a scalar in float32.

    main, auxiliary : logits (B, C, H, W) of the two decoders. target : (B, H, W) with IGNORE where
    nobody drew; these pixels give no gradient in the first term and take part in the second.
    beta : in 0..1, drawn anew for every step by whoever trains.
    """
    supervised = drawn_loss(main, auxiliary, target)
    return supervised + share * pseudo_loss(main, auxiliary, beta)
