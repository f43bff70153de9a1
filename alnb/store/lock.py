"""One process per project: a lock that the operating system frees when its holder dies."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from alnb.errors import JournalError, ProjectBusy


class ProjectLock:
    """Holds `folder` for this process until `release`, or raises ProjectBusy at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        try:
            self._fd: int | None = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise JournalError(
                f"The project folder {folder} cannot be written ({error.strerror}). "
                "Choose another folder, or change its permissions."
            ) from error
        if not _take(self._fd):
            holder = self._holder()
            os.close(self._fd)
            self._fd = None
            raise ProjectBusy(
                f"{folder} is open elsewhere ({holder}). Two writers would mix their strokes. "
                "Shut that kernel down (Kernel > Shut Down Kernel) and run this again, or open "
                "another project folder. No stroke was changed."
            )
        os.ftruncate(self._fd, 0)
        since = datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.pwrite(self._fd, json.dumps(note).encode(), 0)

    def release(self) -> None:
        """Give the project back; a second call does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _holder(self) -> str:
        try:
            note = json.loads(self.path.read_text())
            return f"process {note['pid']} on {note['host']}, since {note['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "holder unknown"


def _take(fd: int) -> bool:
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
    except OSError:
        return False
    return True
