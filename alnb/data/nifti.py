"""NIfTI files read with suspicion: the header is checked before a byte of voxels is allocated.

nibabel parses the header; what it lets pass (NaN geometry, axes of length 0, damaged gzip, sizes
that the file cannot hold, complex and RGB voxels) is refused here by name, or marked with a note.
"""

from __future__ import annotations

import gzip
import math
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from alnb.data.files import open_regular, shown
from alnb.data.volume import ArrayCache, Shape, Spacing, Volume
from alnb.errors import BadInput
from alnb.records import IGNORE, Floats, LabelMap

BUDGET = 2 << 30
TAIL = 1 << 20
# deflate cannot expand a byte to more than 1032
EXPANSION = 1032
SMALLEST_MM, LARGEST_MM = 0.01, 50
SAME_MM = 1e-3
KINDS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4",
         1024: "i8", 1280: "u8"}  # fmt: skip
NAMED = {1: "binary", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex",
         2048: "complex", 2304: "RGBA"}  # fmt: skip

Affine = NDArray[np.float64]
Voxels = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Header:
    """What the header of a 3D (or 2D) image says, after all checks.

    Attributes
    ----------
    name : of the file, for messages.
    shape : along the source axes x, y, z.
    dtype : of the stored voxels, with byte order; `offset` is where they begin.
    slope, inter : voxel = slope * stored + inter.
    affine : (4, 4) voxel index to mm; spacing_mm are the lengths of its columns.
    packed : whether the file is a gzip stream.
    notes : marks that a person should see.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    affine: Affine
    spacing_mm: Spacing
    packed: bool
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes that the voxels take in the unpacked file."""
        return math.prod(self.shape) * self.dtype.itemsize

    @cached_property
    def axes(self) -> tuple[int, int, int]:
        """Source axes as (slice, row, column).

        Slices lie along the axis of clearly largest spacing, else along the last; rows and
        columns follow from the higher to the lower axis.
        """
        order = sorted(range(3), key=lambda axis: self.spacing_mm[axis])
        clear = self.spacing_mm[order[2]] >= 1.5 * self.spacing_mm[order[1]]
        along = order[2] if clear and self.shape[2] > 1 else 2
        row, column = sorted({0, 1, 2} - {along}, reverse=True)
        return along, row, column


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI file inside the folder `root`; reading it may take `budget` bytes of memory."""

    path: Path
    root: Path
    budget: int = BUDGET

    @property
    def name(self) -> str:
        """Name for messages, relative to the folder."""
        return shown(self.path, self.root)

    def header(self) -> Header:
        """The checked header; BadInput names the file and what is wrong with it."""
        with self._open() as (stream, size, packed):
            return _header(stream, self.name, size, packed, self.budget)

    def voxels(self) -> tuple[Header, Voxels]:
        """Header and voxels (source axis order, as stored) of a file that is whole.

        A compressed file is read to its end, so that its checksum is compared.
        """
        with self._open() as (stream, size, packed):
            header = _header(stream, self.name, size, packed, self.budget)
            buffer = np.empty(header.bytes, dtype=np.uint8)
            got = _fill(stream, buffer)
            if got < header.bytes:
                raise BadInput(
                    f"{self.name}: ends after {got:,} of {header.bytes:,} bytes of voxels. "
                    "Ask for the file again."
                )
            if packed and len(stream.read(TAIL + 1)) > TAIL:
                raise BadInput(
                    f"{self.name}: goes on for more than {TAIL:,} bytes after its voxels. "
                    "Ask for the file again."
                )
        return header, buffer.view(header.dtype).reshape(header.shape, order="F")

    @contextmanager
    def _open(self) -> Iterator[tuple[BinaryIO, int, bool]]:
        """The unpacked bytes, the size on disk, and whether it is packed."""
        with open_regular(self.path, self.root) as raw:
            size = raw.seek(0, 2)
            raw.seek(0)
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            try:
                if packed:
                    with gzip.GzipFile(fileobj=raw) as stream:
                        yield cast("BinaryIO", stream), size, packed
                else:
                    yield raw, size, packed
            except EOFError:
                raise BadInput(
                    f"{self.name}: the compressed data end too early. Ask for the file again."
                ) from None
            except (gzip.BadGzipFile, zlib.error) as error:
                what = "checksum" if "CRC" in str(error) else "structure"
                raise BadInput(
                    f"{self.name}: is damaged ({what} of the compressed data). "
                    "Ask for the file again."
                ) from None


def _fill(stream: BinaryIO, buffer: NDArray[np.uint8]) -> int:
    """Read into the buffer piece by piece; returns how much came."""
    view, got = buffer.data, 0
    while got < len(view):
        piece = stream.read(min(1 << 20, len(view) - got))
        if not piece:
            break
        view[got : got + len(piece)] = piece
        got += len(piece)
    return got


def _header(stream: BinaryIO, name: str, size: int, packed: bool, budget: int) -> Header:
    """Reads up to the first voxel, and decides."""
    block = stream.read(352)
    if len(block) < 352:
        raise BadInput(f"{name}: ends after {len(block)} bytes; a NIfTI header has 352.")
    endian = next((mark for mark in "<>" if struct.unpack_from(mark + "i", block)[0] == 348), "")
    if not endian or block[344:348] != b"n+1\0":
        if block[344:348] == b"ni1\0":
            raise BadInput(
                f"{name}: is one half of a header and image pair. Convert it to one .nii.gz file."
            )
        raise BadInput(f"{name}: is not a NIfTI-1 file (it does not begin like one).")
    notes: list[str] = []
    shape = _shape(struct.unpack_from(endian + "8h", block, 40), name, notes)
    code, bits = struct.unpack_from(endian + "2h", block, 70)
    if code not in KINDS:
        kind = NAMED.get(code, f"unknown (code {code})")
        raise BadInput(f"{name}: holds {kind} voxels; a grey image or label map is needed.")
    dtype = np.dtype(endian + KINDS[code])
    if bits != 8 * dtype.itemsize:
        notes.append(f"says {bits} bits per voxel, where its type has {8 * dtype.itemsize}.")
    voxels = math.prod(shape)
    offset = _offset(struct.unpack_from(endian + "f", block, 108)[0], name, notes)
    holds = size if not packed else size * EXPANSION
    if offset + voxels * dtype.itemsize > holds:
        raise BadInput(
            f"{name}: promises {_size(offset + voxels * dtype.itemsize)}, holds "
            f"{'at most ' if packed else ''}{_size(holds)}. Ask for the file again."
        )
    if voxels * max(dtype.itemsize, 4) > budget:
        raise BadInput(
            f"{name}: expands to {_size(voxels * max(dtype.itemsize, 4))}, more than the limit of "
            f"{_size(budget)}. Crop or resample it first."
        )
    _extensions(stream, offset - 352, endian if block[348] else None, name)
    slope, inter = _scaling(struct.unpack_from(endian + "2f", block, 112), name)
    affine, spacing = _geometry(block[:348], endian, name, notes)
    return Header(name, shape, dtype, offset, slope, inter, affine, spacing, packed, tuple(notes))


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{int(count)} bytes"
        count /= 1000
    raise AssertionError


def _shape(dim: tuple[int, ...], name: str, notes: list[str]) -> Shape:
    rank = dim[0]
    if not 1 <= rank <= 7 or min(dim[1 : rank + 1], default=0) < 1:
        raise BadInput(f"{name}: has the axes {dim[1 : max(rank, 0) + 1]} (rank {rank}); at least "
                       "1 voxel along each of 2 or 3 axes is needed.")  # fmt: skip
    sides = list(dim[1 : rank + 1])
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if len(sides) == 4:
        raise BadInput(
            f"{name}: has {sides[3]} volumes. Save the one you want as a 3-D file of its own."
        )
    if len(sides) > 4:
        raise BadInput(f"{name}: has {len(sides)} axes {tuple(sides)}; an image has 2 or 3.")
    if rank > 3:
        notes.append(f"is stored with {rank} axes, of which {rank - 3} have length 1.")
    if len(sides) < 3:
        notes.append(f"is a {len(sides)}-D image; it is taken as one slice.")
        sides += [1] * (3 - len(sides))
    if sum(side > 1 for side in sides) < 2:
        raise BadInput(f"{name}: has the shape {tuple(sides)}; at least two axes must exceed 1.")
    return sides[0], sides[1], sides[2]


def _offset(value: float, name: str, notes: list[str]) -> int:
    if value == 0:
        notes.append("does not say where its voxels begin; 352 is taken.")
        return 352
    if not (math.isfinite(value) and value >= 352 and value == int(value)):
        raise BadInput(f"{name}: its voxels begin at {value}; 352 or more is allowed.")
    return int(value)


def _extensions(stream: BinaryIO, room: int, endian: str | None, name: str) -> None:
    """Passes over what stands before the voxels; the sizes that extensions state must fit."""
    if room > TAIL:
        raise BadInput(
            f"{name}: has {_size(room)} between header and voxels; {_size(TAIL)} at most."
        )
    between = stream.read(room)
    if len(between) < room:
        raise BadInput(f"{name}: its voxels would begin beyond its end.")
    place = 0
    while endian and (place == 0 or place + 8 <= room):
        stated = struct.unpack_from(endian + "i", between, place)[0] if place + 8 <= room else 8
        if stated < 16 or place + stated > room:
            raise BadInput(
                f"{name}: has a header extension of {stated} bytes where {room - place} are left. "
                "Ask for the file again."
            )
        place += stated


def _scaling(stated: tuple[float, ...], name: str) -> tuple[float, float]:
    slope, inter = stated
    if math.isnan(slope) or slope == 0:
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise BadInput(f"{name}: scales its voxels by {slope} and {inter}; finite numbers only.")
    return slope, inter


def _geometry(block: bytes, endian: str, name: str, notes: list[str]) -> tuple[Affine, Spacing]:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.spatialimages import HeaderDataError

    header = Nifti1Header(block, endianness=endian, check=False)
    by_sform, by_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
            other = header.get_qform() if by_sform and by_qform else affine
        except (ValueError, np.linalg.LinAlgError, HeaderDataError):
            raise BadInput(f"{name}: has no usable geometry (it states no rotation).") from None
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not by_sform and not by_qform:
        notes.append("does not say which side is left.")
        if (np.asarray(header["pixdim"])[1:4] < 0).any():
            notes.append("has a negative voxel size; its length is taken.")
    steps = " x ".join(f"{step:.4g}" for step in spacing)
    if not np.isfinite(affine).all() or not spacing.all():
        raise BadInput(f"{name}: has no usable geometry (voxel size {steps} mm).")
    if spacing.min() < SMALLEST_MM or spacing.max() > LARGEST_MM:
        raise BadInput(
            f"{name}: has voxels of {steps} mm; {SMALLEST_MM} to {LARGEST_MM} mm are allowed."
        )
    unit = affine[:3, :3] / spacing
    if abs(np.linalg.det(unit)) < 1e-3:
        raise BadInput(f"{name}: has no usable geometry (two of its axes are parallel).")
    if np.abs(unit.T @ unit - np.eye(3)).max() > 1e-2:
        notes.append("has axes that are not at right angles (sheared).")
    if np.abs(other - affine).max() > 0.1:
        notes.append("states two different geometries (sform and qform); sform is taken.")
    return affine, (float(spacing[0]), float(spacing[1]), float(spacing[2]))


def checked_image(file: NiftiFile) -> tuple[Header, tuple[str, ...]]:
    """Header and notes of an image that is whole and has at least one number in it."""
    header, voxels = file.voxels()
    notes = list(header.notes)
    low, high, bad = _range(voxels)
    if bad == voxels.size:
        raise BadInput(f"{header.name}: holds nothing but voxels that are not numbers.")
    if bad:
        notes.append(
            f"has {bad:,} voxels ({100 * bad / voxels.size:.2g} %) that are not numbers; "
            "they are masked."
        )
    if low == high:
        notes.append(f"has one value only ({low:g}).")
    if header.dtype.kind in "iu" and max(abs(low), abs(high)) > 2**53:
        notes.append("has values that are rounded on reading.")
    return header, tuple(notes)


def _range(voxels: Voxels) -> tuple[float, float, int]:
    """Least and greatest number, and how many voxels are none."""
    if voxels.dtype.kind != "f":
        return float(voxels.min()), float(voxels.max()), 0
    finite = np.isfinite(voxels)
    count = int(finite.sum())
    if count == voxels.size:
        return float(voxels.min()), float(voxels.max()), 0
    known = voxels[finite]
    return (
        (float(known.min()), float(known.max()), voxels.size - count)
        if count
        else (0, 0, voxels.size)
    )


@dataclass(frozen=True)
class ImageReader:
    """Reads an image as (Z, H, W) float32 in [0, 1], clipped at two percentiles of the volume.

    A voxel that is not a number gets the low one. A constant image is 0 everywhere.
    """

    file: NiftiFile
    low: float = 0.5
    high: float = 99.5

    def __call__(self) -> Floats:
        header, voxels = self.file.voxels()
        stored = voxels.transpose(header.axes)
        bottom, top = window(stored, header, self.low, self.high)
        scaled = np.empty(stored.shape, dtype=np.float32)
        for index, piece in enumerate(stored):
            # one slice at a time in double precision: no overflow, no second copy of the volume
            value = piece.astype(np.float64) * header.slope + header.inter
            value[~np.isfinite(value)] = bottom
            scaled[index] = np.clip((value - bottom) / (top - bottom), 0, 1)
        return scaled


def window(stored: Voxels, header: Header, low: float, high: float) -> tuple[float, float]:
    """Values to show as 0 and 1: percentiles, else the extremes, of what is a number.

    Above 4 million voxels, a regular sample of them is used.
    """
    step = max(1, stored.size // (1 << 22))
    sample = stored.ravel(order="K")[::step].astype(np.float64) * header.slope + header.inter
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise BadInput(f"{header.name}: holds nothing but voxels that are not numbers.")
    bottom, top = (float(value) for value in np.percentile(sample, [low, high]))
    if not top > bottom:
        bottom, top = float(sample.min()), float(sample.max())
    return (bottom, top) if top > bottom else (bottom, bottom + 1.0)


@dataclass(frozen=True)
class LabelReader:
    """Reads a label map as (Z, H, W) uint8 and refuses what does not fit its image.

    Attributes
    ----------
    image : the image that it belongs to.
    classes : how many codes are classes; None while they are still being looked for.
    unlabelled : the code of pixels about which nobody said anything; 255 always is one.
    """

    file: NiftiFile
    image: NiftiFile
    classes: int | None
    unlabelled: int | None = None

    def __call__(self) -> LabelMap:
        header, codes = self.codes()
        self.check(np.unique(codes).tolist())
        silent = codes == IGNORE
        if self.unlabelled is not None:
            silent |= codes == self.unlabelled
        label = codes.astype(np.uint8)
        label[silent] = IGNORE
        return label.transpose(header.axes)

    def check(self, values: Iterable[int]) -> None:
        """BadInput for a code that is no class."""
        if self.classes is None:
            return
        allowed = {*range(self.classes), IGNORE, self.unlabelled}
        for value in values:
            if value not in allowed:
                raise BadInput(
                    f"{self.file.name}: has value {value}; classes are 0 to {self.classes - 1}. "
                    "Name all classes, or correct the file."
                )

    def codes(self) -> tuple[Header, Voxels]:
        """The image's header and the whole numbers of the label map, in source axis order."""
        header, voxels = self.file.voxels()
        image = self.image.header()
        if header.shape != image.shape:
            raise BadInput(
                f"{header.name}: is {_by(header.shape)}, its image {_by(image.shape)}. "
                "A label map is never resampled silently; give one on the image's grid."
            )
        off = float(np.abs(header.affine - image.affine).max())
        if off > SAME_MM:
            raise BadInput(
                f"{header.name}: lies elsewhere than its image (geometry differs by {off:.4g} mm). "
                "Give a label map on the image's grid."
            )
        if header.slope != 1 or header.inter != 0:
            voxels = voxels * header.slope + header.inter
        if voxels.dtype.kind == "f":
            whole = np.isfinite(voxels) & (voxels == np.round(voxels))
            if not whole.all():
                bad = voxels[~whole].flat[0]
                raise BadInput(f"{header.name}: has value {bad:g}; class codes are whole numbers.")
        low, high, _ = _range(voxels)
        if low < 0 or high > IGNORE:
            bad = low if low < 0 else high
            raise BadInput(
                f"{header.name}: has value {bad:g}; class codes are 0 to {IGNORE - 1}, and "
                f"{IGNORE} for unlabelled."
            )
        return image, voxels.astype(np.int16)

    def values(self) -> tuple[int, ...]:
        """The codes that occur, the most frequent first."""
        _, codes = self.codes()
        count = np.bincount(codes.ravel(order="K"), minlength=IGNORE + 1)
        return tuple(int(code) for code in np.argsort(-count, kind="stable") if count[code])


def _by(shape: Shape) -> str:
    return "×".join(str(side) for side in shape)


def nifti_volume(
    image: ImageReader,
    *,
    name: str,
    patient: str,
    phase: str,
    cache: ArrayCache,
    header: Header,
    notes: tuple[str, ...] = (),
    reference: LabelReader | None = None,
    scribble: LabelReader | None = None,
    metadata: dict[str, Any] | None = None,
) -> Volume:
    """A Volume over NIfTI files, with the source's geometry kept exactly."""
    along, row, column = header.axes
    spacing = header.spacing_mm
    return Volume(
        name=name,
        patient=patient,
        phase=phase,
        shape=(header.shape[along], header.shape[row], header.shape[column]),
        read_image=image,
        read_reference=reference,
        read_scribble=scribble,
        spacing_mm=(spacing[along], spacing[row], spacing[column]),
        affine=header.affine,
        axes=header.axes,
        notes=notes,
        metadata={"file": image.file.name, **(metadata or {})},
        cache=cache,
    )
