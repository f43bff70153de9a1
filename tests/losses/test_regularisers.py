import itertools
import math

import numpy as np
import pytest
import torch

from alnb.losses.regularisers import (
    crf_term,
    entropy_minimisation,
    entropy_term,
    gated_crf,
    mumford_shah,
    mumford_shah_term,
    total_variation,
)

TERMS = [entropy_term, crf_term, mumford_shah_term]
every_term = pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)


def batch(size=2, classes=3, height=8, width=8, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (size, classes, height, width))
    return torch.tensor(logits), torch.tensor(rng.random((size, 1, height, width)))


def sure(classes=4, side=8, label=2):
    """One class everywhere, as sure as can be."""
    logits = torch.zeros(1, classes, side, side)
    logits[:, label] = 200.0
    return logits


def slow_crf(p, images, radius, sigma_xy, sigma_intensity, mask=None):
    """The double sum as it is written: over images, pixels, neighbours and classes."""
    size, classes, height, width = p.shape
    part = torch.ones(size, height, width) if mask is None else mask
    total, count = p.new_zeros(()), 0
    for b, r, c in itertools.product(range(size), range(height), range(width)):
        if not part[b, r, c]:
            continue
        count += 1
        for down, right in itertools.product(range(-radius, radius + 1), repeat=2):
            row, column = r + down, c + right
            inside = 0 <= row < height and 0 <= column < width
            if (down, right) == (0, 0) or not inside or not part[b, row, column]:
                continue
            far = (down**2 + right**2) / sigma_xy**2
            unlike = float(images[b, 0, r, c] - images[b, 0, row, column]) / sigma_intensity
            kernel = math.exp(-0.5 * (far + unlike**2))
            same = sum(p[b, k, r, c] * p[b, k, row, column] for k in range(classes))
            total = total + kernel * (1 - same)
    return total / count


def test_entropy_is_one_when_uniform_and_zero_when_sure():
    assert entropy_minimisation(torch.zeros(2, 5, 4, 4)).item() == pytest.approx(1)
    assert entropy_minimisation(sure()).item() == 0


def test_entropy_is_the_mean_over_pixels_as_a_share_of_its_largest_value():
    logits, _ = batch()
    p = np.exp(logits.numpy())
    p /= p.sum(1, keepdims=True)
    expected = -(p * np.log(p)).sum(1).mean() / np.log(3)
    assert entropy_minimisation(logits).item() == pytest.approx(expected)


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_crf_is_the_double_sum_with_its_gradient(radius):
    logits, images = batch(size=1)
    settings = (radius, 2.0, 0.3)
    fast, slow = (logits.clone().requires_grad_() for _ in range(2))
    value = gated_crf(fast, images, radius=radius, sigma_xy=2.0, sigma_intensity=0.3)
    expected = slow_crf(slow.softmax(1), images, *settings)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    value.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("height", "width"), [(1, 7), (7, 1), (3, 5), (1, 1)])
def test_crf_takes_nothing_from_outside_or_from_the_next_row(height, width):
    logits, images = batch(height=height, width=width)
    value = gated_crf(logits, images, radius=4)
    expected = slow_crf(logits.softmax(1), images, 4, 6.0, 0.1)
    torch.testing.assert_close(value, expected.to(value.dtype), rtol=1e-12, atol=1e-15)


def test_crf_between_pixels_that_take_part_only():
    logits, images = batch(size=2, height=6, width=5)
    mask = torch.from_numpy(np.random.default_rng(1).random((2, 6, 5)) < 0.6)
    logits.requires_grad_()
    value = gated_crf(logits, images, radius=2, mask=mask)
    expected = slow_crf(logits.detach().softmax(1), images, 2, 6.0, 0.1, mask)
    torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=0)
    value.backward()
    silent = ~mask[:, None].expand_as(logits)
    assert torch.equal(logits.grad[silent], torch.zeros_like(logits.grad[silent]))
    nobody = gated_crf(logits, images, mask=torch.zeros_like(mask))
    nobody.backward()
    assert nobody.item() == 0


def test_crf_of_one_sure_class_is_exactly_zero():
    _, images = batch(size=1)
    assert gated_crf(sure(), images.float()).item() == 0


def test_crf_costs_more_within_a_region_than_along_its_border():
    """The point of the term: a border of the prediction belongs where the image has one."""
    images = torch.zeros(1, 1, 12, 12)
    images[..., 6:] = 1
    along, within = sure(2, 12, 0), sure(2, 12, 0)
    along[..., 6:] = along[..., 6:].flip(1)
    within[..., 3:] = within[..., 3:].flip(1)
    assert gated_crf(along, images).item() < 1e-6
    assert gated_crf(within, images).item() > 1


def test_crf_says_what_does_not_fit():
    logits, images = batch()
    with pytest.raises(ValueError, match="do not belong"):
        gated_crf(logits, images[:, :, :4])
    with pytest.raises(ValueError, match="radius"):
        gated_crf(logits, images, radius=0)
    with pytest.raises(ValueError, match="sigmas"):
        gated_crf(logits, images, sigma_intensity=0)


def test_total_variation_is_the_sum_of_steps_between_neighbours():
    p, _ = batch(size=1, classes=2, height=4, width=3)
    steps = 0.0
    for k, r, c in itertools.product(range(2), range(4), range(3)):
        here = float(p[0, k, r, c])
        steps += abs(float(p[0, k, r + 1, c]) - here) if r < 3 else 0
        steps += abs(float(p[0, k, r, c + 1]) - here) if c < 2 else 0
    assert total_variation(p).item() == pytest.approx(steps)
    assert total_variation(torch.ones(1, 2, 5, 5)).item() == 0


def test_mumford_shah_is_the_spread_within_each_class_and_its_borders():
    logits, images = batch()
    p, x = logits.softmax(1), images[:, 0]
    expected = total_variation(p)
    for b, k in itertools.product(range(2), range(3)):
        mean = (p[b, k] * x[b]).sum() / p[b, k].sum()
        expected = expected + (p[b, k] * (x[b] - mean) ** 2).sum()
    torch.testing.assert_close(mumford_shah(logits, images), expected)


def test_mumford_shah_of_a_flat_image_in_one_class_is_zero():
    assert mumford_shah(sure(), torch.full((1, 1, 8, 8), 0.3)).item() == pytest.approx(0, abs=1e-9)


@every_term
def test_gradients_are_the_derivatives(term):
    logits, images = batch(size=1, classes=3, height=4, width=5)
    if term is mumford_shah_term:  # tells as much about the small weight as about the sum
        images = images * 100
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: 1e3 * term(x, images), (logits,))


@every_term
def test_every_pixel_is_heard_and_bfloat16_is_summed_in_float32(term):
    logits, images = batch()
    coarse = logits.bfloat16().requires_grad_()
    value = term(coarse, images.float())
    value.backward()
    assert value.dtype == torch.float32
    assert torch.equal(value, term(coarse.float(), images.float()))
    assert coarse.grad.abs().sum((0, 1)).all()


@every_term
def test_images_are_given_not_learnt(term):
    logits, images = batch()
    images.requires_grad_()
    term(logits.requires_grad_(), images).backward()
    assert images.grad is None
