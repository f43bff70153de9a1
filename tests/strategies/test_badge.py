from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alnb.errors import BadInput, ColdStart
from alnb.rng import stream
from alnb.strategies.badge import BADGE, Explicit, RankOne, k_means_pp
from alnb.strategies.strided import Strided
from alnb.strategies.wrappers import PerVolume, WarmStart, WithControl
from alnb.testing import check_strategy, toy_snapshot


def factors(n=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 4)), 10 * rng.normal(size=(n, 6))


def multiplied(a, b):
    return np.einsum("na,nb->nab", a, b).reshape(len(a), -1)


def test_factors_give_the_lengths_and_distances_of_their_products():
    a, b = factors()
    one, whole = RankOne.of(a, b), Explicit.of(multiplied(a, b))
    np.testing.assert_allclose(one.norms, whole.norms)
    for row in (0, 17, 29):
        np.testing.assert_allclose(one.to(row), whole.to(row), rtol=1e-9, atol=1e-9)


def test_factors_of_equal_products_have_distance_zero_and_near_ones_have_not():
    a, b = factors(3)
    a[1], b[1] = a[0], b[0]
    a[2], b[2] = a[0], b[0] * (1 + 1e-7)
    found = RankOne.of(a, b).to(0)
    assert found[1] == 0
    assert found[2] == pytest.approx(1e-14 * (a[0] @ a[0]) * (b[0] @ b[0]), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_factors_and_products_give_the_same_picks(seed):
    a, b = factors(seed=seed)
    picks = [
        k_means_pp(space, np.arange(4, 30), 12, rng=stream(seed), centres=[1, 2])
        for space in (RankOne.of(a, b), Explicit.of(multiplied(a, b)))
    ]
    assert picks[0][0].tolist() == picks[1][0].tolist()
    np.testing.assert_allclose(picks[0][1], picks[1][1])


@pytest.mark.parametrize("seed", range(6))
def test_no_row_is_taken_twice_nor_a_duplicate_while_a_distinct_row_remains(seed):
    distinct = np.random.default_rng(seed).normal(size=(7, 3)) + 300
    x = np.repeat(distinct, 5, axis=0)
    picks, distances = k_means_pp(Explicit.of(x), np.arange(35), 35, rng=stream(seed))
    assert len({pick // 5 for pick in picks[:7]}) == 7
    assert (distances[:7] > 0).all()
    assert (distances[7:] == 0).all()
    assert sorted(picks) == list(range(35))


def test_rows_that_are_all_equal_or_zero_come_to_an_end():
    for value in (0.0, 2.0):
        picks, _ = k_means_pp(Explicit.of(np.full((9, 2), value)), np.arange(9), 9, rng=stream(0))
        assert sorted(picks) == list(range(9))


def test_the_longest_row_opens_and_the_others_follow_the_squared_distance():
    x = np.array([[0.0], [1.0], [3.0], [6.0]])
    counts = np.zeros(4)
    for seed in range(2000):
        picks, distances = k_means_pp(Explicit.of(x), np.arange(4), 2, rng=stream(seed))
        assert (picks[0], distances[0]) == (3, 6)
        assert distances[1] == 6 - x[picks[1], 0]
        counts[picks[1]] += 1
    share = np.array([36, 25, 9, 0]) / 70
    spread = np.sqrt(2000 * share * (1 - share))
    assert (np.abs(counts - 2000 * share) <= 4 * spread).all()


def test_a_centre_takes_the_place_of_the_opening():
    x = np.array([[0.0], [0.0], [5.0], [5.0]])
    picks, distances = k_means_pp(Explicit.of(x), [0, 1, 2], 1, rng=stream(0), centres=[3])
    assert picks[0] in (0, 1)
    assert distances.tolist() == [5]


def with_gradients(toy, gradients):
    class Given(type(toy)):
        def gradients(self, rows):
            return gradients[rows]

    return Given(**{name: getattr(toy, name) for name in toy.__dataclass_fields__})


def test_the_strategy_takes_the_longest_gradient_of_a_candidate_first():
    gradients = np.random.default_rng(0).normal(size=(22, 4)) ** 3
    toy = with_gradients(toy_snapshot(), gradients)
    longest = max(toy.candidates, key=lambda row: np.linalg.norm(gradients[row]))
    chosen = BADGE().select(toy, 5, rng=stream(0))
    assert chosen.rows[0] == longest
    assert chosen.scores[0] == pytest.approx(np.linalg.norm(gradients[longest]))
    for at in range(1, 5):
        away = np.linalg.norm(gradients[chosen.rows[:at]] - gradients[chosen.rows[at]], axis=1)
        assert chosen.scores[at] == pytest.approx(away.min())


def test_labelled_rows_count_as_picks_on_request_alone():
    gradients = np.zeros((22, 2))
    toy = toy_snapshot()
    far, rows = toy.candidates[3], toy.candidates
    gradients[far] = [3, 0]
    gradients[toy.labelled[0]] = [9, 0]
    toy = with_gradients(toy, gradients)
    assert BADGE().select(toy, 1, rng=stream(0)).scores[0] == 3
    known = BADGE(from_labelled=True).select(toy, len(rows), rng=stream(0))
    others = toy.labelled[1:]
    assert (gradients[others] == 0).all()
    assert known.scores[0] == 3
    assert known.rows[0] == far


def test_picks_of_a_batch_that_is_half_chosen_always_count():
    gradients = np.zeros((22, 1))
    gradients[:, 0] = toy_snapshot().pool.volume  # every volume has one gradient of its own
    toy = with_gradients(toy_snapshot(labelled=0), gradients)
    chosen = PerVolume(BADGE()).select(toy, 4, rng=stream(0))
    assert sorted(gradients[chosen.rows, 0]) == [0, 1, 2, 3]
    assert (chosen.scores[1:] > 0).all()


def test_without_a_model_it_is_too_early_and_broken_gradients_are_refused():
    with pytest.raises(ColdStart):
        BADGE().select(toy_snapshot(fitted=False), 3, rng=stream(0))
    broken = with_gradients(toy_snapshot(), np.full((22, 2), np.nan))
    with pytest.raises(BadInput, match="not finite"):
        BADGE().select(broken, 3, rng=stream(0))


def test_the_order_of_the_pool_does_not_matter_for_one_state_of_the_generator():
    toy = toy_snapshot()
    order = np.random.default_rng(1).permutation(len(toy.pool))
    plain = BADGE().select(toy, 6, rng=stream(3))
    moved = BADGE().select(toy.permuted(order), 6, rng=stream(3))
    assert order[moved.rows].tolist() == plain.rows.tolist()


@pytest.mark.parametrize(
    "strategy",
    [
        BADGE(),
        BADGE(from_labelled=True),
        PerVolume(BADGE()),
        WithControl(WarmStart(Strided(), BADGE()), share=0.5),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])


def test_nothing_asked_gives_nothing():
    toy = replace(toy_snapshot(), counts=np.zeros(22, dtype=np.int64))
    assert len(BADGE().select(toy, 0, rng=stream(0)).rows) == 0
