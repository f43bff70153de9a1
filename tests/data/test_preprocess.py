import pickle

import numpy as np
import pytest

from alnb.data.cohort import Cohort
from alnb.data.preprocess import isotropic
from alnb.data.volume import Volume
from alnb.errors import BadInput


def cohort_of(image, labels, spacing=(2.0, 1.0, 0.5), **changes):
    volume = Volume(
        name="a",
        patient="a",
        phase="",
        shape=image.shape,
        read_image=lambda: image,
        read_reference=None if labels is None else lambda: labels,
        spacing_mm=spacing,
        **changes,
    )
    return Cohort("c", {"a": volume}, ("background", "one", "two"))


def ball(shape, spacing, radius):
    """A ball in mm around the middle of the volume."""
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (z**2 + y**2 + x**2 <= radius**2).astype(np.uint8)


def test_a_ball_stays_a_ball_of_its_size_and_image_and_labels_stay_together():
    shape, spacing = (30, 60, 120), (2.0, 1.0, 0.5)
    labels = ball(shape, spacing, 20.0)
    (volume,) = isotropic(cohort_of(labels.astype(np.float32), labels), 1.5).volumes.values()
    assert volume.shape == (40, 40, 40)
    assert volume.spacing_mm == (1.5, 1.5, 1.5)
    expected = ball(volume.shape, (1.5,) * 3, 20.0)
    for found in (volume.reference(), volume.image() > 0.5):
        overlap = 2 * (found.astype(bool) & expected.astype(bool)).sum()
        assert overlap / (found.sum() + expected.sum()) > 0.97


def test_the_grid_it_has_already_changes_nothing():
    image = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    labels = (image * 3).astype(np.uint8)
    (volume,) = isotropic(cohort_of(image, labels, (2.0, 2.0, 2.0)), 2.0).volumes.values()
    np.testing.assert_allclose(volume.image(), image, atol=1e-6)
    assert (volume.reference() == labels).all()


def test_a_ramp_keeps_its_value_at_every_place_in_mm():
    """Through the affine of both grids, whatever the axis order of the source."""
    shape, spacing, axes = (20, 30, 24), (2.0, 1.0, 1.5), (1, 2, 0)
    affine = np.diag([1.5, 2.0, 1.0, 1.0])  # the source's axes are x, z, y of the storage
    affine[:3, 3] = 5, 6, 7
    z, y, x = np.indices(shape)
    source = np.stack([x, z, y, np.ones(shape)])
    assert [source[a].max() + 1 for a in axes] == list(shape)
    place = np.tensordot(affine, source, 1)
    image = (place[0] + 2 * place[1] + 3 * place[2]).astype(np.float32)
    cohort = cohort_of(image, None, spacing, affine=affine, axes=axes)
    (volume,) = isotropic(cohort, 1.8).volumes.values()
    new = np.indices(volume.shape)
    stored = np.empty((4, *volume.shape))
    for axis, each in zip(axes, new, strict=True):
        stored[axis] = each
    stored[3] = 1
    place = np.tensordot(volume.affine, stored, 1)
    inner = (slice(3, -3),) * 3
    expected = (place[0] + 2 * place[1] + 3 * place[2])[inner]
    np.testing.assert_allclose(volume.image()[inner], expected, rtol=1e-4)


def test_fine_stripes_become_grey_on_a_coarse_grid_instead_of_stripes():
    stripes = np.tile(np.arange(64) % 2, (64, 64, 1)).astype(np.float32)
    (volume,) = isotropic(cohort_of(stripes, None, (1.0, 1.0, 1.0)), 4.0).volumes.values()
    assert volume.image()[:, :, 2:-2] == pytest.approx(0.5, abs=0.02)


def test_what_cannot_be_resampled_is_named():
    image = np.zeros((2, 2, 2), np.float32)
    with pytest.raises(BadInput, match="'a', do not say"):
        isotropic(cohort_of(image, None, None), 4.0)
    with pytest.raises(BadInput, match="above 0"):
        isotropic(cohort_of(image, None), 0.0)


def test_a_resampled_cohort_travels_between_processes(hearts):
    small = isotropic(hearts, 6.0)
    there = pickle.loads(pickle.dumps(small))
    name = next(iter(small.volumes))
    assert (there.volume(name).image() == small.volume(name).image()).all()
    assert set(np.unique(small.volume(name).reference())) <= set(range(4))
