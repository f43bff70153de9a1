"""Preset `vepa2024`: the experiments of Vepa et al., NeurIPS 2024, arXiv 2411.15763.

An independent implementation from the published equations. No number of the paper is copied, and
none is claimed to be reproduced.

Protocol
--------
One project per seed. An encoder learns without labels; round after round k-center on its raw
features picks up to a cumulative budget of 1, 2, 3, 4, 5, 10, 15, 20 and 40 % of the training
slices; an oracle answers; five networks are trained from scratch on all labels, each keeps its
checkpoint of best validation Dice, and the one that validated best is tested. The whole is repeated
with five seeds. Test Dice is 3D, per volume at native size, with the policy "paper" for empty
classes.

Deviations
----------
What was published leaves these open, or was not followed on purpose:

* Positives of the group losses are built from metadata, as the paper's Eq. 4 says; the published
  program takes every other view for a positive.
* The encoder starts from random weights unless its recipe names pretrained ones; the published
  program starts from ImageNet's, its first layer excepted. It is trained once per seed and shared
  by all budgets of the seed.
* k-center never repeats a slice and draws its first one from the seed; the published program can
  do the first and seeds only part of its chance.
* Slices are stretched to the square by nearest neighbour under pixel centres, images too.
* Labels that a rotation brings in from outside are IGNORE and images continue in their darkest
  value; the published program fills both with 0, which makes false background.
* Batches come from an endless shuffle, so a batch may span two passes over the labels.
* The rate falls from the second step on; the published program begins one step later.
* Validation also happens after the last step, when the steps are no multiple of its interval.
* Networks multiply in bfloat16 where the hardware does so natively.
* Slices of a cohort other than ACDC are scaled to 0..1 by their percentiles.
* Train, validation and test patients are the cohort's official ones, else those given, else drawn
  once among the patients with masks and then the same for all seeds.
* The first budget belongs to the strategy, as published; `shared_start` lets chance choose it,
  the same slices for all strategies of a seed.
* ACDC's training volumes hold 1 454 slices, where the paper prints 1 448; budgets are shares of
  what is there.
* The validation numbers in each project's journal, unlike those that choose and those reported,
  count empty classes by the policy "one".
* Strategies other than "vepa2024" are those of `alnb.strategies`, on their own features: "coreset"
  runs on small standardised pixels, not on whole images.
* `schedule` "fixed" is ours: equal steps at all budgets, a warm-up of 100 steps and jitter of
  intensities.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

from alnb.embed.train import EncoderRecipe
from alnb.errors import BadInput
from alnb.models.dual import CHANNELS
from alnb.models.poly import Poly
from alnb.models.scratch import ScratchNet, dmpls, masks
from alnb.models.turns import Turns
from alnb.protocols import Learner, Strategy
from alnb.session.choosing import found
from alnb.session.experiment import budget_counts
from alnb.session.oracle import OracleKind
from alnb.strategies.coreset import CoreSet

NAME = "vepa2024"
BUDGETS = ("1%", "2%", "3%", "4%", "5%", "10%", "15%", "20%", "40%")
MODEL_FREE = frozenset({NAME, "random", "stratified", "strided", "foreground", "coreset"})
"""Strategies that ask no model, so that one network may answer for all."""


@dataclass(frozen=True)
class Preset:
    """The protocol of this module; the defaults are the published ones, `vepa2024` makes others.

    Attributes
    ----------
    strategy : "vepa2024", or a name of `alnb.strategies.STRATEGIES` to compare with.
    oracle : "scribble" trains mixed pseudo-labels on stored scribbles, "simulated" on drawn ones,
        "mask" a plain U-Net on whole masks.
    networks, seeds, budgets : networks per round; one project per seed; cumulative shares.
    schedule : "paper" trains ``round(iterations · share)`` steps, "fixed" as many at each budget.
    iterations, fixed : steps of the schedule "paper" at 100 %, and of "fixed".
    size, batch, every : side of the square, slices per step, steps between validations.
    channels : of the segmentation networks' encoder, finest first.
    encoder : how to learn the features of "vepa2024".
    shared_start : the first budget is random, the same for all strategies of a seed.
    device : "cpu", "cuda", …; None takes the GPU if there is one. The encoder's is its recipe's.
    """

    strategy: str = NAME
    oracle: OracleKind = "scribble"
    networks: int = 5
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    budgets: tuple[str, ...] = BUDGETS
    schedule: Literal["paper", "fixed"] = "paper"
    iterations: int = 60_000
    fixed: int = 6_000
    size: int = 256
    batch: int = 6
    every: int = 200
    channels: tuple[int, ...] = CHANNELS
    encoder: EncoderRecipe = field(default_factory=EncoderRecipe.paper)
    shared_start: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        if self.schedule not in ("paper", "fixed"):
            raise BadInput(f"schedule is {self.schedule!r}; it can be 'paper' or 'fixed'.")
        counts = (self.networks, len(self.seeds), self.iterations, self.fixed, self.every)
        if min(counts) < 1 or len(set(self.seeds)) != len(self.seeds):
            raise BadInput(
                f"networks={self.networks}, seeds={self.seeds}, iterations={self.iterations}, "
                f"fixed={self.fixed}, every={self.every}: each must be at least 1, and seeds "
                "must differ."
            )
        self.chooser()

    def chooser(self) -> Strategy:
        """The strategy; BadInput lists the names there are."""
        return CoreSet(start="random") if self.strategy == NAME else found(self.strategy)

    @property
    def reduced(self) -> tuple[str, ...]:
        """A phrase for everything that is not as published."""
        told = []
        for each in dataclasses.fields(self):
            mine, theirs = getattr(self, each.name), getattr(_PUBLISHED, each.name)
            if each.name in ("seeds", "budgets"):
                mine, theirs = len(mine), len(theirs)
            if each.name == "encoder":
                told += _changes(mine, theirs)
            elif mine != theirs and each.name not in ("strategy", "oracle", "device"):
                told.append(f"{each.name} {mine} instead of {theirs}")
        return tuple(told)

    def counts(self, pool: int) -> tuple[int, ...]:
        """Cumulative slices at each budget of a pool of `pool`."""
        return budget_counts(self.budgets, pool)

    def steps(self) -> tuple[int, ...]:
        """Training steps of a network at each budget."""
        if self.schedule == "fixed":
            return (self.fixed,) * len(self.budgets)
        shares = [Fraction(budget.removesuffix("%")) / 100 for budget in self.budgets]
        return tuple(max(1, round(self.iterations * share)) for share in shares)

    def network(
        self, pool: int, validate: Callable[[Learner], float], *, stored: bool
    ) -> ScratchNet:
        """One network of a round, not fitted yet. `stored`: see `ScratchNet`."""
        fixed = self.schedule == "fixed"
        make = masks if self.oracle == "mask" else dmpls
        return make(
            size=self.size,
            steps=Schedule(self.counts(pool), self.steps()),
            recipe=Poly(batch=self.batch, every=self.every, warmup=100 if fixed else 0),
            augment=Turns(jitter=0.1 if fixed else 0.0),
            stored=stored,
            validate=validate,
            channels=self.channels,
            device=self.device,
        )


_PUBLISHED = Preset()


def vepa2024(*, scale: float = 1.0, **overrides: Any) -> Preset:
    """The published protocol, or less of it.

    `scale` in (0, 1] multiplies the numbers of networks, seeds, steps and the encoder's epochs, and
    the interval between validations; each keeps at least 1. `overrides` are fields of `Preset` and
    go before it. A `size` also becomes the encoder's, unless `encoder` is given.
    """
    if not 0 < scale <= 1:
        raise BadInput(f"scale is {scale}; it must be above 0 and at most 1.")

    def less(value: int) -> int:
        return max(1, round(value * scale))

    p = _PUBLISHED
    size = overrides.get("size", p.size)
    small: dict[str, Any] = {
        "networks": less(p.networks),
        "seeds": p.seeds[: less(len(p.seeds))],
        "iterations": less(p.iterations),
        "fixed": less(p.fixed),
        "every": less(p.every),
        "encoder": replace(p.encoder, size=size, epochs=p.encoder.epochs * scale),
    }
    return replace(p, **(small | overrides))


@dataclass(frozen=True)
class Schedule:
    """Steps by number of labelled slices: those of the first budget that holds as many.

    A round in which some answers were blank so trains as long as its budget says.
    """

    counts: tuple[int, ...]
    steps: tuple[int, ...]

    def __call__(self, slices: int) -> int:
        return self.steps[min(bisect_left(self.counts, slices), len(self.steps) - 1)]


def _changes(mine: EncoderRecipe, theirs: EncoderRecipe) -> list[str]:
    return [
        f"encoder {each.name} {getattr(mine, each.name)} instead of {getattr(theirs, each.name)}"
        for each in dataclasses.fields(mine)
        if each.name != "device" and getattr(mine, each.name) != getattr(theirs, each.name)
    ]
