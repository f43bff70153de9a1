from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alnb.errors import BadInput
from alnb.records import SliceId
from alnb.widgets.messages import changed_box, read_stroke

GOOD = {"slice": {"volume": "a/ED", "index": 3}, "label": 1, "radius": 2, "id": "x", "keep": [2]}
POINTS = np.array([[1.5, 2.25], [3, 4]], "<f4").tobytes()


def test_a_stroke_is_read_as_it_was_drawn():
    slice_id, stroke = read_stroke(GOOD | {"tool": "lasso"}, [memoryview(POINTS)])
    assert slice_id == SliceId("a/ED", 3)
    assert stroke.points == ((1.5, 2.25), (3.0, 4.0))
    assert (stroke.label, stroke.radius, stroke.keep, stroke.id) == (1, 2.0, (2,), "x")
    assert stroke.tool == "lasso"


@pytest.mark.parametrize(
    ("changes", "buffers"),
    [
        ({}, []),
        ({}, [b""]),
        ({}, [POINTS[:-1]]),
        ({}, [np.array([[np.nan, 0]], "<f4").tobytes()]),
        ({"label": None}, [POINTS]),
        ({"label": 999}, [POINTS]),
        ({"radius": "wide"}, [POINTS]),
        ({"radius": -1}, [POINTS]),
        ({"slice": None}, [POINTS]),
        ({"slice": {"volume": 3, "index": 1}}, [POINTS]),
        ({}, [bytes(8 * 100_001)]),
    ],
)
def test_what_cannot_be_a_stroke_is_refused_at_the_door(changes, buffers):
    with pytest.raises(ValueError, match=r"\."):
        read_stroke(GOOD | changes, buffers)


def test_no_bad_stroke_escapes_as_another_error():
    with pytest.raises(BadInput):
        read_stroke({}, [POINTS])


MAPS = arrays(np.uint8, (7, 9), elements=st.integers(0, 1))


@given(MAPS, MAPS)
def test_the_changed_box_is_the_smallest_that_turns_one_map_into_the_other(before, after):
    box = changed_box(before, after)
    if box is None:
        assert (before == after).all()
        return
    top, left, height, width = box
    patched = before.copy()
    patched[top : top + height, left : left + width] = after[
        top : top + height, left : left + width
    ]
    assert (patched == after).all()
    different = before != after
    assert different[top].any()
    assert different[top + height - 1].any()
    assert different[:, left].any()
    assert different[:, left + width - 1].any()
