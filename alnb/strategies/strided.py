"""Evenly spaced slices: no model, no labels, and hard to beat.

Source: Burmeister et al., "Less is more: a comparison of active learning strategies for 3D
medical image segmentation", 2022, arXiv 2207.00845. The order in a volume is the base-2 sequence
of van der Corput (1935), so that stopping early still leaves the volume evenly covered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alnb.protocols import Snapshot
from alnb.records import Floats, Rows, Selection
from alnb.strategies.common import candidates_for, done_per_volume, take_turns, unscored


def van_der_corput_order(m: int) -> Rows:
    """The numbers 0..m-1, the middle first, in an order whose every prefix is spread evenly.

    ``van_der_corput_order(8)`` is 4 2 6 1 5 3 7 0.
    """
    bits = max(1, (m - 1).bit_length())
    turn = np.arange(1, 2**bits + 1, dtype=np.int64) % 2**bits
    mirrored = np.zeros_like(turn)
    for bit in range(bits):
        mirrored |= (turn >> bit & 1) << (bits - 1 - bit)
    place: Rows = mirrored * m >> bits
    _, first_time = np.unique(place, return_index=True)
    order: Rows = place[np.sort(first_time)][:m]
    return order


def slice_order(slices: int, per_volume: int | None = None) -> Rows:
    """The indices 0..slices-1 of one volume in the order in which they are asked for.

    With m = `per_volume` the m indices floor((k + 1/2) slices / m) come first, which is the
    evenly spaced set for a budget of m; the rest follow.
    """
    everything = van_der_corput_order(slices)
    if per_volume is None or per_volume >= slices:
        return everything
    grid = (2 * van_der_corput_order(per_volume) + 1) * slices // (2 * per_volume)
    return np.concatenate([grid, everything[~np.isin(everything, grid)]])


def strided_rank(volume: Rows, position: Floats, per_volume: int | None = None) -> Rows:
    """(N,) the place of each row in the order of its own volume; slices are sorted by position."""
    rank = np.empty(len(volume), dtype=np.int64)
    grouped = np.lexsort((position, volume))
    starts = np.flatnonzero(np.diff(volume[grouped], prepend=-1))
    for rows in np.split(grouped, starts[1:]):
        rank[rows[slice_order(len(rows), per_volume)]] = np.arange(len(rows))
    return rank


@dataclass(frozen=True)
class Strided:
    """Evenly spaced slices of every volume; volumes take turns in a seeded order.

    The first slice asked of a volume is its middle one, then the quarters, then the eighths. With
    `per_volume`, the slices that a volume is expected to give in all, the even grid of that many
    comes first.
    """

    per_volume: int | None = None

    def __post_init__(self) -> None:
        if self.per_volume is not None and self.per_volume < 1:
            raise ValueError(
                f"per_volume is {self.per_volume}; it must be 1 or more, or None for no budget."
            )

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates; unscored."""
        rows = candidates_for(snapshot, n)
        pool = snapshot.pool
        rank = strided_rank(pool.volume, pool.position, self.per_volume)
        order = take_turns(pool.volume[rows], rank[rows], done_per_volume(snapshot), rng=rng)
        return unscored(rows[order[:n]])
