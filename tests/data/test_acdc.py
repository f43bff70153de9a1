from __future__ import annotations

import h5py
import numpy as np
import pytest

from alnb.data.acdc import acdc
from alnb.data.cohort import Split
from alnb.data.hdf5 import H5File
from alnb.errors import BadInput
from alnb.records import IGNORE
from alnb.testing.cohort import check_cohort
from tests.data.nifti_files import blob, mask, write

SHAPE = (4, 12, 10)


def h5(path, **changes):
    rng = np.random.default_rng(0)
    scribble = np.full(SHAPE, 4, np.uint16)
    scribble[:, 5, 3:6], scribble[:, 0] = 2, 0
    sets = {
        "image": rng.random(SHAPE, dtype=np.float32),
        "label": rng.integers(0, 4, SHAPE).astype(np.uint8),
        "scribble": scribble,
    } | changes
    with h5py.File(path, "w") as file:
        for key, array in sets.items():
            if array is not None:
                file[key] = array
    return path


@pytest.fixture
def root(tmp_path):
    for who in (1, 2, 10):
        for frame in (12, 1):
            h5(tmp_path / f"patient{who:03d}_frame{frame:02d}.h5")
    return tmp_path


def test_volumes_are_named_by_patient_and_phase_in_frame_order(root):
    h5(root / "patient001_frame01_slice_3.h5", image=np.zeros((12, 10), np.float32))
    (root / "notes.h5").write_text("not of this set")
    cohort = acdc(root)
    assert list(cohort.volumes) == [
        f"patient{who:03d}/{phase}" for who in (1, 2, 10) for phase in ("ED", "ES")
    ]
    assert cohort.volumes["patient001/ED"].metadata["frame"] == 1
    assert cohort.volumes["patient001/ES"].metadata["frame"] == 12
    assert cohort.problems == ()
    assert cohort.classes == ("background", "RV", "myocardium", "LV")
    assert cohort.volumes["patient001/ED"].spacing_mm is None
    check_cohort(cohort)


def test_arrays_are_those_in_the_file_and_4_in_a_scribble_is_ignore(root):
    volume = acdc(root).volumes["patient002/ED"]
    with h5py.File(root / "patient002_frame01.h5") as file:
        np.testing.assert_array_equal(volume.image(), file["image"][()])
        np.testing.assert_array_equal(volume.reference(), file["label"][()])
        drawn = file["scribble"][()]
    np.testing.assert_array_equal(volume.scribble(), np.where(drawn == 4, IGNORE, drawn))


def test_patients_are_chosen_by_number(root):
    assert acdc(root, patients=range(2, 11)).patients == ("patient002", "patient010")
    with pytest.raises(BadInput, match="of the patients asked for"):
        acdc(root, patients=[7])


def test_patients_beyond_the_training_numbers_make_the_split(root):
    assert acdc(root).split is None
    h5(root / "patient081_frame01.h5")
    h5(root / "patient101_frame01.h5")
    assert acdc(root).split == Split(
        ("patient001", "patient002", "patient010"), ("patient081",), ("patient101",)
    )


def external_link(path):
    with h5py.File(path, "w") as file:
        file["image"] = h5py.ExternalLink("other.h5", "/image")


def soft_link(path):
    with h5py.File(path, "w") as file:
        file["pixels"] = np.zeros(SHAPE, np.float32)
        file["image"] = h5py.SoftLink("/pixels")


def external_storage(path):
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "image", SHAPE, "f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
        )


def virtual(path):
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource("/nonexistent.h5", "image", SHAPE)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("image", layout)


def never_written(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("image", SHAPE, "f4", chunks=True)


def huge(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (10_000,) * 3, "f4", chunks=(64, 64, 64))


def group(path):
    with h5py.File(path, "w") as file:
        file.create_group("image")


def cut(path):
    path.write_bytes(h5(path).read_bytes()[:900])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (external_link, "links are refused"),
        (soft_link, "links are refused"),
        (external_storage, "in another file"),
        (virtual, "in another file"),
        (never_written, "never written"),
        (huge, "more than the limit"),
        (group, "no array of three axes"),
        (cut, "cannot be read as HDF5"),
        (lambda path: path.write_text("text"), "cannot be read as HDF5"),
        (lambda path: h5(path, image=None), "no data set 'image'"),
        (lambda path: h5(path, image=np.zeros((12, 10), np.float32)), "no array of three axes"),
        (lambda path: h5(path, image=np.zeros(SHAPE, np.complex64)), "holds complex64"),
        (lambda path: h5(path, image=np.full(SHAPE, b"x")), r"holds \|S1"),
        (lambda path: h5(path, label=np.zeros((4, 12, 9), np.uint8)), "its label is"),
        (lambda path: h5(path, label=np.zeros(SHAPE, np.float32)), "holds float32"),
    ],
)
def test_one_bad_file_is_left_out_and_named_while_the_others_load(root, spoil, words):
    spoil(root / "patient002_frame12.h5")
    cohort = acdc(root)
    assert len(cohort.volumes) == 5
    assert "patient002/ES" not in cohort.volumes
    assert len(cohort.problems) == 1
    assert cohort.problems[0].startswith("patient002_frame12.h5: ")
    with pytest.raises(BadInput, match=words):
        raise BadInput(cohort.problems[0])


