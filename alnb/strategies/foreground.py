"""Chance that knows where the anatomy is: a strong baseline on images that are mostly background.

Source of the three areas: Lüth et al., "nnActive", 2025, arXiv 2511.19183, where they are voxels
at which to centre a 3D patch. Here they are slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alnb.protocols import Snapshot
from alnb.records import Floats, Rows, Selection
from alnb.strategies.common import candidates_for, unscored
from alnb.strategies.random_sampling import RandomSampling

Flags = NDArray[np.bool_]


def border_rows(volume: Rows, position: Floats, foreground: Flags) -> Flags:
    """(N,) which rows lie at an end of the anatomy.

    These are the first and the last foreground slice of each volume and their neighbours: two
    slices inside, two outside. A volume without foreground has none.
    """
    border = np.zeros(len(volume), dtype=np.bool_)
    grouped = np.lexsort((position, volume))
    starts = np.flatnonzero(np.diff(volume[grouped], prepend=-1))
    for rows in np.split(grouped, starts[1:]):
        inside = np.flatnonzero(foreground[rows])
        if len(inside):
            for end in (inside[0], inside[-1]):
                border[rows[max(end - 1, 0) : end + 2]] = True
    return border


@dataclass(frozen=True)
class ForegroundRandom:
    """Each pick draws an area: all with 1 - rho, class and border with rho / 2 each.

    - all: any candidate.
    - class: a foreground class, then a candidate that holds it; all uniform.
    - border: a volume, then a candidate at an end of its anatomy; all uniform.

    What a row holds is `snapshot.presence()`. In a simulated experiment that is the reference, so
    that the result is what a person with perfect foresight could do: an upper bound, whose cost
    of looking is not counted. In a live session it is what the model predicts, and ColdStart is
    raised before the first fit. A class or border without candidates left gives its turn to the
    other classes or volumes, then to all. With rho = 0 it is `RandomSampling`.
    """

    rho: float = 0.66

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho is {self.rho}; it must lie between 0 and 1.")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates; unscored."""
        rows = candidates_for(snapshot, n)
        if self.rho == 0:
            return RandomSampling().select(snapshot, n, rng=rng)
        pool, holds = snapshot.pool, snapshot.presence()[:, 1:]
        foreground: Flags = np.any(holds, axis=1)
        border = border_rows(pool.volume, pool.position, foreground)[rows]
        # Per area (K, groups): a group is a class in one and a volume in the other.
        codes = np.unique(pool.volume[rows])
        at_end = border[:, None] & (pool.volume[rows][:, None] == codes)
        free = np.ones(len(rows), dtype=np.bool_)
        picks = np.empty(n, dtype=np.int64)
        for turn, draw in enumerate(rng.random(n)):
            picks[turn] = _pick(self._groups(draw, holds[rows], at_end), free, rng)
            free[picks[turn]] = False
        return unscored(rows[picks])

    def _groups(self, draw: float, by_class: Flags, by_volume: Flags) -> Flags:
        if draw < 1 - self.rho:
            return np.zeros((len(by_class), 0), dtype=np.bool_)
        return by_class if draw < 1 - self.rho / 2 else by_volume


def _pick(groups: Flags, free: Flags, rng: np.random.Generator) -> int:
    """A free candidate of a random group that has one, or any free candidate if none has."""
    left = groups[free]
    alive = np.flatnonzero(left.any(axis=0))
    chosen = free & groups[:, rng.choice(alive)] if len(alive) else free
    return int(rng.choice(np.flatnonzero(chosen)))
