"""A folder of named bytes for work that is under way; unlike blobs, they come and go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from alnb.store.blobs import atomic_write
from alnb.store.journal import make_folder


class Shelf(MutableMapping[str, bytes]):
    """File `folder`/KEY per entry, whole or absent; keys are file names.

    Nothing on it is a source of truth: what is lost is computed again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: bytes) -> None:
        make_folder(self.folder)
        atomic_write(self._path(key), value)

    def __delitem__(self, key: str) -> None:
        try:
            self._path(key).unlink()
        except OSError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if path.suffix != ".tmp":
                    yield path.name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _path(self, key: str) -> Path:
        if Path(key).name != key or key in ("", ".", ".."):
            raise ValueError(f"{key!r} is no name for a file; a key has no slashes.")
        return self.folder / key


class LooseShelf(Shelf):
    """A shelf for what merely saves time: what the disk does not take is let go of."""

    def __setitem__(self, key: str, value: bytes) -> None:
        with contextlib.suppress(OSError):
            super().__setitem__(key, value)
