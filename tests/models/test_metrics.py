import itertools

import numpy as np
import pytest

from alnb.models.metrics import (
    hd95,
    mean_over_volumes,
    normalised_surface_dice,
    surfaces,
    volume_dice,
)
from alnb.records import IGNORE


def maps(seed=0, shape=(4, 9, 7), classes=3):
    rng = np.random.default_rng(seed)
    pred = rng.integers(0, classes, shape).astype(np.uint8)
    ref = rng.integers(0, classes, shape).astype(np.uint8)
    return pred, ref


def slow_dice(pred, ref, label):
    both = either = 0
    for p, g in zip(pred.ravel().tolist(), ref.ravel().tolist(), strict=True):
        if g != IGNORE:
            both += p == label and g == label
            either += (p == label) + (g == label)
    return 2 * both / either


def test_dice_agrees_with_counting_voxels_one_by_one():
    pred, ref = maps()
    ref[np.random.default_rng(1).random(ref.shape) < 0.3] = IGNORE
    expected = [slow_dice(pred, ref, label) for label in (1, 2)]
    assert volume_dice(pred, ref, 3) == pytest.approx(expected)


def test_dice_of_a_volume_does_not_depend_on_the_order_of_its_slices():
    pred, ref = maps()
    order = [2, 0, 3, 1]
    assert np.array_equal(volume_dice(pred, ref, 3), volume_dice(pred[order], ref[order], 3))


def test_dice_of_a_volume_is_not_the_mean_over_slices():
    pred, ref = np.zeros((2, 2, 10, 10), np.uint8)
    ref[0, :9] = pred[0, :9] = 1
    ref[1, 0, :5] = 1
    slices = np.mean([volume_dice(p, g, 2)[0] for p, g in zip(pred, ref, strict=True)])
    assert slices == pytest.approx(0.5)
    assert volume_dice(pred, ref, 2)[0] == pytest.approx(180 / 185)


@pytest.mark.parametrize(
    ("empties", "neither", "only_pred"),
    [("one", 1.0, 0.0), ("paper", 0.0, 0.0), ("skip", np.nan, np.nan)],
)
def test_the_policy_decides_what_an_empty_reference_scores(empties, neither, only_pred):
    empty, some = np.zeros((2, 3, 3), np.uint8), np.ones((2, 3, 3), np.uint8)
    found = [
        volume_dice(empty, empty, 2, empties)[0],
        volume_dice(some, empty, 2, empties)[0],
        volume_dice(empty, some, 2, empties)[0],
    ]
    np.testing.assert_equal(found, [neither, only_pred, 0.0])


def test_dice_refuses_shapes_and_policies_it_does_not_know():
    pred, ref = maps()
    with pytest.raises(ValueError, match="differ in shape"):
        volume_dice(pred[:2], ref, 3)
    with pytest.raises(ValueError, match="'one', 'paper' or 'skip'"):
        volume_dice(pred, ref, 3, "zero")


def test_mean_over_volumes_leaves_out_what_is_undefined():
    rows = [np.array([0.5, np.nan, np.nan]), np.array([1.0, 0.25, np.nan])]
    assert mean_over_volumes(rows) == (0.75, 0.25, None)


def surface_points(mask, spacing):
    """Voxels of the mask with a face neighbour outside it, in mm; the border is outside."""
    padded = np.pad(mask, 1)
    steps = [*np.eye(mask.ndim, dtype=int), *-np.eye(mask.ndim, dtype=int)]
    points = [
        at for at in np.argwhere(mask) if any(not padded[tuple(at + 1 + step)] for step in steps)
    ]
    return np.array(points) * spacing


@pytest.mark.parametrize("convention", ["pooled", "directed"])
def test_hd95_agrees_with_all_pairs_of_surface_points(convention):
    rng = np.random.default_rng(3)
    spacing = np.array([5.0, 1.25, 0.75])
    first, second = (rng.random((3, 6, 6)) < share for share in (0.3, 0.5))
    a, b = surface_points(first, spacing), surface_points(second, spacing)
    pairs = np.array([[np.linalg.norm(p - q) for q in b] for p in a])
    there, back = pairs.min(1), pairs.min(0)
    expected = {
        "pooled": np.percentile(np.concatenate([there, back]), 95),
        "directed": max(np.percentile(there, 95), np.percentile(back, 95)),
    }[convention]
    assert hd95(first, second, spacing, convention) == pytest.approx(expected)


