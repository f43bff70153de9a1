import errno
import os
import threading

import numpy as np
import pytest

from alnb.data.raster import rasterize
from alnb.errors import (
    BadInput,
    BadSelection,
    ColdStart,
    IllegalEvent,
    JournalError,
    PoolExhausted,
    UnknownItem,
)
from alnb.records import IGNORE, Annotation, Mask, Selection, SliceId, Stroke
from alnb.session.oracle import SimulatedOracle
from alnb.store.events import StrokeAdded


def line(label=1, offset=0.0, name=""):
    return Stroke(((10.0 + offset, 10.0), (20.0 + offset, 30.0)), label, 2.0, id=name)


def labelled_round(session, n=4, seconds=5.0):
    session.ask(n)
    for slice_id in session.pending:
        session.draw(slice_id, line(1))
        session.draw(slice_id, line(0, 15.0))
        session.submit(slice_id, seconds=seconds)


def test_reopening_resumes_exactly_where_it_stopped(project):
    session = project()
    labelled_round(session)
    session.fit()
    session.ask(3)
    a, b, c = session.queue
    session.draw(a, line(2, name="x"))
    session.draw(a, line(3, 5.0, name="y"))
    session.undo(a)
    session.skip(c, "blurred")
    before = session.state
    ink = session.raster(a)
    again = project()
    assert session.closed
    assert again.state == before
    assert again.queue == (a, b, c)
    assert again.pending == (a, b)
    assert again.status(c) == "skipped"
    np.testing.assert_array_equal(again.raster(a), ink)
    assert again.redo(a)
    assert [s.id for s in again.draft(a).strokes] == ["x", "y"]


def test_the_ink_is_the_raster_of_the_strokes_and_undo_inverts_draw(project):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    blank = session.raster(slice_id)
    assert (blank == IGNORE).all()
    strokes = [line(1), line(2, 3.0), line(IGNORE, 1.0)]
    for stroke in strokes:
        session.draw(slice_id, stroke)
    np.testing.assert_array_equal(session.raster(slice_id), rasterize(strokes, blank))
    for _ in strokes:
        assert session.undo(slice_id)
    assert not session.undo(slice_id)
    np.testing.assert_array_equal(session.raster(slice_id), blank)


def test_a_stroke_sent_twice_is_drawn_once_even_if_undone_between(project):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    assert session.draw(slice_id, line(name="once"))
    assert not session.draw(slice_id, line(name="once"))
    session.undo(slice_id)
    assert not session.draw(slice_id, line(name="once"))
    assert session.draft(slice_id).strokes == ()


def test_clearing_a_slice_can_be_undone(project):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    assert not session.clear(slice_id)
    session.draw(slice_id, line())
    ink = session.raster(slice_id)
    assert session.clear(slice_id)
    assert (session.raster(slice_id) == IGNORE).all()
    session.undo(slice_id)
    np.testing.assert_array_equal(session.raster(slice_id), ink)


def test_submitting_keeps_untouched_pixels_unlabelled_and_a_mask_makes_them_background(project):
    session = project()
    session.ask(2)
    scribbled, whole = session.queue
    for slice_id in session.queue:
        session.draw(slice_id, line(2))
    ink = session.raster(scribbled)
    session.submit(scribbled, "scribble", 1.0)
    np.testing.assert_array_equal(session.target(scribbled), ink)
    ink = session.raster(whole)
    session.submit(whole, "mask", 1.0)
    np.testing.assert_array_equal(session.target(whole), np.where(ink == IGNORE, 0, ink))
    assert session.pending == ()


def test_an_accepted_proposal_is_what_was_shown_corrected_by_the_strokes(project):
    session = project()
    labelled_round(session)
    session.fit()
    session.ask(1)
    (slice_id,) = session.queue
    with pytest.raises(IllegalEvent, match="No proposal was shown"):
        session.submit(slice_id, "accepted")
    session.opened(slice_id)
    shown = session.prediction(slice_id)[0]
    session.draw(slice_id, line(3))
    session.submit(slice_id, "accepted", 2.0)
    np.testing.assert_array_equal(session.target(slice_id), rasterize([line(3)], shown))
    content = session.state.annotations[slice_id, "me"].content
    assert content.checkpoint == session.state.checkpoint


