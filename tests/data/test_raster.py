from __future__ import annotations

import hashlib
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alnb.data.raster import bounds, cover, merge, rasterize, target
from alnb.data.volume import unlabelled
from alnb.errors import BadInput
from alnb.records import IGNORE, Accepted, Mask, Scribble, Stroke

SHAPE = (14, 17)

coordinate = st.one_of(
    st.floats(-30, 40), st.integers(-60, 80).map(lambda half: half / 2), st.floats(-1e9, 1e9)
)
points = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=7).map(tuple)
strokes = st.builds(
    Stroke,
    points=points,
    label=st.sampled_from([0, 1, 2, 3, IGNORE]),
    radius=st.one_of(st.floats(0.1, 9), st.sampled_from([0.5, 1.0, 2.0, 40.0])),
    tool=st.sampled_from(["brush", "lasso"]),
    keep=st.sampled_from([(), (1,), (0, 2), (IGNORE,)]),
)


def near(row, col, points, radius):
    """Distance to a polyline, written out for one pixel."""
    ends = list(pairwise(points)) or [(points[0], points[0])]
    for (r0, c0), (r1, c1) in ends:
        dr, dc = r1 - r0, c1 - c0
        length2 = dr * dr + dc * dc
        place = ((row - r0) * dr + (col - c0) * dc) / length2 if length2 else 0.0
        place = min(max(place, 0.0), 1.0)
        gap_r, gap_c = (row - r0) - place * dr, (col - c0) - place * dc
        if gap_r * gap_r + gap_c * gap_c <= radius * radius:
            return True
    return False


def inside(row, col, points):
    """Even-odd rule for one pixel centre."""
    odd = False
    for (r0, c0), (r1, c1) in zip(points, (*points[1:], points[0]), strict=True):
        if (r0 <= row) != (r1 <= row) and col < c0 + (row - r0) * ((c1 - c0) / (r1 - r0)):
            odd = not odd
    return odd


def naive(strokes, base):
    painted = base.copy()
    for stroke in strokes:
        capped = [tuple(min(max(x, -1e6), 1e6) for x in point) for point in stroke.points]
        for r, c in np.ndindex(painted.shape):
            if stroke.tool == "lasso":
                hit = inside(r + 0.5, c + 0.5, capped)
            else:
                hit = near(r + 0.5, c + 0.5, capped, stroke.radius)
            if hit and painted[r, c] not in stroke.keep:
                painted[r, c] = stroke.label
    return painted


def checkered(shape):
    return (np.indices(shape).sum(axis=0) % 4).astype(np.uint8)


@settings(deadline=None, max_examples=150)
@given(st.lists(strokes, max_size=3))
def test_raster_equals_a_per_pixel_reference(drawn):
    base = checkered(SHAPE)
    before = base.copy()
    np.testing.assert_array_equal(rasterize(drawn, base), naive(drawn, base))
    np.testing.assert_array_equal(base, before)


@pytest.mark.parametrize("short", [2.2250738585e-313, 1e-170, 1e-161, 1e-155])
def test_a_stroke_shorter_than_floats_can_square_is_a_dot(short):
    stroke = Stroke(points=((4.0, 4.0), (4.0 * short, 4.0 + short), (short, 0.0)), label=1)
    dot = Stroke(points=((0.0, 0.0), (0.0, short)), label=1)
    for drawn in ([stroke], [dot]):
        np.testing.assert_array_equal(
            rasterize(drawn, unlabelled(SHAPE)), naive(drawn, unlabelled(SHAPE))
        )


@settings(deadline=None)
@given(strokes)
def test_nothing_changes_outside_the_bounds(stroke):
    base = checkered(SHAPE)
    changed = rasterize([stroke], base) != base
    changed[bounds(stroke, SHAPE)] = False
    assert not changed.any()


@settings(deadline=None)
@given(strokes, st.integers(-20, 20), st.integers(-20, 20))
def test_a_larger_slice_gives_the_same_pixels(stroke, rows, cols):
    small, large = rasterize([stroke], checkered(SHAPE)), None
    grown = (SHAPE[0] + abs(rows), SHAPE[1] + abs(cols))
    large = rasterize([stroke], checkered(grown))
    np.testing.assert_array_equal(large[: SHAPE[0], : SHAPE[1]], small)


def test_a_dot_covers_the_centres_within_its_radius_and_no_other():
    dot = Stroke(points=((5.5, 5.5),), label=1, radius=2.0)
    rows, cols = np.nonzero(rasterize([dot], unlabelled((11, 11))) == 1)
    expected = {(r, c) for r in range(11) for c in range(11) if (r - 5) ** 2 + (c - 5) ** 2 <= 4}
    assert set(zip(rows.tolist(), cols.tolist(), strict=True)) == expected


