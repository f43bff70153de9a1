from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from alnb.data.load import load
from alnb.data.msd import CLIPS, msd
from alnb.errors import BadInput
from alnb.testing.cohort import check_cohort
from tests.data.nifti_files import OBLIQUE, blob, mask, write


def case(root, name, *, label=2, image=None, where="Tr"):
    write(root / f"images{where}" / f"{name}.nii.gz", blob() if image is None else image)
    if label is not None:
        write(root / "labelsTr" / f"{name}.nii.gz", mask(top=label))


def listing(root, labels=None, train=(), test=()):
    whole = {
        "name": "any",
        "labels": labels or {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [
            {"image": f"./imagesTr/{who}.nii.gz", "label": f"./labelsTr/{who}.nii.gz"}
            for who in train
        ],
        "test": [f"./imagesTs/{who}.nii.gz" for who in test],
    }
    (root / "dataset.json").write_text(json.dumps(whole))


def test_a_task_opens_with_its_patients_classes_and_geometry(tmp_path):
    for who in (367, 33, 1):
        case(tmp_path, f"hippocampus_{who:03d}")
    case(tmp_path, "hippocampus_002", label=None, where="Ts")
    cohort = load(tmp_path)
    assert cohort.name == "MSD hippocampus"
    assert cohort.problems == ()
    assert cohort.classes == ("background", "anterior", "posterior")
    patients = [f"hippocampus_{who}" for who in ("001", "033", "367", "002")]
    assert list(cohort.patients) == list(cohort.volumes) == patients
    assert [v.has_reference for v in cohort.volumes.values()] == [True, True, True, False]
    one = cohort.volumes["hippocampus_033"]
    np.testing.assert_allclose(one.affine, OBLIQUE, atol=1e-5)
    assert one.spacing_mm == pytest.approx((8.0, 1.4, 1.4))
    np.testing.assert_array_equal(one.to_native(one.reference()), mask(top=2))
    assert set(np.unique(one.reference())) == {0, 1, 2}
    assert (one.image().min(), one.image().max()) == (0, 1)
    assert len(cohort.pool("volume")) == 4
    check_cohort(cohort)


def test_names_pair_images_and_label_maps_whatever_else_lies_there(tmp_path):
    for who in (1, 2, 10):
        own = mask()
        own[0, 0, 0] = who % 3
        write(tmp_path / f"imagesTr/pancreas_{who}.nii.gz", blob(seed=who))
        write(tmp_path / f"labelsTr/pancreas_{who}.nii.gz", own)
    write(tmp_path / "imagesTr/pancreas_3.nii.gz", blob())
    write(tmp_path / "labelsTr/pancreas_4.nii.gz", mask())
    write(tmp_path / "imagesTs/pancreas_1.nii.gz", blob())
    write(tmp_path / "old/pancreas_9.nii.gz", blob())
    cohort = load(tmp_path)
    assert cohort.classes == ("background", "pancreas", "tumour")
    assert list(cohort.volumes) == ["pancreas_1", "pancreas_2", "pancreas_3", "pancreas_10"]
    for who in (1, 2, 10):
        assert cohort.volumes[f"pancreas_{who}"].reference()[0, 0, 0] == who % 3
    assert not cohort.volumes["pancreas_3"].has_reference
    told = " ".join(cohort.problems)
    assert "labelsTr/pancreas_4.nii.gz: belongs to no image" in told
    assert "imagesTs/pancreas_1.nii.gz: imagesTr holds an image of this name already" in told
    assert "old/pancreas_9.nii.gz: lies in no folder of the Decathlon" in told
    assert len(cohort.problems) == 3


def test_test_images_can_be_left_out(tmp_path):
    case(tmp_path, "hippocampus_001")
    case(tmp_path, "hippocampus_002", label=None, where="Ts")
    assert len(msd(tmp_path).volumes) == 2
    assert list(msd(tmp_path, test=False).volumes) == ["hippocampus_001"]


def test_classes_come_from_the_caller_then_dataset_json_then_the_task(tmp_path):
    case(tmp_path, "hippocampus_001")
    assert msd(tmp_path).classes == ("background", "anterior", "posterior")
    listing(tmp_path, {"0": "background", "2": "tail", "1": "head"})
    assert load(tmp_path).classes == ("background", "head", "tail")
    assert msd(tmp_path, classes=("a", "b", "c")).classes == ("a", "b", "c")
    (tmp_path / "dataset.json").write_text("[")
    broken = load(tmp_path)
    assert broken.classes == ("background", "anterior", "posterior")
    assert "dataset.json" in broken.problems[0]


def test_another_task_needs_its_dataset_json(tmp_path):
    case(tmp_path, "spleen_1")
    # without it, the folder is one of NIfTI images like any other
    assert load(tmp_path).classes == ("background", "class 1", "class 2")
    with pytest.raises(BadInput, match=r"Name them: msd\(path, classes=\[...\]\)"):
        msd(tmp_path)
    listing(tmp_path)
    assert load(tmp_path).classes == ("background", "Anterior", "Posterior")


def test_names_with_channels_are_another_layout(tmp_path):
    write(tmp_path / "imagesTr/hippocampus_001_0000.nii.gz", blob())
    write(tmp_path / "labelsTr/hippocampus_001.nii.gz", mask())
    listing(tmp_path)
    cohort = load(tmp_path)
    assert not cohort.name.startswith("MSD")
    assert next(iter(cohort.volumes.values())).has_reference


def test_what_dataset_json_promises_in_vain_is_named(tmp_path):
    case(tmp_path, "hippocampus_001")
    listing(tmp_path, train=("hippocampus_001", "hippocampus_003"), test=("hippocampus_002",))
    (problem,) = msd(tmp_path).problems
    assert problem == (
        "dataset.json: lists 3 images, of which 2 are not here, first hippocampus_003."
    )
    (problem,) = msd(tmp_path, test=False).problems
    assert "lists 2 images, of which 1 are not here" in problem
    for strange in ('{"training": 3}', '{"training": [3]}', '{"test": {"a": 1}}'):
        (tmp_path / "dataset.json").write_text(strange)
        assert list(msd(tmp_path, classes=("a", "b", "c")).volumes) == ["hippocampus_001"]


def test_what_cannot_be_used_is_named_and_left_out(tmp_path):
    case(tmp_path, "hippocampus_001")
    case(tmp_path, "hippocampus_002", label=7)
    write(tmp_path / "imagesTr/hippocampus_003.nii.gz", np.zeros((4, 4, 3, 2), np.int16))
    (tmp_path / "imagesTr/hippocampus_004.nii.gz").write_bytes(b"\x1f\x8b nothing")
    cohort = load(tmp_path)
    assert list(cohort.volumes) == ["hippocampus_001"]
    told = " ".join(cohort.problems)
    assert "labelsTr/hippocampus_002.nii.gz: has value 7" in told
    assert "imagesTr/hippocampus_003.nii.gz" in told
    assert "imagesTr/hippocampus_004.nii.gz" in told
    (tmp_path / "imagesTr/hippocampus_001.nii.gz").unlink()
    with pytest.raises(BadInput, match="no image that can be used"):
        msd(tmp_path)
    with pytest.raises(BadInput, match="Looked for imagesTr"):
        msd(tmp_path / "labelsTr")


def test_percentiles_ignore_the_scale_and_a_clip_keeps_it(tmp_path, caplog):
    image = blob().astype(np.int32)
    for number, (scale, offset) in enumerate(((1, 0), (3, 40), (5000, 0), (1, 4000)), 1):
        case(tmp_path, f"hippocampus_00{number}", image=image * scale + offset)
    plain = [v.image() for v in msd(tmp_path).volumes.values()]
    for other in plain[1:]:
        np.testing.assert_allclose(other, plain[0], atol=1e-6)
    with caplog.at_level(logging.WARNING):
        clipped = msd(tmp_path, intensity="nath2021_hippocampus")
    assert CLIPS["nath2021_hippocampus"] == (0, 2048)
    one, two, three, four = clipped.volumes.values()
    stored = image.transpose(2, 1, 0)
    np.testing.assert_allclose(one.image(), stored / 2048, atol=1e-6)
    np.testing.assert_allclose(two.image(), (stored * 3 + 40) / 2048, atol=1e-6)
    assert three.image().max() == 1
    assert (four.image() == 1).all()
    # the third keeps its zeros, the fourth nothing
    (problem,) = clipped.problems
    assert "of 2 of 4 volumes at one value, and makes 1 constant" in problem
    assert "intensity='percentiles'" in problem
    assert caplog.messages == [problem]
    assert not one.notes
    assert "loses 100% of its voxels to one end" in " ".join(four.notes)
    check_cohort(clipped)


def test_a_clip_that_harms_nothing_says_nothing(tmp_path):
    tissue = blob() % 150  # within -87 to 199
    case(tmp_path, "pancreas_001", image=tissue)
    cohort = msd(tmp_path, intensity="nath2021_pancreas")
    assert cohort.problems == ()
    (volume,) = cohort.volumes.values()
    np.testing.assert_allclose(
        volume.to_native(volume.image()), (tissue + 87.0) / (199 + 87), atol=1e-6
    )
    with pytest.raises(ValueError, match="must be one of percentiles, nath2021_hippocampus"):
        msd(tmp_path, intensity="window")


@pytest.mark.data
def test_the_real_hippocampi_are_all_there_and_the_published_clip_breaks_some(data_root):
    root = data_root / "hippocampus"
    if not root.is_dir():
        pytest.skip("ALNB_DATA holds no folder 'hippocampus'")
    cohort = load(root)
    assert (cohort.name, cohort.problems) == ("MSD hippocampus", ())
    assert cohort.classes == ("background", "anterior", "posterior")
    assert len(cohort.volumes) == len(cohort.patients) == 199
    assert all(v.has_reference for v in cohort.volumes.values())
    assert {v.spacing_mm for v in cohort.volumes.values()} == {(1.0, 1.0, 1.0)}
    clipped = msd(root, intensity="nath2021_hippocampus")
    lost = [v for v in clipped.volumes.values() if v.notes]
    assert len(lost) == 31
    assert "of 31 of 199 volumes at one value" in clipped.problems[0]
