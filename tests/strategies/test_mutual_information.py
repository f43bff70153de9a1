from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import alnb.strategies.mutual_information as module
from alnb.errors import BadInput
from alnb.strategies.mutual_information import (
    Quantiser,
    between,
    bias,
    information,
    joint_counts,
    joint_counts_by_products,
    shared_field,
)


def codes(text):
    return np.array([int(digit) for digit in text], dtype=np.uint16)


def nats(one, other, bins=2, **options):
    return float(information(joint_counts(one, [other], bins), **options)[0])


def images(count, size, bins, seed=0):
    """Random codes that depend on each other."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, bins, size)
    own = rng.integers(0, bins, (count, size))
    return np.where(rng.random((count, size)) < 0.5, shared, own).astype(np.uint16)


def by_definition(a, b, bins):
    """The sum over cells, from numpy's own two-dimensional histogram."""
    joint = np.histogram2d(a, b, bins=bins, range=[[0, bins], [0, bins]])[0] / a.size
    found = 0.0
    for i, j in zip(*np.nonzero(joint), strict=True):
        found += joint[i, j] * math.log(joint[i, j] / (joint[i].sum() * joint[:, j].sum()))
    return found


def entropy(a):
    share = np.bincount(a) / a.size
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("0011", "0011", math.log(2)),
        ("0011", "0101", 0.0),
        ("0001", "0011", 0.215762),
        ("0000", "0101", 0.0),
    ],
)
def test_fixtures_by_hand(one, other, expected):
    assert nats(codes(one), codes(other)) == pytest.approx(expected, abs=1e-6)
    assert nats(codes(other), codes(one)) == pytest.approx(expected, abs=1e-6)


def test_an_image_tells_all_about_itself_and_never_more_than_either_holds():
    found = between(*[images(6, 900, 16)] * 2, Quantiser(bins=16))
    own = np.array([entropy(image) for image in images(6, 900, 16)])
    np.testing.assert_allclose(np.diag(found), own, atol=1e-12)
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    assert (found <= np.minimum.outer(own, own) + 1e-12).all()


def test_renaming_the_codes_changes_nothing():
    a, b = images(2, 800, 8)
    names = np.random.default_rng(1).permutation(8).astype(np.uint16)
    assert nats(names[a], b, 8) == pytest.approx(nats(a, b, 8), abs=1e-12)


@pytest.mark.parametrize("bins", [2, 7, 32])
@pytest.mark.parametrize("together", [1, 1 << 40])
def test_three_ways_of_counting_give_the_same_integers(monkeypatch, bins, together):
    monkeypatch.setattr(module, "_TOGETHER", together)
    monkeypatch.setattr(module, "_ONE_HOT", 1 << 12)
    stack = images(5, 611, bins)
    one, others = stack[0], stack[1:]
    expected = np.array(
        [np.histogram2d(one, b, bins=bins, range=[[0, bins], [0, bins]])[0] for b in others]
    )
    np.testing.assert_array_equal(joint_counts(one, others, bins), expected)
    np.testing.assert_array_equal(joint_counts(one, list(others[:3]), bins), expected[:3])
    tensors = torch.from_numpy(stack.astype(np.int16))
    found = joint_counts_by_products(tensors[:2], tensors[1:], bins)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found[0].numpy(), expected)
    np.testing.assert_array_equal(found[1].numpy(), joint_counts(stack[1], others, bins))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
@pytest.mark.parametrize("tf32", [False, True])
def test_an_accelerator_counts_the_same_integers(monkeypatch, tf32):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
    stack = images(6, 64**3, 32)
    tensors = torch.from_numpy(stack.astype(np.int16)).cuda()
    found = joint_counts_by_products(tensors[:2], tensors, 32).cpu().numpy()
    for place in range(2):
        np.testing.assert_array_equal(found[place], joint_counts(stack[place], stack, 32))


def test_nothing_is_lost_in_a_table_that_fills_sixteen_bits():
    most = np.full(50, 127, dtype=np.uint16)
    assert joint_counts(most, [most], 128)[0, 127, 127] == 50
    forty = np.full(1 << 17, 39, dtype=np.uint16)
    found = joint_counts(forty, [forty, forty], 40)
    assert found[:, 39, 39].tolist() == [1 << 17] * 2


@pytest.mark.parametrize("mask", ["none", "body"])
def test_pairs_counted_by_products_are_the_pairs_counted_one_by_one(mask):
    quantiser = Quantiser(bins=8, mask=mask)
    rows, columns = images(70, 300, quantiser.levels), images(11, 300, quantiser.levels)[::-1]
    wanted = np.random.default_rng(3).random((70, 11)) < 0.4
    wanted[:, 9] = False
    for miller_madow in (False, True):
        one, other = (
            between(
                rows, columns, quantiser, wanted=wanted, miller_madow=miller_madow, products=way
            )
            for way in ("cpu", None)
        )
        # the same counts, which are added up in another order
        np.testing.assert_allclose(one, other, atol=1e-12)
        np.testing.assert_array_equal(np.isnan(one), ~wanted)


def test_many_pairs_are_what_the_definition_gives_for_each():
    stack = images(70, 300, 8)
    found = between(stack, stack[:3], Quantiser(bins=8), threads=2)
    expected = [[by_definition(a, b, 8) for b in stack[:3]] for a in stack]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_only_wanted_pairs_are_counted():
    stack = images(4, 100, 4)
    wanted = np.array([[1, 0], [0, 0], [1, 1], [0, 1]], dtype=bool)
    found = between(stack, stack[:2], Quantiser(bins=4), wanted=wanted)
    assert np.array_equal(np.isnan(found), ~wanted)
    whole = between(stack, stack[:2], Quantiser(bins=4))
    np.testing.assert_array_equal(found[wanted], whole[wanted])


