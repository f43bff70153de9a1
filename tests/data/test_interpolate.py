from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from alnb.data.interpolate import between, blend, signed_distance
from alnb.errors import BadInput
from alnb.records import IGNORE

MAPS = npst.arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 2]))
PARTLY = npst.arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 2, IGNORE]))
SPACINGS = st.sampled_from([(1.0, 1.0), (0.7, 2.0)])


def disc(size, centre, radius, *, pixel_mm=(1.0, 1.0)):
    """Pixels whose centre lies within `radius` mm of `centre` (row, col) in mm."""
    rows, cols = np.indices(size)
    away = np.hypot((rows + 0.5) * pixel_mm[0] - centre[0], (cols + 0.5) * pixel_mm[1] - centre[1])
    return (away <= radius).astype(np.uint8)


def dice(a, b):
    return 2 * (a & b).sum() / max(1, a.sum() + b.sum())


def slow_distance(region, pixel_mm):
    """To the nearest point of any pixel of the other side, by looking at all of them."""
    out = np.zeros(region.shape)
    for row, col in np.ndindex(region.shape):
        others = np.argwhere(region != region[row, col])
        gap = np.maximum(np.abs(others - (row, col)) - 0.5, 0) * pixel_mm
        out[row, col] = np.hypot(*gap.T).min() * (1 if region[row, col] else -1)
    return out


@given(npst.arrays(bool, (6, 8)), SPACINGS)
@settings(max_examples=40, deadline=None)
def test_signed_distances_are_those_of_a_search_over_all_pixels(region, pixel_mm):
    found = signed_distance(region, pixel_mm)
    if region.all() or not region.any():
        assert found is None
        return
    assert np.allclose(found, slow_distance(region, pixel_mm))


def test_a_cone_is_found_again_between_its_ends():
    radii = np.linspace(24, 6, 10)
    truth = [disc((64, 64), (32, 32), radius) for radius in radii]
    found = between({0: truth[0], 9: truth[9]})
    assert sorted(found) == list(range(1, 9))
    for index, labels in found.items():
        assert dice(labels == 1, truth[index] == 1) > 0.98
    volume, known = sum(m.sum() for m in found.values()), sum(t.sum() for t in truth[1:9])
    assert volume == pytest.approx(known, rel=0.02)


def test_a_sphere_of_every_third_slice_is_nearly_the_sphere():
    truth = [disc((64, 64), (32, 32), np.sqrt(max(0.0, 24**2 - z**2))) for z in range(-24, 25)]
    given_ = {index: labels for index, labels in enumerate(truth) if index % 3 == 0}
    found = np.stack([(given_ | between(given_))[index] for index in range(len(truth))])
    assert dice(found == 1, np.stack(truth) == 1) > 0.985


@pytest.mark.parametrize("step", [1, 4])
def test_an_oblique_tube_moves_along_also_where_its_ends_do_not_meet(step):
    truth = [disc((64, 64), (16 + step * z, 20 + step * z), 9) for z in range(7)]
    for index, labels in between({0: truth[0], 6: truth[6]}).items():
        assert dice(labels == 1, truth[index] == 1) > 0.95


def test_what_stands_still_stays_while_something_beside_it_moves():
    still = 2 * disc((64, 64), (46, 46), 8)
    truth = [np.maximum(still, disc((64, 64), (14, 12 + 4 * z), 7)) for z in range(7)]
    for index, labels in between({0: truth[0], 6: truth[6]}).items():
        assert dice(labels == 2, still == 2) > 0.97
        assert dice(labels == 1, truth[index] == 1) > 0.97


def test_a_ring_that_moves_stays_closed_around_what_it_holds():
    def heart(centre):
        wall, cavity = disc((64, 64), centre, 14), disc((64, 64), centre, 11)
        return np.where(cavity == 1, 3, 2 * wall).astype(np.uint8)

    truth = [heart((24 + 2 * z, 28 + z)) for z in range(7)]
    for index, labels in between({0: truth[0], 6: truth[6]}).items():
        assert dice(labels == 2, truth[index] == 2) > 0.85
        cavity = np.pad(labels == 3, 1)
        for axis, by in ((0, 1), (0, -1), (1, 1), (1, -1)):
            beside = np.pad(labels, 1)[np.roll(cavity, by, axis)]
            assert 0 not in beside


def test_pixels_that_are_not_square_are_measured_in_mm():
    size, pixel_mm = (60, 24), (0.8, 2.0)
    low, high = (disc(size, (24, 24), r, pixel_mm=pixel_mm) for r in (20, 8))
    found = between({0: low, 2: high}, pixel_mm=pixel_mm)[1]
    right = disc(size, (24, 24), 14, pixel_mm=pixel_mm)
    assert dice(found == 1, right == 1) > 0.97
    square = between({0: low, 2: high})[1]
    assert dice(square == 1, right == 1) < dice(found == 1, right == 1)


@given(MAPS, MAPS, SPACINGS)
@settings(max_examples=60, deadline=None)
def test_the_ends_are_the_two_slices_and_equal_slices_give_themselves(low, high, pixel_mm):
    first, last = blend(low, high, [0.0, 1.0], pixel_mm=pixel_mm)
    assert (first == low).all()
    assert (last == high).all()
    assert (blend(low, low, [0.3], pixel_mm=pixel_mm)[0] == low).all()


