"""HDF5 files from elsewhere, looked at before they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alnb.data.files import regular, shown
from alnb.data.nifti import BUDGET
from alnb.errors import BadInput

if TYPE_CHECKING:
    import h5py


@dataclass(frozen=True)
class H5File:
    """An HDF5 file whose data sets are looked at before they are read.

    A data set may not be a link, nor keep its values in another file, nor be a view of others:
    reading it would read what the file's sender has no right to.
    """

    path: Path
    root: Path
    budget: int = BUDGET

    @property
    def name(self) -> str:
        """Name for messages, relative to the folder."""
        return shown(self.path, self.root)

    @contextmanager
    def open(self) -> Iterator[h5py.File]:
        """The open file; what the library raises becomes BadInput with the file's name."""
        import h5py

        whole = regular(self.path, self.root)
        try:
            with h5py.File(whole, "r", locking="best-effort") as file:
                yield file
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(
                f"{self.name}: cannot be read as HDF5 (damaged or no HDF5 file). "
                "Ask for the file again."
            ) from error

    def dataset(self, file: h5py.File, key: str, kinds: str) -> h5py.Dataset:
        """The 3D data set `key` of a dtype of one of `kinds`, after all checks."""
        import h5py

        link = file.get(key, getlink=True)
        if link is None:
            raise BadInput(f"{self.name}: holds no data set {key!r}.")
        if not isinstance(link, h5py.HardLink):
            raise BadInput(f"{self.name}: its {key} refers to another place; links are refused.")
        data = file[key]
        if not isinstance(data, h5py.Dataset) or data.ndim != 3 or 0 in data.shape:
            raise BadInput(f"{self.name}: its {key} is no array of three axes (Z, H, W).")
        if data.dtype.kind not in kinds or data.dtype.itemsize > 8:
            raise BadInput(f"{self.name}: its {key} holds {data.dtype}; grey values are needed.")
        if data.is_virtual or data.id.get_create_plist().get_external_count():
            raise BadInput(f"{self.name}: its {key} keeps its values in another file.")
        size = int(np.prod(data.shape, dtype=object)) * max(data.dtype.itemsize, 4)
        chunk = int(np.prod(data.chunks or (1,), dtype=object)) * data.dtype.itemsize
        if max(size, chunk) > self.budget:
            raise BadInput(
                f"{self.name}: its {key} takes {max(size, chunk):,} bytes, more than the limit of "
                f"{self.budget:,}."
            )
        if size and not data.id.get_storage_size():
            raise BadInput(f"{self.name}: its {key} was never written.")
        return data
