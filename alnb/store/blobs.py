"""Files named by the SHA-256 of what they hold: label maps, checkpoints, features.

A blob is written under a temporary name, synced, renamed, and only then journalled, so a blob that
the journal names is always whole; it is never overwritten. What is read is checked.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alnb.errors import JournalError
from alnb.records import LabelMap
from alnb.store.journal import sync_folder

_LIMIT = 1 << 31


class Blobs:
    """The blobs of one project, in `folder`, which is created if need be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # only the process that holds the project's lock gets here: leftovers are of a dead one
        for leftover in folder.glob("*.tmp"):
            leftover.unlink(missing_ok=True)

    def put(self, data: bytes) -> str:
        """Store `data` and return its SHA-256; on return it is on disk."""
        sha = hashlib.sha256(data).hexdigest()
        if not self._path(sha).exists():
            atomic_write(self._path(sha), zlib.compress(data, 1))
        return sha

    def get(self, sha: str) -> bytes:
        """The data of blob `sha`; JournalError if it is missing, damaged or over 2 GiB."""
        try:
            packed = self._path(sha).read_bytes()
        except OSError as error:
            raise JournalError(
                f"Blob {sha[:12]} cannot be read ({error.strerror}). Restore the project's "
                "blobs folder from a copy; strokes are in the journal and are safe."
            ) from error
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(packed, _LIMIT)
        except zlib.error as error:
            raise self._damaged(sha) from error
        if hashlib.sha256(data).hexdigest() != sha:
            raise self._damaged(sha)
        return data

    def put_array(self, array: NDArray[Any]) -> str:
        """Store an array as .npy bytes; its SHA-256 names it."""
        return self.put(npy(array))

    def get_array(self, sha: str) -> NDArray[Any]:
        """The array of blob `sha`."""
        array: NDArray[Any] = np.load(io.BytesIO(self.get(sha)), allow_pickle=False)
        return array

    def label_map(self, sha: str) -> LabelMap:
        """The label map of blob `sha`, (H, W) uint8."""
        return self.get_array(sha).astype(np.uint8, copy=False)

    def _path(self, sha: str) -> Path:
        return self.folder / f"{sha}.blob"

    @staticmethod
    def _damaged(sha: str) -> JournalError:
        return JournalError(
            f"Blob {sha[:12]} is damaged: its content does not match its name. Restore it from "
            "a copy of the project; strokes are in the journal and are safe."
        )


def npy(array: NDArray[Any]) -> bytes:
    """The .npy bytes of `array`, the same for equal arrays."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def atomic_write(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, a crash or a power cut sees the old or the new."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=path.name[:24], suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
