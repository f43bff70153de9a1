from __future__ import annotations

import numpy as np
import pytest

from alnb.embed.features import PixelFeatures, shrink, standardised
from alnb.errors import BadInput


def slow_shrink(image, size):
    """Mean of a fine nearest-neighbour copy: every source pixel repeated until sizes divide."""
    longest = max(image.shape)
    target = [max(1, round(side * size / longest)) for side in image.shape]
    fine = np.repeat(np.repeat(image, target[0], axis=0), target[1], axis=1).astype(np.float64)
    h, w = image.shape
    return fine.reshape(target[0], h, target[1], w).mean(axis=(1, 3))


@pytest.mark.parametrize("shape", [(8, 8), (17, 9), (9, 17), (3, 2), (40, 1), (5, 5), (1, 1)])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_shrinking_averages_the_area_of_each_target_pixel(shape, size):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(shrink(image, size), slow_shrink(image, size), atol=1e-5)


def test_proportions_and_centre_are_kept():
    image = np.zeros((40, 20), dtype=np.float32)
    image[:, :10] = 1
    square = PixelFeatures(8)([image]).reshape(8, 8)
    assert (square[:, :2] == 0).all()
    assert (square[:, 6:] == 0).all()
    assert (square[:, 2:4] > square[:, 4:6]).all()


def test_scale_offset_and_a_bright_pixel_leave_no_trace():
    rng = np.random.default_rng(1)
    image = rng.gamma(2.0, size=(64, 48)).astype(np.float32)
    plain = PixelFeatures()([image])
    np.testing.assert_allclose(PixelFeatures()([image * 700 + 90]), plain, atol=2e-3)
    bright = image.copy()
    bright[5, 5] = 1e6
    changed = np.abs(PixelFeatures()([bright]) - plain) > 0.05
    assert changed.sum() <= 4


def test_size_of_the_matrix_matters_little():
    rng = np.random.default_rng(2)
    coarse = rng.normal(size=(32, 32)).astype(np.float32)
    fine = np.repeat(np.repeat(coarse, 4, axis=0), 4, axis=1)
    np.testing.assert_allclose(PixelFeatures()([fine]), PixelFeatures()([coarse]), atol=1e-4)


def test_constant_slices_are_zero_and_mostly_constant_ones_are_finite():
    flat = np.full((50, 30), 1234.5, dtype=np.float32)
    spot = np.zeros((64, 64), dtype=np.float32)
    spot[30:34, 30:34] = 9
    rows = PixelFeatures()([flat, spot])
    assert (rows[0] == 0).all()
    assert np.isfinite(rows).all()
    assert rows[1].max() == 3  # cut
    assert (standardised(np.zeros((3, 3))) == 0).all()


def test_mixed_sizes_stream_in_order_into_one_table():
    rng = np.random.default_rng(3)
    images = [rng.normal(size=shape) for shape in ((30, 20), (7, 90), (256, 256))]
    table = PixelFeatures(16)(iter(images))
    assert table.shape == (3, 256)
    assert table.dtype == np.float32
    for row, image in zip(table, images, strict=True):
        np.testing.assert_array_equal(row, PixelFeatures(16)([image])[0])
    assert PixelFeatures(16)([]).shape == (0, 256)
    assert images[0].dtype == np.float64  # inputs stay as they are


def test_similar_slices_lie_closer_than_different_ones():
    rng = np.random.default_rng(4)
    one, other = rng.normal(size=(2, 16, 16)).repeat(8, axis=1).repeat(8, axis=2)
    again = one + 0.1 * rng.normal(size=one.shape)
    a, b, c = PixelFeatures()([one, again, other])
    assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(a - c)


def test_the_name_tells_the_settings_apart():
    assert PixelFeatures().name == "pixels-32"
    assert PixelFeatures(16).name != PixelFeatures().name


def test_bad_images_are_named():
    good = np.ones((4, 4))
    with pytest.raises(BadInput, match=r"Image 1 has shape \(4,\)"):
        PixelFeatures()([good, np.ones(4)])
    with pytest.raises(BadInput, match="Image 1 has shape"):
        PixelFeatures()([good, np.ones((0, 4))])
    with pytest.raises(BadInput, match="Image 1 holds values that are not finite"):
        PixelFeatures()([good, np.full((4, 4), np.nan)])
    with pytest.raises(ValueError, match="size is 0"):
        PixelFeatures(0)
