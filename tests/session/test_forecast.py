import math

import pytest
import torch

from alnb.models import estimate as estimates
from alnb.models.fit import Recipe, _Run
from alnb.models.learners import SingleNet
from alnb.session.oracle import SimulatedOracle
from tests.toys import ClassMeans


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    monkeypatch.setattr(estimates, "_known", {})


def answered(session, n=4):
    session.ask(n)
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in session.pending:
        session.annotate(*oracle.annotate(slice_id))
    return session


def tiny(**changes):
    small = {"size": 32, "channels": (4, 8, 16), "residual_units": 0, "device": "cpu"}
    return SingleNet(**(small | {"steps": 4, "recipe": Recipe(batch=4)} | changes))


def test_time_and_memory_are_said_before_the_first_step(project):
    session = answered(project(learner=tiny()))
    heard = []

    def watcher(what):
        job = session.job
        if what == "progress" and job is not None and job.progress is None:
            heard.append(session.trainer.forecast)

    session.watch(watcher)
    session.fit()
    assert heard[0].startswith("About ")
    assert "CPU core" in heard[0]
    assert "GB; labels are safe if you stop." in heard[0]
    assert session.problems == ()


def test_too_little_memory_is_a_problem_before_it_begins(project, monkeypatch):
    session = answered(project(learner=tiny()))
    begun = []

    def watcher(what):
        if what == "problem":
            begun.append(session.job.progress)

    session.watch(watcher)
    monkeypatch.setattr(estimates, "free_bytes", lambda device: 1000)
    session.fit()
    assert begun == [None], "the person hears of it before the first step"
    assert "needs about 0.1 GB" in session.problems[0]
    assert "Labels are safe" in session.problems[0]


def test_a_trial_changes_nothing_of_what_is_learnt(project, tmp_path, monkeypatch):
    states = []
    for folder in ("with", "without"):
        session = answered(project(learner=tiny(), folder=tmp_path / folder))
        if folder == "without":
            monkeypatch.setattr(estimates, "estimate", lambda *args, **rest: None)
        session.fit()
        states.append(session.trainer.learner().state_dict())
        assert bool(session.trainer.forecast) == (folder == "with")
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_learner_that_cannot_be_tried_is_trained_all_the_same(project, monkeypatch):
    def broken(*args, **rest):
        raise RuntimeError("no clock")

    monkeypatch.setattr(estimates, "estimate", broken)
    session = answered(project(learner=ClassMeans()))
    assert session.fit().steps == 1
    assert session.trainer.forecast == ""


def test_a_halved_batch_is_told_to_the_person(project, monkeypatch):
    """In the report that views show, and in the journal for whoever opens the project later."""
    real, failed = _Run._step, []

    def step(self, done):
        if self.batch == 4:
            failed.append(done)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.10 GiB")
        return real(self, done)

    monkeypatch.setattr(_Run, "_step", step)
    session = answered(project(learner=tiny()))
    report = session.fit()
    words = "Out of memory with 4 items per step; went on with 2."
    assert report.steps == 4
    assert words in report.notes
    assert failed
    again = project(learner=tiny())
    assert words in again.last_fit.report.notes
    assert math.isfinite(again.last_fit.report.loss)
