"""Files named by the SHA-256 of what they hold: label maps, checkpoints, features.

A blob is written under a temporary name, synced, renamed, and only then journalled, so a blob that
the journal names is always whole; it is never overwritten. What is read is checked.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alnb.errors import JournalError
from alnb.records import LabelMap
from alnb.store.journal import make_folder, sync_folder

_LIMIT = 1 << 31


class Blobs:
    """The blobs of one project, in `folder`, which is created if need be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            make_folder(folder)
            # only the process that holds the project's lock gets here: leftovers are of a dead one
            for leftover in folder.glob("*.tmp"):
                leftover.unlink(missing_ok=True)
        except OSError as error:
            raise JournalError(
                f"The folder {folder.name} of the project cannot be written ({error.strerror}). "
                "Make room or restore access, then open the project again."
            ) from error

    def put(self, data: bytes) -> str:
        """Store `data` and return its SHA-256; on return it is on disk.

        A damaged blob of that name is replaced. JournalError when the disk takes no more.
        """
        sha = hashlib.sha256(data).hexdigest()
        if self._whole(sha):
            return sha
        packed = zlib.compress(data, 1)
        try:
            atomic_write(self._path(sha), packed)
        except OSError as error:
            raise JournalError(
                f"A file of {len(packed) / 1e6:.1f} MB could not be saved "
                f"({os.strerror(error.errno or 0)}; {self._free()} free). "
                "Make room or restore access, then repeat the act. All strokes are in the journal."
            ) from error
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

    def _whole(self, sha: str) -> bool:
        if not self._path(sha).exists():
            return False
        try:
            self.get(sha)
        except JournalError:
            return False
        return True

    def _free(self) -> str:
        try:
            return f"{shutil.disk_usage(self.folder).free / 1e6:.1f} MB"
        except OSError:
            return "unknown room"

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
