from dataclasses import replace

import numpy as np
import torch

from alnb.models.augment import Augment, Change, Windows, apply
from alnb.models.frame import rescale
from alnb.records import IGNORE
from alnb.rng import torch_generator

STILL = Augment(rotate=0, scale=1, move=0, gamma=1, gain=1, shift=0, noise=0)


def generator(seed=0):
    return torch_generator(np.random.default_rng(seed))


def pair(size=2, side=16):
    images = torch.rand((size, 1, side, side), generator=generator(9))
    target = torch.randint(0, 3, (size, side, side), generator=generator(8)).to(torch.uint8)
    return images, target


def moved(theta):
    """An affine change alone, for one image."""
    one = torch.ones(1, 1, 1, 1)
    return Change(torch.tensor([theta]), None, one, one, 0 * one, 0 * one)


def test_ranges_of_nothing_change_nothing():
    images, target = pair()
    shaded, labels = apply(images, target, STILL.draw((2, 1, 16, 16), generator()))
    assert torch.allclose(shaded, images, atol=1e-5)
    assert torch.equal(labels, target)


def test_the_same_generator_gives_the_same_change_and_the_input_stays():
    images, target = pair()
    copies = images.clone(), target.clone()
    first, second = (
        apply(images, target, Augment(warp=0.03, flip=True).draw((2, 1, 16, 16), generator(4)))
        for _ in range(2)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(images, copies[0])
    assert torch.equal(target, copies[1])


def test_labels_from_outside_are_ignored_and_images_continue_their_edge():
    images, target = pair(1)
    shaded, labels = apply(images, target, moved([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]))
    assert torch.equal(labels[0, :, :12], target[0, :, 4:])
    assert (labels[0, :, 12:] == IGNORE).all()
    assert torch.allclose(shaded[0, 0, :, 13:], images[0, 0, :, -1:].expand(-1, 3), atol=1e-5)


def test_a_quarter_turn_takes_labels_and_image_along_together():
    images, target = pair(1)
    shaded, labels = apply(images, target, moved([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]))
    assert torch.equal(labels[0], target[0].rot90())
    assert torch.allclose(shaded[0, 0], images[0, 0].rot90(), atol=1e-4)


def test_no_label_is_invented_by_interpolation():
    images, target = pair(8)
    target[target == 1] = IGNORE
    wild = Augment(rotate=180, scale=2, move=0.3, warp=0.05, flip=True, share=1)
    _, labels = apply(images, target, wild.draw((8, 1, 16, 16), generator()))
    assert set(labels.unique().tolist()) <= {0, 2, IGNORE}


def test_unmirrored_augmentation_keeps_left_and_right():
    theta = Augment(rotate=45, share=1).draw((64, 1, 4, 4), generator()).theta
    mirrored = Augment(rotate=45, flip=True, share=1).draw((64, 1, 4, 4), generator()).theta
    assert (torch.linalg.det(theta[:, :, :2]) > 0).all()
    assert 10 < (torch.linalg.det(mirrored[:, :, :2]) < 0).sum() < 54


def test_the_share_of_images_left_alone_is_as_asked():
    change = Augment(share=0.25).draw((2000, 1, 2, 2), generator())
    still = (change.theta == torch.eye(2, 3)).flatten(1).all(1)
    assert abs(still.float().mean() - 0.75) < 0.05
    assert (change.gamma[still] == 1).all()
    assert (change.noise[still] == 0).all()


def windows(top, left, size=8, side=16):
    """Of one image: `size` pixels from row `top` and column `left` on."""
    centre = torch.tensor([[top + size / 2, left + size / 2]]) / side
    return Windows(centre, size / side, size)


def test_a_window_that_does_not_change_is_a_plain_crop():
    images, target = pair(1)
    still = STILL.draw((1, 1, 8, 8), generator())
    shaded, labels = apply(images, target, still, windows(3, 5))
    torch.testing.assert_close(shaded, rescale(images[:, :, 3:11, 5:13]), rtol=0, atol=1e-5)
    assert torch.equal(labels, target[:, 3:11, 5:13])


def test_a_window_moves_by_shares_of_its_own_side_and_what_lies_outside_comes_in():
    images, target = pair(1)
    # coordinates run from -1 to 1, so 0.5 is a quarter of the side: 2 pixels to the right
    shaded, labels = apply(images, target, moved([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]), windows(3, 5))
    torch.testing.assert_close(shaded, rescale(images[:, :, 3:11, 7:15]), rtol=0, atol=1e-5)
    assert torch.equal(labels, target[:, 3:11, 7:15])


def test_a_window_turns_about_its_own_middle():
    images, target = pair(1)
    turn = moved([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    shaded, labels = apply(images, target, turn, windows(3, 5))
    assert torch.equal(labels[0], target[0, 3:11, 5:13].rot90())
    torch.testing.assert_close(
        shaded, rescale(images[:, :, 3:11, 5:13].rot90(1, (2, 3))), rtol=0, atol=1e-4
    )


def test_a_window_over_the_edge_sees_no_labels_there_and_the_image_s_edge():
    images, target = pair(1)
    still = STILL.draw((1, 1, 8, 8), generator())
    shaded, labels = apply(images, target, still, windows(-3, 5))
    assert (labels[0, :3] == IGNORE).all()
    assert torch.equal(labels[0, 3:], target[0, :5, 5:13])
    edge = images[:, :, :1, 5:13].expand(-1, -1, 3, -1)
    seen = rescale(torch.cat([edge, images[:, :, :5, 5:13]], 2))
    torch.testing.assert_close(shaded, seen, rtol=0, atol=1e-5)


def test_the_warp_of_a_window_is_in_units_of_its_side():
    images, target = pair(1)
    change = moved([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    change = replace(change, warp=torch.full((1, 2, 6, 6), 0.5))
    shaded, labels = apply(images, target, change, windows(3, 5))
    torch.testing.assert_close(shaded, rescale(images[:, :, 5:13, 7:15]), rtol=0, atol=1e-4)
    assert torch.equal(labels, target[:, 5:13, 7:15])
