import threading

import numpy as np
import pytest

from alnb.errors import BadInput, IllegalEvent
from alnb.records import IGNORE, Accepted, Scribble, Stroke
from alnb.session.live import ALONE, KEPT_SLICES
from alnb.session.oracle import SimulatedOracle
from alnb.store.events import Seen, SliceSubmitted
from tests.growing import Columns

WHOLE = ((0.0, 0.0), (0.0, 99.0), (99.0, 99.0), (99.0, 0.0))


def line(label=1, row=10.0, name=""):
    return Stroke(((row, 10.0), (row, 30.0)), label, 2.0, id=name)


@pytest.fixture
def grower():
    return Columns()


@pytest.fixture
def session(project, grower):
    opened = project()
    opened.live.use(grower)
    opened.ask(3)
    return opened


@pytest.fixture
def here(session):
    return session.queue[0]


def newest(session, slice_id):
    assert session.live.settle()
    return session.live.latest(slice_id)


def last_seen(session):
    events = [e.event for e in session.journal.entries()]
    return [e.seen for e in events if isinstance(e, SliceSubmitted)][-1]


# ---------------------------------------------------------------- while drawing


def test_the_first_stroke_of_round_0_brings_a_proposal_made_from_it_alone(session, here):
    assert newest(session, here) is None
    session.draw(here, line(2))
    shown = newest(session, here)
    assert (shown.labels == 2).all()
    assert shown.strokes == session.draft(here).strokes
    assert (shown.checkpoint, shown.badge, shown.changes) == (None, ALONE, 0)
    assert not shown.labels.flags.writeable


def test_every_stroke_undo_and_erasure_brings_the_proposal_along(session, here, grower):
    session.draw(here, line(1))
    first = newest(session, here)
    session.draw(here, line(3, 20.0))
    assert (newest(session, here).labels[40] == 3).all()
    session.undo(here)
    assert (newest(session, here).labels == first.labels).all()
    session.redo(here)
    assert (newest(session, here).labels[40] == 3).all()
    session.draw(here, Stroke(((20.0, 5.0), (20.0, 40.0)), IGNORE, 4.0))
    newest(session, here)
    assert (grower.proposed[-1] == session.raster(here)).all()
    assert (newest(session, here).labels == 1).all()
    session.clear(here)
    assert newest(session, here) is None
    session.undo(here)
    assert newest(session, here) is not None


def test_taking_back_the_only_stroke_takes_the_proposal_away(session, here):
    session.draw(here, line())
    assert newest(session, here) is not None
    session.undo(here)
    assert newest(session, here) is None


def test_strokes_drawn_while_a_proposal_is_made_are_answered_together_and_it_is_dropped(
    session, here, grower
):
    told = []
    session.watch(lambda what: what == "live" and told.append(session.live.latest(here)))
    grower.gate.clear()
    session.draw(here, line(1))
    assert grower.begun.wait(10)
    for row in range(12, 20):
        session.draw(here, line(1, float(row)))  # returns although nothing has been proposed
    assert session.live.latest(here) is None
    grower.gate.set()
    shown = newest(session, here)
    assert len(grower.proposed) == 2
    assert [p.strokes for p in told] == [session.draft(here).strokes]
    assert told == [shown]


def test_the_session_is_free_for_others_while_a_proposal_is_made(session, here, grower):
    grower.gate.clear()
    session.draw(here, line(1))
    assert grower.begun.wait(10)
    acted = threading.Thread(target=lambda: session.undo(here))
    acted.start()
    acted.join(10)
    assert not acted.is_alive()
    grower.gate.set()
    assert newest(session, here) is None


def test_a_proposal_that_comes_after_the_answer_is_dropped(session, here, grower):
    grower.gate.clear()
    session.draw(here, line(1))
    assert grower.begun.wait(10)
    session.submit(here)
    grower.gate.set()
    assert newest(session, here) is None
    session.draw(here, line(2, 20.0))
    assert newest(session, here).changes == 0


