"""DICOM series, one file per slice, read as volumes without keeping whose they are.

Of every file an allow list of attributes is parsed and nothing else: geometry, scaling, the form
of the pixels, and UIDs, which only serve, hashed, to tell series and studies apart. Names come
from folders; messages name a file by its own name and quote nothing that stands in it. A slice
that is missing, doubled or shaped differently leaves its whole series out.

The affine follows the image plane equation of DICOM PS3.3, C.7.6.2.1.1, turned from LPS to RAS.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from alnb.data.cohort import Cohort
from alnb.data.files import PathLike, folder_at, open_regular, scan, shown
from alnb.data.nifti import BUDGET, window
from alnb.data.nifti_header import LARGEST_MM, SMALLEST_MM, Affine, Header
from alnb.data.volume import ArrayCache, Volume
from alnb.errors import BadInput
from alnb.optional import require
from alnb.records import Floats

ENDING = ".dcm"
PIXEL_TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
TAGS = (
    *PIXEL_TAGS, "Modality", "SeriesInstanceUID", "StudyInstanceUID", "PixelSpacing",
    "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept",
)  # fmt: skip
IMPLICIT = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
DIRECTORY = "1.2.840.10008.1.3.10"
PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
OFF_STEP = 0.01
DRIFT = 0.1
SAME_MM = 1e-3
SAME_COSINE = 1e-3
CONVERT = "Convert it to NIfTI first."


@dataclass(frozen=True)
class _Slice:
    """What one file says about its slice.

    Attributes
    ----------
    series, study : hashes of UIDs.
    spacing : mm between rows, and between columns.
    orientation : unit vectors (LPS) along a row and along a column of pixels.
    position : centre of the first pixel, mm (LPS).
    problem : why its series cannot be used; all but path, series and study is unset then.
    """

    path: Path
    series: str
    study: str
    problem: str = ""
    rows: int = 0
    columns: int = 0
    bits: int = 0
    spacing: tuple[float, ...] = ()
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    slope: float = 1.0
    inter: float = 0.0
    modality: str = ""
    inverted: bool = False

    @property
    def name(self) -> str:
        """The file's own name, for messages."""
        return shown(self.path.name)


def dicom(
    root: PathLike,
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    budget: int = BUDGET,
) -> Cohort:
    """The DICOM series below `root`, told apart by their UIDs wherever their files lie.

    A volume carries the name of the folder that its series has for itself, else "series-" and a
    hash; the folders above it are the patient. Series that share the topmost folder are one
    patient where they are of one study. Slices are ordered along their normal, and their
    distance is that of their positions; intensities are scaled as by `folder`. Pixels are read
    when first looked at. A series that cannot be used is left out and named in `problems`.
    BadInput where none is left, MissingExtra without pydicom.

    Parameters
    ----------
    classes : names in the order of their codes, background first.
    budget : most bytes that one volume may take in memory.
    """
    require("pydicom", extra="dicom")
    folder = folder_at(root)
    found = scan(folder, (ENDING,))
    problems = found.problems
    series: dict[str, list[_Slice]] = {}
    unreadable: dict[Path, list[str]] = {}
    for path in found.files:
        try:
            piece = _read_header(path, folder, budget)
        except BadInput as error:
            problems.append(str(error))
            unreadable.setdefault(path.parent, []).append(shown(path.name))
            continue
        if piece is not None:
            series.setdefault(piece.series, []).append(piece)
    shared = Counter(place for each in series.values() for place in {s.path.parent for s in each})
    cache = ArrayCache()
    volumes: dict[str, Volume] = {}
    for key, slices in series.items():
        places = {piece.path.parent for piece in slices}
        alone = len(places) == 1 and shared[slices[0].path.parent] == 1
        called, patient = _name(slices, key, folder, alone)
        if called in volumes:
            called = f"{called}-{key[:8]}"
        try:
            for place in sorted(places & unreadable.keys()):
                raise BadInput(
                    f"{_listed(unreadable[place])} beside it cannot be read and may be a slice "
                    "of it. Ask for the file again, or take it out of the folder."
                )
            volumes[called] = _volume(
                slices, root=folder, name=called, patient=patient, cache=cache, budget=budget
            )
        except BadInput as error:
            problems.append(f"{called} is left out: {error}")
    if not volumes:
        passed = "".join(f" {problem}" for problem in problems[:3])
        raise BadInput(
            f"{shown(folder.name)} holds no DICOM series that can be used. Looked for files "
            f"ending in {ENDING}, one for each slice.{passed}"
        )
    names = tuple(classes) if classes is not None else ("background", "foreground")
    return Cohort(name or folder.name or "images", volumes, names, problems=tuple(problems))


