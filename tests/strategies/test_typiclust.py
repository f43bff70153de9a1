from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alnb.rng import stream
from alnb.strategies.typiclust import TypiClust, typical_rows, typicality
from alnb.strategies.wrappers import PerVolume, WarmStart, WithControl
from alnb.testing import check_strategy, toy_snapshot


def slow_typicality(x, cluster, neighbours):
    found = []
    for row in range(len(x)):
        own = [other for other in range(len(x)) if cluster[other] == cluster[row]]
        away = sorted(np.linalg.norm(x[row] - x[other]) for other in own if other != row)
        k = max(1, min(neighbours, len(own) // 2))
        found.append(1 / (np.mean(away[:k]) + 1e-5) if away else 0.0)
    return found


def slow_rows(cluster, typical, labelled, candidates, n, least):
    """Everything is counted anew before each pick."""
    picks = []
    sizes = [int((cluster == code).sum()) for code in range(cluster.max() + 1)]
    for _ in range(n):
        done = [
            sum(cluster[row] == code for row in [*labelled, *picks]) for code in range(len(sizes))
        ]
        left = [row for row in candidates if row not in picks]
        fresh = [row for row in left if row not in labelled]
        large = [row for row in fresh if sizes[cluster[row]] >= least]
        picks.append(
            min(
                large or fresh or left,
                key=lambda row: (
                    done[cluster[row]],
                    -sizes[cluster[row]],
                    -max(
                        typical[r] for r in (large or fresh or left) if cluster[r] == cluster[row]
                    ),
                    -typical[row],
                ),
            )
        )
    return picks


def test_typicality_equals_its_definition_also_in_clusters_of_one_and_two():
    x = np.random.default_rng(0).normal(size=(40, 3))
    cluster = np.repeat([0, 1, 2, 3], [27, 10, 2, 1])
    np.testing.assert_allclose(typicality(x, cluster), slow_typicality(x, cluster, 20), rtol=1e-9)
    np.testing.assert_allclose(typicality(x, cluster, 3), slow_typicality(x, cluster, 3), rtol=1e-9)


def test_equal_rows_have_a_finite_typicality():
    found = typicality(np.ones((8, 2)), np.zeros(8, dtype=int))
    np.testing.assert_allclose(found, 1e5)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), least=st.sampled_from([1, 4, 6]), data=st.data())
def test_rows_equal_those_of_a_recount_before_each_pick(seed, least, data):
    rng = np.random.default_rng(seed)
    cluster = np.append(rng.integers(5, size=19), 4)
    typical = rng.random(20)
    labelled = np.flatnonzero(rng.random(20) < 0.25)
    candidates = np.flatnonzero(rng.random(20) < 0.8)
    n = data.draw(st.integers(0, len(candidates)))
    found = typical_rows(cluster, typical, labelled, candidates, n, least=least)
    assert found.tolist() == slow_rows(cluster, typical, labelled, candidates, n, least)


def test_each_cluster_without_a_label_gives_its_densest_row():
    rng = np.random.default_rng(5)
    centres = 100 * np.eye(4)
    x = np.concatenate([centre + rng.normal(size=(12, 4)) for centre in centres])
    x[::12] = centres  # dense in the middle
    x[1::12], x[2::12], x[3::12] = centres + 0.01, centres - 0.01, centres * 1.0002
    toy = toy_snapshot(depths=(12,) * 4, labelled=0, skipped=0)
    toy = replace(
        toy, embedding=x, labelled=np.array([13]), candidates=np.delete(np.arange(48), 13)
    )
    chosen = TypiClust().select(toy, 3, rng=stream(0)).rows
    assert sorted(chosen // 12) == [0, 2, 3]
    assert (chosen % 12 < 4).all()


def test_a_pool_of_small_clusters_is_answered_all_the_same():
    toy = toy_snapshot(depths=(3, 2))
    k = len(toy.candidates)
    assert sorted(TypiClust(least=50).select(toy, k, rng=stream(0)).rows) == toy.candidates.tolist()


def test_no_more_clusters_than_asked_for():
    toy = toy_snapshot()
    one = TypiClust(clusters=1).select(toy, 4, rng=stream(0))
    everything = typicality(toy.embedding, np.zeros(len(toy.pool), dtype=int))
    expected = sorted(toy.candidates, key=lambda row: -everything[row])[:4]
    assert one.rows.tolist() == expected
    np.testing.assert_allclose(one.scores, everything[one.rows])


def test_the_order_of_the_pool_does_not_matter_for_one_state_of_the_generator():
    toy = toy_snapshot()
    order = np.random.default_rng(1).permutation(len(toy.pool))
    plain = TypiClust().select(toy, 6, rng=stream(3))
    moved = TypiClust().select(toy.permuted(order), 6, rng=stream(3))
    assert order[moved.rows].tolist() == plain.rows.tolist()
    np.testing.assert_allclose(moved.scores, plain.scores, rtol=1e-5)


def test_a_cap_per_volume_keeps_the_clusters_of_the_first_question():
    toy = toy_snapshot(depths=(8,) * 6)
    plain = TypiClust().select(toy, 12, rng=stream(0)).rows
    capped = PerVolume(TypiClust(), cap=2).select(toy, 12, rng=stream(0)).rows
    broken = next(
        at
        for at in range(12)
        if (toy.pool.volume[plain[:at]] == toy.pool.volume[plain[at]]).sum() > 1
    )
    assert capped[:broken].tolist() == plain[:broken].tolist()
    assert np.bincount(toy.pool.volume[capped]).max() == 2


@pytest.mark.parametrize(
    "strategy",
    [
        TypiClust(),
        TypiClust(clusters=2, least=1),
        PerVolume(TypiClust()),
        WithControl(WarmStart(TypiClust(), TypiClust(neighbours=1)), share=0.5),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])


@pytest.mark.parametrize("name", ["clusters", "neighbours", "least"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        TypiClust(**{name: 0})