def test_only_ones_own_strokes_are_followed(session, here, grower):
    session.live.settle()
    session.annotate(*SimulatedOracle(session.cohort, "scribble").annotate(here))
    assert newest(session, here) is None
    assert grower.proposed == []


def test_switched_off_nothing_is_shown_and_nothing_is_computed(session, here, grower):
    session.draw(here, line())
    assert newest(session, here) is not None
    session.live.switch(False)
    assert session.live.latest(here) is None
    made = len(grower.proposed)
    session.draw(here, line(2))
    assert newest(session, here) is None
    assert len(grower.proposed) == made
    session.live.switch(True)
    assert newest(session, here) is not None


def test_a_fault_is_told_once_in_words_and_the_next_stroke_tries_again(session, here, grower):
    grower.fails = ZeroDivisionError("no luck\nTraceback")
    for row in (10.0, 14.0, 18.0):
        session.draw(here, line(1, row))
        assert newest(session, here) is None
    (problem,) = session.problems
    assert "No live proposal could be made: no luck." in problem
    assert "Traceback" not in problem
    grower.fails = None
    session.draw(here, line(1, 22.0))
    assert newest(session, here) is not None


def test_a_slice_is_prepared_when_it_is_looked_at_and_held_for_a_while(session, grower):
    slices = [s for group in session.pool.slices for s in group][: KEPT_SLICES + 1]
    for slice_id in slices:
        session.live.look_at(slice_id)
        session.live.settle()
    assert len(grower.prepared) == KEPT_SLICES + 1
    session.draw(slices[-1], line())
    assert newest(session, slices[-1]) is not None
    assert len(grower.prepared) == KEPT_SLICES + 1
    session.draw(slices[0], line())
    session.live.settle()
    assert len(grower.prepared) == KEPT_SLICES + 2


def test_a_model_known_to_be_worse_than_strokes_alone_takes_no_part(session, here, grower):
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in session.queue[1:]:
        session.annotate(*oracle.annotate(slice_id))
    session.fit()
    measured = session.round.metrics[-1].mean
    session.live.least_dice = measured + 0.01
    session.draw(here, line())
    assert newest(session, here).checkpoint is None
    assert grower.prepared[-1][1] is None
    session.live.least_dice = measured
    session.draw(here, line())
    assert newest(session, here).checkpoint == session.state.checkpoint


def test_the_models_probabilities_take_part_as_soon_as_there_is_a_model(session, here, grower):
    session.live.least_dice = 0.0
    session.draw(here, line())
    assert newest(session, here).checkpoint is None
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in session.queue[1:]:
        session.annotate(*oracle.annotate(slice_id))
    session.fit()
    shown = newest(session, here)
    assert shown.checkpoint == session.state.checkpoint
    assert shown.badge == "strokes + round 1 model"
    prior = grower.prepared[-1][1]
    assert prior.dtype == np.float32
    np.testing.assert_allclose(prior.sum(axis=0), 1, atol=1e-5)
    assert (prior.argmax(axis=0) == session.prediction(here)[0]).all()
    assert shown.changes == 0, "the model's coming is no change of the person's"


def test_strokes_alone_are_grown_while_the_model_is_loaded_or_cannot_be(
    session, here, grower, monkeypatch
):
    oracle = SimulatedOracle(session.cohort, "mask")
    session.annotate(*oracle.annotate(session.queue[1]))
    session.fit()
    session.live.settle()
    monkeypatch.setattr(session.trainer, "at_hand", lambda slice_id: None)
    session.draw(here, line())
    assert newest(session, here).checkpoint is None

    def fail(slice_id):
        raise BadInput("The weights are of another shape.")

    monkeypatch.setattr(session.trainer, "at_hand", fail)
    for row in (20.0, 25.0):
        session.draw(here, line(2, row))
        assert newest(session, here).badge == ALONE
    assert session.problems == ("The weights are of another shape.",)


