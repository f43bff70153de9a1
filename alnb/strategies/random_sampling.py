"""Chance: the baseline that every strategy must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alnb.protocols import Snapshot
from alnb.records import Selection
from alnb.strategies.common import candidates_for, done_per_volume, take_turns, unscored


@dataclass(frozen=True)
class RandomSampling:
    """Uniform over the candidates, without replacement."""

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates, each ordered set of n equally likely; unscored."""
        return unscored(rng.choice(candidates_for(snapshot, n), size=n, replace=False))


@dataclass(frozen=True)
class StratifiedRandom:
    """Volumes take turns; within a volume, chance decides.

    Volumes with fewer labelled slices come first, so that over the rounds no volume gets two more
    than another that still has candidates.
    """

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates; unscored."""
        rows = candidates_for(snapshot, n)
        order = take_turns(
            snapshot.pool.volume[rows],
            rng.permutation(len(rows)),
            done_per_volume(snapshot),
            rng=rng,
        )
        return unscored(rows[order[:n]])