def test_a_lasso_fills_its_square_and_a_figure_eight_leaves_the_doubly_wound_part_open():
    square = Stroke(points=((2, 2), (2, 6), (6, 6), (6, 2)), label=3, tool="lasso")
    filled = rasterize([square], unlabelled((9, 9)))
    assert (filled[2:6, 2:6] == 3).all()
    assert (filled == 3).sum() == 16
    twice = Stroke(points=square.points * 2, label=3, tool="lasso")
    assert (rasterize([twice], unlabelled((9, 9))) == IGNORE).all()


def test_a_lasso_through_fewer_than_three_points_fills_nothing():
    line = Stroke(points=((1.0, 1.0), (8.0, 8.0)), label=1, tool="lasso")
    assert (rasterize([line], unlabelled((9, 9))) == IGNORE).all()


def test_erasing_gives_ignore_and_kept_classes_survive():
    base = checkered((8, 8))
    wipe = Stroke(points=((4.0, 4.0),), label=IGNORE, radius=50.0, keep=(2,))
    wiped = rasterize([wipe], base)
    assert (wiped[base == 2] == 2).all()
    assert (wiped[base != 2] == IGNORE).all()


def test_strokes_apply_in_the_order_they_were_drawn():
    first = Stroke(points=((4.0, 4.0),), label=1, radius=9.0)
    second = Stroke(points=((4.0, 4.0),), label=2, radius=9.0)
    assert (rasterize([first, second], unlabelled((8, 8))) == 2).all()
    assert (rasterize([second, first], unlabelled((8, 8))) == 1).all()


def test_a_stroke_wholly_outside_has_an_empty_window():
    window, ink = cover(Stroke(points=((-50.0, -50.0), (-40.0, 90.0)), label=1), (20, 20))
    assert ink.size == 0
    assert (window[0].stop - window[0].start) * (window[1].stop - window[1].start) == 0


def test_coordinates_at_the_end_of_the_number_line_are_harmless():
    through = Stroke(points=((-1e300, -1e300), (1e300, 1e300)), label=1, radius=1e-3)
    assert (np.diag(rasterize([through], unlabelled((30, 30)))) == 1).all()
    flood = Stroke(points=((1e300, 0.0),), label=1, radius=1e200)
    assert (rasterize([flood], unlabelled((30, 30))) == 1).all()


def test_a_full_stroke_on_a_large_slice_does_not_cost_the_whole_slice():
    along = np.linspace(0, 1, 121)
    path = np.stack([100 + 300 * along, 256 + 200 * np.sin(6 * along)], axis=1)
    stroke = Stroke(points=tuple(map(tuple, path.tolist())), label=1, radius=6.0)
    base = unlabelled((512, 512))
    took = []
    for _ in range(10):
        start = time.perf_counter()
        rasterize([stroke], base)
        took.append(time.perf_counter() - start)
    # 1.3 ms measured; the bound only tells a window of the slice from pixel times segment
    assert min(took) < 0.05


def test_every_kind_of_answer_becomes_one_label_map():
    proposal = checkered((8, 8))
    blob = hashlib.sha256(proposal.tobytes()).hexdigest()
    dot = Stroke(points=((3.5, 3.5),), label=1, radius=0.6)
    corrected = proposal.copy()
    corrected[3, 3] = 1
    scribbled = unlabelled((8, 8))
    scribbled[3, 3] = 1
    maps = {blob: proposal}
    for content, expected in [
        (Scribble((dot,)), scribbled),
        (Mask(blob), proposal),
        (Mask(blob, (dot,)), corrected),
        (Accepted(blob, "c"), proposal),
        (Accepted(blob, "c", (dot,)), corrected),
    ]:
        np.testing.assert_array_equal(target(content, (8, 8), maps.__getitem__), expected)
    np.testing.assert_array_equal(proposal, checkered((8, 8)))


def test_a_label_map_of_another_slice_is_refused():
    with pytest.raises(BadInput, match="another slice"):
        target(Mask("a" * 64), (8, 9), lambda _: checkered((8, 8)))


def test_merging_believes_whoever_spoke_and_ignores_disputes():
    one = np.array([[0, 1, 2, IGNORE, IGNORE]], dtype=np.uint8)
    two = np.array([[0, 2, IGNORE, 3, IGNORE]], dtype=np.uint8)
    three = np.array([[0, 1, 2, 3, IGNORE]], dtype=np.uint8)
    assert merge([one, two]).tolist() == [[0, IGNORE, 2, 3, IGNORE]]
    assert merge([one, two, three]).tolist() == merge([three, two, one]).tolist()
    with pytest.raises(BadInput, match="no label map"):
        merge([])
