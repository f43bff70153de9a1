from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from alnb.data.cohort import Split
from alnb.data.folder import folder
from alnb.errors import BadInput
from alnb.records import IGNORE
from alnb.testing.cohort import check_cohort
from tests.data.nifti_files import OBLIQUE, blob, mask, patch, unpacked, write


def stored(array):
    return array.transpose(2, 1, 0)


def names(cohort):
    return list(cohort.volumes)


def test_images_alone_need_no_mask(tmp_path):
    for who in ("a10", "a9"):
        write(tmp_path / f"{who}.nii.gz", blob())
    cohort = folder(tmp_path)
    assert names(cohort) == ["a9", "a10"]
    assert cohort.classes == ("background", "foreground")
    assert cohort.problems == ()
    assert not any(v.has_reference or v.has_scribble for v in cohort.volumes.values())
    check_cohort(cohort)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/s{}.nii.gz", "labels/s{}.nii.gz"),
        ("imagesTr/s{}.nii.gz", "labelsTr/s{}.nii.gz"),
        ("imagesTr/s{}_0000.nii.gz", "labelsTr/s{}.nii.gz"),
        ("img/s{}.nii", "masks/s{}.nii.gz"),
        ("images/s{}.nii", "labels/s{}_manual.nii"),
        ("s{}.nii.gz", "s{}_gt.nii.gz"),
        ("s{}.nii.gz", "s{}_seg.nii"),
        ("s{}.nii.gz", "s{}_mask.nii.gz"),
        ("s{}.nii.gz", "s{}_label.nii.gz"),
        ("s{}/mr.nii.gz", "s{}/mr_gt.nii.gz"),
        ("train/images/s{}.nii", "train/labels/s{}.nii"),
        ("cohort/images/s{}.nii", "cohort/labels/s{}.nii"),
    ],
)
def test_label_maps_are_paired_by_subject_key_in_every_layout(tmp_path, image, label):
    for who in (1, 2, 11):
        write(tmp_path / image.format(who), blob(seed=who))
        own = mask()
        own[0, 0, 0] = who % 3
        write(tmp_path / label.format(who), own)
    # an image without a label map must not shift the pairs
    write(tmp_path / image.format(5), blob(seed=5))
    cohort = folder(tmp_path)
    assert cohort.problems == ()
    by_patient = {v.patient.split("/")[-1]: v for v in cohort.volumes.values()}
    assert list(by_patient) == ["s1", "s2", "s5", "s11"]
    assert not by_patient["s5"].has_reference
    for who in (1, 2, 11):
        assert by_patient[f"s{who}"].reference()[0, 0, 0] == who % 3
    check_cohort(cohort)


def test_late_enhancement_layout_gives_scribbles_phases_and_a_split(tmp_path):
    scribbled = np.full((12, 10, 4), 4, np.uint16)
    scribbled[3, 4:6, 1], scribbled[0, :, 1] = 2, 0
    for who in (1, 2):
        write(tmp_path / f"train/images/subject{who}_DE.nii.gz", blob())
        write(tmp_path / f"train/labels/subject{who}_DE_scribble.nii.gz", scribbled)
    write(tmp_path / "val/images/subject10_DE.nii.gz", blob())
    write(tmp_path / "val/labels/subject10_DE_manual.nii.gz", mask(top=3))
    cohort = folder(tmp_path)
    assert names(cohort) == ["subject1/DE", "subject2/DE", "subject10/DE"]
    assert cohort.split == Split(("subject1", "subject2"), ("subject10",))
    assert len(cohort.classes) == 4
    one, _, ten = cohort.volumes.values()
    assert (one.has_scribble, one.has_reference) == (True, False)
    assert (ten.has_scribble, ten.has_reference) == (False, True)
    np.testing.assert_array_equal(
        one.scribble(), np.where(stored(scribbled) == 4, 255, stored(scribbled))
    )
    # without any mask, the code of most pixels is the unlabelled one
    assert len(folder(tmp_path / "train").classes) == 4
    check_cohort(cohort)