def _name(slices: list[_Slice], key: str, root: Path, alone: bool) -> tuple[str, str]:
    """Names of volume and patient, made of folders where they tell, else of hashes."""
    common = Path(os.path.commonpath([piece.path.parent for piece in slices]))
    above = common.relative_to(root).parts
    label = f"series-{key[:8]}"
    if alone:
        label = above[-1] if above else root.name or label
        above = above[:-1]
    study = slices[0].study
    patient = "/".join(above) or (f"study-{study[:8]}" if study and not alone else label)
    return shown("/".join((*above, label))), shown(patient)


def _read_header(path: Path, root: Path, budget: int) -> _Slice | None:
    """What a file says of its slice; None for a directory of files, which is no image.

    BadInput where it does not even say which series it belongs to.
    """
    name = shown(path.name)
    with _parsing(name), open_regular(path, root) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        syntax, kind = _file_meta(stream)
        if kind == DIRECTORY:
            return None
        if syntax == DEFLATED:
            raise BadInput(f"{name}: is deflated as a whole, which is not read. {CONVERT}")
        stream.seek(0)
        found = _dataset(stream, TAGS, pixels=False)
        pixels_at = stream.tell()
        has_pixels = stream.read(4) in PIXEL_DATA
        uid = str(found.get("SeriesInstanceUID") or "")
        study = str(found.get("StudyInstanceUID") or "")
    if not uid:
        raise BadInput(f"{name}: does not say which series it belongs to.")
    series, study = _hashed(uid), _hashed(study) if study else ""
    try:
        if not has_pixels:
            raise BadInput(f"{name}: holds no image.")
        if size > budget:
            raise BadInput(f"{name}: takes {size:,} bytes; the limit is {budget:,}. {CONVERT}")
        head = 8 if syntax == IMPLICIT else 12
        form = _form(name, found, syntax, size - pixels_at - head)
        place = _place(name, found)
    except BadInput as error:
        return _Slice(path, series, study, str(error))
    return _Slice(path, series, study, **form, **place)


