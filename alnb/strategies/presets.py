"""Strategies ready to be named at a command line: those with a model begin without one."""

from __future__ import annotations

from alnb.strategies.badge import BADGE
from alnb.strategies.claspe import ClaspPE
from alnb.strategies.coregcn import CoreGCN
from alnb.strategies.cost import CostAware
from alnb.strategies.foreground import ForegroundRandom
from alnb.strategies.kmeans_bald import KMeansBALD
from alnb.strategies.max_cover import SuggestiveAnnotation
from alnb.strategies.nath import EntropyMinusMI
from alnb.strategies.power import PowerX, SoftmaxX, SoftrankX
from alnb.strategies.selective import Selective
from alnb.strategies.stochastic_batches import StochasticBatches
from alnb.strategies.strided import Strided
from alnb.strategies.uncertainty import (
    TopScore,
    bald,
    class_variance,
    dice_disagreement,
    entropy,
    itself,
    least_confidence,
    margin,
    variation_ratio,
)
from alnb.strategies.usim import UsimLike
from alnb.strategies.vaal import VAAL
from alnb.strategies.wrappers import WarmStart


def foreground() -> WarmStart:
    """Foreground-random once it is known what slices hold, strided until then."""
    return WarmStart(Strided(), ForegroundRandom())


def by_entropy() -> WarmStart:
    """Mean pixel entropy, strided until a model is fitted."""
    return WarmStart(Strided(), TopScore())


def by_margin() -> WarmStart:
    """Mean pixel margin, strided until a model is fitted."""
    return WarmStart(Strided(), TopScore(margin))


def by_least_confidence() -> WarmStart:
    """Mean pixel least confidence, strided until a model is fitted."""
    return WarmStart(Strided(), TopScore(least_confidence))


def by_bald() -> WarmStart:
    """Mean pixel BALD, strided until a model is fitted; it takes a committee to disagree."""
    return WarmStart(Strided(), TopScore(bald))


def by_power() -> WarmStart:
    """Entropy drawn in proportion (Power-X), strided until a model is fitted."""
    return WarmStart(Strided(), PowerX())


def by_softrank() -> WarmStart:
    """The ranks of entropy, drawn (Softrank-X), strided until a model is fitted."""
    return WarmStart(Strided(), SoftrankX())


def by_softmax() -> WarmStart:
    """Exponentials of entropy, drawn (Softmax-X), strided until a model is fitted."""
    return WarmStart(Strided(), SoftmaxX())


def by_stochastic_batches() -> WarmStart:
    """The best of random groups of ten, by mean entropy, strided until a model is fitted."""
    return WarmStart(Strided(), StochasticBatches(size=10))


def by_claspe() -> WarmStart:
    """ClaSP PE, strided until a model is fitted."""
    return WarmStart(Strided(), ClaspPE())


def by_selective_entropy() -> WarmStart:
    """Entropy of target and boundary pixels, strided until a model is fitted."""
    return WarmStart(Strided(), TopScore(entropy, Selective()))


def by_suggestive() -> WarmStart:
    """Uncertain slices that cover the pool, strided until a model is fitted."""
    return WarmStart(Strided(), SuggestiveAnnotation())


def by_entropy_minus_mi() -> WarmStart:
    """Entropy minus mutual information with the labelled, strided until a model is fitted."""
    return WarmStart(Strided(), EntropyMinusMI())


def by_usim() -> WarmStart:
    """Uncertain slices unlike what is known, strided until a model is fitted."""
    return WarmStart(Strided(), UsimLike())


def by_second() -> WarmStart:
    """Entropy per predicted second, strided until a model is fitted."""
    return WarmStart(Strided(), CostAware())


def by_badge() -> WarmStart:
    """Large, diverse gradients of the last layer (BADGE), strided until there are any."""
    return WarmStart(Strided(), BADGE())


def by_kmeans_bald() -> WarmStart:
    """Diverse slices among those of largest BALD, strided until there is what it needs."""
    return WarmStart(Strided(), KMeansBALD())


def by_coregcn() -> WarmStart:
    """Core-set by a graph network, strided until there is what it needs."""
    return WarmStart(Strided(), CoreGCN())


def by_vaal() -> WarmStart:
    """What is unlike the labelled slices (VAAL), strided until there is what it needs."""
    return WarmStart(Strided(), VAAL())


def by_variation_ratio() -> WarmStart:
    """Votes of a committee against its majority, strided until a model is fitted."""
    return WarmStart(Strided(), TopScore(variation_ratio))


def by_class_variance() -> WarmStart:
    """Variance within a committee, class by class, strided until a model is fitted."""
    return WarmStart(Strided(), TopScore(class_variance))


def by_dice_disagreement() -> WarmStart:
    """1 minus the mean Dice between members, strided until a model is fitted."""
    return WarmStart(Strided(), TopScore(dice_disagreement, itself))
