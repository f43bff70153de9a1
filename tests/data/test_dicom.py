from __future__ import annotations

import pickle
import subprocess
import sys

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from alnb.data.dicom import dicom
from alnb.data.load import load
from alnb.errors import BadInput
from tests.data.nifti_files import blob, write

MARK = "ZZPHIZZ"
ROWS, COLUMNS, DEPTH = 7, 5, 4
# rows and columns of pixels of an oblique slice, and where the first pixel lies
TURN = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
ALONG_ROW, ALONG_COLUMN = TURN[:, 0], TURN[:, 1]
NORMAL = np.cross(ALONG_ROW, ALONG_COLUMN)
ORIGIN = np.array([-31.5, 12.25, 80.0])
BETWEEN_ROWS, BETWEEN_COLUMNS, STEP = 1.5, 0.75, 6.5
STUDY = generate_uid(entropy_srcs=["study"])


def pixels(depth=DEPTH, rows=ROWS, columns=COLUMNS):
    return np.random.default_rng(0).integers(-200, 900, (depth, rows, columns)).astype(np.int16)


def one(array, place, uid, **changes):
    """The data set of one slice, `place` mm along the normal."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    found.SeriesInstanceUID, found.StudyInstanceUID = uid, STUDY
    found.PatientName, found.PatientID = f"{MARK}^Ann", f"{MARK}1"
    found.PatientBirthDate, found.StudyDescription = "19700101", f"{MARK} study"
    found.InstitutionName, found.SeriesDescription = MARK, f"{MARK} series"
    found.Modality, found.SliceThickness = "MR", 3
    found.Rows, found.Columns = array.shape
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 16, 15, 1
    found.PixelSpacing = [BETWEEN_ROWS, BETWEEN_COLUMNS]
    found.ImagePositionPatient = [f"{x:.10f}" for x in ORIGIN + place * NORMAL]
    found.ImageOrientationPatient = [f"{x:.10f}" for x in (*ALONG_ROW, *ALONG_COLUMN)]
    found.PixelData = array.tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(found, keyword)
        else:
            setattr(found, keyword, value)
    return found


def series(folder, array=None, *, uid="", changes=None, prefix="", places=None):
    """Writes a series in an order of names that is not that of the slices.

    changes : of the data set of the slice with that index.
    """
    array = pixels() if array is None else array
    uid = uid or generate_uid(entropy_srcs=[str(folder), prefix])
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, piece in enumerate(array):
        place = index * STEP if places is None else places[index]
        path = folder / f"{prefix}{(index * 3 + 1) % len(array)}-{index}.dcm"
        found = one(piece, place, uid, **(changes or {}).get(index, {}))
        found.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def good(root):
    """A series that loads, in a folder of its own."""
    series(root / "good")


def left_out(root):
    """The one problem of a folder in which the series "bad" cannot be used and "good" can."""
    good(root)
    cohort = dicom(root)
    assert list(cohort.volumes) == ["good"]
    assert MARK not in " ".join(cohort.problems)
    return " ".join(cohort.problems)


def test_every_voxel_lies_where_the_slices_say(tmp_path):
    array = pixels()
    series(tmp_path / "T1", array)
    cohort = dicom(tmp_path)
    volume = cohort.volumes["T1"]
    assert cohort.problems == ()
    assert (volume.patient, volume.phase, volume.shape) == ("T1", "", (DEPTH, ROWS, COLUMNS))
    assert volume.spacing_mm == pytest.approx((STEP, BETWEEN_ROWS, BETWEEN_COLUMNS), abs=1e-8)
    for k, row, column in np.ndindex(volume.shape):
        left, back, up = (
            ORIGIN
            + k * STEP * NORMAL
            + column * BETWEEN_COLUMNS * ALONG_ROW
            + row * BETWEEN_ROWS * ALONG_COLUMN
        )
        marked = np.zeros(volume.shape, np.uint8)
        marked[k, row, column] = 1
        (index,) = np.argwhere(volume.to_native(marked))
        there = volume.affine @ [*index, 1]
        assert there == pytest.approx([-left, -back, up, 1], abs=1e-7)
    low, high = np.percentile(array, [0.5, 99.5])
    expected = np.clip((array - low) / (high - low), 0, 1)
    np.testing.assert_allclose(volume.image(), expected, atol=1e-6)


def test_labels_written_as_nifti_overlay_the_slices_and_tell_nothing_of_the_patient(tmp_path):
    series(tmp_path / "set/p1/T1")
    volume = dicom(tmp_path / "set").volumes["p1/T1"]
    labels = (volume.image() > 0.5).astype(np.uint8)
    path = tmp_path / "labels.nii"
    nibabel.save(nibabel.Nifti1Image(volume.to_native(labels), volume.affine), path)
    again = nibabel.load(path)
    # the last voxel, found by the world position of the last pixel of the last slice
    world = ORIGIN + (DEPTH - 1) * STEP * NORMAL
    world = world + (COLUMNS - 1) * BETWEEN_COLUMNS * ALONG_ROW
    world = world + (ROWS - 1) * BETWEEN_ROWS * ALONG_COLUMN
    index = np.linalg.solve(again.affine, [-world[0], -world[1], world[2], 1])[:3]
    assert index == pytest.approx([COLUMNS - 1, ROWS - 1, DEPTH - 1], abs=1e-4)
    np.testing.assert_array_equal(volume.from_native(np.asarray(again.dataobj)), labels)
    assert MARK.encode() not in path.read_bytes()


def test_nothing_of_the_patient_is_kept(tmp_path):
    series(tmp_path / "p1/T1")
    series(tmp_path / "p1", prefix="a")
    series(tmp_path / "bad", changes={1: {"RescaleSlope": 0}})
    cohort = dicom(tmp_path)
    assert len(cohort.volumes) == 2
    kept = pickle.dumps(cohort) + repr(cohort.volumes).encode() + repr(cohort.problems).encode()
    assert MARK.encode() not in kept
    assert b"1970" not in kept
    assert STUDY.encode() not in kept
    for volume in cohort.volumes.values():
        assert dict(volume.metadata) == {"modality": "MR"}
        assert str(tmp_path) not in f"{volume} {cohort.problems}"


def test_series_mixed_in_one_folder_are_told_apart_by_uid(tmp_path):
    first, second = pixels(), pixels(3, 4, 6)
    series(tmp_path, first, prefix="a")
    series(tmp_path, second, prefix="b")
    cohort = dicom(tmp_path)
    assert sorted(v.shape for v in cohort.volumes.values()) == [second.shape, first.shape]
    assert all(name.startswith("series-") for name in cohort.volumes)
    # of one study, thus never on both sides of a split
    assert len(cohort.patients) == 1
    assert list(dicom(tmp_path).volumes) == list(cohort.volumes)


def test_folders_name_patients_and_series(tmp_path):
    for patient in ("p1", "p2"):
        for kind in ("T1", "T2"):
            series(tmp_path / patient / kind)
    cohort = dicom(tmp_path, name="heads", classes=["background", "tumour"])
    assert (cohort.name, cohort.classes) == ("heads", ("background", "tumour"))
    assert list(cohort.volumes) == ["p1/T1", "p1/T2", "p2/T1", "p2/T2"]
    assert cohort.patients == ("p1", "p2")
    assert list(dicom(tmp_path / "p1/T1").volumes) == ["T1"]


def test_each_slice_is_scaled_by_its_own_slope(tmp_path):
    array = pixels()
    slopes, inter = [1, 2, 0.5, 3], -1024
    changes = {
        k: {"RescaleSlope": slope, "RescaleIntercept": inter} for k, slope in enumerate(slopes)
    }
    series(tmp_path, array, changes=changes)
    (volume,) = dicom(tmp_path).volumes.values()
    value = array * np.reshape(slopes, (-1, 1, 1)) + inter
    low, high = np.percentile(value, [0.5, 99.5])
    np.testing.assert_allclose(
        volume.image(), np.clip((value - low) / (high - low), 0, 1), atol=1e-5
    )


def test_sheared_stacks_keep_their_shear(tmp_path):
    files = series(tmp_path)
    for k, path in enumerate(files):
        found = pydicom.dcmread(path)
        place = ORIGIN + k * (STEP * NORMAL + 2 * ALONG_COLUMN)
        found.ImagePositionPatient = [f"{x:.10f}" for x in place]
        found.save_as(path)
    (volume,) = dicom(tmp_path).volumes.values()
    step = STEP * NORMAL + 2 * ALONG_COLUMN
    assert volume.affine[:3, 2] == pytest.approx([-step[0], -step[1], step[2]])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_byte_order_and_the_kind_of_header_do_not_matter(tmp_path, syntax):
    array = pixels()
    series(tmp_path / "usual", array)
    big = syntax == ExplicitVRBigEndian
    for k, path in enumerate(series(tmp_path / "other", array)):
        found = pydicom.dcmread(path)
        for element in found:
            element.value  # noqa: B018 - parsed now, before it is written in another order
        found.PixelData = array[k].astype(">i2" if big else "<i2").tobytes()
        found.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(
            path, found, implicit_vr=not big, little_endian=not big, force_encoding=True
        )
    cohort = dicom(tmp_path)
    assert cohort.problems == ()
    np.testing.assert_array_equal(cohort.volumes["other"].image(), cohort.volumes["usual"].image())


def test_exchanged_black_and_white_is_noted(tmp_path):
    changes = {k: {"PhotometricInterpretation": "MONOCHROME1"} for k in range(DEPTH)}
    series(tmp_path / "T1", changes=changes)
    assert "MONOCHROME1" in dicom(tmp_path).notes[0]


def test_lossless_compression_with_a_decoder_is_read(tmp_path):
    array = pixels()
    series(tmp_path / "plain", array)
    for path in series(tmp_path / "packed", array):
        found = pydicom.dcmread(path)
        found.compress(RLELossless)
        found.save_as(path)
    cohort = dicom(tmp_path)
    np.testing.assert_array_equal(cohort.volumes["packed"].image(), cohort.volumes["plain"].image())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PixelSpacing": None}, "how large a pixel is"),
        ({"PixelSpacing": [1, 0]}, "how large a pixel is"),
        ({"PixelSpacing": [1, -1]}, "how large a pixel is"),
        ({"PixelSpacing": [2, 2]}, "differs from its other slices in PixelSpacing"),
        ({"ImagePositionPatient": None}, "where it lies"),
        ({"ImageOrientationPatient": None}, "how it is turned"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no pair of unit vectors"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "in ImageOrientationPatient"),
        ({"RescaleSlope": 0}, "slope that is 0"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "holds colours"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "holds colours"),
        ({"NumberOfFrames": 3}, "several frames"),
        ({"BitsAllocated": 1}, "of 1 bits"),
        ({"Rows": 65535, "Columns": 65535}, "promises 8,589,672,450 bytes"),
        ({"PixelData": None}, "holds no image"),
    ],
)
def test_a_slice_that_cannot_be_used_leaves_its_series_out_by_name(tmp_path, changes, words):
    files = series(tmp_path / "bad", changes={2: changes})
    problem = left_out(tmp_path)
    assert problem.startswith("bad is left out: ")
    assert files[2].name in problem
    assert words in problem


def test_a_slice_of_another_size_is_named(tmp_path):
    files = series(tmp_path / "bad")
    uid = pydicom.dcmread(files[0]).SeriesInstanceUID
    one(pixels(1, 3, 3)[0], STEP, uid).save_as(files[1], enforce_file_format=True)
    problem = left_out(tmp_path)
    assert f"{files[1].name} differs from its other slices in size" in problem


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([0, 5, 15, 20], "5 mm, but not between"),
        ([0, 5, 15], "5 mm, but not between"),
        ([0, 5, 10.2, 15.2], "5 mm, but not between"),
        ([0, 5, 5, 10], "lie at the same place"),
        ([0, 0, 5, 5], "lie at the same place"),
    ],
)
def test_missing_and_doubled_slices_are_named(tmp_path, places, words):
    files = series(tmp_path / "bad", pixels(len(places)), places=places)
    problem = left_out(tmp_path)
    assert words in problem
    assert files[1].name in problem


def test_steps_within_one_per_cent_are_regular(tmp_path):
    series(tmp_path, places=[0, 5, 10.04, 15.04])
    assert dicom(tmp_path).problems == ()


def test_a_slice_moved_sideways_is_named(tmp_path):
    files = series(tmp_path / "bad")
    found = pydicom.dcmread(files[1])
    found.ImagePositionPatient = [f"{x:.8f}" for x in ORIGIN + STEP * NORMAL + 0.5 * ALONG_ROW]
    found.save_as(files[1])
    assert files[1].name in left_out(tmp_path)


def test_a_single_slice_has_no_step(tmp_path):
    series(tmp_path / "bad", pixels(1))
    assert "is its only slice" in left_out(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no DICOM at all", bytes(128) + b"DICM" + b"\xff" * 99])
def test_a_file_that_cannot_be_read_leaves_out_the_series_beside_it(tmp_path, content):
    series(tmp_path / "bad")
    (tmp_path / "bad/junk.dcm").write_bytes(content)
    problem = left_out(tmp_path)
    assert "junk.dcm beside it cannot be read" in problem


def test_a_file_that_ends_early_is_named(tmp_path):
    files = series(tmp_path / "bad")
    files[3].write_bytes(files[3].read_bytes()[:-1])
    problem = left_out(tmp_path)
    assert files[3].name in problem
    assert "Ask for the file again" in problem


def test_files_that_are_inflated_as_a_whole_are_not_inflated(tmp_path):
    files = series(tmp_path / "bad")
    found = pydicom.dcmread(files[0])
    found.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    found.save_as(files[0])
    assert f"{files[0].name}: is deflated" in left_out(tmp_path)


def test_compression_without_a_decoder_is_named(tmp_path):
    files = series(tmp_path / "bad")
    found = pydicom.dcmread(files[0])
    found.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    found["PixelData"].is_undefined_length = True
    found.file_meta.TransferSyntaxUID = JPEGLSLossless
    found.save_as(files[0])
    assert f"{files[0].name}: is compressed" in left_out(tmp_path)


def test_a_directory_of_files_is_passed_over(tmp_path):
    good(tmp_path)
    listing = one(pixels()[0], 0, generate_uid())
    listing.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    listing.preamble = bytes(128)
    listing.save_as(tmp_path / "good/DICOMDIR.dcm", enforce_file_format=False)
    (tmp_path / "good/DICOMDIR").write_bytes(b"anything")
    assert dicom(tmp_path).problems == ()


def test_a_series_beyond_the_budget_is_left_out_before_its_pixels_are_read(tmp_path):
    series(tmp_path / "large", pixels(40))
    series(tmp_path / "small")
    cohort = dicom(tmp_path, budget=40 * ROWS * COLUMNS * 4 - 1)
    assert list(cohort.volumes) == ["small"]
    assert "expands to 5,600 bytes" in cohort.problems[0]


def test_damage_that_comes_later_names_the_file(tmp_path):
    files = series(tmp_path)
    (volume,) = dicom(tmp_path).volumes.values()
    files[2].write_bytes(files[2].read_bytes()[:300])
    with pytest.raises(BadInput, match=files[2].name):
        volume.image()


def test_links_are_not_followed(tmp_path):
    files = series(tmp_path / "set/good")
    outside = files[0].rename(tmp_path / "outside.dcm")
    files[0].symlink_to(outside)
    cohort = dicom(tmp_path / "set")
    assert len(cohort.volumes["good"]) == DEPTH - 1
    assert "is a link" in cohort.problems[0]


def test_a_folder_without_a_usable_series_says_what_was_looked_for(tmp_path):
    with pytest.raises(BadInput, match=r"holds no DICOM series.*Looked for files ending in .dcm"):
        dicom(tmp_path)


def test_load_takes_dicom_where_there_is_nothing_else(tmp_path):
    series(tmp_path / "deep/p1/T1")
    assert list(load(tmp_path).volumes) == ["deep/p1/T1"]
    write(tmp_path / "images/x1.nii", blob())
    assert list(load(tmp_path / "images").volumes) == ["x1"]


def test_loading_goes_without_pydicom_until_a_series_is_opened(tmp_path):
    good(tmp_path)
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from alnb.data.load import load\n"
        "from alnb.errors import MissingExtra\n"
        "try:\n    load(sys.argv[1])\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "pip install 'alnb[dicom]'" in done.stdout


@pytest.mark.data
def test_real_series_load_with_their_geometry_and_without_their_patient(data_root, tmp_path):
    root = data_root / "dicom_series"
    if not root.is_dir():
        pytest.skip("ALNB_DATA holds no folder 'dicom_series'")
    cohort = load(root)
    assert cohort.problems == ()
    brain, crop = cohort.volumes["T1post"], cohort.volumes["HippoCrop"]
    assert (brain.shape, crop.shape) == ((22, 512, 512), (32, 51, 35))
    # slices of 5 mm lie 6.5 mm apart
    assert brain.spacing_mm == pytest.approx((6.5, 0.4297, 0.4297), abs=1e-3)
    assert crop.spacing_mm == pytest.approx((1, 1, 1))
    kept = pickle.dumps(cohort)
    for volume in (brain, crop):
        image = volume.image()
        files = [pydicom.dcmread(path) for path in (root / volume.name).glob("*.dcm")]
        native = volume.to_native(image)
        path = tmp_path / f"{volume.name}.nii"
        nibabel.save(nibabel.Nifti1Image(native, volume.affine), path)
        stack = np.stack([found.pixel_array for found in files]).astype(float)
        low, high = np.percentile(stack, [0.5, 99.5])
        for found, stored in zip(files, stack, strict=True):
            x, y, z = map(float, found.ImagePositionPatient)
            index = np.linalg.solve(volume.affine, [-x, -y, z, 1])[:3]
            assert index == pytest.approx(np.round(index), abs=1e-2)
            shown = native[:, :, round(index[2])].T
            expected = np.clip((stored - low) / (high - low), 0, 1)
            # the percentiles of a large volume are those of a sample
            assert np.abs(shown - expected).max() < 0.02
            for secret in (found.PatientName, found.PatientID, found.SeriesInstanceUID):
                text = str(secret).encode()
                assert len(text) < 4 or (text not in kept and text not in path.read_bytes())
