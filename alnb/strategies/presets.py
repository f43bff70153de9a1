"""Strategies ready to be named at a command line: those with a model begin without one."""

from __future__ import annotations

from alnb.strategies.foreground import ForegroundRandom
from alnb.strategies.strided import Strided
from alnb.strategies.uncertainty import TopScore, bald, least_confidence, margin
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
