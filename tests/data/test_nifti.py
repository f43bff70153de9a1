from __future__ import annotations

import gzip
import struct

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alnb.data.nifti import ImageReader, LabelReader, NiftiFile, checked_image
from alnb.errors import BadInput
from alnb.records import IGNORE
from tests.data.nifti_files import FLIPPED, OBLIQUE, blob, mask, patch, unpacked, write


def file(path, **options):
    return NiftiFile(path, path.parent, **options)


def refused(path, words, **options):
    with pytest.raises(BadInput, match=words) as caught:
        checked_image(file(path, **options))
    assert path.name in str(caught.value)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", ">i2", ">f4"])
def test_voxels_are_those_that_nibabel_reads(tmp_path, name, dtype):
    array = blob().astype(dtype)
    image = nibabel.Nifti1Image(array, OBLIQUE)
    if dtype.startswith(">"):
        image = nibabel.Nifti1Image(array, OBLIQUE, image.header.as_byteswapped(">"))
    nibabel.save(image, tmp_path / name)
    header, voxels = file(tmp_path / name).voxels()
    again = nibabel.load(tmp_path / name)
    np.testing.assert_array_equal(voxels, np.asanyarray(again.dataobj))
    np.testing.assert_allclose(header.affine, again.affine)
    assert header.notes == ()


@pytest.mark.parametrize("affine", [OBLIQUE, FLIPPED])
def test_a_label_map_written_back_overlays_the_source_voxel_for_voxel(tmp_path, affine):
    from alnb.data.folder import folder

    array = blob()
    write(tmp_path / "x.nii.gz", array, affine)
    write(tmp_path / "x_gt.nii.gz", mask(), affine)
    volume = next(iter(folder(tmp_path).volumes.values()))
    np.testing.assert_array_equal(volume.to_native(volume.reference()), mask())
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(volume.spacing_mm, steps[::-1], rtol=1e-5)
    # the brightest voxel lies at the same place in the world
    at = np.array(np.unravel_index(array.argmax(), array.shape))
    native = volume.to_native(volume.image())
    assert native[tuple(at)] == native.max()


@pytest.mark.parametrize(
    ("steps", "shape", "axes"),
    [
        ((1.4, 1.4, 8.0), (12, 10, 4), (2, 1, 0)),
        ((8.0, 1.4, 1.4), (4, 10, 12), (0, 2, 1)),
        ((1.4, 8.0, 1.4), (10, 4, 12), (1, 2, 0)),
        ((1.0, 1.0, 1.0), (6, 7, 8), (2, 1, 0)),
        ((1.2, 1.0, 1.0), (6, 7, 8), (2, 1, 0)),
    ],
)
def test_slices_lie_along_the_axis_of_clearly_largest_spacing(tmp_path, steps, shape, axes):
    array = np.random.default_rng(0).random(shape).astype(np.float32)
    path = write(tmp_path / "x.nii", array, np.diag([*steps, 1.0]))
    header = file(path).header()
    assert header.axes == axes
    image = ImageReader(file(path), low=0, high=100)()
    assert image.shape == tuple(shape[axis] for axis in axes)
    scaled = (array - array.min()) / (array.max() - array.min())
    np.testing.assert_allclose(image, scaled.transpose(axes), atol=1e-6)


def test_scaling_in_the_header_is_applied_and_nonsense_in_it_ignored(tmp_path):
    path = write(tmp_path / "x.nii", blob())
    plain = ImageReader(file(path))()
    patch(path, 112, "2f", -0.5, 1000.0)
    np.testing.assert_allclose(ImageReader(file(path), 0.5, 99.5)(), 1 - plain, atol=2e-2)
    patch(path, 112, "2f", float("nan"), 0.0)
    np.testing.assert_array_equal(ImageReader(file(path))(), plain)
    patch(path, 112, "2f", float("inf"), 0.0)
    refused(path, "finite numbers only")


def test_intensity_is_robust_to_a_few_extreme_voxels(tmp_path):
    array = np.random.default_rng(0).normal(100, 10, (16, 16, 16)).astype(np.float32)
    array[0, 0, :3] = 1e38
    array[1, 1, :3] = -1e38
    image = ImageReader(file(write(tmp_path / "x.nii", array)))()
    assert np.isfinite(image).all()
    assert (image.min(), image.max()) == (0, 1)
    assert 0.3 < np.median(image) < 0.7


