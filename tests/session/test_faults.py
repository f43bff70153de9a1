"""What breaks around a session, and what must be left whole when it does."""

import gc
import sqlite3
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from alnb.data.cohort import Cohort, Split
from alnb.errors import BadInput, ColdStart, IllegalEvent, JournalError
from alnb.records import IGNORE, Annotation, Mask, Selection, SliceId, Stroke
from alnb.session import session as session_module
from alnb.session.jobs import in_words
from alnb.session.oracle import SimulatedOracle
from alnb.session.session import Session
from alnb.store.events import FitFinished, SliceSkipped, StrokeAdded
from tests.toys import ClassMeans


def line(label=1, offset=0.0, name=""):
    return Stroke(((10.0 + offset, 10.0), (20.0 + offset, 30.0)), label, 2.0, id=name)


def answered(session, n=4):
    session.ask(n)
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in session.pending:
        session.annotate(*oracle.annotate(slice_id))
    return session


def tamper(folder, statement):
    db = sqlite3.connect(folder / "journal.db")
    triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type='trigger'").fetchall()
    for name, _ in triggers:
        db.execute(f"DROP TRIGGER {name}")
    db.execute(statement)
    for _, sql in triggers:
        db.execute(sql)
    db.commit()
    db.close()


# ---------------------------------------------------------------- damaged records


def drawn_and_damaged(project, tmp_path, kind):
    """A project of two strokes, one of them undone, with the last record of `kind` damaged."""
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    session.draw(slice_id, line(name="a"))
    session.draw(slice_id, line(name="b"))
    session.undo(slice_id)
    session.close()
    where = f"(SELECT max(seq) FROM entries WHERE kind = '{kind}')"
    tamper(tmp_path / "project", f"UPDATE entries SET body = body || ' ' WHERE seq = {where}")
    return slice_id


def test_after_damage_to_the_last_record_drawing_goes_on_and_survives_reopening(project, tmp_path):
    slice_id = drawn_and_damaged(project, tmp_path, "StrokeUndone")
    session = project()
    assert [p.split()[2] for p in session.problems] == ["fails"]
    session.draw(slice_id, line(name="c"))
    assert [s.id for s in project().draft(slice_id).strokes] == ["a", "b", "c"]


def test_a_record_that_cannot_follow_a_damaged_one_is_set_aside_by_name(project, tmp_path):
    slice_id = drawn_and_damaged(project, tmp_path, "StrokeAdded")
    tamper(tmp_path / "project", "UPDATE entries SET body = body || ' ' WHERE kind = 'StrokeAdded'")
    session = project()
    assert "no longer follows" in session.problems[-1]
    assert len(session.problems) == 3
    assert session.draft(slice_id).strokes == ()
    assert session.draw(slice_id, line(name="c"))


def test_without_its_first_record_a_project_is_refused_and_left_alone(project, tmp_path):
    drawn_and_damaged(project, tmp_path, "SessionCreated")
    before = (tmp_path / "project" / "journal.db").read_bytes()
    for _ in range(2):
        with pytest.raises(JournalError, match="project began is damaged"):
            project()
    assert (tmp_path / "project" / "journal.db").read_bytes() == before


# ---------------------------------------------------------------- acts whose fate is unknown


class Unsure:
    """Lets a journal take entries and then report that it did not."""

    def __init__(self, session, monkeypatch):
        append = session.journal.append

        def failing(entries):
            monkeypatch.setattr(session.journal, "append", append)
            append(entries)
            raise JournalError("the disk went away")

        monkeypatch.setattr(session.journal, "append", failing)


