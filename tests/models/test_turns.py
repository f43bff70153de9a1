import math

import numpy as np
import pytest
import torch

from alnb.models.turns import Turns, turned
from alnb.records import IGNORE


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(size=8, side=9):
    values = torch.rand(size, 1, side, side, generator=gen(3)) + 0.5
    labels = torch.randint(0, 4, (size, side, side), generator=gen(4)).to(torch.uint8)
    return values, labels


def test_a_flipped_slice_is_one_of_the_four_mirror_images_exactly():
    images, target = batch(64)
    moved, labels = Turns(flip=1.0)(images, target, gen())
    seen = set()
    for before, label, after, now in zip(images, target, moved, labels, strict=True):
        mirrors = [
            (k, axis)
            for k in (0, 1)
            for axis in (0, 1)
            if torch.equal(torch.flip(torch.rot90(before[0], k), (axis,)), after[0])
        ]
        assert len(mirrors) == 1, "neither the image itself nor a blurred one"
        k, axis = mirrors[0]
        assert torch.equal(torch.flip(torch.rot90(label, k), (axis,)), now)
        seen.add(mirrors[0])
    assert len(seen) == 4


def test_a_rotated_slice_takes_each_value_from_the_nearest_pixel_and_ignore_from_outside():
    images, target = batch(2, side=15)
    turn = Turns(flip=0.0, rotate=1.0).draw(2, gen())
    moved, labels = turned(images, target, turn)
    centre, side = 7, 15
    for b in range(2):
        angle = math.atan2(turn[b, 1, 0], turn[b, 0, 0])
        assert 0 < abs(angle) <= math.radians(20)
        for row, column in np.ndindex(side, side):
            y, x = row - centre, column - centre
            from_x = math.cos(angle) * x - math.sin(angle) * y + centre
            from_y = math.sin(angle) * x + math.cos(angle) * y + centre
            if min(abs(v % 1 - 0.5) for v in (from_x, from_y)) < 1e-3:
                continue  # halfway between two pixels, either is right
            r, c = round(from_y), round(from_x)
            inside = 0 <= r < side and 0 <= c < side
            assert labels[b, row, column] == (target[b, r, c] if inside else IGNORE)
            expected = images[b, 0, r, c] if inside else images[b].min()
            assert moved[b, 0, row, column] == pytest.approx(float(expected), abs=1e-6)


def test_half_are_mirrored_a_quarter_rotated_and_a_quarter_left_alone():
    turn = Turns().draw(4000, gen())
    mirrored = torch.linalg.det(turn) < 0
    still = (turn - torch.eye(2)).abs().flatten(1).max(1).values < 1e-6
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(still.float().mean()) == pytest.approx(0.25, abs=0.03)


def test_the_same_generator_gives_the_same_change_and_no_argument_is_touched():
    images, target = batch()
    kept = images.clone(), target.clone()
    first, second = (Turns(jitter=0.1)(images, target, gen(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(images, kept[0])
    assert torch.equal(target, kept[1])


def test_jitter_changes_intensities_and_no_label():
    images, target = batch()
    plain, labels = Turns()(images, target, gen(5))
    shaded, same = Turns(jitter=0.1)(images, target, gen(5))
    assert torch.equal(labels, same)
    assert not torch.equal(plain, shaded)
    assert float((plain - shaded).abs().max()) <= 0.2 * float(images.max())
