from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alnb.widgets.viewport import Viewport

VIEWPORTS = st.builds(
    Viewport,
    st.tuples(st.integers(1, 600), st.integers(1, 600)),
    st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)),
    st.tuples(st.booleans(), st.booleans()),
)


@given(VIEWPORTS, st.integers(0, 600 * 256), st.integers(0, 600 * 256))
def test_to_slice_is_the_exact_inverse_of_to_canvas(viewport, row, col):
    # places that a float holds exactly, as float32 does for 1/256 of a pixel
    row, col = row / 256, col / 256
    assert viewport.to_slice(*viewport.to_canvas(row, col)) == (row, col)


@given(VIEWPORTS)
def test_the_pixel_under_a_place_is_the_one_that_is_displayed_there(viewport):
    height, width = viewport.shape
    pixels = np.arange(height * width).reshape(height, width)
    row, col = height // 2, width // 3
    x, y = viewport.to_canvas(row + 0.5, col + 0.5)
    assert viewport.oriented(pixels)[int(y), int(x)] == pixels[row, col]


@given(VIEWPORTS)
def test_the_display_keeps_true_proportions_and_fills_one_side(viewport):
    wide, tall = viewport.fitted(640, 560)
    (height, width), (row_mm, col_mm) = viewport.shape, viewport.pixel_mm
    assert wide / tall == pytest.approx(width * col_mm / (height * row_mm))
    assert wide == pytest.approx(640) or tall == pytest.approx(560)
    assert wide <= 640 + 1e-6
    assert tall <= 560 + 1e-6