@pytest.mark.parametrize(
    ("files", "patients"),
    [
        (["subject2_DE", "subject10_DE"], ["subject2", "subject10"]),
        (["BraTS20_Training_001", "BraTS20_Training_002"],
         ["BraTS20_Training_001", "BraTS20_Training_002"]),
        (["p1_t1", "p1_t2", "p2_t1"], ["p1", "p2"]),
        (["alice/t1", "bob/t1"], ["alice/t1", "bob/t1"]),
        (["case1/t1", "case1/t2", "case2/t1"], ["case1", "case2"]),
        (["site/a1", "site/a2"], ["a1", "a2"]),
        (["hippocampus_001", "hippocampus_012"], ["hippocampus_001", "hippocampus_012"]),
        (["only"], ["only"]),
    ],
)  # fmt: skip
def test_the_patient_is_the_subject_key(tmp_path, files, patients):
    for name in files:
        write(tmp_path / f"{name}.nii", blob())
    cohort = folder(tmp_path)
    assert list(cohort.patients) == patients
    assert len(cohort.volumes) == len(files)


def test_numbers_that_start_again_in_each_split_are_kept_apart(tmp_path):
    for part in ("train", "test"):
        for who in (1, 2):
            write(tmp_path / part / f"x{who}.nii", blob())
    cohort = folder(tmp_path)
    assert len(cohort.patients) == 4
    assert cohort.split == Split(("train/x1", "train/x2"), (), ("test/x1", "test/x2"))
    assert "more than one of train, val and test" in cohort.problems[0]


def test_class_names_come_from_the_caller_then_dataset_json_then_the_codes(tmp_path):
    write(tmp_path / "imagesTr/x1.nii", blob())
    write(tmp_path / "labelsTr/x1.nii", mask(top=2))
    assert folder(tmp_path).classes == ("background", "class 1", "class 2")
    listing = tmp_path / "dataset.json"
    for labels in (
        {"0": "background", "1": "Anterior", "2": "Posterior"},
        {"Posterior": 2, "background": 0, "Anterior": 1},
    ):
        listing.write_text(json.dumps({"labels": labels}))
        assert folder(tmp_path).classes == ("background", "Anterior", "Posterior")
    given = ("nothing", "a", "b", "c")
    assert folder(tmp_path, classes=given).classes == given
    for broken in ('{"labels": {"0": "background", "7": "x"}}', "[", '{"labels": 3}', "[" * 9999):
        listing.write_text(broken)
        cohort = folder(tmp_path)
        assert cohort.classes == ("background", "class 1", "class 2")
        assert "dataset.json" in cohort.problems[0]


def spoil_crc(path):
    raw = path.read_bytes()
    path.write_bytes(raw[:-8] + b"\xde\xad\xbe\xef" + raw[-4:])


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


def bomb(path):
    write(path, np.zeros((256, 256, 64), np.uint8))


def four_d(path):
    write(path, np.zeros((8, 8, 4, 3), np.int16))


def no_geometry(path):
    patch(path, 280, "f", float("nan"))


def other_shape(path):
    write(path.with_name("x2_gt.nii.gz"), mask((12, 10, 3)))


def elsewhere(path):
    shift = np.eye(4, k=3) * 5
    write(path.with_name("x2_gt.nii.gz"), mask(), OBLIQUE + shift)


def strange_code(path):
    write(path.with_name("x2_gt.nii.gz"), mask(top=3))


def half_code(path):
    write(path.with_name("x2_gt.nii.gz"), mask() * np.float32(0.5))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_crc, "x2.nii.gz: is damaged"), (cut, "x2.nii.gz: the compressed data end"),
        (bomb, "x2.nii.gz: expands to"), (four_d, "x2.nii.gz: has 3 volumes"),
        (no_geometry, "x2.nii.gz: has no usable geometry"),
        (other_shape, "x2_gt.nii.gz: is 12×10×3, its image 12×10×4"),
        (elsewhere, "x2_gt.nii.gz: lies elsewhere"), (strange_code, "x2_gt.nii.gz: has value 3"),
        (half_code, "x2_gt.nii.gz: has value 0.5"),
    ],
)  # fmt: skip
def test_one_bad_case_is_left_out_and_named_while_the_others_load(tmp_path, spoil, words):
    for who in (1, 2, 3):
        write(tmp_path / f"x{who}.nii.gz", blob())
        write(tmp_path / f"x{who}_gt.nii.gz", mask())
    spoil(tmp_path / "x2.nii.gz")
    cohort = folder(tmp_path, classes=("background", "block"), budget=1 << 22)
    assert names(cohort) == ["x1", "x3"]
    assert len(cohort.problems) == 1
    assert words in cohort.problems[0]
    check_cohort(cohort)