@given(PARTLY, PARTLY, st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_a_stack_turned_over_gives_the_same_turned_over(low, high, gap):
    there, back = (between(ends) for ends in ({0: low, gap + 1: high}, {0: high, gap + 1: low}))
    assert {gap + 1 - index for index in there} == set(back)
    for index, labels in there.items():
        assert (labels == back[gap + 1 - index]).all()


@given(PARTLY, PARTLY, st.integers(0, 4), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_what_is_moved_within_its_surroundings_moves_along(low, high, down, right):
    def put(labels, row, col):
        wide = np.zeros((24, 24), np.uint8)
        wide[6 + row : 13 + row, 6 + col : 15 + col] = labels
        return wide

    here = blend(put(low, 0, 0), put(high, 0, 0), [0.25, 0.5])
    moved = blend(put(low, down, right), put(high, down, right), [0.25, 0.5])
    for one, other in zip(here, moved, strict=True):
        assert (np.roll(one, (down, right), (0, 1)) == other).all()


@given(PARTLY, PARTLY)
@settings(max_examples=100, deadline=None)
def test_nothing_is_made_of_silence_and_no_class_of_nothing(low, high):
    (middle,) = blend(low, high, [0.5])
    assert (middle[(low == IGNORE) & (high == IGNORE)] == IGNORE).all()
    lone = (low == IGNORE) ^ (high == IGNORE)
    said = np.where(low == IGNORE, high, low)
    assert ((middle == said) | (middle == IGNORE))[lone].all()
    assert set(np.unique(middle)) <= set(np.unique(low)) | set(np.unique(high)) | {IGNORE}


@given(MAPS, MAPS)
@settings(max_examples=60, deadline=None)
def test_between_complete_slices_every_pixel_has_a_label(low, high):
    for labels in blend(low, high, [0.2, 0.5, 0.8]):
        assert (labels != IGNORE).all()
        assert set(np.unique(labels)) <= set(np.unique(low)) | set(np.unique(high))


@given(PARTLY, PARTLY)
@settings(max_examples=60, deadline=None)
def test_beside_silence_agreement_stands(low, high):
    low[0, 0] = high[0, 0] = IGNORE
    kept = blend(low, high, [0.3])[0]
    said = (low == high) & np.isin(low, np.unique(kept)) & (kept != IGNORE)
    assert (kept == low)[said].all()


def test_what_ends_on_the_way_shrinks_and_is_gone_half_way():
    low, high = disc((40, 40), (20, 20), 12), np.zeros((40, 40), np.uint8)
    found = between({0: low, 8: high})
    areas = [int((found[index] == 1).sum()) for index in range(1, 8)]
    assert areas == sorted(areas, reverse=True)
    assert areas[2] > 0
    assert areas[3:] == [0] * 4
    assert all((low[found[index] == 1] == 1).all() for index in found)


def test_a_class_that_fills_a_slice_gives_way_as_one_that_lacks_there():
    low = disc((30, 30), (15, 15), 9)
    emptied = between({0: low, 5: np.zeros_like(low)})
    filled = between({0: 1 - low, 5: np.ones_like(low)})
    for index in emptied:
        assert (filled[index] == 1 - emptied[index]).all()


def test_a_class_in_neither_slice_stays_out_of_all_between():
    low, high = disc((30, 30), (15, 15), 9), 3 * disc((30, 30), (15, 15), 5)
    codes = set(np.unique(np.stack(list(between({0: low, 9: high}).values()))))
    assert codes <= {0, 1, 3}


def lassoed(radius, label=3):
    return np.where(disc((40, 40), (20, 20), radius) == 1, label, IGNORE).astype(np.uint8)


def test_a_lassoed_structure_is_continued_and_its_surroundings_stay_unlabelled():
    found = between({0: lassoed(14), 4: lassoed(6)})[2]
    assert set(np.unique(found)) == {3, IGNORE}
    assert dice(found == 3, disc((40, 40), (20, 20), 10) == 1) > 0.97


def test_a_structure_missing_from_an_incomplete_slice_is_not_continued():
    both, only = lassoed(12), lassoed(12)
    both[2:8, 2:8] = 1
    for index, labels in between({0: both, 4: only}).items():
        assert 1 not in labels, index
        assert (labels[2:8, 2:8] == IGNORE).all()
    complete = np.where(only == IGNORE, 0, only).astype(np.uint8)
    # a complete slice says that it ends; only what both speak of is known otherwise
    assert 1 in between({0: both, 4: complete})[1]
    assert 0 not in between({0: both, 4: complete})[1]


def test_strokes_that_merely_cross_suggest_nothing():
    low, high = np.full((40, 40), IGNORE, np.uint8), np.full((40, 40), IGNORE, np.uint8)
    low[18:21, 5:35] = 1
    high[5:35, 18:21] = 1
    assert between({0: low, 5: high}) == {}


def test_each_slice_comes_from_the_nearest_labelled_ones():
    ends = {0: disc((40, 40), (20, 20), 15), 4: disc((40, 40), (20, 20), 5)}
    middle = {2: disc((40, 40), (20, 20), 14)}
    found = between(ends | middle)
    assert sorted(found) == [1, 3]
    assert (found[1] == between({0: ends[0], 2: middle[2]})[1]).all()
    assert between({3: ends[0]}) == {}
    assert between({3: ends[0], 4: ends[4]}) == {}


def test_slices_of_two_sizes_are_refused():
    with pytest.raises(BadInput, match="one volume"):
        between({0: np.zeros((4, 4), np.uint8), 2: np.zeros((4, 5), np.uint8)})
