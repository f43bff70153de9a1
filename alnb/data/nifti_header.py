"""The header of a NIfTI file, checked before a byte of voxels is allocated.

nibabel computes the geometry; what it lets pass (NaN geometry, axes of length 0, sizes that the
file cannot hold, complex and RGB voxels) is refused here by name, or marked with a note.
"""

from __future__ import annotations

import math
import struct
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from alnb.data.volume import Shape, Spacing
from alnb.errors import BadInput

TAIL = 1 << 20
# deflate cannot expand a byte to more than 1032
EXPANSION = 1032
SMALLEST_MM, LARGEST_MM = 0.01, 50
KINDS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4",
         1024: "i8", 1280: "u8"}  # fmt: skip
NAMED = {1: "binary", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex",
         2048: "complex", 2304: "RGBA"}  # fmt: skip

Affine = NDArray[np.float64]


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


def read_header(stream: BinaryIO, name: str, size: int, packed: bool, budget: int) -> Header:
    """The checked header of an unpacked `stream`, which is read up to the first voxel.

    name : for messages. size : bytes on disk, of which `packed` says whether they are a gzip
    stream. budget : bytes of memory that the voxels may take. BadInput says what is wrong.
    """
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