def test_an_edited_answer_teaches_its_old_version_until_it_is_submitted_again(project):
    session = project()
    labelled_round(session, 1)
    (slice_id,) = session.queue
    old = session.target(slice_id)
    session.draw(slice_id, line(3, 8.0))
    assert session.status(slice_id) == "edited"
    assert session.pending == (slice_id,)
    np.testing.assert_array_equal(session.target(slice_id), old)
    session.submit(slice_id)
    assert session.status(slice_id) == "submitted"
    assert (session.target(slice_id) == 3).any()


def test_an_empty_slice_cannot_be_submitted_as_a_scribble(project):
    session = project()
    session.ask(1)
    with pytest.raises(IllegalEvent, match="Nothing is drawn"):
        session.submit(session.queue[0])


def test_answered_and_skipped_slices_are_never_asked_again(project):
    session = project()
    labelled_round(session, 5)
    session.ask(3)
    session.skip(session.queue[0])
    seen = {*session.labelled, session.queue[0]}
    candidates = {session.pool.ids[r] for r in session.snapshot().candidates}
    assert candidates == set(session.pool.ids) - seen


def test_unanswered_items_go_back_to_the_pool_and_asking_too_much_says_so(project):
    session = project()
    total = len(session.pool)
    session.ask(total)
    session.ask(total)
    with pytest.raises(PoolExhausted, match=f"Asked for {total + 1} items; {total} of {total}"):
        session.ask(total + 1)


def test_kept_labelled_items_can_come_again_and_raise_their_count(project):
    session = project(keep_labelled=True)
    labelled_round(session, len(session.pool))
    session.ask(2)
    assert session.pending == ()
    assert sorted(session.snapshot().counts.tolist())[-2:] == [2, 2]
    again = project(keep_labelled=True)
    assert again.state.counts == session.state.counts


def test_the_validation_split_is_patient_disjoint_frozen_and_never_annotated(project):
    session = project()
    split = session.split
    assert split.val
    assert not {*split.train} & {*split.val, *split.test}
    assert project(seed=99).split == split
    held = next(v for v in session.cohort.volumes.values() if v.patient in split.val)
    with pytest.raises(UnknownItem, match="never annotated"):
        project().draw(SliceId(held.name, 0), line())


def test_another_cohort_is_refused_and_the_project_left_alone(project, tmp_path):
    from alnb.data.phantom import phantom

    session = project()
    session.close()
    before = (tmp_path / "project" / "journal.db").read_bytes()
    with pytest.raises(BadInput, match="other images"):
        project(cohort=phantom(5, size=48, slices=(3, 4)))
    assert (tmp_path / "project" / "journal.db").read_bytes() == before
    assert project().cohort.name == "phantom"


def test_labels_and_slices_outside_the_project_are_refused(project):
    session = project()
    session.ask(1)
    with pytest.raises(IllegalEvent, match="not a class"):
        session.draw(session.queue[0], line(label=4))
    with pytest.raises(UnknownItem):
        session.draw(SliceId("nobody/ED", 0), line())
    with pytest.raises(UnknownItem):
        session.draw(SliceId(session.queue[0].volume, 99), line())


def test_a_stroke_that_reached_no_disk_is_not_in_the_state(project, monkeypatch):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    heard = []
    session.subscribe(heard.append)

    def full(_):
        raise JournalError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(session.journal, "append", full)
        with pytest.raises(JournalError):
            session.draw(slice_id, line(name="lost?"))
    assert session.draft(slice_id).strokes == ()
    assert heard == []
    assert session.draw(slice_id, line(name="lost?"))
    assert [e.event.stroke.id for e in heard] == ["lost?"]


def test_a_listener_that_fails_undoes_no_commit_and_unsubscribing_ends_it(project, caplog):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    heard = []
    session.subscribe(lambda entry: 1 / 0)
    end = session.subscribe(heard.append)
    session.draw(slice_id, line())
    end()
    session.draw(slice_id, line())
    assert len(session.draft(slice_id).strokes) == 2
    assert [type(e.event) for e in heard] == [StrokeAdded]
    assert "a listener failed" in caplog.text


