from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from alnb.errors import BadInput
from alnb.records import Metrics, Step
from alnb.widgets.status import (
    Situation,
    acts,
    hint,
    metrics_text,
    sentence,
    training_text,
)


def primary(now):
    return next((act.act for act in acts(now) if act.primary), None)


def test_in_every_situation_at_most_one_act_is_primary_and_it_can_be_done_or_waits_for_ink():
    for asked, status, ink, proposal, pending, untrained, training, choosing, left in product(
        (False, True),
        ("open", "edited", "submitted", "skipped"),
        (False, True),
        (False, True),
        (0, 2),
        (0, 1),
        (False, True),
        (False, True),
        (0, 9),
    ):
        now = Situation(
            asked,
            status,
            ink,
            proposal,
            pending,
            untrained,
            untrained + 1,
            training,
            choosing,
            left,
        )
        chosen = [act for act in acts(now) if act.primary]
        assert len(chosen) <= 1
        assert all(act.enabled or (act.act == "submit" and not ink) for act in chosen)
        assert hint(now).text


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (Situation(asked=False, status="open", left=9), "ask"),
        (Situation(pending=2, left=9), "submit"),
        (Situation(ink=True, pending=2, left=9), "submit"),
        (Situation(proposal=True, pending=2, left=9), "submit"),
        (Situation(ink=True, proposal=True, pending=2, left=9), "submit"),
        (Situation(status="submitted", pending=1, untrained=1, labelled=1, left=9), "next_open"),
        (Situation(status="submitted", untrained=2, labelled=2, left=9), "train"),
        (Situation(status="submitted", labelled=2, left=9), "ask"),
        (Situation(status="submitted", labelled=2, left=0), None),
        (Situation(status="submitted", untrained=1, labelled=2, training=True, left=9), "ask"),
        (Situation(locked=True), None),
    ],
)
def test_the_primary_act_is_the_obvious_next_one(now, expected):
    assert primary(now) == expected


def test_the_next_query_never_promises_more_than_is_left():
    now = Situation(status="submitted", labelled=2, left=3, n=6)
    assert "Next query (3)" in [act.label for act in acts(now)]
    assert not next(act for act in acts(replace(now, left=0)) if act.act == "ask").enabled


def test_training_is_told_in_words():
    assert training_text(None) == "Training starts …"
    assert training_text(Step(120, 400, 0.3, 14.2)) == "Training step 120/400, loss 0.30, 14 s left"
    assert training_text(Step(400, 400, 0.3, 0.0)) == "Measuring the new model …"
    assert training_text(Step(1, 4, float("nan"))) == "Training step 1/4"
    assert "0.75 on the validation" in metrics_text(Metrics("val", (0.5, 1.0), 3))
    assert "undefined" in metrics_text(Metrics("val", (None,), 0))


def test_errors_are_sentences_and_foreign_ones_show_no_trace():
    assert sentence(BadInput("No slice 9.")).text == "No slice 9."
    foreign = sentence(RuntimeError("first line\nTraceback ..."))
    assert "first line" in foreign.text
    assert "Traceback" not in foreign.text
    assert foreign.tone == "error"
