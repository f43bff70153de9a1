from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alnb.embed.features import PixelFeatures
from alnb.errors import BadInput, BadSelection, ColdStart, PoolExhausted
from alnb.strategies.coreset import (
    CoreSet,
    coreset_features,
    coreset_frozen,
    coreset_pixels,
    cover_radius,
    k_center,
    medoid,
    unit_rows,
    vepa2024,
)
from alnb.strategies.cost import Constant
from alnb.strategies.wrappers import PerVolume
from alnb.testing.strategy import check_strategy
from alnb.testing.toy import ToySnapshot, toy_snapshot

LINE = np.array([[0.0], [1.0], [2.0], [10.0], [10.0], [11.0]])


def slow_k_center(x, centres, candidates, n, first):
    """One Python float distance per pair, nothing remembered."""
    x = [[float(v) for v in row] for row in x]
    centres, left = list(centres), list(candidates)
    rows, distances, radii = [], [], []

    def away(row):
        pairs = [sum((a - b) ** 2 for a, b in zip(x[row], x[c], strict=True)) for c in centres]
        return min(pairs, default=float("inf")) ** 0.5

    for _ in range(n):
        pick = max(left, key=lambda row: (away(row), -row)) if centres else first
        rows.append(pick)
        distances.append(away(pick))
        left.remove(pick)
        centres.append(pick)
        radii.append(max(away(row) for row in range(len(x))))
    return rows, distances, radii


def test_k_center_takes_the_farthest_row_first():
    x = np.array([[0.0], [1.0], [9.0]])
    assert k_center(x, centres=[0], candidates=[1, 2], n=1).rows.tolist() == [2]


def test_duplicates_come_last_and_none_repeats():
    cover = k_center(LINE, centres=[0], candidates=[1, 2, 3, 4, 5], n=5)
    assert cover.rows.tolist() == [5, 2, 1, 3, 4]
    np.testing.assert_allclose(cover.radii, [2, 1, 1, 0, 0])
    np.testing.assert_allclose(cover.distances, [11, 2, 1, 1, 0])
    assert cover.radii[-1] == cover.distances[-1] == 0


@settings(max_examples=60, deadline=None)
@given(
    x=hnp.arrays(np.float64, (9, 2), elements=st.integers(-6, 6).map(float)),
    centres=st.sets(st.integers(0, 8), max_size=3),
    outside=st.sets(st.integers(0, 8), max_size=4),
    data=st.data(),
)
def test_k_center_equals_the_pairwise_definition(x, centres, outside, data):
    candidates = sorted(set(range(9)) - outside)
    n = data.draw(st.integers(0, len(candidates)))
    first = data.draw(st.sampled_from(candidates)) if candidates else None
    cover = k_center(x, centres=sorted(centres), candidates=candidates, n=n, first=first)
    rows, distances, radii = slow_k_center(x, sorted(centres), candidates, n, first)
    assert cover.rows.tolist() == rows
    np.testing.assert_allclose(cover.distances, distances, atol=1e-6)
    np.testing.assert_allclose(cover.radii, radii, atol=1e-6)


