from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from alnb.rng import stream
from alnb.strategies import neighbours, probcover
from alnb.strategies.coreset import k_center
from alnb.strategies.neighbours import Points
from alnb.strategies.probcover import Balls, ProbCover, max_cover, pure_radius
from alnb.strategies.wrappers import PerVolume, WarmStart, WithControl
from alnb.testing import check_strategy, toy_snapshot

NONE = np.empty(0, dtype=np.int64)


def graph(x, radius):
    return np.linalg.norm(x[:, None] - x[None], axis=2) < radius


def slow_cover(edges, covered, candidates, n):
    open_ = ~edges[covered].any(axis=0)
    picks, gains = [], []
    while len(picks) < n:
        gain = (edges[candidates] & open_).sum(axis=1)
        if not gain.max(initial=0):
            break
        best = int(np.argmax(gain))
        picks.append(int(candidates[best]))
        gains.append(int(gain[best]))
        open_ &= ~edges[picks[-1]]
    return picks, gains


def cover(x, radius, *, covered=NONE, candidates=None, n):
    balls = Balls.around(Points.of(x), radius**2, covered)
    return max_cover(balls, np.arange(len(x)) if candidates is None else candidates, n)


@pytest.fixture(params=[64, 4_000_000], ids=["many blocks", "one block"])
def block(request, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("seed", range(4))
def test_greedy_equals_the_whole_graph_the_last_partial_block_included(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(53, 3))
    covered, candidates = np.array([2, 50]), rng.permutation(np.arange(4, 53))
    picks, gains = cover(x, 0.9, covered=covered, candidates=candidates, n=49)
    expected = slow_cover(graph(x, 0.9), covered, candidates, 49)
    assert (picks.tolist(), gains.tolist()) == expected
    assert (np.diff(gains) <= 0).all()


def test_a_small_pool_has_edges_up_to_its_last_row():
    x = np.array([[0.0], [10.0], [20.0], [30.0], [30.1], [30.2]])
    picks, gains = cover(x, 0.15, n=4)
    assert (picks[0], gains[0]) == (4, 3)
    assert sorted(picks[1:]) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(6))
def test_greedy_covers_at_least_1_minus_1_over_e_of_the_best_cover(seed):
    x = np.random.default_rng(seed).normal(size=(12, 2))
    edges = graph(x, 1.0)
    for n in (1, 2, 3, 4):
        best = max(edges[list(rows)].any(axis=0).sum() for rows in combinations(range(12), n))
        _, gains = cover(x, 1.0, n=n)
        assert gains.sum() >= (1 - 1 / np.e) * best


def test_counts_stay_exact_while_balls_are_covered():
    x = np.random.default_rng(0).normal(size=(70, 5)).astype(np.float32)
    balls = Balls.around(Points.of(x), 4.0, np.array([3]))
    edges, open_ = graph(x.astype(float), 2.0), np.ones(70, dtype=bool)
    open_ &= ~edges[3]
    for row in (10, 10, 44, 3, 21):
        new = balls.cover(row)
        assert new == (edges[row] & open_).sum()
        open_ &= ~edges[row]
        assert balls.left.tolist() == np.flatnonzero(open_).tolist()
        assert balls.gain.tolist() == (edges & open_).sum(axis=1).tolist()


def test_a_copy_is_covered_on_its_own():
    balls = Balls.around(Points.of(np.arange(9.0)[:, None]), 2.0, NONE)
    balls.copy().cover(4)
    assert balls.gain.sum() == 9 * 3 - 2
    assert len(balls.left) == 9


def share_of_pure_balls(x, group, radius):
    edges = graph(x, radius)
    return np.mean([(group[edges[row]] == group[row]).all() for row in range(len(x))])


@pytest.mark.parametrize("purity", [0.95, 0.8, 1.0])
def test_the_radius_is_the_largest_distance_at_which_enough_balls_are_pure(purity):
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(4), 15)
    x = 2 * rng.normal(size=(4, 3))[group] + rng.normal(size=(60, 3))
    radius = pure_radius(x, group, purity=purity)
    assert share_of_pure_balls(x, group, radius * (1 - 1e-9)) >= purity
    distances = np.unique(np.linalg.norm(x[:, None] - x[None], axis=2))
    larger = distances[distances > radius * (1 + 1e-9)]
    assert all(share_of_pure_balls(x, group, other) < purity for other in larger[:20])


def test_some_balls_give_the_radius_of_these_against_the_whole_pool():
    x = np.array([[0.0], [1.0], [4.0], [5.0]])
    group = np.array([0, 0, 1, 1])
    assert pure_radius(x, group, purity=1.0) == pytest.approx(3.0)
    assert pure_radius(x, group, purity=1.0, rows=np.array([0])) == pytest.approx(4.0)
    assert pure_radius(x, np.zeros(4, dtype=int)) == np.inf