def test_hd95_never_calls_a_missing_object_perfect():
    some, none = np.ones((2, 3, 4), bool), np.zeros((2, 3, 4), bool)
    for pred, ref in itertools.permutations([some, none]):
        assert hd95(pred, ref, (2.0, 1.0, 1.0)) == pytest.approx(np.sqrt(16 + 9 + 16))
    assert np.isnan(hd95(none, none, (2.0, 1.0, 1.0)))


def cube(shape, corner, side=4):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(at, at + side) for at in corner)] = True
    return mask


@pytest.mark.parametrize("tolerance", [0.0, 0.8, 1.5, 5.0])
def test_surface_dice_agrees_with_all_pairs_of_surface_points(tolerance):
    rng = np.random.default_rng(5)
    spacing = np.array([5.0, 1.25, 0.75])
    for seed_share in (0.05, 0.3, 0.6):
        first, second = rng.random((2, 4, 7, 6)) < seed_share
        a, b = surface_points(first, spacing), surface_points(second, spacing)
        near_a = sum(any(np.linalg.norm(p - q) <= tolerance for q in b) for p in a)
        near_b = sum(any(np.linalg.norm(p - q) <= tolerance for p in a) for q in b)
        found = normalised_surface_dice(first, second, spacing, tolerance)
        assert found == pytest.approx((near_a + near_b) / (len(a) + len(b)))


def test_a_cube_shifted_by_k_voxels_is_within_k_steps_and_not_within_less():
    here, spacing = cube((6, 16, 16), (1, 2, 2)), (6.0, 1.3, 0.7)
    for axis, k in ((1, 3), (2, 5)):
        corner = [1, 2, 2]
        corner[axis] += k
        there = cube((6, 16, 16), corner)
        assert normalised_surface_dice(here, there, spacing, k * spacing[axis]) == 1.0
        assert normalised_surface_dice(here, there, spacing, 0.99 * k * spacing[axis]) < 1.0
        # the slabs that face along the axis are as far apart as the cube moved, or nearer
        assert hd95(here, there, spacing) <= k * spacing[axis] * (1 + 1e-9)


def test_surface_dice_is_symmetric_rises_with_the_tolerance_and_is_one_for_equal_objects():
    first, second = np.random.default_rng(2).random((2, 5, 8, 8)) < 0.4
    spacing = (3.0, 1.0, 1.0)
    found = [normalised_surface_dice(first, second, spacing, t) for t in (0, 1, 2, 3, 9)]
    assert found == sorted(found)
    assert found[-1] == 1.0
    assert found == [normalised_surface_dice(second, first, spacing, t) for t in (0, 1, 2, 3, 9)]
    assert normalised_surface_dice(first, first, spacing, 0.0) == 1.0


def test_surface_dice_of_a_missing_object_is_the_worst_value_and_of_two_it_is_undefined():
    some, none = np.ones((2, 3, 4), bool), np.zeros((2, 3, 4), bool)
    for pred, ref in itertools.permutations([some, none]):
        assert normalised_surface_dice(pred, ref, (2.0, 1.0, 1.0), 100.0) == 0.0
        assert surfaces(pred, ref, (2.0, 1.0, 1.0)).missed
    assert np.isnan(normalised_surface_dice(none, none, (2.0, 1.0, 1.0), 1.0))


def test_surface_dice_refuses_a_tolerance_that_is_no_distance():
    some = np.ones((2, 3, 4), bool)
    for tolerance in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="must be a number from 0"):
            normalised_surface_dice(some, some, (1.0, 1.0, 1.0), tolerance)


def test_distances_do_not_depend_on_how_much_empty_image_lies_around():
    first, second = np.random.default_rng(7).random((2, 3, 6, 5)) < 0.4
    first[0], second[:, 0] = False, False
    spacing = (4.0, 1.0, 2.0)
    bare = surfaces(first, second, spacing)
    wide = surfaces(np.pad(first, 9), np.pad(second, 9), spacing)
    np.testing.assert_array_equal(bare.there, wide.there)
    np.testing.assert_array_equal(bare.back, wide.back)