def test_an_act_that_reached_the_disk_unheard_is_not_done_twice_when_repeated(project, monkeypatch):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    heard = []
    session.subscribe(lambda entry: heard.append(entry.seq))
    acts = [
        lambda: session.draw(slice_id, line(name="a")),
        lambda: session.draw(slice_id, line(2, 3.0, name="b")),
        lambda: session.undo(slice_id),
        lambda: session.redo(slice_id),
        lambda: session.submit(slice_id, "mask", seconds=7.0),
        lambda: session.draw(slice_id, line(3, 6.0, name="c")),
        lambda: session.submit(slice_id, "mask", seconds=2.0),
        lambda: session.ask(2),
    ]
    for act in acts:
        Unsure(session, monkeypatch)
        with pytest.raises(JournalError):
            act()
        act()
    assert len(session.state.rounds) == 2
    assert [s.id for s in session.draft(slice_id).strokes] == []
    assert session.state.seconds == 9.0
    assert heard == list(range(heard[0], session.state.seq + 1))
    assert project().state == session.state


def test_a_submission_repeated_later_counts_its_time_once(project, monkeypatch):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    session.draw(slice_id, line())
    Unsure(session, monkeypatch)
    with pytest.raises(JournalError):
        session.submit(slice_id, seconds=7.0)
    session.submit(slice_id, seconds=9.5)
    assert session.state.seconds == 7.0


def test_only_a_repeat_is_swallowed_not_the_next_act_of_its_kind(project, monkeypatch):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    for name in "abcd":
        session.draw(slice_id, line(name=name))
    Unsure(session, monkeypatch)
    with pytest.raises(JournalError):
        session.undo(slice_id)
    session.draw(slice_id, line(name="e"))
    session.undo(slice_id)
    session.undo(slice_id)
    assert [s.id for s in session.draft(slice_id).strokes] == ["a", "b"]


# ---------------------------------------------------------------- handing a project over


def test_a_forgotten_session_gives_its_project_back(hearts, tmp_path):
    Session.open(tmp_path / "p", hearts).ask(1)
    gc.collect()
    with Session.open(tmp_path / "p", hearts) as again:
        assert again.round is not None


def test_opening_again_during_a_training_keeps_what_it_learnt_and_every_stroke(project):
    session = answered(project(learner=ClassMeans(steps=1000, pause=0.01)))
    job = session.fit_in_background()
    while job.progress is None:
        time.sleep(0.001)
    session.draw(session.queue[0], line(name="late"))
    again = project()
    assert not job.running
    assert again.state.fits[0].report.stopped
    assert again.state.checkpoint is not None
    assert [s.id for s in again.draft(session.queue[0]).strokes] == ["late"]


class Hanging(ClassMeans):
    release = threading.Event()

    def fit(self, train, **rest):
        self.release.wait(10)
        return super().fit(train, **rest)


def test_a_training_that_does_not_stop_keeps_no_project_open(project, monkeypatch, caplog):
    monkeypatch.setattr(session_module, "STOP_SECONDS", 0.05)
    session = answered(project(learner=Hanging()))
    job = session.fit_in_background()
    again = project()
    assert "project was closed" in again.state.fits[0].error
    blobs = sorted(again.blobs.folder.iterdir())
    Hanging.release.set()
    with pytest.raises(JournalError, match="was closed"):
        job.result(10)
    assert sorted(again.blobs.folder.iterdir()) == blobs
    assert again.state.fits[0].checkpoint is None
    assert "background work failed" not in caplog.text


# ---------------------------------------------------------------- threads and their locks


def test_nothing_is_committed_or_told_under_the_lock_of_the_learner(project, monkeypatch):
    session = answered(project())
    lock = session.trainer._swapping
    crossed = []
    commit, say = session._commit, session.say

    def watched_commit(*events):
        crossed.append(lock._is_owned())
        commit(*events)

    def watched_say(what):
        crossed.append(lock._is_owned())
        say(what)

    monkeypatch.setattr(session, "_commit", watched_commit)
    monkeypatch.setattr(session, "say", watched_say)
    session.fit()
    answered(session, 2)
    session.opened(session.queue[0])
    session.fit()
    session.evaluate("test")
    assert len(crossed) > 10
    assert not any(crossed)


