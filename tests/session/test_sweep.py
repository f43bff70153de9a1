"""Fail the n-th call to the disk, for every n, while somebody draws, submits and trains."""

import itertools
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from alnb.errors import AlnbError
from alnb.records import Stroke
from alnb.session.opening import recovered
from alnb.store import journal as journal_module
from alnb.store.journal import Journal
from tests.toys import ClassMeans


class Faults:
    """Counts the calls that reach the disk; from the `first` on, `width` of them fail.

    after : the call takes effect, and only then reports failure.
    """

    def __init__(self, monkeypatch):
        self.calls, self.first, self.width, self.after = 0, 0, 0, False
        for owner, name in ((os, "fsync"), (os, "open"), (Path, "replace")):
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name), OSError(5, "EIO")))
        error = sqlite3.OperationalError("disk I/O error")
        wrapped = self.wrapped

        class Connection(sqlite3.Connection):
            execute = wrapped(sqlite3.Connection.execute, error)

        connect = sqlite3.connect
        monkeypatch.setattr(
            journal_module.sqlite3,
            "connect",
            lambda path, **rest: connect(path, **rest, factory=Connection),
        )

    def wrapped(self, call, error):
        def failing(*args, **rest):
            self.calls += 1
            if not self.first <= self.calls < self.first + self.width:
                return call(*args, **rest)
            if self.after and call is not os.open:  # a handle nobody got would only leak
                call(*args, **rest)
            raise error

        return failing

    def arm(self, first, width, after):
        self.calls, self.first, self.width, self.after = 0, first, width, after

    def disarm(self):
        reached, self.width = self.calls >= self.first, 0
        return reached


MODES = [(1, False), (1, True), (2, True), (12, False), (12, True)]


def stroke(name):
    return Stroke(((10.0, 10.0), (20.0, 30.0)), 1, 2.0, id=name)


def until_it_works(act, *values):
    """Repeat an act as a person or the browser does; the disk comes back at last."""
    for _ in range(40):
        try:
            return act(*values)
        except (AlnbError, OSError) as error:
            last = error
    raise AssertionError(f"it never worked again: {last}")


def swept(project, template, tmp_path, faults, width, after):
    """A project per place at which the disk can fail, until a run passes without a failure."""
    for first in itertools.count(1):
        folder = tmp_path / f"{first}"
        shutil.copytree(template, folder)
        session = project(folder=folder, learner=ClassMeans())
        faults.arm(first, width, after)
        yield first, session
        reached = faults.disarm()
        session.close()
        journal = Journal(folder / "journal.db")
        state, problems = recovered(journal)
        journal.close()
        assert problems == (), first
        assert state == session.state, f"call {first}: the state is not what the journal says"
        shutil.rmtree(folder)
        if not reached:
            return


@pytest.fixture
def template(project, tmp_path):
    """A closed project with one open slice."""
    session = project()
    session.ask(1)
    session.close()
    return tmp_path / "project"


@pytest.mark.parametrize(("width", "after"), MODES)
def test_no_stroke_is_lost_or_doubled_whichever_call_fails(
    project, template, tmp_path, monkeypatch, width, after
):
    faults = Faults(monkeypatch)
    for first, session in swept(project, template, tmp_path, faults, width, after):
        (slice_id,) = session.queue
        until_it_works(session.draw, slice_id, stroke("a"))
        until_it_works(session.draw, slice_id, stroke("b"))
        until_it_works(session.undo, slice_id)
        assert [s.id for s in session.draft(slice_id).strokes] == ["a"], first
        until_it_works(session.submit, slice_id, "mask", 5.0)
        assert session.status(slice_id) == "submitted", first
        assert session.state.seconds == 5.0, first
        assert session.draft(slice_id).seen == {"a", "b"}, first
    assert first > 20, "too few calls were swept to prove anything"


@pytest.mark.parametrize(("width", "after"), MODES)
def test_a_training_whose_saving_fails_harms_no_label_and_can_be_repeated(
    project, template, tmp_path, monkeypatch, width, after
):
    session = project(folder=template)
    session.draw(session.queue[0], stroke("a"))
    session.submit(session.queue[0])
    session.close()
    faults = Faults(monkeypatch)
    for first, session in swept(project, template, tmp_path, faults, width, after):
        labelled = session.labelled
        until_it_works(session.fit)
        assert session.labelled == labelled, first
        assert session.snapshot().learner.means.isfinite().any()
        assert session.blobs.get(session.state.checkpoint)
    assert first > 10
