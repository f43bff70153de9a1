from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alnb.panels.covers import circles, cover_sentence, covers, nearest_of


def slow_nearest(x, centres):
    """Each row's nearest centre, one pair at a time."""
    found = []
    for row in x:
        best = min(((float(np.sqrt(sum((row - x[c]) ** 2))), c) for c in centres), default=None)
        found.append((np.inf, -1) if best is None else best)
    return np.array([c for _, c in found]), np.array([d for d, _ in found])


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 5))
def test_the_nearest_centre_is_that_of_a_slow_loop(seed, n, d):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32) + 100
    centres = rng.permutation(n)[: rng.integers(0, n + 1)]
    nearest, distance = nearest_of(x, centres)
    slow, slow_distance = slow_nearest(x.astype(np.float64), centres.tolist())
    np.testing.assert_allclose(distance, slow_distance, rtol=1e-9, atol=1e-9)
    if len(centres):
        reached = np.linalg.norm(x.astype(np.float64) - x[nearest], axis=1)
        np.testing.assert_allclose(reached, slow_distance, rtol=1e-6, atol=1e-6)
        assert set(nearest.tolist()) <= set(centres.tolist())
    else:
        assert (nearest == slow).all()


def test_more_centres_than_fit_into_one_block_are_all_seen():
    x = np.random.default_rng(0).normal(size=(700, 3))
    centres = np.arange(1, 700, 2)
    nearest, distance = nearest_of(x, centres)
    slow, slow_distance = slow_nearest(x, centres.tolist())
    assert (nearest == slow).all()
    np.testing.assert_allclose(distance, slow_distance, rtol=1e-12, atol=1e-12)


def test_a_duplicate_of_a_centre_lies_at_distance_zero_also_far_from_the_origin():
    x = np.full((4, 8), 1e6, dtype=np.float64)
    x[3] += 1
    _, distance = nearest_of(x, np.array([0]))
    assert distance[:3].tolist() == [0, 0, 0]
    assert distance[3] == pytest.approx(np.sqrt(8))


LINE = np.array([[0.0], [1], [2], [10], [10], [11]])


def test_the_line_of_six_points_is_covered_as_counted_by_hand():
    known = covers(LINE, np.array([0]), np.array([5]))
    assert known.distance.tolist() == [0, 1, 2, 10, 10, 11]
    assert known.after.tolist() == [0, 1, 2, 1, 1, 0]
    assert (known.radius, known.radius_after) == (11, 2)
    assert known.covered(1).tolist() == [True, True, False, False, False, False]
    assert known.covered(known.radius).all()
    told = cover_sentence(known, 1.0)
    assert told == ("Covered: 2 of 6 within r = 1. Cover radius now 11 → 2 after this query.")


def test_without_labels_nothing_is_covered_and_the_query_gives_the_scale():
    known = covers(LINE, np.array([], dtype=int), np.array([0, 3]))
    assert not known.covered(1e9).any()
    assert known.scale == known.radius_after == 2
    assert cover_sentence(known, 2.0).startswith("Nothing is labelled yet")
    nothing = covers(LINE, np.array([], dtype=int), np.array([], dtype=int))
    assert nothing.scale == 0
    assert cover_sentence(nothing, 0.0) == ("Nothing is labelled yet, so nothing is covered.")


def test_what_is_covered_lies_inside_a_circle_on_the_map():
    """A projection brings points together, never apart: the circles promise too much at worst."""
    from alnb.embed.project import pca_map

    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 12))
    known = covers(x, np.arange(10), np.array([], dtype=int))
    xy = pca_map(x)
    radius = float(np.median(known.distance))
    inside = known.covered(radius)
    assert 0 < inside.sum() < len(x)
    gaps = np.linalg.norm(xy[:, None] - xy[None, :10], axis=2).min(axis=1)
    assert (gaps[inside] <= radius * (1 + 1e-6)).all()
    assert (gaps[~inside] <= radius).any()


def test_circles_are_round_and_stand_where_they_should():
    path = circles(np.array([[3.0, -2.0], [10, 10]]), 2.5)
    assert path.count("Z") == 2
    points = np.array(re.findall(r"-?[\d.]+", path.split("Z")[0]), dtype=float).reshape(-1, 2)
    ends = [points[0], *points[3::3]]
    for end in ends:
        assert np.linalg.norm(end - [3, -2]) == pytest.approx(2.5, abs=1e-3)
    start = points[0]
    for k in range(4):
        p0, p1, p2, p3 = start, *points[1 + 3 * k : 4 + 3 * k]
        middle = (p0 + 3 * p1 + 3 * p2 + p3) / 8
        assert np.linalg.norm(middle - [3, -2]) == pytest.approx(2.5, rel=1e-3)
        start = p3
    assert circles(np.empty((0, 2)), 1.0) == circles(np.ones((3, 2)), 0.0) == ""
