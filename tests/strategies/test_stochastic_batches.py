from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from alnb.errors import ColdStart
from alnb.rng import stream
from alnb.strategies.stochastic_batches import StochasticBatches, grouped_order
from alnb.strategies.uncertainty import TopScore, bald
from alnb.strategies.wrappers import PerVolume, WarmStart
from alnb.testing import check_strategy
from alnb.testing.toy import toy_snapshot


def groups_of(order, size, short):
    """Cut an order into its groups, the short one being `short` rows long wherever it came."""
    for first in range(0, len(order) + 1, size):
        heads = [order[i : i + size] for i in range(0, first, size)]
        rest = order[first + short :]
        tails = [rest[i : i + size] for i in range(0, len(rest), size)]
        yield [*heads, order[first : first + short], *tails]


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.integers(0, 1000), min_size=1, max_size=13, unique=True),
    size=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_groups_fall_by_mean_and_their_rows_by_score(scores, size, seed):
    scores = np.array(scores, dtype=float)
    order = grouped_order(scores, size, rng=stream(seed)).tolist()
    assert sorted(order) == list(range(len(scores)))

    def sound(groups):
        means = [scores[g].mean() for g in groups if g]
        inside = all((np.diff(scores[g]) < 0).all() for g in groups)
        return inside and (np.diff(means) <= 1e-9).all()

    assert any(sound(groups) for groups in groups_of(order, size, len(scores) % size))


def test_groups_of_one_are_top_score():
    for unit in ("slice", "volume"):
        toy = toy_snapshot(unit=unit, depths=(6, 4, 7, 5, 3, 3, 2, 2))
        for n in (1, 3, len(toy.candidates)):
            plain = TopScore().select(toy, n, rng=stream(0))
            chosen = StochasticBatches(size=1).select(toy, n, rng=stream(4))
            assert chosen.rows.tolist() == plain.rows.tolist()
            assert chosen.scores.tolist() == plain.scores.tolist()


def test_partitions_are_uniform():
    """In pairs of four rows there are three partitions; the best pair tells which it was."""
    scores, rng = np.array([0.0, 1.0, 3.0, 7.0]), stream(0)
    seen = {}
    for _ in range(3000):
        key = tuple(sorted(grouped_order(scores, 2, rng=rng)[:2].tolist()))
        seen[key] = seen.get(key, 0) + 1
    # The pair that holds row 3 wins, whichever partner it was given.
    assert set(seen) == {(0, 3), (1, 3), (2, 3)}
    assert chisquare(list(seen.values())).pvalue > 1e-3


def test_a_short_group_is_judged_by_its_mean():
    scores, rng = np.array([10.0, 1.0, 1.0]), stream(0)
    orders = [grouped_order(scores, 2, rng=rng).tolist() for _ in range(300)]
    # Alone, row 0 has a mean of 10; in a pair, 5.5: either way its group comes first.
    assert all(order[0] == 0 for order in orders)
    low = np.array([10.0, 0.0, 6.0])
    first = {tuple(grouped_order(low, 2, rng=rng)) for _ in range(300)}
    # {0 1} has a mean of 5 and loses to a lone 2, although its sum is larger.
    assert first == {(2, 0, 1), (0, 2, 1)}


def test_groups_of_ten_fill_the_batch_and_the_last_is_cut_by_score():
    scores = stream(3).random(40)
    order = grouped_order(scores, 10, rng=stream(8)).tolist()
    groups = [order[i : i + 10] for i in range(0, 40, 10)]
    means = [scores[g].mean() for g in groups]
    assert means == sorted(means, reverse=True)
    kept, cut = order[20:25], order[25:30]
    assert min(scores[kept]) > max(scores[cut])


def test_more_partitions_raise_the_mean_score_of_the_batch():
    toy = toy_snapshot()
    means = []
    for repeats in (1, 5, 50):
        strategy = StochasticBatches(repeats=repeats)
        batches = [strategy.select(toy, 4, rng=stream(s)).scores.mean() for s in range(20)]
        means.append(np.mean(batches))
    assert means == sorted(means)
    assert means[2] > means[0]
    best = TopScore().select(toy, 4, rng=stream(0)).scores.mean()
    assert means[2] <= best


def test_equal_scores_leave_every_row_the_same_chance():
    rng = stream(0)
    firsts = [grouped_order(np.zeros(7), 3, rng=rng)[0] for _ in range(2100)]
    assert chisquare(np.bincount(firsts, minlength=7)).pvalue > 1e-3


def test_settings_out_of_range_and_no_model_are_refused():
    with pytest.raises(ValueError, match="size is 0"):
        StochasticBatches(size=0)
    with pytest.raises(ValueError, match="repeats is 0"):
        StochasticBatches(repeats=0)
    with pytest.raises(ColdStart):
        StochasticBatches().select(toy_snapshot(fitted=False), 2, rng=stream(0))


@pytest.mark.parametrize(
    "strategy",
    [
        StochasticBatches(),
        StochasticBatches(TopScore(bald), size=10),
        StochasticBatches(size=1),
        StochasticBatches(repeats=3),
        PerVolume(StochasticBatches(size=3)),
        WarmStart(TopScore(), StochasticBatches()),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])
