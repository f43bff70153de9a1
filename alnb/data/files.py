"""Which files of a folder may be opened: regular ones, inside it, never through a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from alnb.data.cohort import natural
from alnb.errors import BadInput

PathLike = str | os.PathLike[str]

ENTRIES = 200_000
DEPTH = 12


@dataclass
class Found:
    """The files of a folder whose names end as wanted, and what was passed over and why."""

    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def shown(path: PathLike, root: PathLike | None = None) -> str:
    """A name fit for a message: relative to `root`, control characters escaped, cut in length."""
    text = os.fspath(path)
    if root is not None:
        relative = os.path.relpath(text, root) if "\0" not in text else text
        text = text if relative.startswith("..") else relative
    text = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)
    return text if len(text) <= 300 else f"…{text[-300:]}"


def folder_at(path: PathLike) -> Path:
    """The folder at `path` with links resolved; BadInput where there is none."""
    root = Path(path).expanduser()
    if "\0" in os.fspath(path) or not root.is_dir():
        raise BadInput(f"{shown(path)} is not a folder. Give the folder that holds the data set.")
    return root.resolve()


def scan(root: Path, endings: tuple[str, ...]) -> Found:
    """Regular files below `root` whose names end in one of `endings`, in natural order.

    Links, pipes, devices and names that are not UTF-8 are passed over and named, hidden folders
    without a word. BadInput for a folder with more than 200,000 entries.
    """
    found = Found()
    left = ENTRIES
    for entry in _walk(root, found, 0):
        left -= 1
        if left < 0:
            raise BadInput(
                f"{shown(root)} holds more than {ENTRIES:,} files. Give the data set's own folder."
            )
        if entry.name.lower().endswith(endings):
            try:
                found.files.append(regular(entry.path, root))
            except BadInput as error:
                found.problems.append(str(error))
    found.files.sort(key=lambda path: [natural(part) for part in path.relative_to(root).parts])
    return found


def _walk(folder: Path, found: Found, depth: int) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        found.problems.append(f"{shown(folder)}: cannot be listed ({error.strerror}).")
        return
    for entry in entries:
        folder_like = entry.is_dir(follow_symlinks=False)
        # "._x.nii" is what macOS leaves beside x.nii
        if entry.name.startswith("." if folder_like else "._"):
            continue
        if folder_like:
            if depth < DEPTH:
                yield from _walk(Path(entry.path), found, depth + 1)
            else:
                found.problems.append(f"{shown(entry.path)}: lies more than {DEPTH} folders deep.")
        elif entry.is_symlink() and Path(entry.path).is_dir():
            found.problems.append(f"{shown(entry.name)}: is a link to a folder; not followed.")
        else:
            yield entry


def regular(path: PathLike, root: Path) -> Path:
    """`path` as an absolute path, if it is a regular file inside `root` and no link leads there.

    BadInput says what it is instead. Nothing is opened.
    """
    text, name = os.fspath(path), shown(path, root)
    try:
        os.fsencode(text).decode()
    except UnicodeDecodeError:
        raise BadInput(f"{name}: its name is not UTF-8. Rename the file.") from None
    if "\0" in text:
        raise BadInput(f"{name}: a path cannot hold a zero byte.")
    whole = Path(os.path.normpath(root / text))
    if not whole.is_relative_to(root) or whole == root:
        raise BadInput(f"{name}: lies outside {shown(root.name)}. Copy it into that folder.")
    here = root
    for part in whole.relative_to(root).parts:
        here /= part
        try:
            mode = here.lstat().st_mode
        except OSError as error:
            raise BadInput(f"{name}: cannot be found ({error.strerror}).") from None
        if stat.S_ISLNK(mode):
            raise BadInput(f"{name}: is a link, or lies behind one; links are not followed.")
    if not stat.S_ISREG(mode):
        raise BadInput(f"{name}: is not a regular file.")
    return whole


def open_regular(path: Path, root: Path) -> BinaryIO:
    """The file at `path` for reading, by the rules of `regular`."""
    whole = regular(path, root)
    try:
        handle = os.open(whole, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_CLOEXEC)
    except OSError as error:
        raise BadInput(f"{shown(path, root)}: cannot be read ({error.strerror}).") from None
    return os.fdopen(handle, "rb")
