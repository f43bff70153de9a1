import numpy as np
import pytest
import torch

from alnb.models.frame import Frame, rescale
from alnb.records import IGNORE

SHAPES = [(256, 216), (60, 100), (32, 32), (7, 90), (1, 5), (300, 10)]


def blobs(height, width):
    rows, columns = np.indices((height, width))
    return (np.sin(rows / 9) + np.cos(columns / 7) > 0.3).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_label_map_comes_back_from_the_frame_nearly_whole(shape):
    frame = Frame(*shape, 128)
    label = blobs(*shape)
    square = torch.from_numpy(frame.target(label))[None, None]
    onehot = torch.cat([(square == c).float() for c in (0, 1)], 1)
    back = frame.logits(onehot).argmax(1)[0].numpy()
    assert back.shape == shape
    assert (back == label).mean() > 0.85


@pytest.mark.parametrize("shape", SHAPES)
def test_image_and_label_lie_on_each_other_in_the_frame(shape):
    frame = Frame(*shape, 128)
    label = blobs(*shape)
    square = frame.target(label)
    image = frame.images(torch.from_numpy(label.astype(np.float32))[None, None])[0, 0].numpy()
    inside = square != IGNORE
    assert inside.sum() == np.prod(frame.inner)
    assert (image[~inside] == 0).all()
    if 0 < label.mean() < 1:
        assert ((image > 0.5) == (square == 1))[inside].mean() > 0.9


def test_a_slice_of_the_frame_s_own_size_passes_untouched():
    frame = Frame(32, 32, 32)
    label = blobs(32, 32)
    label[3:5] = IGNORE
    assert np.array_equal(frame.target(label), label)
    logits = torch.rand((1, 3, 32, 32), generator=torch.Generator())
    assert torch.equal(frame.logits(logits), logits)


def test_a_stroke_one_pixel_wide_survives_shrinking_unbroken():
    label = np.full((256, 256), IGNORE, np.uint8)
    label[101, 20:200] = 3
    square = Frame(256, 256, 128).target(label)
    assert np.array_equal(np.argwhere(square == 3), [[50, c] for c in range(10, 100)])
    assert (square[square != 3] == IGNORE).all()


def test_shrinking_keeps_the_commonest_label_of_a_cell():
    label = np.array([[1, 1, IGNORE, IGNORE], [1, 2, IGNORE, 2]], np.uint8)
    square = Frame(2, 4, 2).target(label)
    assert square.tolist() == [[1, 2], [IGNORE, IGNORE]]


@pytest.mark.parametrize("gain", [1e-3, 1.0, 4000.0])
def test_the_unit_of_the_intensities_does_not_matter(gain):
    image = torch.rand((2, 1, 40, 30), generator=torch.Generator())
    assert torch.allclose(rescale(image * gain - 7 * gain), rescale(image), atol=1e-4)


def test_constant_and_broken_pixels_give_finite_input():
    image = torch.full((2, 1, 16, 16), 7.0)
    image[1, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    square = Frame(16, 16, 32).images(image)
    assert (square[0] == 0).all()
    assert square.isfinite().all()
    assert 0 <= square.min() <= square.max() <= 1


@pytest.mark.parametrize("pixels", [1, 2, 37, 4096, 10_007])
def test_the_range_of_a_slice_is_torch_s_quantiles_of_at_most_four_thousand_pixels(pixels):
    noise = np.random.default_rng(pixels).exponential(size=(3, 1, 1, pixels)).astype(np.float32)
    image = torch.from_numpy(noise)
    some = image.flatten(1)[:, :: max(1, pixels // 4096)].double()
    low, high = some.quantile(some.new_tensor([0.005, 0.995]), dim=1)[:, :, None, None, None]
    expected = ((image - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    expected = torch.where(high > low, expected, 0.0).float()
    torch.testing.assert_close(rescale(image), expected, atol=1e-6, rtol=1e-5)