def test_voxels_that_are_no_numbers_are_masked_and_counted(tmp_path):
    array = blob().astype(np.float32)
    array[0, :, :] = np.nan
    array[1, 0, 0] = np.inf
    path = write(tmp_path / "x.nii.gz", array)
    _, notes = checked_image(file(path))
    assert notes == ("has 41 voxels (8.5 %) that are not numbers; they are masked.",)
    image = ImageReader(file(path))()
    assert np.isfinite(image).all()
    assert (image[:, :, 0] == 0).all()
    refused(write(tmp_path / "all.nii", np.full((4, 4, 4), np.nan, np.float32)), "nothing but")


def test_a_constant_image_is_usable_and_marked(tmp_path):
    path = write(tmp_path / "x.nii", np.full((4, 5, 6), 7, np.int16))
    assert checked_image(file(path))[1] == ("has one value only (7).",)
    assert (ImageReader(file(path))() == 0).all()


DAMAGE = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "crc": lambda raw: raw[:-8] + b"\xde\xad\xbe\xef" + raw[-4:],
    "flip": lambda raw: raw[:200] + bytes([raw[200] ^ 0x10]) + raw[201:],
    "empty": lambda _: b"",
    "noise": lambda _: np.random.default_rng(3).bytes(5000),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_gzip_is_refused_by_name(tmp_path, how):
    path = write(tmp_path / "x.nii.gz", blob())
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    refused(path, "damaged|too early|bytes|not a NIfTI")


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_flipped_bit_of_a_gzip_file_passes_unseen(tmp_path, data):
    path = write(tmp_path / "x.nii.gz", blob())
    whole = ImageReader(file(path))()
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(raw))
    try:
        seen = ImageReader(file(path))()
    except BadInput as error:
        seen, reason = whole, str(error)
    else:
        reason = path.name
    # only gzip's own name, time and flags may change without harm
    np.testing.assert_array_equal(seen, whole)
    assert path.name in reason


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 347), st.binary(min_size=1, max_size=8))
def test_a_spoiled_header_loads_finite_or_is_refused_by_name(tmp_path, offset, junk):
    path = write(tmp_path / "x.nii", blob())
    raw = unpacked(path)
    raw[offset : offset + len(junk)] = junk
    path.write_bytes(bytes(raw[: 352 + blob().nbytes]))
    try:
        image = ImageReader(file(path, budget=1 << 24))()
        header = file(path).header()
    except BadInput as error:
        reason = str(error)
    else:
        reason = path.name
        assert np.isfinite(image).all()
        assert np.isfinite(header.affine).all()
        assert min(header.spacing_mm) > 0
    assert path.name in reason


def test_a_header_that_promises_too_much_is_refused_before_allocation(tmp_path):
    path = write(tmp_path / "x.nii", blob())
    patch(path, 40, "4h", 3, 32767, 32767, 32767)
    refused(path, "promises 70.4 TB, holds 1.31 KB")
    packed = write(tmp_path / "y.nii.gz", blob())
    patch(packed, 40, "4h", 3, 2048, 2048, 512)
    refused(packed, "holds at most")


def test_a_bomb_is_refused_by_arithmetic_and_a_bomb_in_the_tail_by_counting(tmp_path):
    zeros = np.zeros((256, 256, 64), np.uint8)
    refused(
        write(tmp_path / "bomb.nii.gz", zeros), "more than the limit of 4.19 MB", budget=1 << 22
    )
    tail = write(tmp_path / "tail.nii.gz", blob())
    tail.write_bytes(gzip.compress(bytes(unpacked(tail)) + bytes(1 << 22)))
    refused(tail, "goes on for more than")


HEADERS = {
    "has 5 volumes": (40, "5h", (4, 12, 10, 4, 5)),
    "has 5 axes": (40, "6h", (5, 12, 10, 4, 1, 3)),
    "at least 1 voxel": (40, "4h", (3, 12, 0, 4)),
    "rank 9": (40, "h", (9,)),
    "two axes must exceed 1": (40, "4h", (3, 1, 1, 4)),
    "holds RGB voxels": (70, "2h", (128, 24)),
    "holds complex voxels": (70, "2h", (32, 64)),
    r"unknown \(code 9999\)": (70, "2h", (9999, 16)),
    "begin at -100": (108, "f", (-100.0,)),
    "begin at nan": (108, "f", (float("nan"),)),
    "promises 1 GB": (108, "f", (1e9,)),
    "extension of -16 bytes|no room|extension of": (348, "4b", (1, 0, 0, 0)),
    "not a NIfTI-1 file": (344, "4s", (b"XXXX",)),
    "header and image pair": (344, "4s", (b"ni1\0",)),
    "no usable geometry": (280, "f", (float("nan"),)),
    r"0.01 to 50 mm": (280, "12f", (900.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)),
    "voxel size 1 x 1 x 0 mm": (280, "12f", (1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)),
    "parallel": (280, "12f", (1.0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0)),
}


