"""Numbers over runs and test volumes: pure functions of arrays.

Two error bars that must not be taken for each other: `run_std` says how a method varies from run
to run and is blind to which volumes were tested; `twice_bootstrap_se` says how the result depends
on which volumes were tested and is blind to the runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def labels_to_reach(
    labels: Sequence[float] | Floats, scores: Sequence[float] | Floats, target: float
) -> float:
    """The least of `labels` with which `target` is reached: linear between two rounds.

    Rounds are in order; labels may stay where they are from one to the next, but never fall. NaN
    where no round reaches it: then more than the last of them are needed, nobody knows how many.
    The first of them where the first round reaches it already: that many at most.
    """
    spent, reached = np.asarray(labels, dtype=float), np.asarray(scores, dtype=float)
    if spent.shape != reached.shape or not spent.size or (np.diff(spent) < 0).any():
        raise ValueError(
            f"{spent.size} numbers of labels and {reached.size} scores: a curve needs at least one "
            "of both, as many of one as of the other, and labels that never fall."
        )
    there = np.flatnonzero(reached >= target)
    if not len(there):
        return math.nan
    after = int(there[0])
    if not after:
        return float(spent[0])
    share = (target - reached[after - 1]) / (reached[after] - reached[after - 1])
    return float(spent[after - 1] + share * (spent[after] - spent[after - 1]))


@dataclass(frozen=True, slots=True)
class Paired:
    """Differences of two methods, seed by seed.

    Attributes
    ----------
    seeds : how many seeds both were run with.
    mean, run_std : of the differences; the deviation is NaN for fewer than two.
    half : half the width of the 95 % interval of the mean, by Student's t; NaN for fewer than two.
        It rests on seeds alone: it is blind to which volumes were tested.
    won : in how many seeds the difference is above 0.
    """

    seeds: int
    mean: float
    run_std: float
    half: float
    won: int


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired:
    """`ours` minus `theirs`, both by seed, over the seeds that are in both.

    ValueError where there is none.
    """
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        raise ValueError("The two methods share no seed, so they cannot be compared seed by seed.")
    differences = np.array([ours[seed] - theirs[seed] for seed in both])
    std = run_std(differences)
    half = math.nan
    if len(both) > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(both) - 1)) * std / math.sqrt(len(both))
    won = int((differences > 0).sum())
    return Paired(len(both), float(differences.mean()), std, half, won)