def test_independent_images_share_the_bias_and_the_correction_takes_it_off():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 32, (2, 64**3)).astype(np.uint16)
    assert bias(32, 64**3) == pytest.approx(31**2 / 2 / 64**3)
    assert bias(256, 64**3) == pytest.approx(0.124, abs=1e-3)
    assert nats(a, b, 32) == pytest.approx(bias(32, 64**3), rel=0.15)
    assert nats(a, b, 32, miller_madow=True) < 0.1 * bias(32, 64**3)
    # occupied bins alone count: an empty one adds no bias
    x, y = codes("00110"), codes("01010")
    plain = nats(x, y)
    assert nats(x, y, miller_madow=True) == max(0.0, plain - 1 / 10)
    assert nats(x, y, 8, miller_madow=True) == max(0.0, plain - 1 / 10)


def test_nothing_counted_is_nothing_shared():
    assert information(np.zeros((2, 3, 3), dtype=np.int64)).tolist() == [0, 0]


# ------------------------------------------------------------------ quantising


def ramp(shape):
    return np.linspace(0, 1, math.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(("solid", "size"), [(False, 128 * 128), (True, 64**3)])
def test_images_of_any_size_come_to_one_grid(solid, size):
    for shape in ((1, 40, 30), (1, 300, 200)) if not solid else ((5, 40, 30), (70, 66, 80)):
        found = Quantiser()(ramp(shape), solid=solid)
        assert (found.shape, found.dtype) == ((size,), np.uint16)
        # planes of air at the dark end of a ramp are cropped
        assert found.min() <= 3
        assert found.max() == 31


def test_scale_offset_and_outliers_leave_no_trace():
    image = np.random.default_rng(0).random((1, 60, 50)).astype(np.float32)
    q = Quantiser(side=16)
    plain = q(image, solid=False)
    np.testing.assert_array_equal(q(image * 4096 + 512, solid=False), plain)
    image[0, 5, 5] = 1e6
    assert np.abs(q(image, solid=False).astype(int) - plain).max() <= 1


def test_codes_cut_the_grey_window_into_equal_bins():
    found = Quantiser(bins=4, side=100)(ramp((1, 100, 100)), solid=False)
    # the darkest tenth of the ramp is air, and cropped
    assert np.unique(found).tolist() == [0, 1, 2, 3]
    shares = np.bincount(found) / found.size
    np.testing.assert_allclose(shares[1:], 0.25 / 0.9, atol=0.02)


def test_a_body_is_compared_whatever_air_lies_around_it():
    texture = 0.3 + 0.7 * np.random.default_rng(0).random((20, 16)).astype(np.float32)
    near, far = np.zeros((2, 1, 40, 44), dtype=np.float32)
    near[0, 2:22, 3:19] = far[0, 17:37, 20:36] = texture
    q = Quantiser(side=32)
    np.testing.assert_array_equal(q(near, solid=False), q(far, solid=False))


def test_a_mask_gives_voxels_outside_the_body_a_code_that_is_not_counted():
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:32, :32, :32] - 15.5
    ball = z**2 + y**2 + x**2 < 16**2  # up to the edges, so that nothing is resized
    one, other = (np.where(ball, 0.3 + 0.7 * rng.random(ball.shape), 0.0) for _ in range(2))
    open_, masked = Quantiser(bins=8, depth=32), Quantiser(bins=8, depth=32, mask="body")
    rows = [[q(image, solid=True) for image in (one, other)] for q in (open_, masked)]
    assert set(np.unique(rows[1][0])) >= {8}
    # independent textures in one ball share its outline, and nothing within it
    apart, within = (
        between(np.array(r), np.array(r), q)[0, 1]
        for r, q in zip(rows, (open_, masked), strict=True)
    )
    assert apart > 0.4
    assert within < 0.02
    bodies = np.array([open_.body(image, solid=True) for image in (one, other)])
    assert shared_field(bodies[:1], bodies[1:])[0, 0] == pytest.approx(apart, abs=0.06)


def test_shared_field_is_the_information_of_two_outlines():
    bodies = np.array([[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]], dtype=bool)
    found = shared_field(bodies, bodies)
    for i, one in enumerate(bodies):
        for j, other in enumerate(bodies):
            expected = nats(one.astype(np.uint16), other.astype(np.uint16))
            assert found[i, j] == pytest.approx(expected, abs=1e-12)


def test_a_constant_image_shares_nothing():
    q = Quantiser(side=8)
    flat, other = q(np.full((1, 9, 9), 7.0), solid=False), q(ramp((1, 9, 9)), solid=False)
    assert nats(flat, other, 32) == 0
    assert nats(flat, flat, 32) == 0
    masked = Quantiser(side=8, mask="body")
    rows = np.array([masked(np.full((1, 9, 9), 7.0), solid=False)])
    assert between(rows, rows, masked).tolist() == [[0.0]]


def test_settings_that_mean_nothing_are_refused():
    for wrong in ({"bins": 1}, {"bins": 256}, {"side": 0}, {"depth": 0}, {"mask": "skull"}):
        with pytest.raises(ValueError, match="must be"):
            Quantiser(**wrong)
    for image in (np.ones((4, 4)), np.ones((0, 4, 4)), np.full((1, 4, 4), np.nan)):
        with pytest.raises(BadInput, match="cannot be compared"):
            Quantiser()(image, solid=False)


def test_the_name_changes_with_all_that_changes_the_codes():
    made = [
        Quantiser(),
        Quantiser(bins=16),
        Quantiser(side=64),
        Quantiser(mask="body"),
    ]
    names = {q.name(solid=False) for q in made} | {made[0].name(solid=True)}
    names.add(Quantiser(depth=32).name(solid=True))
    assert len(names) == 6