@pytest.mark.parametrize("words", HEADERS)
def test_a_header_that_cannot_be_is_refused_with_the_reason(tmp_path, words):
    offset, layout, values = HEADERS[words]
    path = write(tmp_path / "x.nii", blob())
    refused(patch(path, offset, layout, *values), words)


def test_odd_but_usable_headers_are_marked(tmp_path):
    path = write(tmp_path / "x.nii", blob())
    for offset, layout, values, words in [
        (72, "h", (8,), "8 bits per voxel"),
        (108, "f", (0.0,), "352 is taken"),
        (252, "2h", (0, 0), "which side is left"),
    ]:
        spoiled = write(tmp_path / "y.nii", blob())
        patch(spoiled, offset, layout, *values)
        header, notes = checked_image(file(spoiled))
        assert words in " ".join(notes)
        np.testing.assert_array_equal(file(spoiled).voxels()[1], file(path).voxels()[1])
    seven = patch(write(tmp_path / "z.nii", blob()), 40, "8h", 7, 12, 10, 4, 1, 1, 1, 1)
    assert "7 axes" in " ".join(checked_image(file(seven))[1])
    flat = write(tmp_path / "flat.nii", blob((12, 10, 4))[:, :, 0])
    header, notes = checked_image(file(flat))
    assert header.shape == (12, 10, 1)
    assert "one slice" in " ".join(notes)
    sheared = np.diag([1.0, 1.0, 4.0, 1.0])
    sheared[0, 1] = 0.5
    path = write(tmp_path / "sheared.nii", blob())
    patch(path, 280, "12f", *sheared[:3].ravel())
    notes = " ".join(checked_image(file(path))[1])
    assert "sheared" in notes
    patch(path, 252, "2h", 1, 1)
    assert "two different geometries" in " ".join(checked_image(file(path))[1])


def labels(path, image, classes=2, **options):
    return LabelReader(file(path), file(image), classes, **options)


@pytest.mark.parametrize(
    ("array", "affine", "words"),
    [
        (mask((12, 10, 3)), OBLIQUE, "is 12×10×3, its image 12×10×4"),
        (mask(), OBLIQUE + np.eye(4, k=3) * 0.5, "geometry differs by 0.5 mm"),
        (mask(top=2), OBLIQUE, "has value 2; classes are 0 to 1"),
        (mask().astype(np.int16) * -1, OBLIQUE, "has value -1"),
        (mask().astype(np.int16) * 300, OBLIQUE, "has value 300"),
        (mask() * np.float32(0.5), OBLIQUE, "has value 0.5; class codes are whole"),
        (np.where(mask(), np.nan, 0).astype(np.float32), OBLIQUE, "has value nan"),
        (mask() * np.float64(1e300), OBLIQUE, r"has value 1e\+300"),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused(tmp_path, array, affine, words):
    image = write(tmp_path / "x.nii", blob())
    with pytest.raises(BadInput, match=words) as caught:
        labels(write(tmp_path / "x_gt.nii.gz", array, affine), image)()
    assert "x_gt.nii.gz" in str(caught.value)


def test_whole_numbers_in_floats_are_labels_and_unlabelled_codes_become_ignore(tmp_path):
    image = write(tmp_path / "x.nii", blob())
    floats = write(tmp_path / "f.nii", mask().astype(np.float32), OBLIQUE + np.eye(4, k=3) * 5e-4)
    stored = labels(floats, image)()
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, mask().transpose(2, 1, 0))
    coded = mask()
    coded[0], coded[1] = 4, 255
    scribble = labels(write(tmp_path / "s.nii", coded), image, 4, unlabelled=4)()
    assert (scribble[:, :, :2] == IGNORE).all()
    np.testing.assert_array_equal(scribble[:, :, 2:], mask().transpose(2, 1, 0)[:, :, 2:])


def test_a_bad_extension_of_the_header_is_refused(tmp_path):
    path = write(tmp_path / "x.nii", blob())
    raw = unpacked(path)
    for size in (-16, 0x7FFFFFF0, 8):
        spoiled = raw[:348] + b"\1\0\0\0" + struct.pack("<ii", size, 6) + bytes(8) + raw[352:]
        struct.pack_into("<f", spoiled, 108, 368.0)
        path.write_bytes(bytes(spoiled))
        refused(path, f"extension of {size} bytes")
    struct.pack_into("<i", spoiled, 352, 16)
    path.write_bytes(bytes(spoiled))
    np.testing.assert_array_equal(file(path).voxels()[1], blob())
