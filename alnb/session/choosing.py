"""Strategies at the session's door: found by name, capped, and held to their contract."""

from __future__ import annotations

import numpy as np

from alnb.errors import BadSelection
from alnb.protocols import Snapshot, Strategy
from alnb.records import Selection


def found(strategy: Strategy | str) -> Strategy:
    """The strategy itself, or the one of that name; BadInput lists the names there are."""
    if isinstance(strategy, str):
        from alnb.strategies import resolve

        return resolve(strategy)
    return strategy


def capped(strategy: Strategy, per_volume: int | None) -> Strategy:
    """The strategy with at most `per_volume` items of one volume in a query."""
    from alnb.strategies.wrappers import PerVolume

    return strategy if per_volume is None else PerVolume(strategy, per_volume)


def check_selection(chosen: Selection, snapshot: Snapshot, n: int) -> None:
    """BadSelection unless `chosen` holds n distinct candidates with a score each."""
    rows = np.asarray(chosen.rows)
    wrong = np.setdiff1d(rows, snapshot.candidates)
    distinct, scores, origins = len(np.unique(rows)), len(chosen.scores), len(chosen.origin)
    if (len(rows), distinct, scores) != (n, n, n) or len(wrong) or origins not in (0, n):
        raise BadSelection(
            f"The strategy was asked for {n} distinct rows with a score each and gave {len(rows)} "
            f"rows ({distinct} distinct, {len(wrong)} not among the candidates), {scores} scores "
            f"and {origins} origins. Run alnb.testing.check_strategy on it."
        )
