import json
import sqlite3
import threading

import pytest

from alnb.errors import JournalError, JournalMoved
from alnb.records import SliceId, Stroke
from alnb.store.events import Entry, StrokeAdded
from alnb.store.journal import Journal
from alnb.store.migrations import VERSION


def entry(seq, text="me"):
    stroke = Stroke(((1.0, 2.0), (float(seq), 4.0)), 1, id=f"s{seq}")
    return Entry(seq, "2026-01-01T00:00:00.000+00:00", text, StrokeAdded(SliceId("v", 0), stroke))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


def filled(path, count):
    journal = Journal(path)
    for seq in range(1, count + 1):
        journal.append([entry(seq)])
    return journal


def test_what_was_appended_is_read_back_in_order_after_reopening(path):
    filled(path, 5).close()
    journal = Journal(path)
    assert list(journal.entries()) == [entry(seq) for seq in range(1, 6)]
    assert list(journal.entries(after=3)) == [entry(4), entry(5)]
    assert journal.problems == ()


def test_the_pragmas_are_those_that_survive_a_power_cut(path):
    db = filled(path, 1)._db
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    assert db.execute("PRAGMA synchronous").fetchone()[0] == 3


def test_a_taken_number_is_refused_and_nothing_of_the_batch_is_written(path):
    journal = filled(path, 3)
    with pytest.raises(JournalMoved, match="Catch up"):
        journal.append([entry(3), entry(4)])
    with pytest.raises(JournalMoved):
        journal.append([entry(4), entry(6)])
    assert len(list(journal.entries())) == 3


def test_rows_cannot_be_changed_or_deleted_even_by_sql(path):
    db = filled(path, 2)._db
    for statement in ("UPDATE entries SET body = '{}'", "DELETE FROM entries"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)


def tamper(path, *statements):
    db = sqlite3.connect(path)
    triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type='trigger'").fetchall()
    for name, _ in triggers:
        db.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        db.execute(statement)
    for _, sql in triggers:
        db.execute(sql)
    db.commit()
    db.close()


@pytest.mark.parametrize("column", ["at", "by", "kind", "body", "sha"])
def test_a_flipped_record_is_set_aside_by_name_and_the_others_are_used(path, column):
    filled(path, 9).close()
    tamper(path, f"UPDATE entries SET {column} = {column} || 'x' WHERE seq = 5")
    journal = Journal(path)
    assert [e.seq for e in journal.entries()] == [1, 2, 3, 4, 6, 7, 8, 9]
    assert any("Record 5 fails its checksum" in p for p in journal.problems)


def test_a_missing_record_is_named(path):
    filled(path, 6).close()
    tamper(path, "DELETE FROM entries WHERE seq = 4")
    journal = Journal(path)
    assert [e.seq for e in journal.entries()] == [1, 2, 3, 5, 6]
    assert journal.problems == ("Record 4 is missing.",)


def test_a_foreign_trigger_is_refused(path):
    filled(path, 1).close()
    db = sqlite3.connect(path)
    db.execute("CREATE TRIGGER evil AFTER INSERT ON entries BEGIN SELECT 1; END")
    db.commit()
    db.close()
    with pytest.raises(JournalError, match="did not make"):
        Journal(path)


def test_a_journal_of_the_future_is_refused_and_left_alone(path):
    filled(path, 1).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="newer alnb"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_in_words_and_left_alone(path):
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="not a journal"):
        Journal(path)
    assert path.read_bytes() == before


class Flaky:
    """A connection whose n-th statement fails, before or after it took effect."""

    def __init__(self, db, fail_at, after):
        self.db, self.left, self.after = db, fail_at, after

    def __getattr__(self, name):
        return getattr(self.db, name)

    def execute(self, *args):
        self.left -= 1
        if self.left != 0:
            return self.db.execute(*args)
        if self.after:
            self.db.execute(*args)
        raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fail_at", range(1, 7))
def test_a_write_that_fails_at_any_statement_is_retried_without_doubling(path, fail_at, after):
    journal = filled(path, 2)
    journal._db = Flaky(journal._db, fail_at, after)
    journal.append([entry(3), entry(4)])
    journal.append([entry(5)])
    assert [e.seq for e in journal.entries()] == [1, 2, 3, 4, 5]
    assert journal.problems == ()


def test_a_disk_that_stays_full_is_said_in_words_and_what_was_saved_stays(path, monkeypatch):
    journal = filled(path, 3)

    def full(_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", lambda self, entries: full(entries))
        with pytest.raises(JournalError, match=r"disk is full.*everything before it is safe"):
            journal.append([entry(4)])
    journal.append([entry(4)])
    assert [e.seq for e in journal.entries()] == [1, 2, 3, 4]


def test_threads_share_a_journal(path):
    journal = Journal(path)
    lock, counter = threading.Lock(), iter(range(1, 41))

    def work():
        for _ in range(10):
            with lock:
                journal.append([entry(next(counter))])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [e.seq for e in journal.entries()] == list(range(1, 41))


def test_the_checksum_covers_what_it_names(path):
    filled(path, 2).close()
    db = sqlite3.connect(path)
    rows = db.execute("SELECT * FROM entries").fetchall()
    assert rows[1][5] == rows[0][6]
    assert json.loads(rows[0][4])["stroke"]["id"] == "s1"
