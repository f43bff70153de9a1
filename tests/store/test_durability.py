"""What a power cut, a kill or a full disk may do to the files of a project: each guard has to fail
on the mistake it guards against, so the mistakes stand here as mutants.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from alnb.errors import JournalError
from alnb.records import SliceId, Stroke
from alnb.store import blobs as blobs_module
from alnb.store import journal as journal_module
from alnb.store.blobs import Blobs, atomic_write
from alnb.store.events import Entry, StrokeAdded
from alnb.store.journal import Journal, make_folder


def entry(seq):
    stroke = Stroke(((1.0, 2.0), (float(seq), 4.0)), 1, id=f"s{seq}")
    return Entry(seq, "2026-01-01T00:00:00.000+00:00", "me", StrokeAdded(SliceId("v", 0), stroke))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


# ---------------------------------------------------------------- the settings of SQLite


def mutated(name, value):
    return tuple(
        (key, value if key == name else asked, want) for key, asked, want in journal_module.PRAGMAS
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("synchronous", "NORMAL"), ("synchronous", "FULL"), ("journal_mode", "WAL")],
)
def test_a_setting_that_could_lose_strokes_is_noticed_when_it_is_read_back(
    path, monkeypatch, name, value
):
    monkeypatch.setattr(journal_module, "PRAGMAS", mutated(name, value))
    with pytest.raises(JournalError, match=rf"{name} at .* power cut could lose"):
        Journal(path)


def statements(journal, entries):
    heard = []
    journal._db.set_trace_callback(heard.append)
    journal.append(entries)
    journal._db.set_trace_callback(None)
    return heard


class Deferred(sqlite3.Connection):
    """The mutant that takes its write lock only at the first INSERT, after having read."""

    def execute(self, statement, *values):
        return super().execute(statement.replace("BEGIN IMMEDIATE", "BEGIN"), *values)


def locks_first(journal):
    heard = statements(journal, [entry(1)])
    return heard[0] == "BEGIN IMMEDIATE" and heard[-1] == "COMMIT"


def test_an_append_takes_its_lock_before_it_reads_and_ends_in_one_commit(path, monkeypatch):
    assert locks_first(Journal(path))
    connect = sqlite3.connect
    monkeypatch.setattr(
        journal_module.sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Deferred)
    )
    assert not locks_first(Journal(path.with_name("mutant.db")))


def test_a_batch_is_one_transaction(path):
    heard = statements(Journal(path), [entry(1), entry(2)])
    assert [s for s in heard if s in ("BEGIN IMMEDIATE", "COMMIT")] == ["BEGIN IMMEDIATE", "COMMIT"]


# ---------------------------------------------------------------- whole files


def in_place(path, data):
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def without_file_sync(path, data):
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
    journal_module.sync_folder(path.parent)


def without_folder_sync(path, data):
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def power_cut_keeps(write, path, monkeypatch):
    """Whether `write` syncs the file before it takes its name, and the folder after."""
    heard = []
    fsync, replace = os.fsync, Path.replace

    def synced(fd):
        heard.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def renamed(self, target):
        heard.append("rename")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        patch.setattr(Path, "replace", renamed)
        write(path, b"new")
    return heard == ["file", "rename", "folder"]


@pytest.mark.parametrize("mutant", [in_place, without_file_sync, without_folder_sync])
def test_a_blob_is_synced_then_named_then_its_folder_synced(tmp_path, monkeypatch, mutant):
    assert power_cut_keeps(atomic_write, tmp_path / "a", monkeypatch)
    assert not power_cut_keeps(mutant, tmp_path / "b", monkeypatch)


def survives_a_full_disk(write, path, monkeypatch):
    path.write_bytes(b"old")

    def full(fd):
        os.ftruncate(fd, 1)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with contextlib.suppress(OSError):
            write(path, b"new")
    return path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_a_disk_that_fills_in_mid_save_leaves_the_old_file_whole(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    assert survives_a_full_disk(atomic_write, tmp_path / "a" / "blob", monkeypatch)
    assert not survives_a_full_disk(in_place, tmp_path / "b" / "blob", monkeypatch)


def test_a_full_disk_is_said_with_sizes_and_without_the_path(tmp_path, monkeypatch):
    blobs = Blobs(tmp_path / "secret place")

    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(blobs_module, "atomic_write", full)
    with pytest.raises(JournalError, match=r"No space left on device; .* MB free") as caught:
        blobs.put(b"weights")
    assert "secret" not in str(caught.value)


def test_a_damaged_blob_is_replaced_when_its_content_comes_again(tmp_path):
    blobs = Blobs(tmp_path)
    sha = blobs.put(b"weights" * 1000)
    (tmp_path / f"{sha}.blob").write_bytes(b"half")
    assert blobs.put(b"weights" * 1000) == sha
    assert blobs.get(sha) == b"weights" * 1000


def test_new_folders_are_entered_in_their_parents_on_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(journal_module, "sync_folder", synced.append)
    make_folder(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    make_folder(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3


# ---------------------------------------------------------------- files found as they should not be

HALFWAY = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN IMMEDIATE")
for seq in range(4, 60):
    db.execute("INSERT INTO entries VALUES (?, '', '', 'x', ?, '', '')", (seq, "x" * 5000))
os.kill(os.getpid(), 9)
"""


