from __future__ import annotations

import threading

import numpy as np
import pytest

from alnb.data.raster import rasterize
from alnb.errors import JournalError
from alnb.records import IGNORE, SliceId, Stroke
from alnb.session.session import Session
from alnb.widgets.labeller import Labeller
from alnb.widgets.messages import slice_message
from tests.widgets.page import Bright, Page, eventually

LINE = [(5, 5), (12, 20)]


def shown_ink(page):
    """The ink as the browser has it after every scene and patch so far."""
    ink, here = None, None
    for content, buffers in page.sent:
        if content["kind"] == "scene":
            here, ink = content["slice"], np.frombuffer(buffers[1], np.uint8).copy()
            ink = ink.reshape(content["shape"])
        elif "box" in content and content["slice"] == here:
            top, left, height, width = content["box"]
            patch = np.frombuffer(buffers[0], np.uint8).reshape(height, width)
            ink[top : top + height, left : left + width] = patch
    return ink


def test_a_hello_is_answered_with_everything_that_is_shown(page, session, cohort):
    assert page.last("scene")["slice"] == slice_message(session.queue[0])
    image, ink, _ = page.buffers("scene")
    height, width = cohort.shape(session.queue[0])
    assert len(image) == 2 * height * width
    assert set(ink) == {IGNORE}
    assert [c["name"] for c in page.last("setup")["classes"]] == list(session.classes)
    assert len(page.of("near")) >= 1
    assert len(page.last("ui")["queue"]) == 2


def test_nothing_is_sent_while_no_page_listens(session):
    session.ask(1)
    labeller = Labeller(session)
    page = Page(labeller)
    session.draw(session.queue[0], Stroke(((5.0, 5.0),), 1))
    labeller.settle()
    assert page.sent == []
    labeller.close()


def test_a_stroke_is_on_disk_before_it_is_acknowledged_and_the_ack_carries_its_pixels(
    page, session, cohort
):
    ack = page.stroke(LINE, name="one", label=2)
    assert ack["ok"]
    assert ack["id"] == "one"
    stored = session.draft(session.queue[0]).strokes
    assert [stroke.id for stroke in stored] == ["one"]
    blank = np.full(cohort.shape(session.queue[0]), IGNORE, np.uint8)
    assert (shown_ink(page) == rasterize(stored, blank)).all()


def test_a_repeated_stroke_is_acknowledged_again_and_never_doubled(page, session):
    page.stroke(LINE, name="one")
    assert page.stroke(LINE, name="one")["ok"]
    assert len(session.draft(session.queue[0]).strokes) == 1


def test_a_late_stroke_lands_on_the_slice_it_was_drawn_on(page, session):
    first, second = session.queue
    page.act("next")
    assert page.labeller.here == second
    page.stroke(LINE, where=first)
    assert len(session.draft(first).strokes) == 1
    assert session.draft(second).strokes == ()
    assert (shown_ink(page) == IGNORE).all()


def test_a_stroke_that_cannot_be_taken_is_refused_in_words(page):
    ack = page.stroke(LINE, label=77)
    assert not ack["ok"]
    assert ack["final"]
    assert "77" in ack["error"]
    nowhere = page.stroke(LINE, where=SliceId("nobody/ED", 0))
    assert nowhere["final"]


