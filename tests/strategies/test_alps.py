from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alnb.rng import stream
from alnb.strategies.alps import ALPS, CALR, around_means, dense_in_tree
from alnb.strategies.clusters import k_means
from alnb.strategies.wrappers import PerVolume, WarmStart, WithControl
from alnb.testing import check_strategy, toy_snapshot


def blobs():
    """A pool of 3 + 7 + 12 slices in three places, its rows shuffled."""
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.repeat([0, 1, 2], [3, 7, 12]))
    x = 30 * np.eye(3)[kind] + rng.normal(size=(22, 3))
    return replace(toy_snapshot(labelled=0, skipped=0), embedding=x), kind


def nearest_to_mean(x, rows):
    middle = sum(x[row] for row in rows) / len(rows)
    return min(rows, key=lambda row: np.linalg.norm(x[row] - middle))


def densest(x, rows):
    return min(rows, key=lambda row: sum(np.linalg.norm(x[row] - x[other]) for other in rows))


@pytest.mark.parametrize(("strategy", "middle"), [(ALPS(), nearest_to_mean), (CALR(), densest)])
def test_each_cluster_gives_its_middle_the_largest_first(strategy, middle):
    toy, kind = blobs()
    chosen = strategy.select(toy, 3, rng=stream(0))
    expected = [middle(toy.embedding, np.flatnonzero(kind == code)) for code in (2, 1, 0)]
    assert chosen.rows.tolist() == expected
    assert chosen.scores.tolist() == [12, 7, 3]


@pytest.mark.parametrize("strategy", [ALPS(), CALR()])
def test_a_cluster_with_a_label_waits(strategy):
    toy, kind = blobs()
    known = int(np.flatnonzero(kind == 2)[0])
    toy = replace(toy, labelled=np.array([known]), candidates=np.delete(np.arange(22), known))
    chosen = strategy.select(toy, 2, rng=stream(0))
    assert kind[chosen.rows].tolist() == [1, 0]


def test_the_middle_by_means_is_minus_the_distance_to_the_mean_of_the_cluster():
    x = np.random.default_rng(1).normal(size=(30, 4))
    cluster, middle = around_means(x, 4, stream(0))
    assert np.array_equal(cluster, k_means(x, 4, rng=stream(0)))
    for row in range(30):
        mean = x[cluster == cluster[row]].mean(axis=0)
        assert middle[row] == pytest.approx(-np.linalg.norm(x[row] - mean))


def test_density_is_the_inverse_mean_distance_to_the_whole_cluster():
    x = np.random.default_rng(1).normal(size=(50, 4))
    cluster, density = dense_in_tree(x, 2, stream(0))
    for row in range(50):
        others = [r for r in range(50) if cluster[r] == cluster[row] and r != row]
        away = np.mean([np.linalg.norm(x[row] - x[other]) for other in others])
        assert density[row] == pytest.approx(1 / (away + 1e-5))


@pytest.mark.parametrize("strategy", [ALPS(), CALR()])
def test_equal_features_and_empty_questions_are_answered(strategy):
    toy = toy_snapshot()
    flat = replace(toy, embedding=np.ones_like(toy.embedding))
    assert sorted(strategy.select(flat, 17, rng=stream(0)).rows) == toy.candidates.tolist()
    assert len(strategy.select(toy, 0, rng=stream(0)).rows) == 0


@pytest.mark.parametrize("strategy", [ALPS(), CALR()])
def test_the_order_of_the_pool_does_not_matter_for_one_state_of_the_generator(strategy):
    toy = toy_snapshot()
    order = np.random.default_rng(1).permutation(len(toy.pool))
    plain = strategy.select(toy, 6, rng=stream(3))
    moved = strategy.select(toy.permuted(order), 6, rng=stream(3))
    assert order[moved.rows].tolist() == plain.rows.tolist()


@pytest.mark.parametrize(
    "strategy",
    [
        ALPS(),
        CALR(),
        PerVolume(ALPS()),
        PerVolume(CALR(), cap=2),
        WithControl(WarmStart(CALR(), ALPS()), share=0.5),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])
