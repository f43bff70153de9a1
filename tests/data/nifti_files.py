"""Writes NIfTI files, good ones and spoiled ones, for the tests of the loaders."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np

OBLIQUE = np.array(
    [[-1.2, 0.3, 2.0, 40.0], [0.4, 1.3, -1.0, -20.0], [0.2, -0.5, 7.6, 5.0], [0, 0, 0, 1]]
)
U, _, V = np.linalg.svd(OBLIQUE[:3, :3])
OBLIQUE[:3, :3] = (U @ V) * [1.4, 1.4, 8.0]
FLIPPED = np.diag([-1.5, 1.5, 8.0, 1.0])


def blob(shape=(12, 10, 4), seed=0):
    """int16 noise with a bright block, so that no axis can be mistaken for another."""
    array = np.random.default_rng(seed).integers(0, 100, shape)
    array[2:6, 3:9, 1:3] += 400
    return array.astype(np.int16)


def mask(shape=(12, 10, 4), top=1):
    array = np.zeros(shape, dtype=np.uint8)
    array[2:6, 3:9, 1:3] = 1
    array[3:5, 4:6, 1:3] = top
    return array


def write(path: Path, array, affine=OBLIQUE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def unpacked(path: Path) -> bytearray:
    raw = path.read_bytes()
    return bytearray(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)


def patch(path: Path, offset: int, layout: str, *values) -> Path:
    """Overwrite header fields of a written file, little-endian, keeping it gzipped or not."""
    raw = unpacked(path)
    struct.pack_into("<" + layout, raw, offset, *values)
    path.write_bytes(gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw))
    return path
