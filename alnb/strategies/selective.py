"""Selective-X: average a pixel score over the pixels that matter, not over the whole slice.

Source: Ma et al., "Breaking the barrier: selective uncertainty-based active learning for medical
image segmentation", ICASSP 2024, arXiv 2401.16298. The pixels are those of the target,
{q > target}, and those near the decision, {|q - centre| < width}, where q is the largest
foreground probability of the members' mean.

The defaults are assumed, not the paper's: with target and centre at 1/2, the pixels are all that
the model takes for foreground and a rim around them. The source sums over the pixels; here it is
their mean, so that a large organ does not win by its size, and a slice without such a pixel has
score 0. ``reduction`` of `TopScore` is where it goes::

    TopScore(entropy, Selective())
    PowerX(TopScore(bald, Selective(target=0.3)), beta=2)

Cost: nothing beyond the score. Cold start: as `TopScore`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alnb.strategies.streaming import Need, Sums, summed

if TYPE_CHECKING:
    from torch import Tensor


def selected_pixels(probs: Tensor | Sums, target: float, centre: float, width: float) -> Tensor:
    """(M, B, C, H, W) -> (B, H, W) bool: where q > target or |q - centre| < width."""
    q = summed(probs).mean[:, 1:].amax(dim=1)
    return (q > target) | ((q - centre).abs() < width)


@dataclass(frozen=True)
class Selective:
    """A reduction: the mean of the pixels where q > target or |q - centre| < width; 0 if none.

    q is the largest foreground probability of the members' mean. The paper calls them T, b and U.
    """

    target: float = 0.5
    centre: float = 0.5
    width: float = 0.1

    needs: ClassVar[frozenset[Need]] = frozenset({"mean"})

    def __post_init__(self) -> None:
        if not (0 <= self.target <= 1 and 0 <= self.centre <= 1 and self.width >= 0):
            raise ValueError(
                f"{self} is out of range: target and centre are probabilities, 0 to 1, and width "
                "is 0 or more."
            )

    def __call__(self, pixels: Tensor, probs: Tensor | Sums) -> Tensor:
        """(B, H, W) scores and (M, B, C, H, W) probabilities -> (B,)."""
        keep = selected_pixels(probs, self.target, self.centre, self.width).flatten(1)
        flat = pixels.flatten(1)
        # A NaN outside of the selected pixels is a broken model all the same: 0 x NaN stays NaN.
        return (flat * keep).sum(dim=1) / keep.sum(dim=1).clamp_min(1)
