"""NIfTI files read with suspicion: images, label maps, and the Volume over them.

The header is checked first (`nifti_header`); a file that ends early, or whose compressed data are
damaged, is refused by name, and so is a label map that does not fit its image.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from alnb.data.files import open_regular, shown
from alnb.data.nifti_header import TAIL, Header, read_header
from alnb.data.volume import ArrayCache, Shape, Volume
from alnb.errors import BadInput
from alnb.records import IGNORE, Floats, LabelMap

BUDGET = 2 << 30
SAME_MM = 1e-3

Voxels = NDArray[Any]


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
            return read_header(stream, self.name, size, packed, self.budget)

    def voxels(self) -> tuple[Header, Voxels]:
        """Header and voxels (source axis order, as stored) of a file that is whole.

        A compressed file is read to its end, so that its checksum is compared.
        """
        with self._open() as (stream, size, packed):
            header = read_header(stream, self.name, size, packed, self.budget)
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
