from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alnb.errors import BadInput
from alnb.strategies import neighbours
from alnb.strategies.neighbours import Points


def slow(x, a, b):
    return sum((float(p) - float(q)) ** 2 for p, q in zip(x[a], x[b], strict=True))


@pytest.fixture(params=[10, 1_000_000], ids=["many blocks", "one block"])
def block(request, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", request.param)


def some_points(n=23, d=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.usefixtures("block")
def test_distances_equal_the_definition():
    x = some_points()
    points, rows, others = Points.of(x), np.array([3, 0, 22]), np.arange(23)
    expected = np.array([[slow(x, a, b) for b in others] for a in rows])
    np.testing.assert_allclose(points.squared(rows, others), expected, atol=1e-12)
    np.testing.assert_allclose(points.to(22), expected[2], atol=1e-12)
    np.testing.assert_allclose(points.pairs(rows, rows[::-1]), [slow(x, 3, 22), 0, slow(x, 3, 22)])


def test_equal_points_far_from_the_origin_have_distance_zero_and_near_ones_have_not():
    x = np.array([[1e4, 1.0], [1e4, 1.0], [1e4, 1.0 + 1e-7], [-1e4, 3.0]])
    points = Points.of(x)
    assert points.to(0)[1] == 0 == points.squared(np.array([1]), np.array([0]))[0, 0]
    assert points.to(0)[2] == pytest.approx(1e-14, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    x=hnp.arrays(np.float64, (9, 2), elements=st.integers(-3, 3).map(float)),
    squared=st.integers(0, 20),
    offset=st.sampled_from([0.0, 3e3]),
)
def test_balls_are_open_and_exact_where_distances_equal_the_radius(x, squared, offset):
    x[0] += offset  # makes the norms large, so that float32 alone would not do
    points, everyone = Points.of(x), np.arange(9)
    # the mean is subtracted, which moves distances by an ulp: move the radius to between two
    radius = squared - 1e-6
    for place, inside in points.within(everyone, everyone, radius):
        assert inside.tolist() == [slow(x, place, other) < radius for other in everyone]


def test_a_radius_that_is_itself_a_distance_keeps_its_own_pair_out():
    x = some_points(60, 8)
    points, everyone = Points.of(x), np.arange(60)
    for a, b in ((0, 1), (7, 50), (33, 12)):
        (radius,) = points.pairs(np.array([a]), np.array([b]))
        inside = np.array([flags for _, flags in points.within(everyone, everyone, radius)])
        assert not inside[a, b]
        assert np.array_equal(inside, inside.T)
        assert np.array_equal(inside, points.squared(everyone, everyone) < radius * (1 - 1e-12))


@pytest.mark.usefixtures("block")
def test_every_row_is_asked_in_order_the_last_block_included():
    points = Points.of(some_points())
    found = list(points.within(np.arange(5, 23), np.arange(23), 2.0))
    assert [place for place, _ in found] == list(range(18))
    assert all(inside[place + 5] for place, inside in found)
    everywhere = list(points.within(np.arange(5), np.arange(23), np.inf))
    assert all(inside.all() for _, inside in everywhere)
    assert len(everywhere) == 5


@pytest.mark.usefixtures("block")
def test_the_nearest_row_with_another_code_equals_the_definition():
    x, code = some_points(), np.arange(23) // 5
    found = Points.of(x).to_other_code(np.arange(3, 23), code)
    expected = [min(slow(x, a, b) for b in range(23) if code[a] != code[b]) for a in range(3, 23)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    alone = Points.of(x).to_other_code(np.arange(4), np.zeros(23, dtype=int))
    assert np.isposinf(alone).all()


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("k", [1, 4, 11])
def test_the_mean_distance_to_the_nearest_equals_the_definition(k):
    x, members = some_points(), np.arange(22, 10, -1)
    expected = [
        np.mean(sorted(slow(x, a, b) ** 0.5 for b in members if a != b)[:k]) for a in members
    ]
    np.testing.assert_allclose(Points.of(x).mean_distance(members, k), expected, rtol=1e-9)


def test_features_that_are_not_finite_or_no_matrix_are_refused():
    x = some_points()
    x[7, 1] = np.nan
    with pytest.raises(BadInput, match="Row 7"):
        Points.of(x)
    with pytest.raises(BadInput, match="shape"):
        Points.of(x.ravel())


def test_features_are_not_changed():
    x = some_points().astype(np.float64)
    before = x.copy()
    Points.of(x).to(0)
    assert np.array_equal(x, before)
