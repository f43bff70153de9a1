from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alnb.embed import quality as module
from alnb.embed.quality import quality, radii, recall_at_1
from alnb.errors import BadInput
from alnb.strategies.coreset import cover_radius, k_center, medoid


def slow_nearest(x, row, eligible):
    """The lowest of the eligible rows at the least distance."""
    distance = {other: math.dist(x[row], x[other]) for other in eligible}
    return min(distance, key=lambda other: (round(distance[other], 9), other))


def slow_retrieval(x, groups, apart):
    """Recall, chance and the number of rows counted, row by row."""
    hits, chances = [], []
    for row in range(len(x)):
        eligible = [other for other in range(len(x)) if apart[other] != apart[row]]
        mates = [other for other in eligible if groups[other] == groups[row]]
        if mates:
            hits.append(groups[slow_nearest(x, row, eligible)] == groups[row])
            chances.append(len(mates) / len(eligible))
    return np.mean(hits), np.mean(chances), len(hits)


def hearts(seed=0, rows=40, width=3):
    """Features on a coarse grid, with many ties and duplicates, patients and their volumes."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (rows, width)).astype(np.float32)
    volume = rng.integers(0, 12, rows)
    return x, volume // 2, volume


# Retrieval


@pytest.mark.parametrize("block", [1, 3 * 40, 2**21])
@pytest.mark.parametrize("seed", range(4))
def test_retrieval_is_that_of_comparing_all_pairs(monkeypatch, seed, block):
    monkeypatch.setattr(module, "_BLOCK_VALUES", block)
    x, patient, volume = hearts(seed)
    found = quality(x, patient, volume)
    own = range(len(x))
    for retrieval, groups, apart in (
        (found.volume, volume, own),
        (found.patient, patient, own),
        (found.across, patient, volume),
    ):
        recall, chance, rows = slow_retrieval(x, groups, apart)
        assert retrieval.recall == pytest.approx(recall)
        assert retrieval.chance == pytest.approx(chance)
        assert retrieval.rows == rows
    assert recall_at_1(x, volume) == found.volume.recall
    assert recall_at_1(x, patient) == found.patient.recall


def test_a_row_does_not_answer_for_itself():
    x = np.array([[0.0], [1.0], [10.0], [11.0]])
    assert recall_at_1(x, np.array([0, 0, 1, 1])) == 1
    assert recall_at_1(x, np.array([0, 1, 0, 1])) == 0


def test_rows_alone_in_their_group_are_left_out_but_may_be_the_nearest_of_others():
    x = np.array([[0.0], [1.0], [1.9], [50.0]])
    # Row 2 is alone and spoils row 1; row 3 and row 2 do not count.
    groups = np.array([5, 5, 6, 7])
    assert recall_at_1(x, groups) == 0.5
    assert quality(x, groups, groups).volume.rows == 2


def test_without_any_pair_there_is_nothing_to_measure():
    x = np.arange(3.0)[:, None]
    assert math.isnan(recall_at_1(x, np.arange(3)))
    one_volume_each = quality(x, np.zeros(3, int), np.zeros(3, int)).across
    assert one_volume_each.rows == 0
    assert math.isnan(one_volume_each.recall)
    assert math.isnan(recall_at_1(x[:1], np.zeros(1, int)))


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_among_duplicates_the_lowest_other_row_answers(offset):
    x = np.full((5, 3), 0.1) + offset
    assert recall_at_1(x, np.array([0, 1, 0, 0, 1])) == pytest.approx(2 / 5)
    # Row 0 asks row 1, all others ask row 0: rows 2 and 3 are right.


def test_a_tie_goes_to_the_lowest_row_whatever_the_rounding():
    rng = np.random.default_rng(1)
    for _ in range(20):
        step = rng.normal(size=6)
        x = np.stack([step, -step, np.zeros(6)]) + rng.normal(size=6)
        # The middle row is as far from both others; the groups pair it with the first.
        assert recall_at_1(x, np.array([0, 1, 0])) == 1


def test_chance_is_what_features_without_meaning_reach():
    rng = np.random.default_rng(2)
    volume = np.repeat(np.arange(20), 100)
    found = quality(rng.normal(size=(2000, 8)), volume // 2, volume)
    assert found.volume.chance == pytest.approx(99 / 1999)
    assert found.volume.recall == pytest.approx(99 / 1999, abs=0.02)
    assert found.patient.chance == pytest.approx(199 / 1999)
    assert found.across.chance == pytest.approx(100 / 1900)
    assert found.across.recall == pytest.approx(100 / 1900, abs=0.025)


def test_retrieval_across_volumes_sees_what_near_copies_in_a_volume_hide():
    # Two patients of two volumes of three near-copies; a patient's volumes lie far apart.
    places = np.array([0.0, 10.0, 1.0, 11.0])
    x = (places[:, None] + [0, 0.01, 0.02]).reshape(-1, 1)
    volume = np.repeat(np.arange(4), 3)
    found = quality(x, volume // 2, volume)
    assert found.volume.recall == found.patient.recall == 1
    assert found.across.recall == 0


def test_volume_codes_that_start_anew_in_each_patient_are_different_volumes():
    x, patient, volume = hearts(3)
    assert quality(x, patient, volume % 2) == quality(x, patient, volume)


def test_no_matrix_of_all_pairs_is_held():
    rows = 4000
    x = np.random.default_rng(4).normal(size=(rows, 2))
    tracemalloc.start()
    try:
        recall_at_1(x, np.arange(rows) // 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < rows * rows * 8


# Radii


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 4), st.booleans())
def test_radii_are_those_of_k_center_in_units_of_the_spread(seed, rows, width, grid):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, width))
    if grid:  # many equal distances, none of them exact
        x = 0.1 * rng.integers(0, 3, (rows, width)) + rng.normal()
    first = int(rng.integers(rows))
    budgets = rng.integers(1, rows + 1, 9)
    cover = k_center(x, centres=[], candidates=np.arange(rows), n=rows, first=first)
    spread = np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean())
    expected = cover.radii[budgets - 1] / spread if spread > 0 else np.zeros(9)
    np.testing.assert_allclose(radii(x, budgets, first=first), expected, atol=1e-7)


def test_duplicates_of_centres_are_covered_exactly():
    x = np.random.default_rng(8).normal(size=(5, 50)).repeat(3, axis=0)
    assert radii(x, [5, 9, 15], first=0).tolist() == [0, 0, 0]
    assert radii(x, [4], first=0)[0] > 0.5


def test_radii_are_distances_to_centres_that_cover():
    x = np.array([[0.0], [1.0], [5.0], [6.0], [20.0]])
    # From row 0: 20, then 6, then 1, then nothing is uncovered but row 2 or 1, 1 away.
    expected = np.array([20, 6, 1, 1, 0]) / x.std()
    np.testing.assert_allclose(radii(x, [1, 2, 3, 4, 5], first=0), expected)
    np.testing.assert_allclose(radii(x, [3, 1], first=0), expected[[2, 0]])
    assert radii(x, [2], first=0)[0] * x.std() == pytest.approx(cover_radius(x, [0, 4]))


def test_scale_shift_and_rotation_of_the_features_change_nothing():
    rng = np.random.default_rng(5)
    x, patient, volume = rng.normal(size=(60, 4)), np.arange(60) // 12, np.arange(60) // 6
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    plain, moved = quality(x, patient, volume), quality(1e3 * x @ turn + 7e3, patient, volume)
    assert moved.volume == plain.volume
    assert moved.across == plain.across
    assert moved.radii == pytest.approx(plain.radii)


def test_budgets_are_percents_of_the_rows_rounded_down_to_at_least_one():
    rng = np.random.default_rng(6)
    x, codes = rng.normal(size=(1454, 2)), np.zeros(1454, int)
    assert quality(x, codes, codes).budgets == (29, 43, 58, 72)
    assert quality(x[:10], codes[:10], codes[:10], percents=(5, 29)).budgets == (1, 2)


def test_the_cover_opens_at_the_row_nearest_to_the_mean_unless_told_otherwise():
    x, patient, volume = hearts(7)
    found = quality(x, patient, volume, percents=(10,))
    centre = medoid(x, np.arange(len(x)))
    assert found.radii == pytest.approx(radii(x, found.budgets, first=centre))
    other = quality(x, patient, volume, percents=(10,), first=3)
    assert other.radii == pytest.approx(radii(x, found.budgets, first=3))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_equal_rows_are_covered_by_one_of_them(value):
    x = np.full((7, 3), value, dtype=np.float32)
    assert radii(x, [1, 7], first=2).tolist() == [0, 0]


# Errors


def test_misfits_are_named():
    x = np.zeros((4, 2))
    for call in (lambda x: recall_at_1(x, np.zeros(4, int)), lambda x: radii(x, [1], first=0)):
        with pytest.raises(BadInput, match=r"\(4,\)"):
            call(np.zeros(4))
        with pytest.raises(BadInput, match=r"\(0, 2\)"):
            call(x[:0])
        with pytest.raises(BadInput, match="Row 2"):
            call(np.where(np.arange(4)[:, None] == 2, np.nan, x))
    with pytest.raises(BadInput, match=r"Groups have shape \(3,\); 4 rows"):
        recall_at_1(x, np.zeros(3, int))
    for first in (-1, 4):
        with pytest.raises(BadInput, match=rf"row {first}; it must be one of 0..3"):
            radii(x, [1], first=first)
    for budget in (0, 5):
        with pytest.raises(BadInput, match=rf"\[{budget}\]; each must be from 1 to the 4 rows"):
            radii(x, [budget], first=0)
