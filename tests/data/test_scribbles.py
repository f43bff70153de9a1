from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from alnb.data.raster import rasterize
from alnb.data.scribbles import scribble_from_mask
from alnb.data.volume import unlabelled
from alnb.errors import BadInput
from alnb.records import IGNORE


def drawn(mask, seed=0, classes=4, **options):
    strokes = scribble_from_mask(mask, rng=np.random.default_rng(seed), classes=classes, **options)
    return strokes, rasterize(strokes, unlabelled(mask.shape))


def discs(height, width, circles):
    """Label map from (row, col, radius, label), later over earlier."""
    row, col = np.indices((height, width))
    mask = np.zeros((height, width), np.uint8)
    for r, c, radius, label in circles:
        mask[(row - r) ** 2 + (col - c) ** 2 <= radius**2] = label
    return mask


circle = st.tuples(
    st.integers(-5, 70),
    st.integers(-5, 90),
    st.floats(0, 30),
    st.sampled_from([0, 1, 2, 3, IGNORE]),
)
masks = st.builds(
    discs, st.integers(8, 64), st.integers(8, 80), st.lists(circle, max_size=6)
)  # fmt: skip


def enlarged(small, rows, cols):
    return np.kron(small, np.ones((rows, cols), np.uint8))


# single pixels, single rows, speckle, blocks, one class all over, nothing known
oddities = st.builds(
    enlarged,
    arrays(
        np.uint8,
        array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.sampled_from([0, 1, 2, 3, IGNORE]),
        fill=st.sampled_from([0, 1, IGNORE]),
    ),
    st.integers(1, 9),
    st.integers(1, 9),
)


@settings(deadline=None, max_examples=100)
@given(masks | oddities, st.integers(0, 9), st.floats(1, 9), st.floats(0, 6))
def test_ink_stays_inside_its_class_and_every_class_gets_some(mask, seed, thickness, jitter):
    _, ink = drawn(mask, seed, thickness=thickness, jitter_px=jitter)
    said = ink != IGNORE
    np.testing.assert_array_equal(ink[said], mask[said])
    assert set(np.unique(ink[said])) == set(np.unique(mask)) - {IGNORE}


@settings(deadline=None, max_examples=30)
@given(oddities, st.integers(0, 9), st.floats(0, 50))
def test_a_shifted_hand_misses_classes_but_never_fails(mask, seed, bias):
    strokes, _ = drawn(mask, seed, bias_px=bias)
    still, _ = drawn(mask, seed)
    assert [stroke.label for stroke in strokes] == [stroke.label for stroke in still]


@pytest.mark.parametrize("shape", [(10, 61), (2, 46), (61, 10)])
def test_a_far_line_in_a_narrow_slice_is_cut_to_at_least_a_dot(shape):
    mask = np.zeros(shape, np.uint8)
    mask[0, 0] = 1
    for seed in range(40):
        strokes, ink = drawn(mask, seed, thickness=6.0, jitter_px=0.0)
        assert {stroke.label for stroke in strokes} == {0, 1}
        np.testing.assert_array_equal(ink[ink != IGNORE], mask[ink != IGNORE])


def test_every_part_of_ten_pixels_gets_a_stroke_and_smaller_ones_only_when_alone():
    mask = np.zeros((60, 60), np.uint8)
    mask[5:15, 5:15] = mask[30:40, 30:40] = 1
    mask[50:52, 50:52] = 1
    mask[20:22, 50:52] = 2
    strokes, ink = drawn(mask)
    assert sum(stroke.label == 1 for stroke in strokes) == 2
    assert not (ink[50:52, 50:52] == 1).any()
    assert (ink[20:22, 50:52] == 2).any()


def test_a_ring_is_followed_along_its_middle():
    ring = discs(128, 128, [(64, 64, 30, 2), (64, 64, 20, 3)])
    for seed in range(5):
        strokes, _ = drawn(ring, seed)
        points = np.array(next(stroke.points for stroke in strokes if stroke.label == 2))
        radius = np.hypot(*(points - 64.5).T)
        assert radius.min() > 22
        assert radius.max() < 28.5
        length = np.hypot(*np.diff(points, axis=0).T).sum()
        assert length > 50


@pytest.mark.parametrize("shape", [(128, 128), (256, 216), (192, 160)])
def test_coverage_is_that_of_manual_scribbles(shape):
    r, c = shape[0] / 2, shape[1] / 2
    heart = discs(*shape, [(r, c - 25, 28, 1), (r, c, 30, 2), (r, c, 20, 3)])
    for mask in (heart, np.zeros(shape, np.uint8)):
        for seed in range(5):
            _, ink = drawn(mask, seed)
            assert 0.005 <= (ink != IGNORE).mean() <= 0.05


def test_background_strokes_keep_their_distance_and_one_is_far():
    mask = discs(160, 160, [(60, 60, 18, 1)])
    for seed in range(8):
        strokes, _ = drawn(mask, seed, jitter_px=0.0)
        gaps = [
            np.hypot(*(np.array(stroke.points) - 60.5).T) - 18
            for stroke in strokes
            if stroke.label == 0
        ]
        assert len(gaps) == 2
        assert min(gap.min() for gap in gaps) >= 4
        assert gaps[0].max() <= 40
        assert gaps[1].max() >= 38


def test_a_slice_without_foreground_gets_background_alone():
    strokes, _ = drawn(np.zeros((64, 64), np.uint8))
    assert strokes
    assert {stroke.label for stroke in strokes} == {0}


def test_nothing_is_drawn_where_nothing_is_known():
    assert drawn(unlabelled((32, 32)))[0] == ()


def test_the_same_generator_gives_the_same_strokes():
    mask = discs(64, 64, [(30, 30, 15, 1), (30, 30, 8, 2)])
    assert drawn(mask, 3)[0] == drawn(mask, 3)[0]
    assert drawn(mask, 3)[0] != drawn(mask, 4)[0]


def test_a_missed_class_leaves_the_other_strokes_as_they_were():
    mask = discs(96, 96, [(48, 48, 25, 1), (48, 48, 15, 2)])
    every, _ = drawn(mask)
    some, _ = drawn(mask, missed_class=1)
    assert some == tuple(stroke for stroke in every if stroke.label != 1)


def test_a_biased_hand_leaves_the_class_by_no_more_than_its_bias():
    from scipy.ndimage import distance_transform_edt

    mask = discs(96, 96, [(48, 48, 25, 1), (48, 48, 19, 2)])
    left = False
    for seed in range(6):
        _, ink = drawn(mask, seed, bias_px=6.0)
        wrong = (ink == 1) & (mask != 1)
        left |= wrong.any()
        assert distance_transform_edt(mask != 1)[wrong].max(initial=0) <= 7.5
    assert left


def test_the_pen_is_as_thick_as_asked_where_it_fits():
    mask = discs(96, 96, [(48, 48, 30, 1)])
    radii = [
        {stroke.radius for stroke in drawn(mask, thickness=width)[0] if stroke.label == 1}
        for width in (1.5, 5.0)
    ]
    assert radii == [{0.75}, {2.5}]


@pytest.mark.parametrize(
    "wrong", [{"thickness": 0.5}, {"bias_px": -1.0}, {"jitter_px": -1.0}, {"classes": 1}]
)
def test_impossible_hands_are_refused(wrong):
    with pytest.raises(BadInput, match="at least 1 pixel wide"):
        drawn(np.zeros((32, 32), np.uint8), **wrong)
