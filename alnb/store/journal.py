"""The append-only journal: SQLite with a rollback journal, one transaction per act.

``synchronous=EXTRA`` also syncs the folder when the rollback journal is unlinked: with the default
FULL a power cut can take the last acknowledged stroke. Write-ahead logging is not used, because it
fails on network homes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alnb.errors import JournalError, JournalMoved
from alnb.store.events import Entry, decode, encode
from alnb.store.migrations import VERSION, expected_schema_hash, migrate, schema_hash

PRAGMAS = (
    ("journal_mode", "DELETE", "delete"),
    ("synchronous", "EXTRA", 3),
    ("trusted_schema", "OFF", 0),
)
"""What is asked of SQLite, and what it must answer when the setting is read back."""

_ROOT = "0" * 64
_WORDS = (
    ("database or disk is full", "the disk is full"),
    ("disk i/o error", "the disk or quota reported an error"),
    ("readonly", "the folder cannot be written"),
    ("unable to open", "the folder cannot be written"),
    ("locked", "another program holds the file"),
    ("malformed", "the file is damaged"),
    ("not a database", "the file is not a journal"),
)


class Journal:
    """The journal of one project, at `path`.

    Raises JournalError when the file cannot be created, read or understood. Safe to call from
    several threads. `problems` names, in sentences, the records that a reading set aside.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: tuple[str, ...] = ()
        self._lock = threading.RLock()
        self._closed = False
        try:
            if not path.exists():
                # the file's own folder entry must be on disk before the first stroke is promised
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
                sync_folder(path.parent)
            self._db: sqlite3.Connection | None = self._open()
        except sqlite3.Error as error:
            raise self._error("cannot be opened", error) from error
        except OSError as error:
            raise JournalError(
                f"{path.name} cannot be made ({error.strerror}). Nothing was saved. Make room, or "
                "choose another project folder."
            ) from error

    def append(self, entries: Sequence[Entry]) -> None:
        """Write `entries` in one transaction; on return they are on disk.

        JournalMoved when one of their numbers is taken. After a failed write the handle is given
        up and the same entries are tried once more through a new one, since a failed sync must
        never be trusted or repeated on the same handle. After a second failure, JournalError: only
        `entries` can then tell whether they reached the disk.
        """
        with self._lock:
            try:
                self._write(entries)
            except sqlite3.Error as first:
                self._abandon()
                try:
                    if not self._holds(entries):
                        self._write(entries)
                except sqlite3.Error as error:
                    self._abandon()
                    raise self._error("could not be written", error) from first

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """The entries with a number above `after`, in order.

        A record that fails its checksum is set aside and named in `problems`; all others are used
        under their own numbers. A gap in the chain is named too.
        """
        problems: list[str] = []
        with self._lock:
            rows = self._read(
                "SELECT seq, at, by, kind, body, prev, sha FROM entries WHERE seq >= ? "
                "ORDER BY seq",
                (max(after, 1),),
            )
        before: tuple[int, str] | None = (0, _ROOT) if after == 0 else None
        for seq, at, by, kind, body, prev, sha in rows:
            if before is not None and seq != before[0] + 1:
                problems.append(f"Record {before[0] + 1} is missing.")
            elif before is not None and prev != before[1]:
                problems.append(f"Record {seq} does not follow from record {before[0]}.")
            before = (seq, sha)
            if sha != _checksum(seq, at, by, kind, body, prev):
                problems.append(f"Record {seq} fails its checksum and was set aside.")
            elif seq > after:
                yield Entry(seq, at, by, decode(kind, body))
        self.problems = tuple(problems)

    @property
    def last(self) -> int:
        """The number of the last record, good or damaged; 0 when there is none."""
        with self._lock:
            return int(self._read("SELECT coalesce(max(seq), 0) FROM entries")[0][0])

    def close(self) -> None:
        """Close the file; a closed journal is never used again."""
        with self._lock:
            self._closed = True
            self._abandon()

    def _read(self, query: str, values: tuple[int, ...] = ()) -> list[Any]:
        try:
            return self._handle().execute(query, values).fetchall()
        except sqlite3.Error as error:
            self._abandon()
            raise self._error("cannot be read", error) from error

    def _handle(self) -> sqlite3.Connection:
        """The open file, opened anew after a failure; never made anew where it has vanished."""
        if self._closed:
            raise JournalError(f"{self.path.name} was closed. Open the project again.")
        if self._db is None:
            if not self.path.exists():
                raise JournalError(
                    f"{self.path.name} has vanished from its folder, so nothing can be saved. "
                    "Bring the folder back (is the disk mounted?), then repeat the act."
                )
            self._db = self._open()
        return self._db

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
        try:
            version = self._known_version(db)
            for name, value, want in PRAGMAS:
                db.execute(f"PRAGMA {name} = {value}")
                got = db.execute(f"PRAGMA {name}").fetchone()[0]
                if got != want:
                    raise JournalError(
                        f"{self.path.name}: SQLite keeps {name} at {got!r}, not {want!r}, so a "
                        "power cut could lose strokes. Move the project to a local disk."
                    )
            if version < VERSION:
                db.execute("BEGIN IMMEDIATE")
                migrate(db, db.execute("PRAGMA user_version").fetchone()[0])
                db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def _known_version(self, db: sqlite3.Connection) -> int:
        """The version of a file that is a journal; JournalError, before any change, else."""
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise JournalError(
                f"{self.path.name} was written by a newer alnb (journal version {version}; this "
                f"alnb knows {VERSION}). Update alnb. Nothing was changed."
            )
        if schema_hash(db) != expected_schema_hash(version):
            raise JournalError(
                f"{self.path.name} holds tables or triggers that alnb did not make, so it is not "
                "used. Restore the project from a copy. Nothing was changed."
            )
        return version

    def _write(self, entries: Sequence[Entry]) -> None:
        db = self._handle()
        db.execute("BEGIN IMMEDIATE")
        try:
            last = db.execute("SELECT seq, sha FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
            seq, prev = last or (0, _ROOT)
            for entry in entries:
                if entry.seq != seq + 1:
                    raise JournalMoved(
                        f"Record {entry.seq} cannot follow record {seq}: its number is taken. "
                        "Catch up and repeat the act."
                    )
                kind, body = type(entry.event).__name__, encode(entry.event)
                sha = _checksum(entry.seq, entry.at, entry.by, kind, body, prev)
                db.execute(
                    "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (entry.seq, entry.at, entry.by, kind, body, prev, sha),
                )
                seq, prev = entry.seq, sha
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _holds(self, entries: Sequence[Entry]) -> bool:
        """Whether a write that reported failure reached the disk all the same."""
        rows = (
            self._handle()
            .execute(
                "SELECT seq, at, by, kind, body FROM entries WHERE seq >= ? ORDER BY seq",
                (entries[0].seq,),
            )
            .fetchall()
        )
        mine = [(e.seq, e.at, e.by, type(e.event).__name__, encode(e.event)) for e in entries]
        return bool(rows == mine)

    def _abandon(self) -> None:
        # a handle that failed is given up; what it says on closing changes nothing
        with contextlib.suppress(sqlite3.Error):
            if self._db is not None:
                self._db.close()
        self._db = None

    def _error(self, what: str, error: sqlite3.Error) -> JournalError:
        text = str(error)
        words = next((plain for raw, plain in _WORDS if raw in text.lower()), text)
        return JournalError(
            f"{self.path.name} {what}: {words}. The last act is not confirmed; everything "
            "before it is safe. Make room or restore access, then repeat the act: nothing is "
            "saved twice."
        )


def make_folder(folder: Path) -> None:
    """Make `folder`, for this user alone, and its parents, so that a power cut keeps them.

    OSError where that is impossible. Nothing changes where it exists.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in reversed(missing):
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Force the entries of `folder` to disk, so that a new or renamed file survives a power cut."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _checksum(*columns: int | str) -> str:
    """SHA-256 of a row: seq, at, by, kind, body and the checksum of the row before."""
    text = "\x1f".join(str(column) for column in columns)
    return hashlib.sha256(text.encode()).hexdigest()