def test_a_listener_may_ask_for_a_prediction_while_a_training_ends(project):
    session = answered(project())
    session.fit()
    other = next(i for i in session.pool.ids if i not in session.queue)
    session.subscribe(
        lambda e: session.prediction(other) if isinstance(e.event, StrokeAdded) else None
    )
    job = session.fit_in_background()
    for _ in range(20):
        session.draw(other, line())
    assert job.result(10).steps == 1
    assert len(session.draft(other).strokes) == 20


def test_images_are_read_for_a_training_while_drawing_goes_on(project, monkeypatch):
    session = answered(project())
    slow, reading, read = threading.Event(), threading.Event(), Cohort.slice_image

    def slice_image(self, slice_id):
        if threading.current_thread().name == "alnb-fit":
            reading.set()
            assert slow.wait(10)
        return read(self, slice_id)

    monkeypatch.setattr(Cohort, "slice_image", slice_image)
    job = session.fit_in_background()
    assert reading.wait(10)
    assert session.draw(session.queue[0], line())
    slow.set()
    job.result(10)


def test_a_query_chosen_while_a_training_ends_is_of_one_model(project):
    """The strategy looks at its snapshot before and after a training ends, and sees no change."""
    seen = []

    class Slow:
        def select(self, snapshot, n, *, rng):
            for _ in range(2):
                seen.append(snapshot.reduce(lambda p: p[0, :, 1].mean((1, 2)), snapshot.candidates))
                seen.append(snapshot.labelled)
                session.fit()
            return Selection(snapshot.candidates[:n], np.zeros(n))

    session = answered(project())
    session.fit()
    session.draw(session.queue[0], line(3))
    session.submit(session.queue[0])
    session.ask(2, strategy=Slow())
    np.testing.assert_array_equal(seen[0], seen[2])
    np.testing.assert_array_equal(seen[1], seen[3])
    assert len(session.state.fits) == 3


def test_what_was_shown_and_its_model_are_journalled_together(project, monkeypatch):
    session = answered(project())
    session.fit()
    first = session.state.checkpoint
    session.ask(1)
    (slice_id,) = session.queue
    put = session.blobs.put_array

    def put_while_a_training_ends(array):
        session.draw(session.labelled[0], line(3))
        session.submit(session.labelled[0])
        session.fit()
        return put(array)

    with monkeypatch.context() as patch:
        patch.setattr(session.blobs, "put_array", put_while_a_training_ends)
        shown, badge = session.opened(slice_id)
    assert session.state.checkpoint != first
    draft = session.draft(slice_id)
    assert draft.checkpoint == first
    np.testing.assert_array_equal(session.label_map(draft.proposal), shown)
    assert badge == session.state.fits[0].badge


def test_a_prediction_cannot_be_changed_by_who_looks_at_it(project):
    session = answered(project())
    session.fit()
    shown, _ = session.prediction(session.queue[0])
    with pytest.raises(ValueError, match="read-only"):
        shown[:] = 0


def test_a_listener_that_waits_for_a_training_is_refused_instead_of_waiting_for_ever(
    project, caplog
):
    session = project()
    session.ask(1)
    session.subscribe(lambda e: session.fit())
    session.draw(session.queue[0], line())
    assert "fit_in_background" in caplog.text


def test_what_a_listener_commits_is_told_after_what_it_heard(project):
    session = project()
    session.ask(2)
    first, second = session.queue

    def skip_the_other(entry):
        if isinstance(entry.event, StrokeAdded):
            session.skip(second)

    heard = []
    session.subscribe(skip_the_other)
    session.subscribe(heard.append)
    session.draw(first, line())
    assert [type(e.event) for e in heard] == [StrokeAdded, SliceSkipped]
    assert [e.seq for e in heard] == [session.state.seq - 1, session.state.seq]


