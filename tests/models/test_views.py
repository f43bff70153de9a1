import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from alnb.models.views import View, Views, apply, two_views
from alnb.rng import torch_generator

STILL = Views(crop=1, flip=0, rotate=0, shear=0, move=0, scale=(1, 1), blur=(0, 0), erase=0)


def generator(seed=0):
    return torch_generator(np.random.default_rng(seed))


def photos(count=2, side=16):
    return torch.rand((count, 1, side, side), generator=generator(9))


def view(count=1, **changes):
    """The view that changes nothing, with some of its parts replaced."""
    fields = {
        "turn": torch.eye(2).repeat(count, 1, 1),
        "move": torch.zeros(count, 2),
        "zoom": torch.ones(count, 2),
        "corner": torch.zeros(count, 2),
        "kernel": torch.tensor([0.0, 0, 1, 0, 0]).repeat(count, 1),
        "hole": torch.zeros(count, 4),
    }
    return View(**(fields | changes))


def test_ranges_of_nothing_change_nothing():
    images = photos()
    assert torch.allclose(apply(images, STILL.draw(2, 16, generator())), images, atol=1e-5)


def test_the_same_generator_gives_the_same_views_and_the_images_stay():
    images = photos(4)
    copy = images.clone()
    first, again = (two_views(images, Views(), generator(4)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(images, copy)


def test_first_views_come_before_second_views_and_the_two_differ():
    # every image is one grey, so that a view tells whose it is
    grey = torch.arange(1.0, 6)[:, None, None, None].expand(5, 1, 16, 16)
    views = two_views(grey, Views(), generator())
    assert views.amax((1, 2, 3)).tolist() == pytest.approx([1, 2, 3, 4, 5] * 2, rel=1e-5)
    pictures = two_views(photos(5), Views(), generator())
    assert all(not torch.allclose(a, b) for a, b in zip(pictures[:5], pictures[5:], strict=True))


def test_the_affine_map_is_scale_then_shear_then_rotation_within_its_ranges():
    drawn = Views().draw(4000, 64, generator())
    forward = torch.linalg.inv(drawn.turn)
    scale = torch.linalg.det(forward).sqrt()
    angle = torch.atan2(forward[:, 1, 0], forward[:, 0, 0]).rad2deg()
    cos, sin = torch.cos(angle.deg2rad()), torch.sin(angle.deg2rad())
    unturned = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1) @ forward
    shear = torch.atan(unturned[:, 0, 1] / unturned[:, 0, 0]).rad2deg()
    assert unturned[:, 1, 0].abs().max() < 1e-5
    assert torch.allclose(unturned[:, 0, 0], scale, atol=1e-4)
    move = (forward @ -drawn.move[:, :, None])[:, :, 0] / 2
    for values, low, high in (
        (scale, 0.8, 1.2),
        (angle, -15, 15),
        (shear, -10, 10),
        (move[:, 0], -0.2, 0.2),
        (move[:, 1], -0.2, 0.2),
    ):
        slack = 0.01 * (high - low)
        assert low - slack / 10 <= values.min() < low + slack
        assert high - slack < values.max() <= high + slack / 10
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=3 * slack)


def test_crops_lie_inside_and_keep_their_share_and_ratio():
    drawn = Views().draw(4000, 64, generator())
    width, height = drawn.zoom.abs().unbind(1)
    assert ((drawn.corner.abs() + drawn.zoom.abs()) <= 1 + 1e-5).all()
    area, ratio = width * height, width / height
    assert 0.8 - 1e-5 <= area.min() < 0.81
    assert area.max() <= 1 + 1e-5
    assert ratio.min() >= 3 / 4 - 1e-5
    assert ratio.max() <= 4 / 3 + 1e-5
    mirrored = drawn.zoom[:, 0] < 0
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (drawn.zoom[:, 1] > 0).all()


def test_one_resampling_is_what_crop_mirror_and_affine_map_do_one_after_the_other():
    side = 96
    axis = torch.linspace(-1, 1, side)
    smooth = torch.stack(
        [torch.sin(3 * axis[:, None] + n) * torch.cos(2 * axis[None] - n) + 1.5 for n in range(6)]
    )[:, None]
    drawn = Views(blur=(0, 0), erase=0).draw(6, side, generator(2))

    def sampled(images, matrix, shift):
        grid = torch.nn.functional.affine_grid(
            torch.cat([matrix, shift[:, :, None]], 2), [6, 1, side, side], align_corners=False
        )
        return torch.nn.functional.grid_sample(images, grid, align_corners=False)

    cropped = sampled(smooth, torch.diag_embed(drawn.zoom), drawn.corner)
    slow = sampled(cropped, drawn.turn, drawn.move)
    fast = apply(smooth, drawn)
    # along the edge, half a pixel of the slow way fades into the surrounding black
    inner = torch.from_numpy(ndimage.binary_erosion((slow > 1e-6).numpy(), np.ones((1, 1, 5, 5))))
    outer = torch.from_numpy(ndimage.binary_dilation((slow > 1e-6).numpy(), np.ones((1, 1, 3, 3))))
    assert (fast - slow)[inner].abs().max() < 5e-3
    assert (fast[~outer] == 0).all()
    assert inner.float().mean() > 0.4


