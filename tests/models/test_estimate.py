import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from alnb.models import estimate as module
from alnb.models.committee import DeepEnsemble, MCDropout
from alnb.models.dropout import RATES
from alnb.models.estimate import Estimate, estimate, planned_steps, remember
from alnb.models.fit import Recipe
from alnb.models.learners import SingleNet, interactive_steps
from alnb.models.memory import Peak
from alnb.models.poly import Poly
from alnb.models.scratch import dmpls
from alnb.models.svgd_committee import SVGDCommittee
from alnb.models.volume_net import VolumeNet
from alnb.records import FitReport
from alnb.testing.learner import toy_train_set
from tests.toys import ClassMeans


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """Nothing is known of earlier trainings."""
    monkeypatch.setattr(module, "_known", {})


def tiny(**changes):
    small = {"size": 32, "channels": (4, 8, 16), "residual_units": 0, "device": "cpu"}
    return SingleNet(**(small | changes))


def volumes(**changes):
    small = {"size": (8, 32, 32), "channels": (4, 8), "residual_units": 0, "device": "cpu"}
    return VolumeNet(**(small | changes))


def small_dmpls(**changes):
    small = {"size": 32, "channels": (4, 8, 16), "recipe": Poly(batch=4), "device": "cpu"}
    return dmpls(**(small | changes))


def test_the_sentence_says_time_place_memory_and_that_labels_are_safe():
    found = Estimate(400, 125.0, 900_000_000, "3 steps on trial", "1 CPU core")
    assert str(found) == "About 2 min on 1 CPU core, 0.9 GB; labels are safe if you stop."
    assert str(replace(found, seconds=42.4, bytes=None)).startswith("About 42 s on 1 CPU core;")
    assert str(replace(found, seconds=7000.0)).startswith("About 1.9 h")
    assert str(replace(found, seconds=math.nan)).startswith("An unknown time")


def test_too_little_memory_is_a_warning_with_a_way_out():
    found = Estimate(400, 125.0, 3_200_000_000, "", "1 CPU core", free=1_100_000_000)
    assert "needs about 3.2 GB" in found.shortage
    assert "1.1 GB are free" in found.shortage
    assert "smaller" in found.shortage
    assert not replace(found, free=3_300_000_000).shortage
    assert not replace(found, free=None).shortage


@pytest.mark.parametrize(
    ("learner", "steps"),
    [
        (tiny(steps=40), 40),
        (tiny(), interactive_steps(7)),
        (DeepEnsemble(3, tiny(steps=40)), 120),
        (DeepEnsemble(2, MCDropout(3, tiny(steps=5, dropout=RATES))), 10),
        (small_dmpls(steps=9), 9),
        (small_dmpls(steps=lambda slices: 3 * slices), 21),
        (SVGDCommittee(3, tiny(steps=40)), 40),  # all members take each of them together
        (volumes(steps=11), 11),
        (DeepEnsemble(2, volumes(steps=11)), 22),
        (SVGDCommittee(2, volumes(steps=11)), 11),
        (ClassMeans(), None),
    ],
)
def test_steps_are_those_that_a_fit_of_so_many_slices_takes(learner, steps):
    assert planned_steps(learner, 7) == steps


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny(steps=40),
        lambda: DeepEnsemble(2, tiny(steps=20)),
        lambda: DeepEnsemble(2, tiny(steps=20), engine="grouped"),
        lambda: SVGDCommittee(2, tiny(steps=40)),
        lambda: small_dmpls(steps=40),
        lambda: ClassMeans(steps=40, pause=0.001),
    ],
)
def test_a_trial_gives_numbers_and_leaves_the_learner_as_it_was(make):
    learner, before = make(), torch.get_rng_state()
    found = estimate(learner, toy_train_set(6))
    assert found.steps == 40
    assert 0 < found.seconds < 600
    assert "trial" in found.how
    assert found.place == "1 CPU core" or found.place.endswith("CPU cores")
    assert repr(learner) == repr(make())
    if not isinstance(learner, ClassMeans):
        with pytest.raises(RuntimeError, match="learnt nothing"):
            next(iter(learner.probs([torch.zeros(1, 1, 32, 32)])))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: SVGDCommittee(2, net)])
def test_a_training_of_volumes_is_foretold_like_one_of_slices(wrap):
    slices = toy_train_set(6)
    train = replace(
        slices,
        images=tuple(np.stack([image] * 8) for image in slices.images),
        targets=tuple(np.stack([target] * 8) for target in slices.targets),
    )
    learner = wrap(volumes(steps=2, recipe=Recipe(batch=3)))
    found = estimate(learner, train)
    with Peak() as mode:
        learner.fit(train, rng=np.random.default_rng(0))
    assert found.steps == 2
    # four of the six volumes stand for all, and the others' stretched copies are a guess
    assert found.bytes / module.MARGIN == pytest.approx(mode.peak, rel=0.3)


@pytest.mark.parametrize("batch", [3, 8])
def test_memory_extrapolated_from_small_batches_is_that_of_the_real_one(batch):
    """Against the peak of a real fit, margin aside; small batches alone are far below it."""
    learner = tiny(size=64, steps=2, recipe=Recipe(batch=batch))
    found = estimate(learner, toy_train_set(4))
    with Peak() as mode:
        learner.fit(toy_train_set(4), rng=np.random.default_rng(0))
    assert found.bytes / module.MARGIN == pytest.approx(mode.peak, rel=0.15)


def test_the_second_estimate_runs_nothing_and_follows_the_training_before(monkeypatch):
    learner, train = tiny(steps=40), toy_train_set(6)
    estimate(learner, train)
    monkeypatch.setattr(SingleNet, "fit", None)
    remember(learner, train, FitReport(40, 0.1, 80.0))
    found = estimate(learner, train)
    assert found.seconds == pytest.approx(80, rel=0.05)
    assert "training before" in found.how
    remember(learner, train, FitReport(0, math.nan, 5.0, stopped=True))
    again = estimate(learner, train)
    assert replace(again, free=None) == replace(found, free=None)


def test_other_settings_are_tried_anew():
    train = toy_train_set(4)
    estimate(tiny(steps=40), train)
    estimate(tiny(steps=40, recipe=Recipe(batch=2)), train)
    assert len(module._known) == 2


def test_where_memory_is_short_nothing_large_is_tried(monkeypatch):
    tried = []
    real = SingleNet.fit

    def fit(self, train, **rest):
        tried.append(self.recipe.batch)
        return real(self, train, **rest)

    monkeypatch.setattr(SingleNet, "fit", fit)
    monkeypatch.setattr(module, "free_bytes", lambda device: 1000)
    found = estimate(tiny(steps=40), toy_train_set())
    assert tried == [1, 2]
    assert found.steps == 40
    assert math.isnan(found.seconds)
    assert "free" in found.shortage
    monkeypatch.setattr(module, "free_bytes", lambda device: 2**40)
    assert math.isfinite(estimate(tiny(steps=40), toy_train_set()).seconds), "tried again"


def test_a_trial_that_is_stopped_says_nothing():
    assert estimate(ClassMeans(steps=5), toy_train_set(), stopped=lambda: True) is not None
    assert estimate(tiny(steps=5), toy_train_set(), stopped=lambda: True) is None
