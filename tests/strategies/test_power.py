from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from alnb.errors import BadSelection, ColdStart
from alnb.records import Selection
from alnb.rng import stream
from alnb.strategies.coreset import CoreSet
from alnb.strategies.power import (
    PowerX,
    SoftmaxX,
    SoftrankX,
    gumbel_order,
    log_power,
    log_rank,
)
from alnb.strategies.random_sampling import RandomSampling
from alnb.strategies.scoring import scores_of
from alnb.strategies.uncertainty import TopScore, bald
from alnb.strategies.wrappers import PerVolume
from alnb.testing import check_strategy
from alnb.testing.toy import toy_snapshot

KINDS = [PowerX, SoftrankX, SoftmaxX]


@dataclass(frozen=True)
class Given:
    """Scores by row, in a made-up order of picking."""

    values: tuple[float, ...]

    def select(self, snapshot, n, *, rng):
        rows = rng.permutation(snapshot.candidates)[:n]
        return Selection(rows=rows, scores=np.array(self.values)[rows])


def tiny(values):
    """A pool of as many rows as there are scores, all of them candidates."""
    toy = toy_snapshot(depths=(len(values),), labelled=0, skipped=0)
    return toy, Given(tuple(float(v) for v in values))


def set_probabilities(weights, size):
    """Of each ordered draw of `size`, one after the other in proportion to weight."""
    chance = {}
    for order in permutations(range(len(weights)), size):
        p, left = 1.0, sum(weights)
        for place in order:
            p *= weights[place] / left
            left -= weights[place]
        key = frozenset(order)
        chance[key] = chance.get(key, 0.0) + p
    return chance


def test_the_first_pick_of_power_has_the_chances_that_are_known():
    scores, rng = np.array([1.0, 2.0, 4.0]), stream(0, "power")
    firsts = [gumbel_order(log_power(scores), scores, 2.0, rng=rng)[0] for _ in range(6000)]
    seen = np.bincount(firsts, minlength=3)
    expected = np.array([1, 4, 16]) / 21
    np.testing.assert_allclose(expected, [0.048, 0.190, 0.762], atol=5e-4)
    assert chisquare(seen, 6000 * expected).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2])
def test_sets_are_drawn_without_replacement_in_proportion_to_the_weight(kind, size):
    values, beta, draws = [0.5, 1.0, 2.0, 1.5], 1.5, 4000
    weight = {
        PowerX: [v**beta for v in values],
        SoftrankX: [rank**-beta for rank in (4, 3, 1, 2)],
        SoftmaxX: [np.exp(beta * v) for v in values],
    }[kind]
    toy, base = tiny(values)
    rng, strategy = stream(1, kind.__name__), kind(base, beta)
    chance = set_probabilities(weight, size)
    seen = dict.fromkeys(chance, 0)
    for _ in range(draws):
        seen[frozenset(strategy.select(toy, size, rng=rng).rows.tolist())] += 1
    assert sum(chance.values()) == pytest.approx(1)
    assert chisquare(list(seen.values()), [draws * p for p in chance.values()]).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_it_is_top_score(kind):
    for unit in ("slice", "volume"):
        toy = toy_snapshot(unit=unit, depths=(6, 4, 7, 5, 3, 3, 2, 2))
        n = len(toy.candidates) - 1
        plain = TopScore().select(toy, n, rng=stream(0))
        for beta in (np.inf, 1e9):
            cold = kind(beta=beta).select(toy, n, rng=stream(7))
            assert cold.rows.tolist() == plain.rows.tolist()
            assert cold.scores.tolist() == plain.scores.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_beta_zero_is_uniform(kind):
    toy, base = tiny([1e-3, 1.0, 50.0, 7.0])
    rng = stream(0)
    firsts = [kind(base, 0.0).select(toy, 1, rng=rng).rows[0] for _ in range(2000)]
    assert chisquare(np.bincount(firsts, minlength=4)).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_ties_without_noise_are_broken_by_chance(kind):
    toy, base = tiny([0.0, 0.0, 0.0, 0.0])
    rng = stream(0)
    firsts = [kind(base, np.inf).select(toy, 1, rng=rng).rows[0] for _ in range(1200)]
    assert chisquare(np.bincount(firsts, minlength=4)).pvalue > 1e-3


