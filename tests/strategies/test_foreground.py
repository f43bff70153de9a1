from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alnb.errors import ColdStart
from alnb.rng import stream
from alnb.strategies.foreground import ForegroundRandom, border_rows
from alnb.strategies.random_sampling import RandomSampling
from alnb.testing.toy import toy_snapshot


def test_the_border_is_each_end_of_the_anatomy_and_its_neighbours():
    toy = toy_snapshot(depths=(9, 4, 5, 1))
    foreground = np.zeros(19, dtype=bool)
    foreground[[3, 4, 5, 6]] = True  # inside the first volume
    foreground[[13, 14]] = True  # from the first slice of the third on
    foreground[18] = True
    border = border_rows(toy.pool.volume, toy.pool.position, foreground)
    assert np.flatnonzero(border).tolist() == [2, 3, 4, 5, 6, 7, 13, 14, 15, 18]


def test_the_border_does_not_depend_on_the_order_of_the_rows():
    toy = toy_snapshot(depths=(9, 4, 5, 6))
    foreground = toy.holds[:, 1:].any(axis=1)
    order = np.random.default_rng(0).permutation(24)
    border = border_rows(toy.pool.volume, toy.pool.position, foreground)
    shuffled = border_rows(toy.pool.volume[order], toy.pool.position[order], foreground[order])
    assert shuffled.tolist() == border[order].tolist()


def first_pick_probabilities(toy, rho):
    """The mixture of the three areas, row by row."""
    k = len(toy.candidates)
    chance = dict.fromkeys(toy.candidates.tolist(), (1 - rho) / k)
    groups = [[r for r in chance if toy.holds[r, c]] for c in range(1, toy.classes)]
    for group in groups:
        for row in group:
            chance[row] += rho / 2 / len(groups) / len(group)
    border = border_rows(toy.pool.volume, toy.pool.position, toy.holds[:, 1:].any(axis=1))
    ends = [[r for r in chance if border[r] and toy.pool.volume[r] == v] for v in range(4)]
    ends = [group for group in ends if group]
    for group in ends:
        for row in group:
            chance[row] += rho / 2 / len(ends) / len(group)
    return np.array([chance[row] for row in toy.candidates])


@pytest.mark.parametrize("rho", [0.33, 0.66, 1.0])
def test_inclusion_frequencies_are_those_of_the_mixture(rho):
    toy = toy_snapshot(depths=(6, 4, 7, 5))
    assert all(toy.holds[toy.candidates, c].any() for c in range(toy.classes))
    draws, rng = 4000, stream(0, "foreground")
    strategy = ForegroundRandom(rho)
    picks = [strategy.select(toy, 1, rng=rng).rows[0] for _ in range(draws)]
    seen = np.bincount(picks, minlength=len(toy.pool))[toy.candidates] / draws
    p = first_pick_probabilities(toy, rho)
    assert p.sum() == pytest.approx(1)
    assert (np.abs(seen - p) <= 4 * np.sqrt(p * (1 - p) / draws)).all()


def test_without_foreground_share_it_is_random_sampling():
    toy = replace(toy_snapshot(), holds=None)  # presence may stay unknown
    for seed in range(5):
        rows = ForegroundRandom(rho=0).select(toy, 6, rng=stream(seed)).rows
        assert rows.tolist() == RandomSampling().select(toy, 6, rng=stream(seed)).rows.tolist()


def test_a_used_up_class_gives_its_turn_to_the_others():
    toy = toy_snapshot(depths=(20,), labelled=0, skipped=0)
    holds = np.zeros((20, 3), dtype=bool)
    holds[5, 1] = holds[10, 2] = True
    toy = replace(toy, holds=holds, candidates=np.array([0, 1, 5, 10, 15, 16]))
    for seed in range(40):
        rows = ForegroundRandom(rho=1).select(toy, 6, rng=stream(seed)).rows
        assert sorted(rows[:2].tolist()) == [5, 10]  # each is a class and an end of the anatomy
        assert sorted(rows[2:].tolist()) == [0, 1, 15, 16]  # only then the rest


def test_a_pool_without_foreground_is_sampled_all_the_same():
    toy = toy_snapshot()
    toy = replace(toy, holds=np.zeros_like(toy.holds))
    assert len(set(ForegroundRandom(1).select(toy, 8, rng=stream(0)).rows.tolist())) == 8


def test_nothing_known_about_the_classes_is_a_cold_start():
    with pytest.raises(ColdStart):
        ForegroundRandom().select(toy_snapshot(fitted=False), 2, rng=stream(0))
    with pytest.raises(ValueError, match=r"rho is 1\.2"):
        ForegroundRandom(1.2)
