from __future__ import annotations

import numpy as np
import pytest

from alnb.errors import ColdStart
from alnb.rng import stream
from alnb.strategies.kmeans_bald import KMeansBALD
from alnb.strategies.strided import Strided
from alnb.strategies.uncertainty import TopScore, bald, entropy
from alnb.strategies.wrappers import PerVolume, WarmStart, WithControl
from alnb.testing import check_strategy, toy_snapshot


def slow(toy, n, factor, score):
    """Farthest first among the best, from definitions and one distance at a time."""
    values = toy.reduce(TopScore(score).per_slice, toy.candidates)
    best = sorted(zip(-values, toy.candidates, strict=True))[: factor * n]
    rows = [int(row) for _, row in best]
    features = toy.learned(np.array(rows))
    scaled = dict(zip(rows, features / (features.std(axis=0) + 1e-6), strict=True))
    picks = [max(rows, key=lambda row: np.linalg.norm(scaled[row]))]
    distances = [np.linalg.norm(scaled[picks[0]])]

    def away(row):
        return min(np.linalg.norm(scaled[row] - scaled[pick]) for pick in picks)

    while len(picks) < n:
        new = max((row for row in rows if row not in picks), key=away)
        distances.append(away(new))
        picks.append(new)
    return picks, distances


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("factor", "score"), [(2, bald), (3, bald), (2, entropy)])
def test_it_thins_out_the_best_by_farthest_first(seed, factor, score):
    toy = toy_snapshot(seed)
    chosen = KMeansBALD(TopScore(score), factor).select(toy, 5, rng=stream(0))
    rows, distances = slow(toy, 5, factor, score)
    assert chosen.rows.tolist() == rows
    np.testing.assert_allclose(chosen.scores, distances, rtol=1e-6)


def test_a_factor_of_one_keeps_exactly_the_best():
    toy = toy_snapshot()
    best = TopScore(bald).select(toy, 6, rng=stream(0)).rows
    for stochastic in (False, True):
        chosen = KMeansBALD(factor=1, stochastic=stochastic).select(toy, 6, rng=stream(0))
        assert sorted(chosen.rows) == sorted(best)


def test_only_the_stochastic_form_depends_on_the_generator():
    toy = toy_snapshot()
    answers = {
        stochastic: {
            tuple(KMeansBALD(stochastic=stochastic).select(toy, 5, rng=stream(seed)).rows)
            for seed in range(8)
        }
        for stochastic in (False, True)
    }
    assert len(answers[False]) == 1
    assert len(answers[True]) > 1
    opening = {rows[0] for rows in answers[True]}
    assert opening == {rows[0] for rows in answers[False]}


def test_a_half_chosen_batch_goes_on_from_what_is_chosen():
    toy = toy_snapshot(depths=(8,) * 4)
    chosen = PerVolume(KMeansBALD(factor=4), cap=1).select(toy, 4, rng=stream(0))
    assert sorted(toy.pool.volume[chosen.rows]) == [0, 1, 2, 3]
    assert np.isfinite(chosen.scores).all()


def test_without_a_model_it_is_too_early():
    with pytest.raises(ColdStart):
        KMeansBALD().select(toy_snapshot(fitted=False), 3, rng=stream(0))


@pytest.mark.parametrize(
    "strategy",
    [
        KMeansBALD(),
        KMeansBALD(stochastic=True),
        PerVolume(KMeansBALD()),
        WithControl(WarmStart(Strided(), KMeansBALD(TopScore(entropy))), share=0.5),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])


def test_a_factor_below_one_is_refused():
    with pytest.raises(ValueError, match="factor is 0"):
        KMeansBALD(factor=0)