def test_interrupting_the_wait_for_a_training_stops_it(project, monkeypatch):
    session = answered(project(learner=ClassMeans(steps=1000, pause=0.01)))
    from alnb.session.jobs import Job

    def interrupted(self, timeout=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Job, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.fit()
    assert session.job.result(10).stopped


# ---------------------------------------------------------------- models


def twice_fitted(project, **changes):
    session = answered(project(**changes))
    session.fit()
    shown = session.prediction(session.queue[0])[0]
    answered(session, 3)
    session.fit()
    return session, shown


def ready(session):
    """Wait until a resumed session has loaded its model, or said why not."""
    told = threading.Event()
    session.watch(lambda what: told.set())
    if session.prediction(session.queue[0]) is None:
        assert told.wait(10)
        session.trainer._loading.join(10)


def test_a_damaged_model_gives_way_to_the_one_before_it_in_words(project):
    session, shown = twice_fitted(project)
    slice_id = session.state.rounds[0].query[0]
    session.close()
    path = session.blobs._path(session.state.checkpoint)
    path.write_bytes(path.read_bytes()[:-9])
    again = project(learner=ClassMeans())
    ready(again)
    (problem,) = again.problems
    assert "training 2 cannot be used; the one before it is used" in problem
    labels, badge = again.prediction(slice_id)
    np.testing.assert_array_equal(labels, shown)
    assert "round 1" in badge
    again.opened(slice_id)
    assert again.draft(slice_id).checkpoint == again.state.fits[0].checkpoint
    again.fit()
    assert "round 2" in again.prediction(slice_id)[1]


def test_with_every_model_lost_drawing_and_training_begin_anew(project):
    session = answered(project())
    session.fit()
    session.close()
    for blob in session.blobs.folder.glob(f"{session.state.checkpoint}*"):
        blob.unlink()
    again = project(learner=ClassMeans())
    ready(again)
    assert again.prediction(again.queue[0]) is None
    assert again.snapshot().learner is None
    with pytest.raises(ColdStart):
        again.evaluate("val")
    assert again.draw(again.queue[0], line())
    again.fit()
    assert again.prediction(again.queue[0]) is not None


class OtherShape(ClassMeans):
    def load_state_dict(self, state):
        raise BadInput("This checkpoint was made with channels=8, this learner has channels=4.")


def test_a_learner_of_another_shape_is_named_and_drawing_goes_on(project):
    answered(project()).fit()
    again = project(learner=OtherShape())
    ready(again)
    assert "channels=8" in again.problems[-1]
    assert again.prediction(again.queue[0]) is None
    again.opened(again.queue[0])
    assert again.draw(again.queue[0], line())
    again.submit(again.queue[0])
    with pytest.raises(BadInput, match="channels=4"):
        again.fit()
    assert "channels=8" in again.state.fits[-1].error
    with pytest.raises(BadInput, match="channels=4"):
        again.ask(1)
    assert project(learner=ClassMeans()).ask(1)


class StopsAtOnce(ClassMeans):
    """Learns nothing when it is stopped before its first step, as SingleNet does."""

    def fit(self, train, *, on_step=None, stopped=lambda: False, **rest):
        from alnb.records import FitReport

        while not stopped():
            time.sleep(0.001)
        return FitReport(0, float("nan"), 0.0, stopped=True)


@pytest.mark.parametrize("before", [False, True])
def test_a_training_stopped_before_it_learnt_anything_leaves_no_new_model(project, before):
    session = answered(project())
    if before:
        session.fit()
        answered(session, 2)
    known = session.last_fit
    session.trainer._learner = StopsAtOnce(means=session.trainer.learner().means)
    job = session.fit_in_background()
    job.stop()
    assert job.result(10).stopped
    assert job.error is None
    assert "before it learnt anything" in session.state.fits[-1].error
    assert session.last_fit == known


class Diverges(ClassMeans):
    def fit(self, train, **rest):
        report = super().fit(train, **rest)
        self.means = self.means * torch.nan
        return report


def test_weights_that_are_not_numbers_never_replace_a_model(project):
    session = answered(project())
    session.fit()
    checkpoint = session.state.checkpoint
    session.trainer._learner = Diverges(means=session.trainer.learner().means)
    with pytest.raises(FloatingPointError):
        session.fit()
    assert "diverged" in session.state.fits[-1].error
    assert session.state.checkpoint == checkpoint


def test_a_full_disk_at_the_checkpoint_ends_the_training_in_words_and_strokes_go_on(
    project, monkeypatch, tmp_path
):
    from alnb.store import blobs

    session = answered(project())

    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(blobs, "atomic_write", full)
        with pytest.raises(JournalError, match="No space left"):
            session.fit()
        assert session.draw(session.queue[0], line(name="a"))
    words = session.state.fits[-1].error
    assert "No space left" in words
    assert str(tmp_path) not in words
    session.fit()
    assert session.state.checkpoint is not None


def test_a_model_that_cannot_be_measured_is_kept_and_the_reason_said(project, monkeypatch):
    session = answered(project())

    def broken(*_):
        raise BadInput("The reference of patient003 is cut off.")

    monkeypatch.setattr(session.trainer, "_measure", broken)
    with pytest.raises(BadInput):
        session.fit()
    assert session.state.checkpoint is not None
    assert session.state.fits[0].error.startswith("The model is trained and kept, but")


def test_a_val_split_without_masks_gives_no_point_instead_of_an_empty_one(project, hearts):
    bare = {
        name: replace(volume, read_reference=None)
        if volume.patient == hearts.patients[0]
        else volume
        for name, volume in hearts.volumes.items()
    }
    cohort = Cohort("bare", bare, hearts.classes)
    session = project(cohort=cohort, split=Split(hearts.patients[1:], hearts.patients[:1], ()))
    answered(session)
    session.fit()
    assert session.round.metrics == ()
    with pytest.raises(BadInput, match="reference masks"):
        session.evaluate("val")


def test_a_cohort_of_images_alone_trains_on_everybody(project, hearts):
    bare = {
        name: replace(volume, read_reference=None, read_scribble=None)
        for name, volume in hearts.volumes.items()
    }
    session = project(cohort=Cohort("images", bare, hearts.classes))
    assert session.split == Split(hearts.patients)
    for _ in range(2):
        session.ask(2)
        for slice_id in session.pending:
            session.draw(slice_id, line(1))
            session.draw(slice_id, line(0, 15.0))
            session.submit(slice_id)
        session.fit()
    assert [m.split for m in session.round.metrics] == ["new"]


# ---------------------------------------------------------------- what may not come in


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_a_time_that_cannot_be_is_refused(project, seconds):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    session.draw(slice_id, line())
    with pytest.raises(BadInput, match="active time"):
        session.submit(slice_id, seconds=seconds)
    with pytest.raises(BadInput, match="active time"):
        session.skip(slice_id, seconds=seconds)
    assert session.state.seconds == 0


def test_an_unknown_kind_of_answer_is_refused(project):
    session = project()
    session.ask(1)
    session.draw(session.queue[0], line())
    with pytest.raises(BadInput, match="no kind of answer"):
        session.submit(session.queue[0], "masks")


@pytest.mark.parametrize(("dtype", "code"), [(np.uint8, 4), (np.int64, 300), (np.int64, -1)])
def test_a_mask_with_a_code_that_is_no_class_is_refused(project, dtype, code):
    import hashlib

    from alnb.store.blobs import npy

    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    mask = np.zeros(session.cohort.shape(slice_id), dtype)
    mask[3, 3] = code
    sha = hashlib.sha256(npy(mask.astype(np.uint8))).hexdigest()
    with pytest.raises(BadInput, match=f"holds {code}"):
        session.annotate(Annotation(slice_id, Mask(sha), "x"), {sha: mask})
    assert session.status(slice_id) == "open"


def test_an_item_cannot_join_a_query_twice(project):
    session = project()
    session.ask(1)
    other = next(i for i in session.pool.ids if i not in session.queue)
    with pytest.raises(IllegalEvent, match="each once"):
        session.amend(add=[other, other])
    assert session.state.counts.get(other, 0) == 0


def test_drawing_on_a_skipped_slice_opens_it_again(project):
    session = project()
    session.ask(1)
    (slice_id,) = session.queue
    session.skip(slice_id)
    assert session.pending == ()
    session.draw(slice_id, line())
    assert session.status(slice_id) == "open"
    assert project().pending == (slice_id,)


def test_a_volume_with_a_skipped_slice_counts_as_labelled_when_the_rest_is(project):
    session = project(unit="volume")
    session.ask(1)
    first, *rest = session.queue
    session.skip(first)
    for slice_id in rest:
        session.draw(slice_id, line())
        session.submit(slice_id)
    row = session.pool.rows(session.round.query)
    assert session.snapshot().labelled.tolist() == row.tolist()
    assert row[0] not in session.snapshot().candidates


def test_a_volume_with_one_skipped_slice_can_still_be_asked(project):
    session = project(unit="volume")
    session.ask(1)
    session.skip(session.queue[0])
    assert session.pool.rows(session.round.query)[0] in session.snapshot().candidates


# ---------------------------------------------------------------- what may not get out

MARK = "ZZPHIZZ"


def test_nothing_that_names_a_patient_leaves_with_an_export(hearts, tmp_path):
    marked = {
        name: replace(v, notes=(f"{MARK} note",), metadata={"descrip": MARK, "PatientName": MARK})
        for name, v in hearts.volumes.items()
    }
    cohort = Cohort("phantom", marked, hearts.classes, problems=(f"{MARK} was left out",))
    folder = tmp_path / MARK / "project"
    failing = ClassMeans(fails=OSError(5, "Input/output error", f"/home/{MARK} Doe/scan.nii.gz"))
    with Session.open(folder, cohort, learner=failing) as session:
        answered(session, 3)
        session.ask(1)
        session.skip(session.queue[0], f"{MARK} moved")
        with pytest.raises(OSError, match="Input"):
            session.fit()
        session.trainer._learner = ClassMeans()
        session.fit()
        session.export(tmp_path / "out")
    import gzip

    files = sorted((tmp_path / "out").iterdir())
    assert len(files) >= 3
    for path in files:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert MARK.encode() not in content, path.name
        assert b"/home" not in content, path.name
    assert b"scan.nii.gz" in (tmp_path / "out" / "provenance.json").read_bytes()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("cannot open /home/jane/data/p1.h5", "cannot open p1.h5."),
        ("[Errno 5] I/O error: '/home/Jane Doe/p 1.h5'", "[Errno 5] I/O error: 'p 1.h5'."),
        ("bad C:\\Users\\Jane\\p1.nii", "bad p1.nii."),
        ("patient001/ED has 3/4/5 slices", "patient001/ED has 3/4/5 slices."),
        ("is it done?", "is it done?"),
    ],
)
def test_words_about_a_failure_name_files_without_their_folders(text, kept):
    assert in_words(ValueError(text)) == f"Training stopped: {kept} Labels are safe."


def test_exports_of_names_that_meet_hold_every_volume(hearts, tmp_path):
    from alnb.store.export import export_label_maps

    (first, second, *_) = hearts.volumes.values()
    volumes = {name: replace(v, name=name) for name, v in (("a/b", first), ("a_b", second))}
    maps = {name: {0: np.full(v.shape[1:], IGNORE, np.uint8)} for name, v in volumes.items()}
    written = export_label_maps(tmp_path, Cohort("c", volumes, hearts.classes), maps, {})
    assert len(set(written)) == 2


def test_slices_nobody_knows_are_refused_everywhere(project):
    session = project()
    session.ask(1)
    nowhere = SliceId("nobody/ED", 0)
    for act in (session.opened, session.clear, session.submit, session.skip):
        with pytest.raises(KeyError):
            act(nowhere)
    assert not session.undo(nowhere)
    assert not session.redo(nowhere)


def test_a_training_that_ended_well_is_told_once(project):
    session = answered(project())
    ends = []
    session.subscribe(lambda e: ends.append(e) if isinstance(e.event, FitFinished) else None)
    session.fit()
    assert len(ends) == 1
