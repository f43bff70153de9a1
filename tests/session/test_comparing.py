"""What a comparison says of a strategy whose query is not quite its own."""

import numpy as np
import pytest

from alnb.session.gate import Gate
from alnb.strategies.uncertainty import TopScore
from tests.session.test_asking import answered, brightest, measured


def test_a_cold_start_that_chose_in_its_place_is_told(project):
    session = project(cold_start="strided")
    compared = session.compare_strategies(["entropy", "strided", "coreset"], 3)
    assert compared.queries["entropy"] == compared.queries["strided"]
    assert set(compared.notes) == {"entropy"}
    assert "nothing is labelled" in compared.notes["entropy"]
    assert "entropy: nothing is labelled" in compared.to_table()
    answered(session)
    assert "no model is trained" in session.compare_strategies(["entropy"], 2).notes["entropy"]


def test_a_shut_gate_is_told_of_strategies_that_need_the_model_alone(project):
    session = measured(project(gate=Gate(dice=0.4)), 0.3, "strided")
    compared = session.compare_strategies([TopScore(), "coreset", brightest], 2)
    assert set(compared.notes) == {"TopScore"}
    assert "0.30" in compared.notes["TopScore"]
    # it is asked all the same: by its own score, which the cold start does not give
    assert None not in compared.scores["TopScore"]
    trusting = measured(project(gate=None, folder=session.folder / "b"), 0.3, "strided")
    assert trusting.compare_strategies([TopScore()], 2).notes == {}


def test_wanting_the_learner_is_noted_whether_there_is_one_or_not(project):
    session = project()
    snapshot = session.snapshot()
    with pytest.raises(RuntimeError, match="No model"):
        snapshot.learned(np.array([0]))
    assert snapshot.wanted == [False]
    answered(session).fit()
    snapshot = session.snapshot()
    snapshot.features()
    assert snapshot.wanted == []
    snapshot.learned(np.array([0]))
    assert snapshot.wanted == [True]


def test_a_session_opened_by_a_name_knows_its_strategy_by_that_name(project):
    assert project(strategy="coreset").strategy_name == "coreset"