def test_what_lies_outside_a_crop_is_black_although_the_image_goes_on():
    half = view(turn=2 * torch.eye(2)[None], zoom=torch.full((1, 2), 0.8))
    out = apply(torch.ones(1, 1, 32, 32), half)
    inside = torch.zeros(1, 1, 32, 32)
    inside[:, :, 8:24, 8:24] = 1
    assert torch.allclose(out, inside, atol=1e-5)


def test_a_quarter_turn_turns_the_picture():
    images = photos(1)
    quarter = view(turn=torch.tensor([[[0.0, -1.0], [1.0, 0.0]]]))
    assert torch.allclose(apply(images, quarter)[0, 0], images[0, 0].rot90(), atol=1e-5)


def test_a_positive_move_goes_right_and_down():
    images = torch.zeros(1, 1, 32, 32)
    images[0, 0, 8, 8] = 1
    drawn = Views(
        crop=1, flip=0, rotate=0, shear=0, move=0.2, scale=(1, 1), blur=(0, 0), erase=0
    ).draw(1, 32, generator())
    # to whole pixels, so that the dot stays a dot
    move = torch.tensor([[2 * 5 / 32, 2 * 3 / 32]])
    assert drawn.move.abs().max() <= 0.4
    moved = apply(images, view(move=-move))
    assert moved[0, 0, 11, 13].item() == pytest.approx(1, abs=1e-5)


def test_every_image_is_blurred_by_its_own_width():
    sigma = torch.tensor([0.4, 1.0, 2.0])
    offset = torch.arange(5) - 2
    kernel = torch.exp(-(offset**2) / (2 * sigma[:, None] ** 2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    images = photos(3, 24)
    fast = apply(images, view(3, kernel=kernel))
    for image, weights, out in zip(images[:, 0], kernel, fast[:, 0], strict=True):
        slow = image.numpy().astype(float)
        for axis in (0, 1):
            slow = ndimage.correlate1d(slow, weights.numpy().astype(float), axis, mode="mirror")
        assert np.abs(out.numpy() - slow).max() < 1e-5


@pytest.mark.parametrize("side", [64, 256])
def test_blur_is_meant_at_256_pixels_and_shrinks_with_the_image(side):
    kernel = Views(blur=(1.5, 1.5)).draw(3, side, generator()).kernel
    sigma = 1.5 * side / 256
    assert torch.allclose(kernel.sum(1), torch.ones(3))
    assert torch.allclose((kernel[:, 2] / kernel[:, 1]).log(), torch.full((3,), 0.5 / sigma**2))


def test_a_fifth_of_the_images_lose_a_box_of_the_stated_size():
    side = 64
    drawn = Views().draw(4000, side, generator())
    left, top, right, bottom = drawn.hole.unbind(1)
    area, ratio = (right - left) * (bottom - top), (bottom - top) / (right - left)
    erased = area > 0
    assert erased.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert area[erased].min() >= 0.02 - 1e-4
    assert area[erased].max() <= 0.33 + 1e-4
    assert ratio[erased].min() >= 0.3 - 1e-3
    assert ratio[erased].max() <= 3.3 + 1e-3
    assert drawn.hole.min() >= 0
    assert drawn.hole.max() <= 1 + 1e-5
    out = apply(torch.ones(4, 1, side, side), view(4, hole=drawn.hole[erased][:4]))
    black = (out == 0).float().mean((1, 2, 3))
    assert torch.allclose(black, area[erased][:4], atol=2.5 / side)


def test_grey_values_keep_their_scale():
    images = 1000 * photos(8, 32)
    assert torch.allclose(
        two_views(images, Views(), generator()),
        1000 * two_views(images / 1000, Views(), generator()),
        atol=1e-2,
    )


@pytest.mark.parametrize(
    "bad",
    [{"crop": 0}, {"crop": 1.1}, {"flip": -0.1}, {"erase": 2}, {"scale": (1.2, 0.8)},
     {"scale": (0, 1)}, {"blur": (-1, 1)}],
)  # fmt: skip
def test_ranges_that_mean_nothing_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Views(**bad)


def test_the_fallback_of_a_crop_that_never_fits_is_the_whole_image():
    drawn = Views(crop=1).draw(50, 32, generator())
    assert torch.equal(drawn.zoom.abs(), torch.ones(50, 2))
    assert math.isclose(drawn.corner.abs().max().item(), 0)