def test_a_dense_crowd_comes_before_a_sparse_one_and_what_is_labelled_is_covered():
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=(n, 2)) * 0.1 + at for n, at in ((20, 0), (9, 5), (4, 9))])
    toy = toy_snapshot(depths=(11, 11, 11), labelled=0, skipped=0)
    toy = replace(toy, embedding=x)
    chosen = ProbCover(radius=1.5).select(toy, 3, rng=stream(0))
    assert chosen.scores.tolist() == [20, 9, 4]
    known = replace(toy, labelled=np.array([0]), candidates=np.arange(1, 33))
    chosen = ProbCover(radius=1.5).select(known, 3, rng=stream(0))
    assert chosen.scores.tolist() == [9, 4, 0]


def test_once_all_is_covered_the_farthest_row_comes_first():
    toy = toy_snapshot()
    chosen = ProbCover(radius=1e6).select(toy, 5, rng=stream(0))
    expected = k_center(toy.embedding, centres=toy.labelled, candidates=toy.candidates, n=5)
    assert chosen.rows.tolist() == expected.rows.tolist()
    assert (chosen.scores == 0).all()


def test_coinciding_groups_leave_a_radius_of_zero_and_an_answer():
    toy = toy_snapshot()
    flat = replace(toy, embedding=np.ones_like(toy.embedding))
    assert pure_radius(flat.embedding, toy.pool.volume) == 0
    chosen = ProbCover().select(flat, 4, rng=stream(0))
    assert len(set(chosen.rows.tolist())) == 4


@pytest.mark.parametrize("groups", ["volume", "position", "clusters"])
def test_the_groups_stand_in_for_classes(groups):
    toy = toy_snapshot(depths=(9, 9, 9), labelled=0, skipped=0)
    pool = toy.pool
    code = {"volume": pool.volume, "position": np.minimum(pool.position * 5, 4).astype(int)}
    if groups in code:
        radius = pure_radius(toy.embedding, code[groups])
        asked = ProbCover(groups=groups).select(toy, 6, rng=stream(1))
        given = ProbCover(radius=radius * (1 - 1e-12)).select(toy, 6, rng=stream(1))
        assert asked.scores.tolist() == given.scores.tolist()
    volumes = toy_snapshot(unit="volume", depths=(2,) * 30)
    assert ProbCover(groups=groups).select(volumes, 3, rng=stream(1)).scores[0] > 1


def test_a_large_pool_takes_the_radius_from_a_sample(monkeypatch):
    toy = toy_snapshot(depths=(9,) * 12)
    monkeypatch.setattr(probcover, "_SAMPLE", 30)
    sampled = ProbCover().select(toy, 5, rng=stream(0))
    assert len(set(sampled.rows.tolist())) == 5
    assert sampled.rows.tolist() == ProbCover().select(toy, 5, rng=stream(0)).rows.tolist()


def test_the_order_of_the_pool_does_not_matter_for_one_state_of_the_generator():
    toy = toy_snapshot()
    order = np.random.default_rng(1).permutation(len(toy.pool))
    plain = ProbCover(groups="clusters").select(toy, 8, rng=stream(3))
    moved = ProbCover(groups="clusters").select(toy.permuted(order), 8, rng=stream(3))
    assert order[moved.rows].tolist() == plain.rows.tolist()
    assert moved.scores.tolist() == plain.scores.tolist()


def test_a_cap_per_volume_measures_the_balls_once(monkeypatch):
    calls = []
    around = Balls.around
    monkeypatch.setattr(Balls, "around", lambda *args: calls.append(1) or around(*args))
    toy = toy_snapshot(depths=(8,) * 6)
    chosen = PerVolume(ProbCover(radius=2.0)).select(toy, 6, rng=stream(0))
    assert len(calls) == 1
    edges = graph(toy.embedding.astype(float), 2.0)
    open_ = ~edges[toy.labelled].any(axis=0)
    for row, gain in zip(chosen.rows, chosen.scores, strict=True):
        assert (edges[row] & open_).sum() == gain
        open_ &= ~edges[row]


@pytest.mark.parametrize(
    "strategy",
    [
        ProbCover(),
        ProbCover(groups="clusters"),
        ProbCover(radius=1.5),
        PerVolume(ProbCover(groups="position")),
        WithControl(WarmStart(ProbCover(), ProbCover(purity=0.5)), share=0.5),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])


@pytest.mark.parametrize("wrong", [{"radius": 0.0}, {"purity": 0.0}, {"groups": "patient"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ProbCover(**wrong)
