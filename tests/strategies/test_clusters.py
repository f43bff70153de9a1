from __future__ import annotations

import numpy as np
import pytest

from alnb.strategies import clusters
from alnb.strategies.clusters import k_means, means, ward


def rng(seed=0):
    return np.random.default_rng(seed)


def blobs(sizes, seed=0):
    centres = 50 * np.eye(len(sizes))
    truth = np.repeat(np.arange(len(sizes)), sizes)
    return (centres[truth] + rng(seed).normal(size=(len(truth), len(sizes)))), truth


def same_partition(a, b):
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist()))


@pytest.mark.parametrize("cluster", [k_means, ward])
def test_blobs_far_apart_are_found(cluster):
    x, truth = blobs([30, 5, 12])
    found = cluster(x, 3, rng=rng())
    assert len(set(found.tolist())) == 3
    assert same_partition(truth, found)


@pytest.mark.parametrize(("cluster", "limit"), [(k_means, "_LLOYD"), (ward, "_WARD")])
def test_the_way_for_large_pools_finds_them_too(cluster, limit, monkeypatch):
    monkeypatch.setattr(clusters, limit, 40)
    x, truth = blobs([60, 45, 50])
    assert same_partition(truth, cluster(x, 3, rng=rng(1)))


@pytest.mark.filterwarnings("error")
def test_equal_rows_share_a_cluster_and_there_are_no_more_clusters_than_rows_that_differ():
    x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    found = k_means(x, 7, rng=rng())
    assert same_partition(np.repeat(np.arange(3), 4), found)
    assert k_means(np.ones((5, 2)), 3, rng=rng()).tolist() == [0] * 5
    assert len(k_means(np.empty((0, 2)), 3, rng=rng())) == 0


@pytest.mark.parametrize("cluster", [k_means, ward])
def test_one_cluster_holds_all_and_as_many_as_rows_hold_one_each(cluster):
    x, _ = blobs([4, 5])
    assert set(cluster(x, 1, rng=rng()).tolist()) == {0}
    assert sorted(cluster(x, 9, rng=rng()).tolist()) == list(range(9))


def test_the_generator_decides_and_is_all_that_does():
    x = rng(3).normal(size=(60, 3))
    assert np.array_equal(k_means(x, 5, rng=rng(4)), k_means(x, 5, rng=rng(4)))
    others = [k_means(x, 5, rng=rng(seed)) for seed in range(8)]
    assert any(not same_partition(others[0], other) for other in others[1:])


def test_means_are_those_of_the_rows():
    x, truth = blobs([3, 4])
    expected = [x[truth == code].mean(axis=0) for code in (0, 1)]
    np.testing.assert_allclose(means(x, truth), expected)