def test_a_transaction_cut_off_by_a_kill_is_rolled_back_from_the_file_it_left(path):
    journal = Journal(path)
    journal.append([entry(1), entry(2), entry(3)])
    journal.close()
    size = path.stat().st_size
    subprocess.run([sys.executable, "-c", HALFWAY, str(path)], check=False)
    assert path.with_name("journal.db-journal").exists()
    assert path.stat().st_size > size, "nothing was spilled, so nothing needs rolling back"
    again = Journal(path)
    assert [e.seq for e in again.entries()] == [1, 2, 3]
    assert again.problems == ()
    again.append([entry(4)])
    assert not path.with_name("journal.db-journal").exists()


def test_a_journal_that_vanished_is_not_made_anew_and_goes_on_when_it_is_back(path, tmp_path):
    journal = Journal(path)
    journal.append([entry(1)])
    path.rename(tmp_path / "away.db")
    with pytest.raises(JournalError, match="vanished"):
        journal.append([entry(2)])
    assert not path.exists()
    (tmp_path / "away.db").rename(path)
    journal.append([entry(2)])
    assert [e.seq for e in journal.entries()] == [1, 2]


def test_a_database_of_somebody_else_is_refused_before_a_byte_of_it_changes(path):
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE photos (name TEXT)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="did not make"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_trigger_cannot_hide_behind_the_names_of_sqlite(path):
    Journal(path).close()
    db = sqlite3.connect(path)
    db.execute("CREATE TRIGGER sqlitexevil AFTER INSERT ON entries BEGIN SELECT 1; END")
    db.commit()
    db.close()
    with pytest.raises(JournalError, match="did not make"):
        Journal(path)


def test_a_closed_journal_never_writes_again(path):
    journal = Journal(path)
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.append([entry(1)])
    assert Journal(path).last == 0


def test_a_copy_of_the_closed_file_is_a_whole_backup(path, tmp_path):
    journal = Journal(path)
    journal.append([entry(1), entry(2)])
    journal.close()
    shutil.copy(path, tmp_path / "copy.db")
    assert list(Journal(tmp_path / "copy.db").entries()) == [entry(1), entry(2)]


# ---------------------------------------------------------------- kill -9


def write_until_killed(path, pipe):
    try:
        journal = Journal(path)
        seq = journal.last
        while True:
            seq += 1
            journal.append([entry(seq)])
            os.write(pipe, f"{seq}\n".encode())
    finally:
        os._exit(1)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_sigkill_at_any_moment_loses_no_acknowledged_stroke(path):
    import random
    import time

    rng, told, kills = random.Random(0), 0, 0
    while kills < 100 or told < 1000:
        assert kills < 500, f"{told} acknowledgements are too few to prove anything"
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            write_until_killed(path, write)
        os.close(write)
        with os.fdopen(read) as pipe:
            told = int(pipe.readline())
            time.sleep(rng.uniform(0.001, 0.08))
            os.kill(child, signal.SIGKILL)
            told = int(([told, *pipe.read().split()])[-1])
        os.waitpid(child, 0)
        kills += 1
        journal = Journal(path)
        kept = [e.seq for e in journal.entries()]
        assert kept == list(range(1, len(kept) + 1)), f"kill {kills}"
        assert told <= len(kept) <= told + 1, f"kill {kills}: told {told}, kept {len(kept)}"
        assert journal.problems == ()
        assert journal._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        journal.close()