def test_same_rows_as_the_pairwise_definition_without_ties():
    x = np.random.default_rng(3).normal(size=(60, 4))
    cover = k_center(x, centres=[5, 9], candidates=range(10, 60), n=50)
    rows, distances, radii = slow_k_center(x, [5, 9], range(10, 60), 50, None)
    assert cover.rows.tolist() == rows
    np.testing.assert_allclose(cover.distances, distances, rtol=1e-9)
    np.testing.assert_allclose(cover.radii, radii, rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_radius_is_at_most_twice_the_best(seed):
    x = np.random.default_rng(seed).normal(size=(10, 2))
    for n in (1, 2, 3, 4):
        best = min(cover_radius(x, list(centres)) for centres in combinations(range(10), n))
        for first in range(10):
            cover = k_center(x, centres=[], candidates=range(10), n=n, first=first)
            assert cover.radii[-1] <= 2 * best + 1e-9


def test_distances_and_radii_never_rise():
    x = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    cover = k_center(x, centres=[], candidates=range(80), n=80, first=7)
    assert (np.diff(cover.distances[1:]) <= 0).all()
    assert (np.diff(cover.radii) <= 0).all()
    assert cover.distances[0] == np.inf
    # A radius of the whole pool after one pick is the distance of the next, all rows being free.
    np.testing.assert_allclose(cover.radii[:-1], cover.distances[1:])


def test_asking_twice_equals_asking_once():
    x = np.random.default_rng(1).normal(size=(70, 6))
    whole = k_center(x, centres=[], candidates=range(70), n=40, first=3)
    begun = whole.rows[:15]
    left = np.setdiff1d(np.arange(70), begun)
    then = k_center(x, centres=begun, candidates=left, n=25)
    assert then.rows.tolist() == whole.rows[15:].tolist()
    np.testing.assert_allclose(then.radii, whole.radii[15:])


def test_permuting_the_rows_permutes_the_answer():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(50, 4))
    order = rng.permutation(50)
    back = np.argsort(order)
    plain = k_center(x, centres=[4], candidates=range(5, 50), n=30)
    shuffled = k_center(x[order], centres=[back[4]], candidates=np.sort(back[5:]), n=30)
    assert order[shuffled.rows].tolist() == plain.rows.tolist()


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_equal_rows_are_all_taken_once_at_distance_zero(rows):
    x = np.full((rows, 3), 0.1, dtype=np.float32)
    cover = k_center(x, centres=[], candidates=range(rows), n=rows, first=rows - 1)
    assert sorted(cover.rows.tolist()) == list(range(rows))
    assert cover.rows[0] == rows - 1
    assert cover.rows[1:].tolist() == list(range(rows - 1))
    assert (cover.distances[1:] == 0).all()
    assert (cover.radii == 0).all()