def test_a_folder_that_cannot_be_made_is_said_in_words(project, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be made"):
        project(folder=tmp_path / "file" / "project")


def test_a_folder_that_cannot_be_written_is_said_in_words(project, tmp_path, monkeypatch):
    opening = os.open

    def denied(path, flags, *rest, **options):
        # root may write everywhere, so the refusal is made here
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) and "locked" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opening(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(JournalError, match=r"cannot be written \(Permission denied\)"):
        project(folder=tmp_path / "locked")


def test_many_threads_draw_without_loss_or_doubling(project):
    session = project()
    session.ask(2)
    slices = session.queue

    def work(number):
        for i in range(20):
            session.draw(slices[i % 2], line(name=f"{number}-{i}"))
            session.draw(slices[i % 2], line(name=f"{number}-{i}"))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [s.id for slice_id in slices for s in project().draft(slice_id).strokes]
    assert len(ids) == len(set(ids)) == 80


def test_a_strategy_that_breaks_its_contract_is_named(project):
    class Twice:
        def select(self, snapshot, n, *, rng):
            return Selection(np.zeros(n, dtype=np.int64), np.zeros(n))

    session = project(strategy=Twice())
    with pytest.raises(BadSelection, match="check_strategy"):
        session.ask(2)
    assert session.round is None


def test_the_same_seed_asks_the_same_slices(project, tmp_path):
    first = project(seed=3).ask(6).query
    assert project(seed=3, folder=tmp_path / "other").ask(6).query == first
    assert project(seed=4, folder=tmp_path / "third").ask(6).query != first


def test_an_answer_of_the_wrong_size_is_refused(project):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    with pytest.raises(BadInput, match="own size"):
        session.annotate(
            Annotation(slice_id, Mask("0" * 64), "x"), {"0" * 64: np.zeros((2, 2), np.uint8)}
        )
    assert session.status(slice_id) == "open"


def test_a_slice_answered_by_choice_joins_the_query(project):
    session = project()
    session.ask(1)
    other = next(i for i in session.pool.ids if i not in session.queue)
    session.draw(other, line())
    session.submit(other)
    assert session.queue[-1] == other
    assert session.round.origin[-1] == "person"
    assert session.state.counts[other] == 1


@pytest.mark.parametrize("kind", ["scribble", "simulated", "mask"])
def test_the_oracle_answers_with_what_the_cohort_holds(project, hearts, kind):
    session = project()
    session.ask(3)
    oracle = SimulatedOracle(hearts, kind)
    for slice_id in session.pending:
        session.annotate(*oracle.annotate(slice_id))
        truth, taught = hearts.reference(slice_id), session.target(slice_id)
        drawn = taught != IGNORE
        assert drawn.any()
        if kind == "mask":
            np.testing.assert_array_equal(taught, truth)
        if kind == "scribble":
            np.testing.assert_array_equal(taught, hearts.scribble(slice_id))
        np.testing.assert_array_equal(taught[drawn], truth[drawn])


def test_two_annotators_differing_pixels_teach_nothing(project):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    session.draw(slice_id, line(1))
    session.submit(slice_id)
    session = project(annotator="you")
    session.draw(slice_id, line(2, 2.0))
    session.submit(slice_id)
    blank = np.full(session.cohort.shape(slice_id), IGNORE, np.uint8)
    mine, yours = rasterize([line(1)], blank), rasterize([line(2, 2.0)], blank)
    both = (mine != IGNORE) & (yours != IGNORE)
    taught = session.target(slice_id)
    assert both.any()
    assert (taught[both] == IGNORE).all()
    np.testing.assert_array_equal(taught[~both], np.minimum(mine, yours)[~both])


def test_opening_without_anything_labelled_cannot_train_and_says_why(project):
    session = project()
    with pytest.raises(ColdStart, match="submit"):
        session.fit()
    assert session.state.fits == ()


def test_sessions_can_be_used_as_contexts(project):
    with project() as session:
        session.ask(1)
    with pytest.raises(JournalError, match="was closed"):
        session.ask(1)
