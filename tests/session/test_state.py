import pytest
from hypothesis import given
from hypothesis import strategies as st

from alnb.errors import IllegalEvent
from alnb.records import Accepted, Annotation, FitReport, Metrics, Scribble, SliceId, Stroke
from alnb.session.state import SessionState, apply, replay
from alnb.store.events import (
    Entry,
    Evaluated,
    FitFinished,
    FitStarted,
    QueryAmended,
    RoundClosed,
    RoundOpened,
    Seen,
    SessionCreated,
    SliceReopened,
    SliceSkipped,
    SliceSubmitted,
    StrokeAdded,
    StrokeRedone,
    StrokeUndone,
)

A, B = SliceId("p1/ED", 0), SliceId("p1/ED", 1)
BEGUN = SessionCreated("f", "s", ("p1",), (), (), "slice", ("bg", "LV"), 0, False, "0")


def stroke(name):
    return Stroke(((1.0, 1.0),), 1, id=name)


def after(*events, by="me"):
    entries = [Entry(i, "", by, e) for i, e in enumerate((BEGUN, *events), start=1)]
    return replay(entries)


def opened(number, *items):
    return RoundOpened(number, items, (None,) * len(items), ("",) * len(items), "s", "q")


def names(state, slice_id=A, by="me"):
    return [s.id for s in state.drafts[slice_id, by].strokes]


def test_undo_and_redo_walk_back_and_forth_and_a_new_stroke_ends_redo():
    state = after(
        StrokeAdded(A, stroke("a")),
        StrokeAdded(A, stroke("b")),
        StrokeUndone(A),
        StrokeUndone(A),
        StrokeRedone(A),
    )
    assert names(state) == ["a"]
    state = apply(state, Entry(9, "", "me", StrokeAdded(A, stroke("c"))))
    assert names(state) == ["a", "c"]
    with pytest.raises(IllegalEvent, match="redo"):
        apply(state, Entry(10, "", "me", StrokeRedone(A)))


@given(st.lists(st.sampled_from(["draw", "undo", "redo"]), max_size=40))
def test_any_sequence_equals_a_pair_of_stacks(acts):
    done, undone, state, count = [], [], after(), 0
    for i, act in enumerate(acts, start=2):
        if act == "draw":
            count += 1
            done.append(f"s{count}")
            undone.clear()
            event = StrokeAdded(A, stroke(f"s{count}"))
        elif act == "undo" and done:
            undone.append(done.pop())
            event = StrokeUndone(A)
        elif act == "redo" and undone:
            done.append(undone.pop())
            event = StrokeRedone(A)
        else:
            continue
        state = apply(state, Entry(i, "", "me", event))
    assert (names(state) if state.drafts else []) == done


def test_a_stroke_sent_again_is_refused_even_after_it_was_undone():
    state = after(StrokeAdded(A, stroke("a")), StrokeUndone(A))
    with pytest.raises(IllegalEvent, match="already"):
        apply(state, Entry(5, "", "me", StrokeAdded(A, stroke("a"))))


def test_nobody_undoes_anothers_stroke():
    state = after(StrokeAdded(A, stroke("mine")))
    with pytest.raises(IllegalEvent):
        apply(state, Entry(5, "", "you", StrokeUndone(A)))


@pytest.mark.parametrize(
    "events",
    [
        [StrokeUndone(A)],
        [StrokeRedone(A)],
        [BEGUN],
        [opened(1, A)],
        [opened(0, A), opened(1, B)],
        [RoundClosed(0)],
        [QueryAmended((A,), ())],
        [opened(0, A), QueryAmended((A,), ())],
        [opened(0, A), QueryAmended((), (B,))],
        [FitStarted(1, "person", 1, "")],
        [FitFinished(0, "c", FitReport(1, 0.0, 0.0))],
        [Evaluated(0, Metrics("val", (), 0))],
    ],
)
def test_events_that_cannot_follow_are_refused(events):
    with pytest.raises(IllegalEvent):
        after(*events)


def test_nothing_comes_before_the_beginning():
    with pytest.raises(IllegalEvent, match="before the session was created"):
        apply(SessionState(), Entry(1, "", "me", StrokeAdded(A, stroke("a"))))


def test_counts_follow_queries_and_amendments():
    state = after(
        opened(0, A, B), QueryAmended((), (B,)), RoundClosed(0), opened(1, A), RoundClosed(1)
    )
    assert dict(state.counts) == {A: 2, B: 0}
    assert state.rounds[0].query == (A,)


def test_metrics_join_the_round_of_their_training_not_the_newest_one():
    metrics = Metrics("val", (0.5,), 1)
    answer = SliceSubmitted(Annotation(A, Scribble((stroke("a"),)), "me", 4.0))
    state = after(
        opened(0, A),
        answer,
        FitStarted(0, "person", 1, ""),
        RoundClosed(0),
        opened(1, B),
        FitFinished(0, "c", FitReport(5, 0.1, 1.0)),
        Evaluated(0, metrics),
    )
    assert state.rounds[0].metrics == (metrics,)
    assert state.rounds[1].metrics == ()
    assert state.fits[0].taught == {A}
    assert state.fits[0].seconds == 4.0
    assert state.checkpoint == "c"


def test_an_answer_cannot_be_skipped_but_a_skipped_slice_can_be_answered():
    answer = SliceSubmitted(Annotation(A, Scribble((stroke("a"),)), "me", 4.0))
    with pytest.raises(IllegalEvent, match="has an answer"):
        after(answer, SliceSkipped(A, "", 1.0))
    state = after(SliceSkipped(A, "blurred", 1.0), answer)
    assert dict(state.skipped) == {}
    assert state.seconds == 5.0


def test_undoing_an_accepted_interpolation_leaves_the_slice_unanswered():
    taken = SliceSubmitted(
        Annotation(A, Accepted("00", None, between=(2, 5)), "me", 2.0),
        Seen("00", None, False, "accepted"),
    )
    drawn_on = after(taken, StrokeAdded(A, stroke("a")), StrokeUndone(A))
    assert drawn_on.labelled == {A}, "the stroke goes first"
    state = apply(drawn_on, Entry(9, "", "me", StrokeUndone(A)))
    assert state.labelled == frozenset()
    assert not state.seen
    assert state.drafts[A, "me"].base is None
    assert state.seconds == 2.0, "the time was spent all the same"
    with pytest.raises(IllegalEvent, match="no stroke to undo"):
        apply(state, Entry(10, "", "me", StrokeUndone(A)))


def test_a_slice_that_was_passed_over_can_be_opened_again_by_who_passed_it():
    state = after(SliceSkipped(A, "", 1.0))
    reopened = apply(state, Entry(9, "", "me", SliceReopened(A)))
    assert not reopened.skipped
    with pytest.raises(IllegalEvent, match="not passed over"):
        apply(state, Entry(9, "", "you", SliceReopened(A)))


def test_replay_of_any_prefix_and_rest_equals_the_whole():
    events = [opened(0, A), StrokeAdded(A, stroke("a")), StrokeUndone(A), StrokeRedone(A)]
    entries = [Entry(i, "", "me", e) for i, e in enumerate((BEGUN, *events), start=1)]
    for cut in range(1, len(entries)):
        assert replay(entries[cut:], replay(entries[:cut])) == replay(entries)