def test_many_duplicates_never_repeat_while_the_work_shrinks():
    distinct = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32) * 1e-3 + 500
    x = np.repeat(distinct, 20, axis=0)
    cover = k_center(x, centres=[], candidates=range(240), n=240, first=0)
    assert sorted(cover.rows.tolist()) == list(range(240))
    assert len({row // 20 for row in cover.rows[:12]}) == 12
    assert (cover.distances[:12] > 0).all()
    assert (cover.distances[12:] == 0).all()


def test_near_duplicates_far_from_the_origin_keep_their_order():
    offsets = np.array([0.0, 1e-6, 3e-6, 7e-6, 1.5e-5])
    x = np.stack([1000 + offsets, np.full(5, -500.0)], axis=1)
    x = np.concatenate([x, [[1e4, 0.0]]])  # keeps the mean away from the cluster
    cover = k_center(x, centres=[5, 0], candidates=range(1, 5), n=4)
    assert cover.rows.tolist() == [4, 3, 2, 1]
    np.testing.assert_allclose(cover.distances, [1.5e-5, 7e-6, 3e-6, 1e-6], rtol=1e-5)


def test_labelled_rows_that_stay_candidates_come_last():
    cover = k_center(LINE, centres=[0, 5], candidates=range(6), n=6)
    assert cover.rows.tolist() == [2, 1, 3, 0, 4, 5]
    np.testing.assert_allclose(cover.distances, [2, 1, 1, 0, 0, 0])


def test_the_radius_counts_rows_that_cannot_be_picked():
    cover = k_center(LINE, centres=[0], candidates=[1, 2], n=2)
    np.testing.assert_allclose(cover.radii, [9, 9])


def test_medoid_has_the_least_sum_of_squared_distances():
    x = np.random.default_rng(4).normal(size=(30, 3))
    candidates = np.arange(5, 30)
    sums = [((x - x[row]) ** 2).sum() for row in candidates]
    assert medoid(x, candidates) == candidates[np.argmin(sums)]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_features_that_are_not_finite_are_named(broken):
    x = np.zeros((4, 2))
    x[2, 1] = broken
    with pytest.raises(BadInput, match="Row 2"):
        k_center(x, centres=[0], candidates=[1], n=1)


def test_bad_rows_and_counts_are_refused():
    with pytest.raises(PoolExhausted, match="Asked for 3 of 2"):
        k_center(LINE, centres=[0], candidates=[1, 2], n=3)
    with pytest.raises(ValueError, match=r"must be 0\.\.5"):
        k_center(LINE, centres=[6], candidates=[1, 2], n=1)
    with pytest.raises(ValueError, match="first must be one of the candidates"):
        k_center(LINE, centres=[], candidates=[1, 2], n=1, first=3)
    with pytest.raises(ValueError, match="must be 'medoid'"):
        CoreSet(start="middle")


def cold(features: np.ndarray, candidates: list[int]) -> ToySnapshot:
    toy = toy_snapshot(depths=(len(features),), labelled=0)
    object.__setattr__(toy, "embedding", features)
    object.__setattr__(toy, "candidates", np.array(candidates))
    return toy


def test_the_opening_pick_follows_start_and_scores_infinity():
    rng = np.random.default_rng(0)
    toy = cold(LINE, [1, 2, 3, 4, 5])
    assert CoreSet().select(toy, 2, rng=rng).rows.tolist()[0] == 2  # the mean is 5.67
    assert CoreSet(start=4).select(toy, 2, rng=rng).rows.tolist()[0] == 4
    assert CoreSet(start=0).select(toy, 2, rng=rng).rows.tolist()[0] == 1  # the nearest candidate
    assert CoreSet().select(toy, 2, rng=rng).scores[0] == np.inf
    openings = {int(CoreSet("random").select(toy, 1, rng=rng).rows[0]) for _ in range(80)}
    assert openings == {1, 2, 3, 4, 5}
    with pytest.raises(ValueError, match=r"one of 0\.\.5"):
        CoreSet(start=6).select(toy, 1, rng=rng)


def test_labelled_rows_are_the_centres():
    toy = toy_snapshot(labelled=3)
    chosen = CoreSet().select(toy, 4, rng=np.random.default_rng(0))
    rows, distances, _ = slow_k_center(
        toy.embedding, toy.labelled.tolist(), toy.candidates.tolist(), 4, None
    )
    assert chosen.rows.tolist() == rows
    np.testing.assert_allclose(chosen.scores, distances, rtol=1e-5)


def test_the_medoid_of_far_equal_rows_is_the_lowest():
    x = np.tile(1e6 + np.array([[0.1, 0.2, 0.3]]), (9, 1))
    assert medoid(x, np.arange(2, 9)) == 2


@pytest.mark.parametrize("cap", [1, 2])
def test_a_cap_of_its_own_is_the_same_as_the_wrapper(cap):
    for seed in range(4):
        toy = toy_snapshot(seed, depths=(9, 8, 7, 9), labelled=2, keep_labelled=seed % 2 == 1)
        inside = CoreSet(per_volume=cap).select(toy, 4 * cap, rng=np.random.default_rng(0))
        around = PerVolume(CoreSet(), cap).select(toy, 4 * cap, rng=np.random.default_rng(0))
        assert inside.rows.tolist() == around.rows.tolist()
        np.testing.assert_allclose(inside.scores, around.scores)


def test_a_cap_that_cannot_be_met_is_raised_and_said(caplog):
    toy = toy_snapshot(labelled=0, skipped=0)  # 6, 4, 7, 5 slices
    rows = CoreSet(per_volume=2).select(toy, 10, rng=np.random.default_rng(0)).rows
    assert "10 slices do not fit with 2 per volume; up to 3 are taken" in caplog.text
    assert np.bincount(toy.pool.volume[rows]).max() == 3


def test_under_costs_each_pick_has_the_largest_distance_per_second():
    toy = toy_snapshot(unit="volume", depths=(2, 9, 4, 1, 3, 8), labelled=1, skipped=0)
    chosen = CoreSet(cost=Constant()).select(toy, 4, rng=np.random.default_rng(0))
    seconds = 60.0 * np.array([len(slices) for slices in toy.pool.slices])
    known, left = toy.labelled.tolist(), toy.candidates.tolist()
    for row, score in zip(chosen.rows.tolist(), chosen.scores, strict=True):
        gaps = toy.embedding[left][:, None] - toy.embedding[known]
        ratio = np.linalg.norm(gaps, axis=2).min(axis=1) / seconds[left]
        assert row == left[int(ratio.argmax())]
        np.testing.assert_allclose(score, ratio.max(), rtol=1e-5)
        known.append(row)
        left.remove(row)


def test_a_cost_that_is_no_cost_is_refused():
    def free(snapshot, rows):
        return np.zeros(len(rows))

    with pytest.raises(BadSelection, match=r"CoreSet\(start='medoid', cost=free\) needs a cost"):
        CoreSet(cost=free).select(toy_snapshot(), 2, rng=np.random.default_rng(0))


def chosen_from(features: np.ndarray, toy: ToySnapshot, n: int) -> list[int]:
    return k_center(features, centres=toy.labelled, candidates=toy.candidates, n=n).rows.tolist()


def test_pixels_are_compared_whatever_the_session_has_for_features():
    toy = toy_snapshot()
    expected = PixelFeatures(8)([image[0] for image in toy.pixels])
    rows = coreset_pixels(8).select(toy, 5, rng=np.random.default_rng(0)).rows.tolist()
    assert rows == chosen_from(expected, toy, 5)


def test_the_pixels_of_a_volume_are_the_mean_over_its_slices():
    toy = toy_snapshot(unit="volume", depths=(2, 3, 1, 4, 2, 3))
    encode = PixelFeatures(8)
    expected = np.stack([encode(volume).mean(axis=0, dtype=np.float64) for volume in toy.pixels])
    np.testing.assert_allclose(coreset_pixels(8).features(toy), expected)


def test_learner_features_are_used_once_there_are_any():
    toy = toy_snapshot()
    strategy, rng = coreset_features(), np.random.default_rng(0)
    learned = toy.learned(np.arange(len(toy.pool)))
    assert strategy.select(toy, 5, rng=rng).rows.tolist() == chosen_from(learned, toy, 5)
    with pytest.raises(ColdStart):
        CoreSet(of="learner").select(toy_snapshot(fitted=False), 2, rng=rng)
    cold = toy_snapshot(fitted=False, labelled=0)
    assert len(strategy.select(cold, 3, rng=rng).rows) == 3


def test_frozen_features_compare_by_angle_alone():
    toy = toy_snapshot()
    rows = coreset_frozen().select(toy, 5, rng=np.random.default_rng(0)).rows.tolist()
    stretched = toy.embedding * np.random.default_rng(1).uniform(0.1, 9, (len(toy.pool), 1))
    object.__setattr__(toy, "embedding", stretched)
    assert coreset_frozen().select(toy, 5, rng=np.random.default_rng(0)).rows.tolist() == rows


@pytest.mark.parametrize("unit", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_unit_rows_have_length_one_at_any_scale(unit):
    x = np.array([[3.0, 4.0], [0.0, 0.0], [-1.0, 0.0]]) * unit
    np.testing.assert_allclose(unit_rows(x), [[0.6, 0.8], [0, 0], [-1, 0]])
    assert unit_rows(np.ones((2, 3), dtype=np.float16)).dtype == np.float32


def test_the_method_of_the_paper_opens_by_chance():
    toy = cold(LINE, [0, 1, 2, 3, 4, 5])
    openings = {
        int(vepa2024().select(toy, 1, rng=np.random.default_rng(s)).rows[0]) for s in range(60)
    }
    assert openings == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    "strategy",
    [
        vepa2024(),
        coreset_pixels(8),
        coreset_features(),
        coreset_frozen(),
        CoreSet(start=2, per_volume=2),
        CoreSet(cost=Constant()),
    ],
    ids=repr,
)
def test_variants_keep_the_contract(strategy):
    check_strategy(strategy)


def test_a_strategy_says_what_it_is():
    assert repr(CoreSet()) == "CoreSet(start='medoid')"
    assert repr(coreset_pixels()) == "CoreSet(start='medoid', of='pixels-256')"
    assert repr(CoreSet(3, "learner", unit=True, per_volume=2)) == (
        "CoreSet(start=3, of='learner', unit=True, per_volume=2)"
    )


def test_settings_of_the_strategy_are_checked():
    with pytest.raises(ValueError, match="of is 'pixels'"):
        CoreSet(of="pixels")
    with pytest.raises(ValueError, match="per_volume is 0"):
        CoreSet(per_volume=0)