@pytest.mark.parametrize("error", [JournalError("The disk is full."), OSError("gone")])
def test_a_stroke_that_could_not_be_saved_stays_with_the_browser(page, session, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(session, "draw", fail)
    ack = page.stroke(LINE)
    assert not ack["ok"]
    assert not ack["final"]
    assert "kept" in ack["error"]


def test_undo_redo_and_clear_bring_the_shown_ink_along(page, session):
    page.stroke(LINE)
    drawn = shown_ink(page).copy()
    page.act("undo")
    assert (shown_ink(page) == IGNORE).all()
    assert page.last("ui")["redo"]
    page.act("redo")
    assert (shown_ink(page) == drawn).all()
    page.act("clear")
    assert (shown_ink(page) == IGNORE).all()
    page.act("undo")
    assert (shown_ink(page) == drawn).all()
    assert (session.raster(session.queue[0]) == drawn).all()


def test_strokes_drawn_by_code_appear_in_the_view(page, session):
    session.draw(session.queue[0], Stroke(((6.0, 6.0), (6.0, 12.0)), 3))
    page.labeller.settle()
    assert (shown_ink(page) == session.raster(session.queue[0])).all()


def test_submitting_goes_on_to_the_next_open_slice_until_the_query_is_done(page, session):
    first, second = session.queue
    page.stroke(LINE)
    page.labeller.settle()
    assert page.primary() == "submit"
    page.act("submit")
    assert session.status(first) == "submitted"
    assert page.labeller.here == second
    page.act("skip")
    assert session.status(second) == "skipped"
    assert session.pending == ()
    assert page.primary() == "train"


def test_the_time_of_an_answer_is_the_time_somebody_was_active(page, session, monkeypatch):
    clock = iter([1000.0, 1000.0])
    monkeypatch.setattr("alnb.widgets.stopwatch.time.time", lambda: next(clock, 1000.0))
    page.labeller._stopwatch.answered(session.queue[0])
    for at in (1000, 1005, 1010, 1300, 1304):
        page.say({"kind": "ping", "at": at, "active": True})
    page.say({"kind": "ping", "at": 1309, "active": False})
    page.stroke(LINE)
    first = session.queue[0]
    page.act("submit")
    assert session.state.annotations[(first, "me")].seconds == 14


def test_a_training_ends_with_a_proposal_and_the_next_query(page, session):
    page.stroke(LINE)
    page.act("submit")
    page.act("skip")
    page.act("train")
    eventually(lambda: session.job is not None and not session.job.running)
    page.labeller.settle()
    eventually(lambda: page.primary() == "ask")
    labels = np.frombuffer(page.buffers("proposal")[0], np.uint8)
    assert (labels == session.prediction(page.labeller.here)[0].ravel()).all()
    assert page.last("ui")["badge"]
    assert "Trained on 1 slice" in page.last("ui")["line"]["text"]
    page.act("ask")
    eventually(lambda: len(session.state.rounds) == 2 and page.labeller.here in session.queue)
    page.labeller.settle()
    assert page.primary() == "submit"  # which waits for ink: accepting is a choice of its own
    asked = page.labeller.here
    page.act("accept")
    answer = session.state.annotations[(asked, "me")]
    assert type(answer.content).__name__ == "Accepted"


def test_auto_trains_and_asks_by_itself_after_the_last_answer(session):
    session.ask(1)
    labeller = Labeller(session, n=2, auto=True)
    page = Page(labeller)
    page.hello()
    page.stroke(LINE)
    page.act("submit")
    eventually(lambda: len(session.state.rounds) == 2)
    assert len(session.state.fits) == 1
    assert len(session.queue) == 2
    labeller.close()


def test_a_failure_in_an_act_is_told_in_the_state_line(page, session):
    page.act("submit")
    line = page.last("ui")["line"]
    assert line["tone"] == "error"
    assert "Nothing is drawn" in line["text"]
    page.say({"kind": "act", "name": "show", "target": {"volume": "nobody", "index": 0}})
    assert page.last("ui")["line"]["tone"] == "error"


def test_what_a_training_will_take_is_said_before_its_first_step_and_stays(
    page, session, monkeypatch
):
    from alnb.models import estimate as estimates

    may_begin, learn = threading.Event(), Bright.fit

    def fit(learner, train, **rest):
        may_begin.wait(10)
        return learn(learner, train, **rest)

    found = estimates.Estimate(4, 40.0, 2_000_000_000, "4 steps on trial", "1 CPU core")
    monkeypatch.setattr(estimates, "estimate", lambda *args, **rest: found)
    monkeypatch.setattr(Bright, "fit", fit)
    page.stroke(LINE)
    page.act("submit")
    try:
        page.act("train")
        promise = "About 40 s on 1 CPU core, 2.0 GB; labels are safe if you stop."
        eventually(lambda: page.last("ui")["line"]["text"] == promise)
        assert session.job.progress is None
        page.say({"kind": "ping", "at": 1.0, "active": False})  # what follows the progress
        assert page.last("ui")["line"]["text"] == promise
        page.stroke(LINE, name="b")
        page.act("undo")
        assert page.last("ui")["line"]["text"] != promise, "what the person does now comes first"
    finally:
        may_begin.set()
    eventually(lambda: not session.job.running)
    page.labeller.settle()
    assert "Trained on 1 slice in" in page.last("ui")["line"]["text"]


def test_training_errors_are_told_in_words(page, session, monkeypatch):
    page.stroke(LINE)
    page.act("submit")

    def fail(*_, **__):
        raise RuntimeError("no luck")

    monkeypatch.setattr(Bright, "fit", fail)
    page.act("train")
    eventually(lambda: "no luck" in page.last("ui")["line"]["text"])
    assert "Labels are safe" in page.last("ui")["line"]["text"]


def test_neighbouring_slices_can_be_looked_at_and_home_leads_back(page, session):
    here = page.labeller.here
    depth = session.cohort.volumes[here.volume].shape[0]
    index = here.index + 1 if here.index + 1 < depth else here.index - 1
    page.act("show", target={"volume": here.volume, "index": index})
    assert page.labeller.here == SliceId(here.volume, index)
    page.act("home")
    assert page.labeller.here in session.pending


def test_slices_of_held_out_patients_are_shown_but_not_drawn_on(page, session):
    held = next(v for v in session.cohort.volumes.values() if v.patient in session.split.val)
    page.labeller.show(SliceId(held.name, 0))
    assert page.last("scene")["editable"] is False
    assert "validation" in page.last("scene")["why"]
    assert not page.stroke(LINE)["ok"]


def test_two_views_of_one_session_agree(page, session):
    other = Labeller(session)
    second = Page(other)
    second.hello()
    page.stroke(LINE)
    other.settle()
    assert (shown_ink(second) == shown_ink(page)).all()
    other.close()


def test_a_view_of_a_closed_session_says_so_and_keeps_strokes_with_the_browser(
    page, session, cohort
):
    again = Session.open(session.folder, cohort, strategy="random", learner=Bright())
    eventually(lambda: "opened again" in page.last("ui")["line"]["text"])
    assert page.last("scene")["editable"] is False
    assert "closed" in page.last("scene")["why"]
    assert page.stroke(LINE)["final"] is False
    fresh = Labeller(again)
    assert fresh.canvas.booster.project == page.labeller.canvas.booster.project
    fresh.close()
    again.close()


def test_closing_a_view_leaves_the_session_open(session):
    session.ask(1)
    labeller = Labeller(session)
    labeller.close()
    session.draw(session.queue[0], Stroke(((5.0, 5.0),), 1))
    assert len(session.draft(session.queue[0]).strokes) == 1


def test_without_a_query_a_slice_is_shown_and_asking_is_the_obvious_act(session):
    labeller = Labeller(session, n=3)
    page = Page(labeller)
    page.hello()
    assert page.primary() == "ask"
    page.act("ask")
    eventually(lambda: len(session.queue) == 3 and labeller.here in session.queue)
    labeller.close()


def test_panels_can_ask_whether_a_pen_is_down(page):
    page.say({"kind": "pen", "down": True})
    assert page.labeller.drawing
    page.say({"kind": "pen", "down": False})
    assert not page.labeller.drawing


def test_a_resumed_project_says_what_is_there_and_goes_on_at_the_first_open_slice(page, session):
    page.stroke(LINE)
    page.act("submit")
    again = Labeller(session)
    second = Page(again)
    second.hello()
    assert second.last("ui")["line"]["text"] == "Session continued: 1 slice labelled."
    assert again.here == session.pending[0]
    again.close()