def _file_meta(stream: BinaryIO) -> tuple[str, str]:
    """Transfer syntax and kind of content. Only the head is parsed, so nothing is inflated."""
    from pydicom.filereader import read_dataset, read_preamble

    read_preamble(stream, force=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = read_dataset(
            stream,
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=lambda tag, vr, length: tag.group != 2,
        )
        return (
            str(meta.get("TransferSyntaxUID") or ""),
            str(meta.get("MediaStorageSOPClassUID") or ""),
        )


def _dataset(stream: BinaryIO, tags: Sequence[str], *, pixels: bool) -> Any:
    """The attributes `tags` of a file; others are passed over unparsed."""
    from pydicom import dcmread

    wanted: list[Any] = [*tags, *(["PixelData"] if pixels else [])]
    with warnings.catch_warnings():
        # a warning would quote what stands in the file
        warnings.simplefilter("ignore")
        return dcmread(stream, stop_before_pixels=not pixels, specific_tags=wanted)


@contextmanager
def _parsing(name: str) -> Iterator[None]:
    """Any failure of the parser or a decoder as BadInput that quotes nothing of the file."""
    try:
        yield
    except BadInput as error:
        raise BadInput(str(error)) from None
    except Exception:
        # damaged and hostile files raise nearly anything
        raise BadInput(
            f"{name}: cannot be read as DICOM (damaged, or no such file). Ask for the file again."
        ) from None


def _hashed(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()


def _numbers(found: Any, keyword: str) -> tuple[float, ...] | None:
    """The finite numbers of an attribute; empty where it is absent, None where it is spoiled."""
    try:
        value = found.get(keyword)
        if value is None or value == "":
            return ()
        several = isinstance(value, Sequence) and not isinstance(value, str)
        numbers = tuple(float(each) for each in (value if several else [value]))
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _whole(found: Any, keyword: str, absent: int = 0) -> int:
    """One whole number; `absent` where there is none, -1 where it is none."""
    numbers = _numbers(found, keyword)
    if numbers == ():
        return absent
    if numbers is None or len(numbers) != 1 or numbers[0] != int(numbers[0]):
        return -1
    return int(numbers[0])


def _form(name: str, found: Any, syntax: str, room: int) -> dict[str, Any]:
    """Size and scaling of the pixels, of which `room` bytes are there."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    rows, columns, bits = (_whole(found, key) for key in ("Rows", "Columns", "BitsAllocated"))
    frames = _whole(found, "NumberOfFrames", 1)
    if frames != 1:
        raise BadInput(f"{name}: has several frames in one file. {CONVERT}")
    grey = str(found.get("PhotometricInterpretation") or "")
    if _whole(found, "SamplesPerPixel", 1) != 1 or grey not in ("MONOCHROME1", "MONOCHROME2"):
        raise BadInput(f"{name}: holds colours; a grey image is needed. {CONVERT}")
    if rows < 1 or columns < 1 or bits not in (8, 16, 32):
        raise BadInput(
            f"{name}: has {rows}×{columns} pixels of {bits} bits; at least 1×1 of 8, 16 or 32 bits "
            f"are read. {CONVERT}"
        )
    try:
        packed = UID(syntax).is_compressed
        readable = get_decoder(syntax).is_available
    except (ValueError, NotImplementedError):
        packed = readable = False
    if not readable:
        raise BadInput(f"{name}: is compressed in a way that is not read here. {CONVERT}")
    if not packed and rows * columns * bits // 8 > room:
        raise BadInput(
            f"{name}: promises {rows * columns * bits // 8:,} bytes of pixels, holds at most "
            f"{room:,}. Ask for the file again."
        )
    slope, inter = _numbers(found, "RescaleSlope"), _numbers(found, "RescaleIntercept")
    if slope is None or inter is None or len(slope) > 1 or len(inter) > 1 or 0 in slope:
        raise BadInput(
            f"{name}: scales its pixels by a slope that is 0, or by what is no number "
            "(RescaleSlope, RescaleIntercept)."
        )
    modality = str(found.get("Modality") or "")
    return {
        "rows": rows,
        "columns": columns,
        "bits": bits,
        "slope": slope[0] if slope else 1.0,
        "inter": inter[0] if inter else 0.0,
        "modality": modality if re.fullmatch(r"[A-Z]{2}", modality) else "",
        "inverted": grey == "MONOCHROME1",
    }


def _place(name: str, found: Any) -> dict[str, Any]:
    """Where the pixels lie in the patient."""
    spacing = _numbers(found, "PixelSpacing")
    if spacing is None or len(spacing) != 2 or min(spacing) <= 0:
        raise BadInput(f"{name}: does not say how large a pixel is (PixelSpacing, two positive).")
    position = _numbers(found, "ImagePositionPatient")
    if position is None or len(position) != 3:
        raise BadInput(f"{name}: does not say where it lies (ImagePositionPatient).")
    orientation = _numbers(found, "ImageOrientationPatient")
    if orientation is None or len(orientation) != 6:
        raise BadInput(f"{name}: does not say how it is turned (ImageOrientationPatient).")
    axes = np.reshape(orientation, (2, 3))
    if np.abs(axes @ axes.T - np.eye(2)).max() > SAME_COSINE:
        raise BadInput(
            f"{name}: its ImageOrientationPatient is no pair of unit vectors at right angles."
        )
    return {"spacing": spacing, "position": position, "orientation": orientation}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _volume(
    slices: list[_Slice], *, root: Path, name: str, patient: str, cache: ArrayCache, budget: int
) -> Volume:
    """The volume of a series; BadInput names the slices that do not fit."""
    spoiled = [piece.problem for piece in slices if piece.problem]
    if spoiled:
        more = f" ({len(spoiled) - 1} more slices.)" if len(spoiled) > 1 else ""
        raise BadInput(f"{spoiled[0]}{more}")
    size = _agreed([(piece.rows, piece.columns) for piece in slices], slices, "size", 0)
    spacing = _agreed([piece.spacing for piece in slices], slices, "PixelSpacing", SAME_MM)
    turned = _agreed(
        [piece.orientation for piece in slices], slices, "ImageOrientationPatient", SAME_COSINE
    )
    rows, columns = int(size[0]), int(size[1])
    needed = rows * columns * len(slices) * max(4, *(piece.bits // 8 for piece in slices))
    if needed > budget:
        raise BadInput(
            f"it expands to {needed:,} bytes, more than the limit of {budget:,}. "
            "Crop or resample it first."
        )
    along_row, along_column = np.reshape(turned, (2, 3))
    ordered, step = _stacked(slices, np.cross(along_row, along_column))
    affine = np.eye(4)
    affine[:3, 0] = along_row * spacing[1]
    affine[:3, 1] = along_column * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = ordered[0].position
    affine[:2] = 0.0 - affine[:2]  # LPS to RAS, without a negative zero
    lengths = [float(length) for length in np.linalg.norm(affine[:3, :3], axis=0)]
    if min(lengths) < SMALLEST_MM or max(lengths) > LARGEST_MM:
        steps = " x ".join(f"{length:.4g}" for length in lengths)
        raise BadInput(
            f"it has voxels of {steps} mm; {SMALLEST_MM} to {LARGEST_MM} mm are allowed."
        )
    inverted = any(piece.inverted for piece in ordered)
    modality = ordered[0].modality
    return Volume(
        name=name,
        patient=patient,
        phase="",
        shape=(len(ordered), rows, columns),
        read_image=SeriesReader(name, root, tuple(ordered), affine),
        spacing_mm=(lengths[2], lengths[1], lengths[0]),
        affine=affine,
        axes=(2, 1, 0),
        notes=("is stored with black and white exchanged (MONOCHROME1).",) if inverted else (),
        metadata={"modality": modality} if modality else {},
        cache=cache,
    )


def _agreed(
    values: Sequence[tuple[float, ...]], slices: list[_Slice], what: str, tolerance: float
) -> tuple[float, ...]:
    """The value that most slices have; BadInput names those that differ from it."""
    common = Counter(values).most_common(1)[0][0]
    off = np.abs(np.subtract(values, common)).max(axis=1) > tolerance
    if off.any():
        others = [piece.name for piece, differs in zip(slices, off, strict=True) if differs]
        raise BadInput(
            f"{_listed(others)} differ{'s' * (len(others) == 1)} from its other slices in {what}. "
            "Put series of their own into it, or export it again."
        )
    return common


def _stacked(
    slices: list[_Slice], normal: NDArray[np.float64]
) -> tuple[list[_Slice], NDArray[np.float64]]:
    """Slices in order along the normal, and the vector (LPS, mm) from one to the next."""
    if len(slices) < 2:
        raise BadInput(
            f"{slices[0].name} is its only slice; the distance of slices follows from two or more."
        )
    ordered = sorted(slices, key=lambda piece: float(np.dot(piece.position, normal)))
    positions = np.array([piece.position for piece in ordered])
    moves = np.diff(positions, axis=0)
    gaps = moves @ normal
    pairs = list(itertools.pairwise(ordered))
    doubled = [
        f"{a.name} and {b.name}" for (a, b), gap in zip(pairs, gaps, strict=True) if gap <= SAME_MM
    ]
    if doubled:
        raise BadInput(
            f"{_listed(doubled)} lie at the same place. Leave one volume of them in the series."
        )
    # the lower median: right also where one of two gaps is too wide
    usual = np.argsort(gaps, kind="stable")[(len(gaps) - 1) // 2]
    off = np.linalg.norm(moves - moves[usual], axis=1) > OFF_STEP * gaps[usual]
    if off.any():
        where = [
            f"{a.name} and {b.name} ({gap:.4g} mm)"
            for (a, b), gap, wrong in zip(pairs, gaps, off, strict=True)
            if wrong
        ]
        raise BadInput(
            f"the step is {gaps[usual]:.4g} mm, but not between {_listed(where)}. A slice is "
            "missing or misplaced; ask for the series again."
        )
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / len(gaps)
    line = positions[0] + np.arange(len(ordered))[:, None] * step
    drift = np.linalg.norm(positions - line, axis=1)
    if drift.max() > DRIFT * gaps[usual]:
        raise BadInput(
            f"{ordered[int(drift.argmax())].name} lies {drift.max():.4g} mm off the regular grid."
        )
    return ordered, step


@dataclass(frozen=True, eq=False)
class SeriesReader:
    """Reads a series as (Z, H, W) float32 in [0, 1], clipped at two percentiles of the volume."""

    name: str
    root: Path
    slices: tuple[_Slice, ...]
    affine: Affine
    low: float = 0.5
    high: float = 99.5

    def __call__(self) -> Floats:
        first = self.slices[0]
        values = np.empty((len(self.slices), first.rows, first.columns), dtype=np.float32)
        for index, piece in enumerate(self.slices):
            stored = _pixels(piece, self.root).astype(np.float64)
            with np.errstate(over="ignore"):
                values[index] = stored * piece.slope + piece.inter
        bottom, top = window(values, self._header(values), self.low, self.high)
        for index, piece_values in enumerate(values):
            # one slice at a time in double precision: no overflow, no second copy of the volume
            value = piece_values.astype(np.float64)
            value[~np.isfinite(value)] = bottom
            values[index] = np.clip((value - bottom) / (top - bottom), 0, 1)
        return values

    def _header(self, values: Floats) -> Header:
        """The values' description, already scaled."""
        depth, rows, columns = values.shape
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return Header(
            name=self.name,
            shape=(columns, rows, depth),
            dtype=values.dtype,
            offset=0,
            slope=1.0,
            inter=0.0,
            affine=self.affine,
            spacing_mm=(x, y, z),
            packed=False,
            notes=(),
        )


def _pixels(piece: _Slice, root: Path) -> NDArray[Any]:
    """(H, W) stored values of a slice; BadInput names its file where it cannot be decoded."""
    with _parsing(piece.name), open_regular(piece.path, root) as stream:
        pixels: NDArray[Any] = np.asarray(_decoded(stream))
    if pixels.shape != (piece.rows, piece.columns):
        raise BadInput(f"{piece.name}: has changed on disk, or holds another size than it says.")
    return pixels


def _decoded(stream: BinaryIO) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _dataset(stream, PIXEL_TAGS, pixels=True).pixel_array
