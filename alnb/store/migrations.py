"""The journal's schema, as ordered functions that are recorded as applied."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable


def _001_entries(db: sqlite3.Connection) -> None:
    """One append-only table: each row holds its own checksum and that of the row before."""
    db.execute(
        "CREATE TABLE entries ("
        " seq INTEGER PRIMARY KEY CHECK (seq > 0), at TEXT NOT NULL, by TEXT NOT NULL,"
        " kind TEXT NOT NULL, body TEXT NOT NULL, prev TEXT NOT NULL, sha TEXT NOT NULL"
        ") STRICT"
    )
    for act in ("UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER entries_no_{act.lower()} BEFORE {act} ON entries "
            "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
        )


def _002_embeddings(db: sqlite3.Connection) -> None:
    """The table stays; entries may now be Embedded and EmbeddingChosen, and a query has a note.

    The number alone rises, so that a version of alnb that cannot read them says so at the door.
    """


def _003_live_proposals(db: sqlite3.Connection) -> None:
    """The table stays; an answer may now say which proposal was seen and what became of it.

    An accepted proposal may have no checkpoint, and strokes beneath it.
    """


def _004_interpolation(db: sqlite3.Connection) -> None:
    """The table stays; an accepted proposal may now name the two slices it was interpolated from.

    A slice that was passed over may be opened again.
    """


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _001_entries,
    _002_embeddings,
    _003_live_proposals,
    _004_interpolation,
)
VERSION = len(MIGRATIONS)


def migrate(db: sqlite3.Connection, version: int, to: int = VERSION) -> None:
    """Bring a journal of `version` (0: empty) up to version `to`, in the caller's transaction."""
    for number, step in enumerate(MIGRATIONS[version:to], start=version + 1):
        step(db)
        db.execute(f"PRAGMA user_version = {number}")


def schema_hash(db: sqlite3.Connection) -> str:
    """SHA-256 of every table and trigger, so that a foreign one is noticed."""
    rows = db.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT GLOB 'sqlite_*' ORDER BY name"
    ).fetchall()
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def expected_schema_hash(version: int) -> str:
    """The hash that an unspoilt journal of `version` has."""
    db = sqlite3.connect(":memory:")
    try:
        migrate(db, 0, version)
        return schema_hash(db)
    finally:
        db.close()
