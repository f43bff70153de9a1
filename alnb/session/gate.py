"""Whether a model is good enough to be asked what to ask next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alnb.protocols import Learner, Strategy
from alnb.records import IGNORE
from alnb.session.snapshot import scored
from alnb.strategies.streaming import needs_of, streams, summed

if TYPE_CHECKING:
    from torch import Tensor

    from alnb.data.volume import Volume
    from alnb.session.state import Fit, SessionState
    from alnb.session.trainer import Trainer

_MOST = 200


@dataclass(frozen=True)
class Gate:
    """When a strategy may trust the model.

    dice : least mean Dice on the validation volumes. A worse model's doubts are about everything.
    correlation : least Spearman correlation, over validation slices, of a strategy's score with
        the share of wrong pixels. At zero the score asks at random, only slower.

    Without validation volumes nothing can be measured, and the gate stays open.
    """

    dice: float = 0.4
    correlation: float = 0.1


GATE = Gate()


class Doubts:
    """What speaks against letting the model of `trainer` choose."""

    def __init__(self, state: Callable[[], SessionState], trainer: Trainer) -> None:
        self._state, self._trainer = state, trainer
        self._known: dict[tuple[str | None, str], float] = {}

    def about(self, strategy: Strategy, gate: Gate) -> str:
        """Why the model should not choose for `strategy`, in words; empty if it may.

        The Dice is that of the last training on the validation volumes; the correlation is of the
        score that the strategy asks by, if it has one. May take seconds, once per training.
        """
        found = self._trainer.model()
        if found is None or found[0].round < 0:
            return ""
        rounds = self._state().rounds
        measured = [m.mean for m in rounds[found[0].round].metrics if m.split == "val"]
        if not measured or measured[-1] is None:
            return ""
        if measured[-1] < gate.dice:
            return (
                f"The model's mean Dice on the validation volumes is {measured[-1]:.2f}, below "
                f"{gate.dice:.2f}: too low to choose by."
            )
        rho = self._correlation(strategy, *found)
        # NaN, of no score or too few slices, is no ground for doubt
        if rho < gate.correlation:
            return (
                "On the validation slices the score hardly follows the model's errors (Spearman "
                f"{rho:.2f}, below {gate.correlation:.2f})."
            )
        return ""

    def _correlation(self, strategy: Strategy, fit: Fit, learner: Learner) -> float:
        score = slice_score(strategy)
        if score is None:
            return math.nan
        key = (fit.checkpoint, repr(strategy))
        if key not in self._known:
            volumes = self._trainer.measurable("val")
            self._known = {key: error_correlation(score, learner, volumes)}
        return self._known[key]


def slice_score(strategy: Any) -> Callable[[Tensor], Tensor] | None:
    """The score (M, B, C, H, W) -> (B,) inside a strategy and its wrappers; None without one."""
    for _ in range(8):
        score: Callable[[Tensor], Tensor] | None = getattr(strategy, "per_slice", None)
        if callable(score):
            return score
        inner = (getattr(strategy, name, None) for name in ("then", "strategy", "base", "score"))
        strategy = next((thing for thing in inner if thing is not None), None)
    return None


def error_correlation(
    score: Callable[[Tensor], Tensor], learner: Learner, volumes: Iterable[Volume]
) -> float:
    """Spearman correlation of `score` with the share of wrong pixels, over slices.

    At most 200 slices, evenly spread. 0 where either is the same for all; NaN below 3 slices.
    """
    from scipy.stats import spearmanr

    slices = [(v, z) for v in volumes for z in range(v.shape[0])]
    places = np.linspace(0, len(slices) - 1, min(len(slices), _MOST)).round().astype(int)
    chosen = groupby((slices[place] for place in places), key=lambda pair: pair[0])
    found = [_measured(score, learner, volume, [z for _, z in of]) for volume, of in chosen]
    pairs = np.concatenate([np.empty((0, 2)), *found])
    if len(pairs) < 3:
        return float("nan")
    if np.ptp(pairs, axis=0).min() == 0:
        return 0.0
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def _measured(
    score: Callable[[Tensor], Tensor], learner: Learner, volume: Volume, places: list[int]
) -> NDArray[np.float64]:
    """(n, 2) score and share of wrong pixels of slices of which the reference says something."""
    import torch

    from alnb.models.infer import batches

    reference = volume.reference()
    assert reference is not None, "only volumes with a reference are measured"
    image = volume.image()
    labels: list[Tensor] = []

    def both(probs: Tensor) -> Tensor:
        labels.append(summed(probs).mean.argmax(1).cpu())
        return score(probs)

    needs = needs_of(score)
    seen = both if needs is None else streams("mean", *needs)(both)
    # a learner of volumes sees all slices, whichever are measured
    shown = list(range(len(image))) if learner.unit == "volume" else places
    values = torch.cat(list(scored(learner, seen, batches(learner, image[shown])))).cpu().numpy()
    predicted = dict(zip(shown, zip(values, torch.cat(labels).numpy(), strict=True), strict=True))
    pairs = []
    for z in places:
        known = reference[z] != IGNORE
        if known.any():
            value, map_ = predicted[z]
            pairs.append((float(value), float((map_ != reference[z])[known].mean())))
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)
