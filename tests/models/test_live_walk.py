"""The walk solves the equations it states, and its helpers do what their formulas say."""

from __future__ import annotations

import numpy as np
import pytest

from alnb.models.live_features import (
    around,
    closeness,
    greys_of,
    grown,
    shrunk,
    shrunk_labels,
)
from alnb.models.live_walk import edge_weights, walk
from alnb.records import IGNORE
from alnb.rng import stream


def test_the_walk_solves_its_linear_system() -> None:
    """Against a dense solve, pixel by pixel."""
    rng = stream(0, "walk")
    height, width, classes = 7, 9, 3
    weights = edge_weights(rng.random((2, height, width)).astype(np.float32), 1.0, 1e-2)
    seeds = np.full((height, width), IGNORE, np.uint8)
    seeds[1, 1], seeds[5, 6], seeds[3, 3:5] = 0, 1, 2
    target = rng.dirichlet(np.ones(classes), (height, width)).transpose(2, 0, 1)
    pull = rng.uniform(0.01, 0.2, (height, width))
    found, _ = walk(
        weights, seeds, target.astype(np.float32), pull.astype(np.float32), tolerance=1e-6
    )
    count = height * width
    matrix = np.diag(pull.ravel())
    number = np.arange(count).reshape(height, width)
    for down in (True, False):
        pairs = (number[:-1], number[1:]) if down else (number[:, :-1], number[:, 1:])
        weight = weights[0] if down else weights[1]
        for i, j, w in zip(pairs[0].ravel(), pairs[1].ravel(), weight.ravel(), strict=True):
            matrix[i, i] += w
            matrix[j, j] += w
            matrix[i, j] -= w
            matrix[j, i] -= w
    side = (pull * target).reshape(classes, count).T
    for place, code in enumerate(seeds.ravel()):
        if code != IGNORE:
            matrix[place], side[place] = np.eye(count)[place], np.eye(classes)[code]
    exact = np.linalg.solve(matrix, side).T.reshape(classes, height, width)
    np.testing.assert_allclose(found, exact, atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-4)


def test_edges_hold_walkers_back_whatever_the_contrast() -> None:
    grey = np.zeros((1, 6, 6), np.float32)
    grey[:, :, 3:] = 1
    loud, faint = edge_weights(grey, 3.0, 1e-3), edge_weights(0.1 * grey, 3.0, 1e-3)
    np.testing.assert_allclose(loud[1], faint[1], rtol=1e-4)
    assert loud[1][:, 2].max() < 0.01
    assert np.delete(loud[1], 2, axis=1).min() > 1
    assert loud[0].min() > 1


def test_closeness_is_the_kernel_density_that_it_states() -> None:
    rng = stream(1, "closeness")
    grey = rng.random((40, 30)).astype(np.float32)
    marks = (rng.random((2, 40, 30)) < 0.02).astype(np.float32)
    reach, tone = 6.0, 0.15
    fast = closeness(grey, marks, reach, tone)
    rows, columns = np.indices(grey.shape)
    for mark, quick in zip(marks, fast, strict=True):
        slow = np.zeros(grey.shape)
        for r, c in np.argwhere(mark):
            place = ((rows - r) ** 2 + (columns - c) ** 2) / (2 * reach**2)
            slow += np.exp(-place - (grey - grey[r, c]) ** 2 / (2 * tone**2))
        assert np.corrcoef(slow.ravel(), quick.ravel())[0, 1] > 0.95


def test_nothing_marked_is_close_to_nothing() -> None:
    assert not closeness(np.zeros((5, 5), np.float32), np.zeros((1, 5, 5)), 3.0, 0.1).any()


@pytest.mark.parametrize("shape", [(9, 7), (1, 8), (8, 1), (12, 12)])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_blocks_are_means_and_growing_keeps_a_constant(shape: tuple[int, int], step: int) -> None:
    values = stream(2, "blocks").random((2, *shape)).astype(np.float32)
    small = shrunk(values, step)
    for row in range(small.shape[1]):
        for column in range(small.shape[2]):
            block = values[:, row * step : (row + 1) * step, column * step : (column + 1) * step]
            np.testing.assert_allclose(small[:, row, column], block.mean((1, 2)), rtol=1e-5)
    large = grown(np.full_like(small, 3.0), step, shape)
    assert large.shape == values.shape
    np.testing.assert_allclose(large, 3.0, rtol=1e-6)


def test_growing_keeps_a_slope() -> None:
    slope = np.broadcast_to(np.arange(12.0, dtype=np.float32), (1, 9, 12)).copy()
    back = grown(shrunk(slope, 3), 3, (9, 12))
    np.testing.assert_allclose(back[0, :, 1:-1], slope[0, :, 1:-1], atol=1e-5)


def test_a_thin_stroke_survives_a_coarser_grid_and_a_tie_stays_open() -> None:
    labels = np.zeros((4, 6), np.uint8)
    labels[1, 1] = 2  # one pixel in assumed background
    labels[:2, 4], labels[:2, 5] = 1, 2
    labels[2:, :2] = IGNORE
    labels[2, 2] = IGNORE
    np.testing.assert_array_equal(
        shrunk_labels(labels, 2, 3), [[2, 0, IGNORE], [IGNORE, IGNORE, 0]]
    )


def test_the_window_has_a_margin_and_ends_at_the_slice() -> None:
    mask = np.zeros((50, 60), dtype=bool)
    mask[20:31, 2:13] = True
    assert around(mask, 0.0, 4) == (slice(16, 35), slice(0, 17))
    assert around(mask, 1.0, 4) == (slice(9, 42), slice(0, 24))
    assert around(mask, 9.0, 4) == (slice(0, 50), slice(0, 60))


def test_greys_ignore_outliers_and_what_is_not_finite() -> None:
    image = np.linspace(0, 1, 1000).reshape(20, 50)
    image[0, 0], image[0, 1] = np.nan, 1e6
    grey = greys_of(image)
    assert grey[0, 0] == 0
    assert grey.max() == 1
    assert 0.4 < grey[10, 0] < 0.6
    assert not greys_of(np.full((3, 3), np.nan)).any()
    assert not greys_of(np.full((3, 3), 5.0)).any()
