import numpy as np
import pytest
import torch

from alnb.models.frame import Frame
from alnb.models.prior import with_far_background, with_near_background
from alnb.models.samples import Kind, Samples
from alnb.records import IGNORE, TrainSet


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


def nearer_by_hand(target, nearer):
    """Pixel by pixel, from the distances to all strokes."""
    filled = target.copy()
    background = np.argwhere(target == 0)
    others = np.argwhere((target != 0) & (target != IGNORE))
    if not len(background) or not len(others):
        return filled
    for place in np.argwhere(target == IGNORE):
        to = [np.sqrt(((points - place) ** 2).sum(1).min()) for points in (background, others)]
        if to[0] < nearer * to[1]:
            filled[tuple(place)] = 0
    return filled


@pytest.mark.parametrize("nearer", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_near_background_is_what_a_slow_loop_finds(nearer, seed):
    rng = np.random.default_rng(seed)
    label = canvas()
    for code in (0, 1, 0, 2):
        row, col = rng.integers(2, 14, 2)
        label[row : row + 2, col : col + int(rng.integers(2, 6))] = code
    filled = with_near_background(label, nearer)
    assert np.array_equal(filled, nearer_by_hand(label, nearer))
    drawn = label != IGNORE
    assert np.array_equal(filled[drawn], label[drawn]), "what was drawn stays"
    assert set(np.unique(filled[~drawn])) <= {0, IGNORE}
    assert (filled[~drawn] == 0).any()


@pytest.mark.parametrize("strokes", ["none", "foreground only", "background only"])
def test_near_background_needs_strokes_of_both_kinds(strokes):
    label = canvas()
    if strokes != "none":
        label[3:5, 3:9] = int(strokes == "foreground only")
    assert np.array_equal(with_near_background(label), label)


def test_near_background_goes_most_of_the_way_to_a_structure_and_leaves_the_argument():
    label = ring()
    before = label.copy()
    filled = with_near_background(label)
    assert np.array_equal(label, before)
    # a column of background 5 pixels from the dot: 2 of the 4 between are nearer to it by 0.8
    assert filled[9, 5:11].tolist() == [0, 0, 0, IGNORE, IGNORE, 1]


def test_samples_fill_in_background_near_strokes_only_where_asked():
    train = TrainSet((np.zeros((20, 24), np.float32),), (ring(),), np.ones(1, np.int64), 2)
    targets = {}
    for nearer in (0.0, 0.8):
        kind = Kind(24, torch.device("cpu"), False, nearer)
        targets[nearer] = Samples.prepare(train, kind).targets[0].numpy()
    framed = Frame(20, 24, 24).target(ring())
    assert np.array_equal(targets[0.0], framed)
    assert np.array_equal(targets[0.8], with_near_background(framed, 0.8))


def test_a_whole_mask_is_left_as_it_was_drawn():
    mask = np.zeros((20, 24), np.uint8)
    mask[9, 10] = 1
    train = TrainSet((np.zeros((20, 24), np.float32),), (mask,), np.ones(1, np.int64), 2)
    kind = Kind(24, torch.device("cpu"), True, 0.8)
    assert (Samples.prepare(train, kind).targets[0][:2] == IGNORE).all(), "padding stays unknown"
