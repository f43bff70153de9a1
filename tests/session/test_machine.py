"""Any sequence of acts, faults and reopenings: the session, its journal and a plain model agree."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from alnb.data.phantom import phantom
from alnb.data.raster import rasterize
from alnb.errors import IllegalEvent, JournalError
from alnb.records import IGNORE, Stroke
from alnb.session.opening import recovered
from alnb.session.session import Session
from alnb.store.journal import Journal
from alnb.strategies.random_sampling import RandomSampling
from tests.toys import ClassMeans

HEARTS = phantom(4, size=48, slices=(3, 4))
SLICES = st.integers(0, 3)
SECONDS = st.sampled_from([0.0, 1.5, 4.0])


class Slice:
    """What a person believes of one slice."""

    def __init__(self, shape):
        self.base = np.full(shape, IGNORE, np.uint8)
        self.done, self.undone, self.answer, self.skipped = [], [], None, False

    @property
    def ink(self):
        return rasterize(self.done, self.base)

    def status(self):
        if self.answer is not None:
            return "submitted" if self.done == self.answer[0] else "edited"
        return "skipped" if self.skipped else "open"


class Acts(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.open()
        self.count, self.seconds, self.rounds = 0, 0.0, 0
        self.slices = self.session.pool.ids[:4]
        self.known = {s: Slice(HEARTS.shape(s)) for s in self.slices}

    def open(self):
        self.session = Session.open(
            self.folder,
            HEARTS,
            strategy=RandomSampling(),
            per_volume=None,
            learner=ClassMeans(),
        )

    def teardown(self):
        if hasattr(self, "session"):
            self.session.close()
            shutil.rmtree(self.folder)

    def at(self, index):
        return self.slices[index], self.known[self.slices[index]]

    @rule(index=SLICES, label=st.sampled_from([0, 1, 3, IGNORE]), row=st.integers(5, 40))
    def draw(self, index, label, row):
        slice_id, known = self.at(index)
        self.count += 1
        stroke = Stroke(((row, 5.0), (24.0, 40.0)), label, 3.0, id=f"s{self.count}")
        assert self.session.draw(slice_id, stroke)
        known.done.append(stroke)
        known.undone.clear()
        known.skipped = False

    @precondition(lambda self: self.count)
    @rule(index=SLICES)
    def send_again(self, index):
        slice_id, known = self.at(index)
        for stroke in (*known.done[-1:], *known.undone[:1]):
            assert not self.session.draw(slice_id, stroke)

    @rule(index=SLICES, back=st.booleans())
    def undo_or_redo(self, index, back):
        slice_id, known = self.at(index)
        source, goal = (known.done, known.undone) if back else (known.undone, known.done)
        assert (self.session.undo if back else self.session.redo)(slice_id) == bool(source)
        if source:
            goal.append(source.pop())

    @rule(index=SLICES)
    def clear(self, index):
        slice_id, known = self.at(index)
        blank = (known.ink == IGNORE).all()
        assert self.session.clear(slice_id) != blank
        if not blank:
            known.done.append(self.session.draft(slice_id).strokes[-1])
            known.undone.clear()
            known.skipped = False
            assert (known.ink == IGNORE).all()

    @rule(index=SLICES, mask=st.booleans(), seconds=SECONDS)
    def submit(self, index, mask, seconds):
        slice_id, known = self.at(index)
        ink = known.ink
        if mask:
            known.base, known.done = np.where(ink == IGNORE, 0, ink).astype(np.uint8), []
            self.session.submit(slice_id, "mask", seconds)
        elif (ink == IGNORE).all():
            try:
                self.session.submit(slice_id, "scribble", seconds)
            except IllegalEvent:
                return
            raise AssertionError("a blank slice was submitted")
        else:
            self.session.submit(slice_id, "scribble", seconds)
        known.answer, known.skipped = (list(known.done), known.ink), False
        self.seconds += seconds

    @rule(index=SLICES, seconds=SECONDS)
    def skip(self, index, seconds):
        slice_id, known = self.at(index)
        try:
            self.session.skip(slice_id, "", seconds)
        except IllegalEvent:
            assert known.answer is not None
            return
        assert known.answer is None
        known.skipped = True
        self.seconds += seconds

    @rule(n=st.integers(1, 3))
    def ask(self, n):
        asked = self.session.ask(n)
        self.rounds += 1
        gone = {s for s, known in self.known.items() if known.answer or known.skipped}
        assert len(asked.query) == n
        assert not gone & set(asked.query)

    @precondition(lambda self: any(known.answer for known in self.known.values()))
    @rule(index=SLICES)
    def train_and_accept(self, index):
        slice_id, known = self.at(index)
        try:
            self.session.fit()
        except RuntimeError:
            assert all((k.answer[1] == IGNORE).all() for k in self.known.values() if k.answer)
            return
        shown, _ = self.session.opened(slice_id)
        self.session.submit(slice_id, "accepted")
        known.base = shown.copy()
        known.answer, known.skipped = (list(known.done), known.ink), False

    @rule()
    def reopen(self):
        before = self.session.state
        self.open()
        assert self.session.state == before

    @rule(index=SLICES, kept=st.booleans())
    def draw_on_a_failing_disk(self, index, kept):
        """The disk fails once; the browser sends the stroke again."""
        slice_id, known = self.at(index)
        self.count += 1
        stroke = Stroke(((9.0, 9.0),), 2, 4.0, id=f"s{self.count}")
        journal = self.session.journal
        append = journal.append

        def failing(entries):
            journal.append = append
            if kept:
                append(entries)
            raise JournalError("the disk is full")

        journal.append = failing
        try:
            self.session.draw(slice_id, stroke)
        except JournalError:
            assert self.session.draw(slice_id, stroke) != kept
        known.done.append(stroke)
        known.undone.clear()
        known.skipped = False

    @invariant()
    def the_model_agrees(self):
        if not hasattr(self, "session"):
            return
        session = self.session
        assert len(session.state.rounds) == self.rounds
        assert session.state.seconds == self.seconds
        for slice_id, known in self.known.items():
            draft = session.draft(slice_id)
            assert list(draft.strokes) == known.done
            assert list(draft.undone) == known.undone
            assert session.status(slice_id) == known.status()
            np.testing.assert_array_equal(session.raster(slice_id), known.ink)
            if known.answer is not None:
                np.testing.assert_array_equal(session.target(slice_id), known.answer[1])

    @invariant()
    def the_journal_agrees(self):
        if hasattr(self, "session"):
            journal = Journal(self.folder / "journal.db")
            state, problems = recovered(journal)
            journal.close()
            assert problems == ()
            assert state == self.session.state


TestActs = Acts.TestCase
TestActs.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