def test_an_image_that_turns_out_damaged_later_is_named_when_it_is_read(tmp_path):
    for who in (1, 2):
        write(tmp_path / f"x{who}.nii.gz", blob())
        write(tmp_path / f"x{who}_gt.nii.gz", mask())
    spoil_crc(tmp_path / "x2.nii.gz")
    classes = ("background", "block")
    lazy = folder(tmp_path, classes=classes, verify=False)
    assert names(lazy) == ["x1", "x2"]
    with pytest.raises(BadInput, match=r"x2\.nii\.gz"):
        lazy.volumes["x2"].image()
    assert lazy.volumes["x1"].image().max() == 1
    cohort = folder(tmp_path, classes=classes)
    write(tmp_path / "x1_gt.nii.gz", mask(top=9))
    with pytest.raises(BadInput, match=r"x1_gt\.nii\.gz: has value 9"):
        cohort.volumes["x1"].reference()


def test_marks_of_usable_images_are_kept_with_the_volume(tmp_path):
    holed = blob().astype(np.float32)
    holed[0, 0, :] = np.nan
    write(tmp_path / "x1.nii", holed)
    patch(write(tmp_path / "x2.nii", blob()), 252, "2h", 0, 0)
    cohort = folder(tmp_path)
    assert cohort.notes == (
        "x1 has 4 voxels (0.83 %) that are not numbers; they are masked.",
        "x2 does not say which side is left.",
    )
    assert cohort.problems == ()


def test_what_belongs_to_nothing_or_comes_twice_is_named(tmp_path):
    write(tmp_path / "x1.nii", blob())
    write(tmp_path / "x1_gt.nii", mask())
    write(tmp_path / "x1_seg.nii", mask())
    write(tmp_path / "x9_gt.nii", mask())
    write(tmp_path / "imagesTr/y_0000.nii", blob())
    write(tmp_path / "imagesTr/y_0001.nii", blob())
    write(tmp_path / "labelsTr/y.nii", mask())
    said = " ".join(folder(tmp_path).problems)
    assert "x1_seg.nii: x1_gt.nii is used already" in said
    assert "x9_gt.nii: belongs to no image" in said
    assert "y_0001.nii: is a further channel" in said


def test_255_as_the_only_object_is_refused_for_it_means_unlabelled(tmp_path):
    write(tmp_path / "x1.nii", blob())
    write(tmp_path / "x1_gt.nii", mask() * np.uint8(255))
    with pytest.raises(BadInput, match="Save the object as 1"):
        folder(tmp_path)


def test_a_partly_labelled_mask_keeps_what_nobody_said(tmp_path):
    partly = mask()
    partly[:, :, 3] = 255
    write(tmp_path / "x1.nii", blob())
    write(tmp_path / "x1_gt.nii", partly)
    reference = folder(tmp_path).volumes["x1"].reference()
    assert (reference[3] == IGNORE).all()
    np.testing.assert_array_equal(reference[:3], stored(mask())[:3])


def test_codes_without_names_are_bounded(tmp_path):
    for who, top in ((1, 1), (2, 200)):
        write(tmp_path / f"x{who}.nii", blob())
        write(tmp_path / f"x{who}_gt.nii", mask(top=top))
    cohort = folder(tmp_path)
    assert names(cohort) == ["x1"]
    assert "has value 200" in cohort.problems[0]


def test_a_folder_without_an_image_says_what_was_looked_for(tmp_path):
    with pytest.raises(BadInput, match=r"images/ with labels/"):
        folder(tmp_path)
    write(tmp_path / "labels/x.nii", mask())
    with pytest.raises(BadInput, match="belongs to no image"):
        folder(tmp_path)
    (tmp_path / "y.nii.gz").write_bytes(gzip.compress(b"not an image"))
    with pytest.raises(BadInput, match=r"y\.nii\.gz: ends after 12 bytes"):
        folder(tmp_path)


def test_hostile_names_load_as_text(tmp_path):
    hostile = ["<img src=x onerror=alert(1)>", "two\nlines", "-rf", "..%2fx", "=1+1", "a'b\"c",
               "x" * 240, "caf\u00e9", "cafe\u0301", "scan\u202egz", "Case", "case"]  # fmt: skip
    raw = unpacked(write(tmp_path / "first.nii", blob()))
    for name in hostile:
        (tmp_path / f"{name}.nii").write_bytes(raw)
    cohort = folder(tmp_path)
    assert len(cohort.volumes) == len(hostile) + 1
    assert all(name.isprintable() for name in cohort.volumes)
    check_cohort(cohort)
