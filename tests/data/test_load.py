from __future__ import annotations

import h5py
import numpy as np
import pytest

from alnb.data.load import load
from alnb.errors import BadInput
from alnb.records import IGNORE
from tests.data.nifti_files import blob, mask, write


def test_the_layout_decides_the_loader(tmp_path):
    with h5py.File(tmp_path / "patient001_frame01.h5", "w") as file:
        file["image"] = np.ones((2, 4, 4), np.float32)
    assert load(tmp_path).name == "ACDC"
    tree = tmp_path / "tree"
    write(tree / "training/patient001/patient001_frame01.nii.gz", blob())
    assert load(tree).name == "ACDC"
    assert load(tree / "training").name == "ACDC"
    other = tmp_path / "other"
    write(other / "images/x1.nii", blob())
    write(other / "labels/x1.nii", mask())
    assert load(other).name == "other"


class Somewhere:
    """A path by protocol alone."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


def test_a_path_may_be_text_or_anything_that_stands_for_a_path(tmp_path):
    write(tmp_path / "images/x1.nii", blob())
    for path in (tmp_path, str(tmp_path), Somewhere(tmp_path)):
        assert list(load(path).volumes) == ["x1"]
    with pytest.raises(BadInput, match="nowhere is not a folder"):
        load(Somewhere(tmp_path / "nowhere"))


def test_a_folder_of_data_sets_names_them(tmp_path):
    write(tmp_path / "liver/imagesTr/x1.nii", blob())
    write(tmp_path / "acdc/training/patient001/patient001_frame01.nii", blob())
    write(tmp_path / "loose.nii", blob())
    with pytest.raises(BadInput, match=r"holds 2 data sets.*Open one of them: acdc, liver"):
        load(tmp_path)


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(BadInput, match="holds no image that can be used"):
        load(tmp_path)


@pytest.mark.data
def test_the_real_acdc_set_has_its_published_counts(acdc_root):
    cohort = load(acdc_root)
    assert (len(cohort.patients), len(cohort.volumes)) == (80, 160)
    assert len(cohort.pool()) == 1454
    assert cohort.problems == ()
    assert len(cohort.pool(patients=[f"patient{n:03d}" for n in range(1, 61)])) == 1114
    assert len({volume.shape[1:] for volume in cohort.volumes.values()}) == 21
    cover, drawn, present, empty = [], [], np.zeros(4, int), 0
    for volume in cohort.volumes.values():
        scribble, reference = volume.scribble(), volume.reference()
        cover.extend((scribble != IGNORE).mean(axis=(1, 2)))
        drawn.extend(((scribble != IGNORE) & (scribble > 0)).mean(axis=(1, 2)))
        assert (scribble == 0).any(axis=(1, 2)).all()
        present += [int((reference == c).any(axis=(1, 2)).sum()) for c in range(4)]
        empty += int((reference == 0).all(axis=(1, 2)).sum())
    assert present.tolist() == [1454, 1139, 1404, 1384]
    assert empty == 50
    assert np.mean(cover) == pytest.approx(0.0104, abs=5e-5)
    assert (min(cover), max(cover)) == pytest.approx((0.0022, 0.0234), abs=5e-5)
    assert np.mean(drawn) == pytest.approx(0.0040, abs=1e-4)


@pytest.mark.data
def test_the_real_late_enhancement_set_has_its_published_counts(data_root):
    root = data_root / "mscmr"
    if not root.is_dir():
        pytest.skip("ALNB_DATA holds no folder 'mscmr'")
    cohort = load(root)
    assert cohort.problems == ()
    assert tuple(map(len, (cohort.split.train, cohort.split.val, cohort.split.test))) == (25, 5, 0)
    train = cohort.pool(patients=cohort.split.train)
    assert (len(train), len(cohort.pool()) - len(train)) == (382, 75)
    cover, present, empty = [], np.zeros(4, int), 0
    for item in train.ids:
        scribble = cohort.scribble(item)
        codes = set(np.unique(scribble).tolist())
        present[sorted(codes - {IGNORE})] += 1
        empty += not codes & {1, 2, 3}
        cover.append((scribble != IGNORE).mean())
    assert present.tolist() == [382, 305, 374, 375]
    assert empty == 7
    assert np.mean(cover) == pytest.approx(0.043, abs=5e-4)
    for volume in cohort.volumes.values():
        assert volume.spacing_mm == pytest.approx((5, 0.745, 0.745), abs=0.02)


@pytest.mark.data
def test_the_real_hippocampus_set_is_isotropic_and_scaled_robustly(data_root):
    root = data_root / "hippocampus"
    if not root.is_dir():
        pytest.skip("ALNB_DATA holds no folder 'hippocampus'")
    cohort = load(root)
    assert cohort.problems == ()
    assert (len(cohort.volumes), len(cohort.patients), len(cohort.classes)) == (199, 199, 3)
    for volume in list(cohort.volumes.values())[::20]:
        assert volume.spacing_mm == pytest.approx((1, 1, 1))
        assert 0.1 < np.median(volume.image()) < 0.9
        assert set(np.unique(volume.reference()).tolist()) == {0, 1, 2}
