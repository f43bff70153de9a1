import shutil
import threading
import time

import numpy as np
import pytest

from alnb.errors import BadInput, IllegalEvent
from alnb.records import IGNORE, Stroke
from alnb.session.oracle import SimulatedOracle
from tests.toys import ClassMeans


def answered(session, n=4):
    session.ask(n)
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in session.pending:
        session.annotate(*oracle.annotate(slice_id))
    return session


def test_a_fit_leaves_weights_a_curve_point_and_a_prediction_that_survive_reopening(project):
    session = answered(project())
    assert session.prediction(session.queue[0]) is None
    report = session.fit()
    assert report.steps == 1
    (metrics,) = session.round.metrics
    assert metrics.split == "val"
    assert metrics.labelled == 4
    shown, badge = session.prediction(session.queue[0])
    assert "round 1" in badge
    again = project(learner=ClassMeans())
    ready = threading.Event()
    again.watch(lambda what: ready.set() if what == "model" else None)
    assert again.round.metrics == (metrics,)
    if again.prediction(again.queue[0]) is None:
        assert ready.wait(10)
    np.testing.assert_array_equal(again.prediction(again.queue[0])[0], shown)


def test_the_measured_dice_is_that_of_the_predictions_on_the_validation_volumes(project):
    session = answered(project())
    session.fit()
    per_class = []
    for volume in session.cohort.volumes.values():
        if volume.patient in session.split.val:
            truth = volume.reference()
            images = volume.image()
            means = session.trainer.learner().means.numpy()
            guess = np.abs(images[..., None] - means).argmin(-1)
            dice = []
            for c in range(1, 4):
                p, g = guess == c, truth == c
                total = p.sum() + g.sum()
                dice.append(2 * (p & g).sum() / total if total else 1.0)
            per_class.append(dice)
    np.testing.assert_allclose(session.round.metrics[0].dice, np.mean(per_class, 0), atol=1e-6)


def test_strokes_flow_while_a_training_runs_and_belong_to_the_next_one(project):
    session = answered(project(learner=ClassMeans(steps=40, pause=0.01)))
    heard = []
    session.watch(heard.append)
    job = session.fit_in_background()
    slice_id = next(i for i in session.pool.ids if i not in session.queue)
    while job.running:
        assert session.draw(slice_id, Stroke(((5.0, 5.0), (9.0, 9.0)), 1))
        time.sleep(0.01)
    job.result(10)
    assert len(session.draft(slice_id).strokes) > 5
    assert session.state.fits[-1].taught == set(session.queue)
    assert heard.count("progress") >= 40


def test_a_training_stops_within_a_step_and_keeps_what_it_learnt(project):
    session = answered(project(learner=ClassMeans(steps=1000, pause=0.01)))
    job = session.fit_in_background()
    while job.progress is None:
        time.sleep(0.01)
    seen = job.progress.step
    job.stop()
    report = job.result(5)
    assert report.stopped
    assert report.steps <= seen + 2
    assert session.state.checkpoint is not None


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (RuntimeError("DefaultCPUAllocator: out of memory: you tried"), "out of memory"),
        (MemoryError(), "out of memory"),
        (ValueError("images are odd\nsecond line"), "images are odd"),
        (SystemExit(3), "3"),
    ],
)
def test_a_training_that_dies_says_so_in_words_and_loses_nothing(project, failure, words):
    session = answered(project(learner=ClassMeans(steps=4, fails=failure)))
    labelled = session.labelled
    job = session.fit_in_background()
    with pytest.raises(type(failure)):
        job.result(10)
    assert words in job.error
    assert "Labels are safe" in job.error
    assert "\n" not in job.error
    assert words in session.state.fits[-1].error
    assert session.labelled == labelled
    session.trainer._learner = ClassMeans()
    session.fit()
    assert session.state.checkpoint is not None


def test_a_failed_training_keeps_the_model_before_it(project):
    session = answered(project())
    session.fit()
    shown = session.prediction(session.queue[0])[0].copy()
    session.trainer._learner.fails = RuntimeError("boom")
    with pytest.raises(RuntimeError):
        session.fit()
    np.testing.assert_array_equal(session.prediction(session.queue[0])[0], shown)
    assert session.last_fit.number == 0


def test_two_trainings_at_once_are_refused(project):
    session = answered(project(learner=ClassMeans(steps=50, pause=0.01)))
    job = session.fit_in_background()
    with pytest.raises(IllegalEvent, match="runs already"):
        session.fit_in_background()
    job.stop()
    job.result(5)


def test_a_training_that_its_kernel_did_not_outlive_is_closed_at_the_next_opening(
    project, tmp_path
):
    session = answered(project(learner=ClassMeans(steps=1000, pause=0.01)))
    session.fit_in_background()
    shutil.copytree(tmp_path / "project", tmp_path / "copy")
    again = project(folder=tmp_path / "copy")
    assert "kernel ended" in again.state.fits[0].error
    again.fit()
    assert again.state.checkpoint is not None


def test_without_reference_masks_new_answers_are_measured_before_they_are_trained_on(
    project, hearts
):
    from alnb.data.cohort import Split

    session = project(split=Split(hearts.patients, (), ()))
    answered(session)
    session.fit()
    assert session.round.metrics == ()
    before = session.trainer.learner().means.clone()
    answered(session, 3)
    fresh = session.pool.rows(session.queue)
    session.fit()
    (metrics,) = session.round.metrics
    assert metrics.split == "new"
    assert metrics.volumes == len(fresh)
    assert not before.equal(session.trainer.learner().means)
    dice = []
    for slice_id in session.queue:
        truth = session.target(slice_id)
        guess = np.abs(session.cohort.slice_image(slice_id)[..., None] - before.numpy()).argmin(-1)
        row = []
        for c in range(1, 4):
            p, g = (guess == c) & (truth != IGNORE), truth == c
            row.append(2 * (p & g).sum() / (p.sum() + g.sum()) if g.any() else np.nan)
        dice.append(row)
    known = [None if np.isnan(m) else m for m in np.nanmean(dice, 0)]
    assert metrics.dice == pytest.approx(known, abs=1e-6)


def test_measuring_a_split_that_does_not_exist_says_what_is_needed(project):
    session = answered(project())
    session.fit()
    with pytest.raises(BadInput, match="reference masks"):
        session.evaluate("train")


def test_repeated_items_weigh_more_in_training(project):
    session = project(keep_labelled=True)
    answered(session, len(session.pool))
    session.ask(2)
    train = session.trainer._train_set(session.state)
    assert sorted(train.weight.tolist())[-3:] == [1, 2, 2]