def test_the_built_in_proposer_follows_the_strokes_of_a_careful_person(project):
    session = project()
    session.ask(1)
    (here,) = session.queue
    session.live.look_at(here)
    oracle = SimulatedOracle(session.cohort, "simulated")
    for stroke in oracle.annotate(here)[0].content.strokes:
        session.draw(here, stroke)
    shown = newest(session, here)
    ink, truth = session.raster(here), session.cohort.reference(here)
    assert session.problems == ()
    assert (shown.labels[ink != IGNORE] == ink[ink != IGNORE]).all()
    untouched = ink == IGNORE
    assert (shown.labels == truth)[untouched].mean() > (truth[untouched] == 0).mean()


# ---------------------------------------------------------------- answering


def drawn(session, here, *strokes):
    for stroke in strokes:
        session.draw(here, stroke)
    return newest(session, here)


def test_an_accepted_live_proposal_is_what_was_seen_and_survives_reopening(
    session, here, project, tmp_path
):
    shown = drawn(session, here, line(1), line(3, 20.0))
    ink = session.raster(here)
    seen = np.where(ink == IGNORE, shown.labels, ink)
    session.submit(here, "accepted", 4.0, shown=shown)
    assert session.status(here) == "submitted"
    np.testing.assert_array_equal(session.target(here), seen)
    np.testing.assert_array_equal(session.raster(here), seen)
    content = session.state.annotations[(here, "me")].content
    assert isinstance(content, Accepted)
    assert content.checkpoint is None
    assert len(content.beneath) == 2
    before = session.state
    again = project()
    assert again.state == before
    np.testing.assert_array_equal(again.target(here), seen)
    assert again.state.seen[(here, "me")].became == "corrected"


def test_where_something_was_erased_the_accepted_proposal_is_there(session, here):
    shown = drawn(
        session, here, line(3), Stroke(WHOLE, IGNORE, tool="lasso"), line(1), line(2, 20.0)
    )
    session.submit(here, "accepted", shown=shown)
    target = session.target(here)
    assert (target != IGNORE).all()
    assert set(np.unique(target)) == {1, 2}


def test_a_proposal_older_than_the_last_stroke_is_taken_with_that_stroke_on_top(
    session, here, grower
):
    shown = drawn(session, here, line(1))
    grower.gate.clear()
    session.draw(here, line(3, 30.0))
    session.submit(here, "accepted", shown=shown)
    grower.gate.set()
    target = session.target(here)
    assert (target[30, 12:28] == 3).all()
    assert (target[10] == 1).all()
    assert last_seen(session).became == "corrected"


def test_undo_after_accepting_brings_every_stroke_back_and_the_proposal_with_them(session, here):
    shown = drawn(session, here, line(1, name="a"), line(3, 20.0, name="b"))
    ink = session.raster(here)
    session.submit(here, "accepted", shown=shown)
    session.draw(here, line(2, 40.0, name="c"))
    assert session.status(here) == "edited"
    assert session.undo(here)
    assert session.status(here) == "submitted"
    assert session.undo(here)
    assert session.status(here) == "edited"
    np.testing.assert_array_equal(session.raster(here), ink)
    assert [s.id for s in session.draft(here).strokes] == ["a", "b"]
    assert newest(session, here) is not None
    # the answer stays until it is given anew
    assert (session.target(here) != IGNORE).all()
    session.submit(here)
    assert session.state.annotations[(here, "me")].content == Scribble(session.draft(here).strokes)
    assert session.undo(here)
    assert session.undo(here)
    assert not session.undo(here)


