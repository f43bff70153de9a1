"""What strategies built on another's scores share: every candidate's score, and ranks of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadSelection
from alnb.protocols import Snapshot, Strategy
from alnb.records import Floats, Rows

Scores = NDArray[np.float64]

_HAIR = 1e-4


def scores_of(base: Strategy, snapshot: Snapshot, *, rng: np.random.Generator) -> Scores:
    """(K,) the score `base` gives each candidate, in the order of `snapshot.candidates`.

    `base` is asked for all candidates at once, which any strategy must answer, so that every
    strategy with a score of its own per row can be built upon. Scores of a strategy that spreads
    its batch out, such as `CoreSet`, depend on what it picked before and mean little here.

    BadSelection if a score is missing or infinite; ColdStart as `base` raises it.
    """
    rows = snapshot.candidates
    if not len(rows):
        return np.empty(0)
    everything = base.select(snapshot, len(rows), rng=rng)
    scores = np.empty(len(rows))
    scores[np.searchsorted(rows, everything.rows)] = everything.scores
    silent = np.flatnonzero(~np.isfinite(scores))
    if len(silent):
        raise BadSelection(
            f"{base!r} gives {len(silent)} of {len(rows)} candidates no finite score, first "
            f"{snapshot.pool.ids[rows[silent[0]]]}. Build upon a strategy that scores every row, "
            "such as TopScore; a WarmStart belongs around the whole."
        )
    return scores


def non_negative(scores: Floats, *, why: str) -> Floats:
    """`scores`, at least 0; BadSelection if one is below, and `why` tells what that would break.

    Entropies of certain pixels are sums of rounded numbers and may fall below 0 by a hair, which
    counts as 0.
    """
    hair = _HAIR * max(1.0, float(np.abs(scores).max(initial=0.0)))
    if len(scores) and scores.min() < -hair:
        raise BadSelection(f"A score is {scores.min():.4g}, but {why}.")
    return np.maximum(scores, 0.0)


def descending(*keys: Floats, rng: np.random.Generator) -> Rows:
    """Positions by the first key, largest first; ties by the next key, and at last by chance."""
    return np.lexsort((rng.permutation(len(keys[0])), *(-key for key in reversed(keys))))