def test_equal_scores_share_the_ranks_by_chance():
    rng, rank = stream(0), []
    for _ in range(600):
        rank.append(np.exp(-log_rank(np.array([1.0, 5.0, 1.0]), rng=rng)))
    np.testing.assert_allclose([r[1] for r in rank], 1)
    assert {round(r[0]) for r in rank} == {round(r[2]) for r in rank} == {2, 3}
    assert abs(np.mean([r[0] for r in rank]) - 2.5) < 4 * 0.5 / np.sqrt(600)


def test_a_score_of_zero_is_floored_and_can_still_be_drawn():
    toy, base = tiny([0.0, 0.0, 1.0])
    assert sorted(PowerX(base).select(toy, 3, rng=stream(0)).rows.tolist()) == [0, 1, 2]
    np.testing.assert_allclose(
        log_power(np.array([0.0, 1e-13, 1e-11])), np.log([1e-12, 1e-12, 1e-11])
    )
    # A float32 entropy of certain pixels may fall below zero by rounding alone.
    assert log_power(np.array([-1e-7, 2.0]))[0] == pytest.approx(np.log(1e-12))


def test_a_negative_score_has_no_power_but_has_a_rank():
    toy, base = tiny([-1.0, 2.0, 3.0])
    with pytest.raises(BadSelection, match=r"A score is -1, but Power-X.*SoftrankX or SoftmaxX"):
        PowerX(base).select(toy, 1, rng=stream(0))
    for kind in (SoftrankX, SoftmaxX):
        assert kind(base, np.inf).select(toy, 1, rng=stream(0)).rows.tolist() == [2]


def test_reported_scores_are_the_bases_without_noise():
    toy = toy_snapshot()
    plain = TopScore(bald).select(toy, len(toy.candidates), rng=stream(0))
    known = dict(zip(plain.rows.tolist(), plain.scores.tolist(), strict=True))
    for kind in KINDS:
        chosen = kind(TopScore(bald)).select(toy, 6, rng=stream(3))
        assert chosen.scores.tolist() == [known[row] for row in chosen.rows.tolist()]


def test_a_cap_per_volume_keeps_the_proportions():
    values = [0.5, 1.0, 2.0, 1.5]
    toy, base = tiny(values)
    toy = replace(toy, pool=replace(toy.pool, volume=np.array([0, 0, 1, 1])))
    rng, strategy, draws = stream(5), PerVolume(PowerX(base)), 3000
    seen = {}
    for _ in range(draws):
        key = tuple(strategy.select(toy, 2, rng=rng).rows.tolist())
        seen[key] = seen.get(key, 0) + 1
    chance = {}
    for a, b in permutations(range(4), 2):
        if toy.pool.volume[a] != toy.pool.volume[b]:
            others = [r for r in range(4) if toy.pool.volume[r] != toy.pool.volume[a]]
            chance[a, b] = values[a] / sum(values) * values[b] / sum(values[r] for r in others)
    assert set(seen) <= set(chance)
    assert (
        chisquare([seen.get(k, 0) for k in chance], [draws * p for p in chance.values()]).pvalue
        > 1e-3
    )


def test_a_base_without_scores_is_refused_by_name():
    with pytest.raises(
        BadSelection, match=r"RandomSampling\(\) gives 17 of 17 candidates no finite"
    ):
        PowerX(RandomSampling()).select(toy_snapshot(), 2, rng=stream(0))
    with pytest.raises(BadSelection, match="no finite score"):
        PowerX(CoreSet()).select(toy_snapshot(labelled=0), 2, rng=stream(0))


def test_scores_come_in_the_order_of_the_candidates():
    toy = toy_snapshot()
    values = tuple(np.random.default_rng(0).random(len(toy.pool)).tolist())
    got = scores_of(Given(values), toy, rng=stream(0))
    np.testing.assert_array_equal(got, np.array(values)[toy.candidates])


def test_no_model_is_a_cold_start_and_a_bad_beta_is_refused():
    for kind in KINDS:
        with pytest.raises(ColdStart):
            kind().select(toy_snapshot(fitted=False), 2, rng=stream(0))
        for beta in (-1.0, np.nan):
            with pytest.raises(ValueError, match="it must be 0 or more"):
                kind(beta=beta)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [1.0, np.inf])
def test_the_contract_is_kept(kind, beta):
    check_strategy(kind(beta=beta), seeds=[0])
    check_strategy(PerVolume(kind(TopScore(bald), beta)), seeds=[1])