def test_what_became_of_a_proposal_is_journalled(session):
    a, b, c = session.queue
    shown = drawn(session, a, line(1))
    session.submit(a, "accepted", shown=shown)
    blob = last_seen(session).proposal
    assert last_seen(session) == Seen(blob, None, True, "accepted", 0)
    assert (session.label_map(blob) == shown.labels).all()

    shown = drawn(session, b, line(1))
    shown = drawn(session, b, line(2, 20.0))
    session.undo(b)
    shown = newest(session, b)
    session.submit(b, "accepted", shown=shown)
    assert (last_seen(session).became, last_seen(session).changes) == ("corrected", 2)

    shown = drawn(session, c, line(1))
    session.submit(c, shown=shown)
    assert last_seen(session).became == "ignored"
    assert isinstance(session.state.annotations[(c, "me")].content, Scribble)
    session.submit(c)
    assert last_seen(session) is None
    assert (c, "me") not in session.state.seen


def test_drawing_on_an_accepted_answer_makes_it_a_corrected_one(session, here):
    session.submit(here, "accepted", shown=drawn(session, here, line(1)))
    accepted = session.state.annotations[(here, "me")].content
    session.draw(here, line(2, 30.0))
    assert newest(session, here) is None, "on a whole label map nothing is left to propose"
    session.submit(here)
    assert last_seen(session) == Seen(accepted.blob, None, True, "corrected", 1)
    assert (session.target(here)[30, 12:28] == 2).all()
    assert session.state.annotations[(here, "me")].content.beneath == accepted.beneath


def test_the_models_proposal_is_journalled_in_the_same_words(session):
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in session.queue:
        session.annotate(*oracle.annotate(slice_id))
    session.fit()
    session.live.switch(False)
    session.ask(3)
    words = []
    for slice_id, strokes, kind in zip(
        session.queue,
        ((), (line(1),), (line(1),)),
        ("accepted", "accepted", "scribble"),
        strict=True,
    ):
        session.opened(slice_id)
        for stroke in strokes:
            session.draw(slice_id, stroke)
        session.submit(slice_id, kind)
        words.append(last_seen(session))
    assert [seen.became for seen in words] == ["accepted", "corrected", "ignored"]
    assert all(seen.checkpoint == session.state.checkpoint for seen in words)
    assert not any(seen.live for seen in words)


def test_accepting_twice_changes_nothing(session, here):
    shown = drawn(session, here, line(1))
    session.submit(here, "accepted", shown=shown)
    target = session.target(here)
    session.submit(here, "accepted", shown=shown)
    np.testing.assert_array_equal(session.target(here), target)
    assert len(session.state.annotations[(here, "me")].content.beneath) == 1


def test_without_strokes_or_of_another_size_a_live_proposal_cannot_be_accepted(session, here):
    shown = drawn(session, here, line(1))
    session.undo(here)
    with pytest.raises(IllegalEvent, match="taken back"):
        session.submit(here, "accepted", shown=shown)
    object.__setattr__(shown, "labels", np.zeros((3, 3), np.uint8))
    with pytest.raises(BadInput, match="its slice"):
        session.submit(here, "accepted", shown=shown)


def test_the_last_few_proposals_are_known_by_their_ids(session, here):
    first = drawn(session, here, line(1))
    second = drawn(session, here, line(2, 20.0))
    assert session.live.known(here, first.id) is first
    assert session.live.known(here, second.id) is second
    assert session.live.known(here, "never") is None
    session.submit(here)
    assert session.live.known(here, second.id) is None


def test_an_accepted_live_proposal_is_learnt_and_exported_like_any_answer(session, here, tmp_path):
    import json

    import nibabel as nib

    shown = drawn(session, here, line(1), line(3, 20.0))
    session.submit(here, "accepted", 2.0, shown=shown)
    target = session.target(here)
    (path,) = session.export(tmp_path / "out")
    volume = session.cohort.volumes[here.volume]
    array = np.asarray(nib.load(path).dataobj).astype(np.uint8)
    back = np.full(volume.shape, IGNORE, np.uint8)
    back[here.index] = target
    np.testing.assert_array_equal(array, volume.to_native(back))
    (answer,) = json.loads((path.parent / "provenance.json").read_text())["answers"]
    assert answer["kind"] == "accepted"
    assert answer["strokes"] == 2
    assert answer["proposal"]["became"] == "corrected"
    assert session.fit().steps == 1
