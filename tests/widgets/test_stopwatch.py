from __future__ import annotations

import pytest

from alnb.records import Annotation, Scribble, SliceId, Stroke
from alnb.session.session import Session
from alnb.store.events import (
    Entry,
    SliceOpened,
    SliceSkipped,
    SliceSubmitted,
    StrokeAdded,
    StrokeRedone,
    StrokeUndone,
)
from alnb.widgets.labeller import Labeller
from alnb.widgets.stopwatch import Stopwatch, drawing_times
from tests.widgets.page import Bright, Page

HERE, THERE = SliceId("a/ED", 1), SliceId("a/ED", 2)
DRAWN = Stroke(((5.0, 5.0), (9.0, 9.0)), 1)


def journal(*acts, by="me"):
    """Entries at whole seconds after midnight of 1970: acts are (second, event) or with a name."""
    rows = [(*act, by)[:3] for act in acts]
    return [
        Entry(i, f"1970-01-01T00:{at // 60:02}:{at % 60:02}.000+00:00", who, event)
        for i, (at, event, who) in enumerate(rows, start=1)
    ]


def answer(slice_id, annotator):
    return SliceSubmitted(Annotation(slice_id, Scribble((DRAWN,)), annotator, 3.0))


def test_every_act_of_the_pen_is_a_time_of_its_slice():
    entries = journal(
        (1, SliceOpened(HERE, None, None)),
        (5, StrokeAdded(HERE, DRAWN)),
        (70, StrokeUndone(HERE)),
        (71, StrokeRedone(HERE)),
        (72, StrokeAdded(THERE, DRAWN)),
    )
    assert drawing_times(entries, "me") == {HERE: [5, 70, 71], THERE: [72]}


def test_another_annotators_strokes_and_answers_are_their_own():
    entries = journal(
        (5, StrokeAdded(HERE, DRAWN), "you"),
        (6, StrokeAdded(HERE, DRAWN)),
        (7, answer(HERE, "you"), "you"),
        (8, SliceSkipped(HERE, "", None), "you"),
    )
    assert drawing_times(entries, "me") == {HERE: [6]}


@pytest.mark.parametrize("end", [answer(HERE, "me"), SliceSkipped(HERE, "", 2.0)])
def test_an_answer_for_this_slice_alone_ends_what_came_before_it(end):
    entries = journal(
        (4, StrokeAdded(THERE, DRAWN)),
        (5, StrokeAdded(HERE, DRAWN)),
        (6, end),
        (9, StrokeAdded(HERE, DRAWN)),
    )
    assert drawing_times(entries, "me") == {HERE: [9], THERE: [4]}


@pytest.fixture
def drawn(session, monkeypatch):
    """A session whose only open slice was drawn on at the seconds 100, 104 and 110."""
    session.ask(1)
    here = session.queue[0]
    rows = journal(*((at, StrokeAdded(here, DRAWN)) for at in (100, 104, 110)))
    for _ in rows:
        session.draw(here, DRAWN)
    reads = []
    monkeypatch.setattr(session.journal, "entries", lambda: reads.append(1) or iter(rows))
    return here, reads


def test_what_was_drawn_before_counts_once_together_with_what_is_seen_now(session, drawn):
    here, reads = drawn
    watch = Stopwatch(session)
    watch.tick(here, 200.0)
    watch.tick(here, 203.0)
    watch.recall(here)
    watch.recall(here)
    assert watch.seconds(here) == 10 + 3
    assert len(reads) == 1


def test_an_answer_that_comes_before_the_recall_leaves_nothing_to_recall(session, drawn):
    here, _ = drawn
    watch = Stopwatch(session)
    watch.answered(here)
    watch.recall(here)
    assert watch.seconds(here) == 0


def test_the_journal_is_read_only_where_work_was_left_before_the_view_began(session, drawn):
    here, reads = drawn
    session.submit(here, seconds=5.0)
    watch = Stopwatch(session)
    session.draw(here, DRAWN)
    watch.tick(here, 300.0)
    watch.tick(here, 302.0)
    assert watch.seconds(here) == 2
    assert reads == []


def test_a_killed_kernel_loses_no_time_that_was_spent_drawing(session, cohort, monkeypatch):
    session.ask(1)
    here = session.queue[0]
    now = "alnb.session.door.datetime"
    for second in ("00", "07", "15"):
        with monkeypatch.context() as patch:
            patch.setattr(now, _Fixed(f"2026-01-01T12:00:{second}.000+00:00"))
            session.draw(here, DRAWN)
    with Session.open(session.folder, cohort, strategy="random", learner=Bright()) as again:
        labeller = Labeller(again)
        page = Page(labeller)
        page.act("submit")
        seconds = again.state.annotations[(here, "me")].seconds
        labeller.close()
    assert 15 <= seconds < 25


def test_the_time_of_an_answer_given_in_another_view_is_not_counted_again(page, session):
    first = session.queue[0]
    page.say({"kind": "ping", "at": 1000, "active": True})
    page.say({"kind": "ping", "at": 1019, "active": True})
    session.draw(first, DRAWN)
    session.submit(first, seconds=19.0)
    session.draw(first, DRAWN)
    page.act("submit")
    assert session.state.annotations[(first, "me")].seconds < 19


class _Fixed:
    """Stands for the class datetime, at one moment."""

    def __init__(self, text):
        self.text = text

    def now(self, _):
        return self

    def isoformat(self, **_):
        return self.text
