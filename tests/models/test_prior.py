import numpy as np
import pytest

from alnb.models.prior import with_far_background
from alnb.records import IGNORE


def canvas():
    return np.full((20, 24), IGNORE, np.uint8)


def ring():
    """A background square drawn around a dot of class 1."""
    label = canvas()
    label[5, 5:16] = label[14, 5:16] = label[5:15, 5] = label[5:15, 15] = 0
    label[9, 10] = 1
    return label


def test_outside_the_strokes_is_background_and_inside_stays_open():
    label = ring()
    filled = with_far_background(label)
    inside = np.zeros(label.shape, bool)
    inside[5:15, 5:16] = True
    assert (filled[~inside] == 0).all()
    assert np.array_equal(filled[inside], label[inside])


def test_the_argument_is_not_changed():
    label = ring()
    before = label.copy()
    with_far_background(label)
    assert np.array_equal(label, before)


def test_a_structure_drawn_outermost_is_not_cut_off():
    label = canvas()
    label[4:16, 4] = 0
    label[4:16, 18] = 2
    filled = with_far_background(label)
    assert (filled[:, :4] == 0).all()
    assert (filled[:, 19:] == IGNORE).all()


@pytest.mark.parametrize("strokes", ["none", "foreground only", "a dot", "a line"])
def test_strokes_that_enclose_nothing_change_nothing(strokes):
    label = canvas()
    if strokes == "foreground only":
        label[3:9, 3:9] = 1
    elif strokes == "a dot":
        label[3, 3] = 0
    elif strokes == "a line":
        label[3, 3:9] = 0
    assert np.array_equal(with_far_background(label), label)