def test_codes_are_checked_when_they_are_read(root):
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, 0] = 7
    h5(root / "patient002_frame12.h5", label=label, scribble=label.astype(np.uint16))
    volume = acdc(root).volumes["patient002/ES"]
    for read in (volume.reference, volume.scribble):
        with pytest.raises(BadInput, match=r"patient002_frame12.h5: its \w+ has value 7"):
            read()


def test_pixels_that_are_no_numbers_are_masked(root):
    image = np.random.default_rng(0).random(SHAPE, dtype=np.float32) + 1
    image[0, 0, :2] = np.nan, np.inf
    h5(root / "patient002_frame12.h5", image=image)
    seen = acdc(root).volumes["patient002/ES"].image()
    assert np.isfinite(seen).all()
    assert seen[0, 0, 0] == seen[0, 0, 1] == image[np.isfinite(image)].min()
    h5(root / "patient002_frame12.h5", image=np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(BadInput, match="nothing but"):
        acdc(root).volumes["patient002/ES"].image()


def test_an_unreadable_chunk_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "patient001_frame01.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("image", SHAPE, "f4", chunks=SHAPE, compression="gzip")
        data.id.write_direct_chunk((0, 0, 0), b"not deflated")
    with pytest.raises(BadInput, match=r"patient001_frame01\.h5"):
        acdc(tmp_path).volumes["patient001/ED"].image()


def test_a_dataset_is_looked_at_again_when_it_is_read(root):
    cohort = acdc(root)
    external_link(root / "patient001_frame01.h5")
    with pytest.raises(BadInput, match="links are refused"):
        cohort.volumes["patient001/ED"].image()
    with pytest.raises(BadInput, match="lies outside"):
        H5File(root.parent / "x.h5", root).open().__enter__()


@pytest.fixture
def original(tmp_path):
    for part, who in (("training", 1), ("training", 12), ("testing", 101)):
        folder = tmp_path / part / f"patient{who:03d}"
        for frame in (1, 10):
            stem = f"patient{who:03d}_frame{frame:02d}"
            write(folder / f"{stem}.nii.gz", blob(seed=who + frame))
            write(folder / f"{stem}_gt.nii.gz", mask(top=3))
        write(folder / f"patient{who:03d}_4d.nii.gz", np.zeros((4, 4, 4, 2), np.int16))
        (folder / "Info.cfg").write_text("ED: 1\nES: 10\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\n")
    return tmp_path


def test_the_original_tree_has_geometry_split_and_groups(original):
    cohort = acdc(original)
    assert list(cohort.volumes) == [
        f"patient{who:03d}/{phase}" for who in (1, 12, 101) for phase in ("ED", "ES")
    ]
    assert cohort.split == Split(("patient001", "patient012"), (), ("patient101",))
    volume = cohort.volumes["patient012/ES"]
    assert volume.metadata["group"] == "DCM"
    assert "height" not in volume.metadata
    np.testing.assert_allclose(volume.spacing_mm, (8.0, 1.4, 1.4), rtol=1e-5)
    np.testing.assert_array_equal(volume.to_native(volume.reference()), mask(top=3))
    check_cohort(cohort)


def test_the_original_intensities_are_clipped_at_the_99th_percentile(original):
    array = blob(seed=1 + 1).astype(np.float64)
    low, high = array.min(), np.percentile(array, 99)
    expected = (np.clip(array, low, high) - low) / (high - low)
    image = acdc(original).volumes["patient001/ED"].image()
    np.testing.assert_allclose(image, expected.transpose(2, 1, 0), atol=1e-6)


def test_a_damaged_original_is_left_out(original):
    path = original / "training" / "patient001" / "patient001_frame10_gt.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    cohort = acdc(original)
    assert "patient001/ES" not in cohort.volumes
    assert "patient001_frame10_gt.nii.gz" in cohort.problems[0]
    assert len(cohort.volumes) == 5
