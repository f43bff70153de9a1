"""One process per project: a lock that the operating system frees when its holder dies."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import weakref
from datetime import UTC, datetime
from pathlib import Path

from alnb.errors import JournalError, ProjectBusy


class ProjectLock:
    """Holds `folder` for this process until `release`, or raises ProjectBusy at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        try:
            fd = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise JournalError(
                f"The project folder {folder} cannot be written ({error.strerror}). "
                "Choose another folder, or change its permissions."
            ) from error
        # a lock that was forgotten, not released, is given back when it is collected
        self._give_back = weakref.finalize(self, os.close, fd)
        try:
            taken = _take(fd)
        except OSError as error:
            self.release()
            raise JournalError(
                f"The file system of {folder} cannot lock files ({error.strerror}), so two "
                "writers could mix their strokes. Move the project to a local disk."
            ) from error
        if not taken:
            holder = self._holder()
            self.release()
            raise ProjectBusy(
                f"{folder} is open elsewhere ({holder}). Two writers would mix their strokes. "
                "Shut that kernel down (Kernel > Shut Down Kernel) and run this again, or open "
                "another project folder. No stroke was changed."
            )
        since = datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        # on a full disk the project is held all the same, only without saying by whom
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.write(fd, json.dumps(note).encode())

    def release(self) -> None:
        """Give the project back; a second call does nothing."""
        self._give_back()

    def _holder(self) -> str:
        try:
            note = json.loads(self.path.read_text())
            return f"process {note['pid']} on {note['host']}, since {note['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "holder unknown"


def _take(fd: int) -> bool:
    """Whether the lock was free; OSError where the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
