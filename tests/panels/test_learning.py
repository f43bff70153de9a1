from __future__ import annotations

import pytest

from alnb.panels.embedding import EmbeddingPanel
from alnb.panels.learning import RECIPES, learning_text
from alnb.records import FitReport, Step


def row(panel):
    return panel._parts[0].learning


def test_the_button_learns_shows_how_far_it_is_and_stops(fake):
    session = fake()
    panel = EmbeddingPanel(session)
    learning = row(panel)
    learning.recipe.value = "ntxent"
    learning.button.click()
    job = session.embedding_job
    assert job.recipe == "ntxent"
    assert (learning.button.description, learning.recipe.disabled) == ("Stop", True)
    job.progress = Step(30, 120, 4.321, 200.0)
    panel.refresh()
    assert learning.bar.value == pytest.approx(0.25)
    assert learning.words.value == "step 30 of 120, loss 4.32, 3 min left"
    learning.button.click()
    assert job.stopping
    assert (learning.words.value, learning.button.disabled) == ("Stopping …", True)
    job.end(FitReport(30, 4.3, 12.0, stopped=True))
    panel.refresh()
    assert learning.words.value.startswith("Stopped after 30 steps")
    assert (learning.button.description, learning.button.disabled) == ("Learn features", False)


def test_features_that_were_learnt_are_shown_at_once_and_can_be_left_again(fake):
    session = fake()
    panel = EmbeddingPanel(session)
    part = panel._parts[0]
    before = panel.figure.data[0].x.copy()
    session.learnt("acdc")
    assert part.embedding.options == ("pixels", "acdc")
    assert part.embedding.value == "acdc"
    part.embedding.value = "pixels"
    assert session.embedding == "pixels"
    assert panel.figure.data[0].x == pytest.approx(before)


def test_a_training_that_cannot_begin_or_dies_is_said_in_words(fake):
    session = fake()
    panel = EmbeddingPanel(session)
    begin = session.learn_embedding_in_background
    session.learn_embedding_in_background = lambda recipe: 1 / 0
    row(panel).button.click()
    assert panel.line.value == "No features could be learnt: division by zero"
    session.learn_embedding_in_background = begin
    row(panel).button.click()
    session.embedding_job.error = "Training stopped: out of memory."
    session.embedding_job.running = False
    panel.refresh()
    assert row(panel).words.value == "Training stopped: out of memory."


def test_every_recipe_is_a_known_loss():
    from alnb.losses.contrastive import WEIGHTS

    assert {name for _, name in RECIPES} <= set(WEIGHTS)


def test_the_time_left_is_said_when_it_is_known():
    assert learning_text(None) == "Reading the images …"
    assert learning_text(Step(1, 10, 2.0)) == "step 1 of 10, loss 2.00"
    assert learning_text(Step(1, 10, 2.0, 20.4)) == "step 1 of 10, loss 2.00, 20 s left"
