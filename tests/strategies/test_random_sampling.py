from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alnb.errors import PoolExhausted
from alnb.rng import stream
from alnb.strategies.random_sampling import RandomSampling, StratifiedRandom
from alnb.testing.toy import toy_snapshot


def frequencies(strategy, snapshot, n, draws):
    rng = stream(0, "frequencies")
    seen = np.zeros(len(snapshot.pool))
    for _ in range(draws):
        seen[strategy.select(snapshot, n, rng=rng).rows] += 1
    return seen / draws


def test_every_candidate_is_equally_likely_and_nothing_else_is_drawn():
    toy = toy_snapshot()
    k, n, draws = len(toy.candidates), 5, 3000
    seen = frequencies(RandomSampling(), toy, n, draws)
    p = n / k
    sigma = np.sqrt(p * (1 - p) / draws)
    assert np.abs(seen[toy.candidates] - p).max() < 4 * sigma
    assert np.delete(seen, toy.candidates).sum() == 0


def test_the_first_pick_is_uniform_too():
    toy = toy_snapshot()
    rng = stream(1, "first")
    firsts = [RandomSampling().select(toy, 3, rng=rng).rows[0] for _ in range(3000)]
    counts = np.bincount(firsts, minlength=len(toy.pool))[toy.candidates]
    expected = 3000 / len(toy.candidates)
    freedom = len(toy.candidates) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)


def test_stratified_takes_one_slice_of_each_volume_before_a_second():
    toy = toy_snapshot(labelled=0, skipped=0)
    for seed in range(20):
        rows = StratifiedRandom().select(toy, 12, rng=stream(seed)).rows
        for turn in range(3):
            assert sorted(toy.pool.volume[rows[4 * turn : 4 * turn + 4]]) == [0, 1, 2, 3]


def test_stratified_starts_with_the_volumes_that_have_fewest_labelled_slices():
    toy = toy_snapshot(depths=(6, 6, 6), labelled=0, skipped=0)
    toy = replace(toy, labelled=np.array([0, 1, 6]), candidates=np.setdiff1d(range(18), [0, 1, 6]))
    for seed in range(20):
        volumes = toy.pool.volume[StratifiedRandom().select(toy, 6, rng=stream(seed)).rows]
        assert volumes[0] == 2
        assert volumes[1] in (1, 2)
        assert sorted(volumes[:3]) == [1, 2, 2]  # two each from here on
        assert sorted(volumes[3:]) == [0, 1, 2]


def test_stratified_is_uniform_within_a_volume_and_in_the_order_of_volumes():
    toy = toy_snapshot(depths=(6, 4, 7, 5), labelled=0, skipped=0)
    draws = 3000
    seen = frequencies(StratifiedRandom(), toy, 1, draws)
    depth = np.bincount(toy.pool.volume)[toy.pool.volume]
    p = 1 / 4 / depth
    assert (np.abs(seen - p) < 4 * np.sqrt(p * (1 - p) / draws)).all()


def test_asking_for_more_than_there_is_says_how_many_there_are():
    toy = toy_snapshot()
    with pytest.raises(PoolExhausted, match=rf"only {len(toy.candidates)} can be chosen"):
        RandomSampling().select(toy, len(toy.candidates) + 1, rng=stream(0))
    with pytest.raises(ValueError, match="-1"):
        RandomSampling().select(toy, -1, rng=stream(0))
    assert len(RandomSampling().select(toy, 0, rng=stream(0)).rows) == 0
