from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from alnb.data.cohort import by_patient
from alnb.data.phantom import phantom
from alnb.errors import BadInput
from alnb.records import IGNORE
from alnb.testing.cohort import check_cohort

RV, MYOCARDIUM, LV = 1, 2, 3


@pytest.fixture(scope="module")
def cohort():
    return phantom(5)


def pairs(cohort):
    for who in cohort.patients:
        yield cohort.volumes[f"{who}/ED"], cohort.volumes[f"{who}/ES"]


def digest(volume):
    parts = (volume.image(), volume.reference(), volume.scribble())
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def test_the_default_cohort_has_the_promised_size_and_varies():
    cohort = phantom()
    volumes = cohort.volumes.values()
    assert len(cohort.patients) == 24
    assert len(volumes) == 48
    assert {volume.phase for volume in volumes} == {"ED", "ES"}
    assert {8, 12} <= {len(volume) for volume in volumes} <= set(range(8, 13))
    assert len({volume.shape[1:] for volume in volumes}) > 4
    assert all(100 < side < 150 for volume in volumes for side in volume.shape[1:])
    assert all(v.spacing_mm[0] > 4 * v.spacing_mm[1] for v in volumes)
    assert len({volume.metadata["group"] for volume in volumes}) == 5
    by_patient(cohort.patients)


def test_a_full_size_volume_keeps_the_contract():
    check_cohort(phantom(1, seed=3))


def test_a_volume_is_the_same_in_any_order_any_cohort_and_any_process():
    name = "phantom002/ES"
    first = digest(phantom(6, size=48, slices=(3, 4)).volumes[name])
    later = phantom(3, size=48, slices=(3, 4))
    for volume in reversed(later.volumes.values()):
        volume.scribble(), volume.image()
    assert digest(later.volumes[name]) == first
    code = (
        "import hashlib; from alnb.data.phantom import phantom;"
        f"v = phantom(2, size=48, slices=(3, 4)).volumes[{name!r}];"
        "parts = (v.image(), v.reference(), v.scribble());"
        "print(hashlib.sha256(b''.join(p.tobytes() for p in parts)).hexdigest())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == first
    assert digest(phantom(2, 1, size=48, slices=(3, 4)).volumes[name]) != first


def test_structures_are_nested_and_vanish_towards_apex_and_base(cohort):
    from scipy.ndimage import binary_dilation

    empty = 0
    for volume in cohort.volumes.values():
        reference = volume.reference()
        present = np.stack([(reference == c).any(axis=(1, 2)) for c in (RV, MYOCARDIUM, LV)], 1)
        assert present.any(axis=0).all(), volume.name
        for mask in reference:
            around = binary_dilation(mask == LV) & (mask != LV)
            # the valve plane may cut the cavity open; the RV never reaches it
            assert not (mask[around] == RV).any()
        middle = len(reference) // 2
        assert present[middle, 1:].all()
        ring = reference[middle]
        around = binary_dilation(ring == LV) & (ring != LV)
        assert (ring[around] == MYOCARDIUM).all()
        empty += int((~present.any(axis=1)).sum())
    assert empty > 0


def test_the_heart_contracts_as_its_disease_says(cohort):
    ejection = {}
    for diastole, systole in pairs(cohort):
        full, left = ((v.reference() == LV).sum() for v in (diastole, systole))
        ejection.setdefault(diastole.metadata["group"], []).append(1 - left / full)
        muscle = [(v.reference() == MYOCARDIUM).sum() for v in (diastole, systole)]
        assert 0.75 < muscle[1] / muscle[0] < 1.3
        assert (systole.reference() == RV).sum() < (diastole.reference() == RV).sum()
    assert 0.45 < min(ejection["normal"]) <= max(ejection["normal"]) < 0.75
    assert max(ejection["dilated"]) < 0.4
    assert max(ejection["infarct"]) < 0.55
    assert min(ejection["hypertrophic"]) > 0.6


def test_adjacent_slices_and_both_phases_show_one_anatomy(cohort):
    def likeness(one, other):
        return np.corrcoef(one.ravel(), other.ravel())[0, 1]

    volumes = list(cohort.volumes.values())
    for diastole, systole in pairs(cohort):
        image, other = diastole.image(), systole.image()
        next_to = [likeness(image[z], image[z + 1]) for z in range(2, len(image) - 3)]
        assert min(next_to) > 0.6
        assert likeness(image[4], other[4]) > 0.6
    strangers = [v.image()[4, :100, :100] for v in volumes[::2]]
    between = [likeness(a, b) for i, a in enumerate(strangers) for b in strangers[:i]]
    assert np.mean(between) < 0.55


def test_blood_is_bright_muscle_is_dark_and_the_far_field_is_neither_empty_nor_simple(cohort):
    for volume in cohort.volumes.values():
        image, reference = volume.image(), volume.reference()
        blood = np.median(image[reference == LV])
        muscle = np.median(image[reference == MYOCARDIUM])
        assert blood > 1.6 * muscle
        far = image[reference == 0]
        assert far.min() >= 0
        assert far.max() <= 1
        assert np.percentile(far, 90) > muscle
        # no threshold on brightness separates blood from everything else
        assert np.percentile(far, 99) > 0.75 * blood


def test_scribbles_agree_with_the_reference(cohort):
    volume = cohort.volumes["phantom003/ED"]
    scribble, reference = volume.scribble(), volume.reference()
    said = scribble != IGNORE
    np.testing.assert_array_equal(scribble[said], reference[said])
    assert all(0.005 <= (one != IGNORE).mean() <= 0.05 for one in scribble)


def test_the_affine_is_a_rotation_times_the_spacing_in_file_order(cohort):
    for volume in cohort.volumes.values():
        scaled = volume.affine[:3, :3]
        np.testing.assert_allclose(np.linalg.norm(scaled, axis=0), volume.spacing_mm[::-1])
        unit = scaled / np.linalg.norm(scaled, axis=0)
        np.testing.assert_allclose(unit.T @ unit, np.eye(3), atol=1e-9)
        assert volume.to_native(volume.reference()).shape == volume.shape[::-1]
    for diastole, systole in pairs(cohort):
        np.testing.assert_array_equal(diastole.affine, systole.affine)


@pytest.mark.parametrize("wrong", [{"patients": 0}, {"size": 8}, {"slices": (5, 4)}])
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(BadInput, match="cannot be drawn"):
        phantom(**wrong)


def test_a_pickled_volume_draws_the_same_and_its_labels_are_made_once():
    name = "phantom001/ED"
    copy = pickle.loads(pickle.dumps(phantom(1, size=48, slices=(3, 4)).volumes[name]))
    assert copy.cache.held == 0
    assert digest(copy) == digest(phantom(1, size=48, slices=(3, 4)).volumes[name])
    # a reference and the labels it is drawn from are one array
    assert copy.reference() is copy.read_reference()
