"""Active annotation time: how long somebody worked, without the pauses."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise


def active_seconds(ticks: Iterable[float], gap: float = 20.0) -> float:
    """Seconds of work that `ticks` witness; a silence longer than `gap` counts as a pause.

    ticks : times in seconds at which the person was seen to work, in any order. While a pen is
        down the view ticks at least once per second, so a long stroke is never a pause.
    gap : longest silence that still counts as thinking. A longer one counts as nothing at all.
    """
    if not gap > 0:
        raise ValueError(f"gap is {gap}; it must be a positive number of seconds.")
    return float(sum(b - a for a, b in pairwise(sorted(ticks)) if b - a <= gap))
