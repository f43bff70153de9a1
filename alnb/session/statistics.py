"""Numbers over runs and test volumes: pure functions of arrays.

Two error bars that must not be taken for each other: `run_std` says how a method varies from run
to run and is blind to which volumes were tested; `twice_bootstrap_se` says how the result depends
on which volumes were tested and is blind to the runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from alnb.records import Floats


def run_std(values: ArrayLike) -> float:
    """Sample standard deviation (ddof 1) over runs; NaN for fewer than two, which say nothing."""
    runs = np.asarray(values, dtype=float)
    return float(runs.std(ddof=1)) if runs.size > 1 else float("nan")


def twice_bootstrap_se(
    values: ArrayLike, *, rng: np.random.Generator, resamples: int = 1000
) -> float:
    """Twice the standard error of the mean of `values` (runs, volumes) by bootstrap over volumes.

    Volumes are drawn with replacement, the same for all runs; of each of the `resamples` draws the
    mean over volumes and runs is taken, and twice the sample deviation of these means is given.
    NaN for fewer than two volumes. Source: Vepa et al., arXiv 2411.15763.
    """
    table = np.atleast_2d(np.asarray(values, dtype=float))
    volumes = table.shape[1]
    if volumes < 2:
        return float("nan")
    drawn = rng.integers(volumes, size=(resamples, volumes))
    return float(2 * table.mean(0)[drawn].mean(1).std(ddof=1))


def aubc(x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> float:
    """Area under a budget curve by trapezoids, over the length of `x`: a constant y gives y.

    x : budgets, strictly rising, in whatever unit; the unit belongs beside the number, because
    unequal budgets weigh unequally. ValueError if x does not rise or differs in length from y.
    """
    budgets, scores = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if budgets.shape != scores.shape or budgets.size < 2 or not (np.diff(budgets) > 0).all():
        raise ValueError(
            f"{budgets.size} budgets and {scores.size} scores: a curve needs at least two of both, "
            "as many of one as of the other, and budgets that rise."
        )
    area = np.diff(budgets) @ (scores[1:] + scores[:-1]) / 2
    return float(area / (budgets[-1] - budgets[0]))
