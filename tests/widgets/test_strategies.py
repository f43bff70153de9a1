from __future__ import annotations

import pytest

from alnb.errors import BadInput
from alnb.protocols import Snapshot
from alnb.records import Metrics
from alnb.session.gate import Gate
from alnb.session.session import Session
from alnb.store.events import Evaluated
from alnb.strategies import STRATEGIES
from alnb.widgets.labeller import Labeller
from alnb.widgets.messages import slice_message
from alnb.widgets.strategies import chosen_line, hint, offered
from tests.widgets.page import Bright, Page, eventually


def dim(snapshot: Snapshot):
    return -snapshot.features()[snapshot.candidates, 0]


def named(strategy):
    return [choice["name"] for group in strategy["groups"] for choice in group["choices"]]


def group_of(strategy, name):
    return next(
        g["name"] for g in strategy["groups"] if name in [choice["name"] for choice in g["choices"]]
    )


def test_every_name_is_offered_once_with_a_hint_and_in_the_group_of_what_it_needs():
    names = (*STRATEGIES, "mine")
    found = offered(names, "coreset", enabled=True)
    assert sorted(named(found)) == sorted(names)
    assert group_of(found, "mine") == "Yours"
    assert group_of(found, "coreset") == group_of(found, "random") == "From the images"
    assert group_of(found, "entropy") == "From the model"
    assert found["groups"][0]["name"] == "Yours"
    assert all(choice["hint"] for group in found["groups"] for choice in group["choices"])
    assert "Until then strided chooses" in hint("entropy")


def test_what_is_in_charge_is_shown_even_if_it_has_no_name():
    found = offered(("random",), "TopScore(score=entropy)", enabled=False)
    assert named(found) == ["TopScore(score=entropy)", "random"]
    assert (found["chosen"], found["enabled"]) == ("TopScore(score=entropy)", False)


def test_a_choice_that_needs_a_model_says_so_until_there_is_one():
    assert "until the first training strided does" in chosen_line("entropy", trained=False).text
    assert "training" not in chosen_line("entropy", trained=True).text
    assert "training" not in chosen_line("mine", trained=False).text


def test_choosing_in_the_view_chooses_in_the_session(page, session):
    assert page.last("ui")["strategy"]["chosen"] == "random"
    page.act("strategy", strategy="coreset")
    assert session.strategy_name == "coreset"
    assert page.last("ui")["strategy"]["chosen"] == "coreset"
    assert page.last("ui")["line"]["text"] == "coreset chooses the next query."
    session.ask(2)
    assert "CoreSet" in session.round.strategy


def test_a_strategy_added_or_chosen_in_a_cell_appears_in_the_view(page, session):
    session.add_strategy(dim)
    page.labeller.settle()
    assert group_of(page.last("ui")["strategy"], "dim") == "Yours"
    session.choose_strategy("dim")
    page.labeller.settle()
    assert page.last("ui")["strategy"]["chosen"] == "dim"


def test_an_unknown_name_is_refused_in_words_and_changes_nothing(page, session):
    page.act("strategy", strategy="corset")
    line = page.last("ui")["line"]
    assert line["tone"] == "error"
    assert "'coreset'" in line["text"]
    assert page.last("ui")["strategy"]["chosen"] == session.strategy_name == "random"


def test_of_quick_wishes_the_last_one_counts(page, session):
    here = slice_message(page.labeller.here)
    for name in ("strided", "coreset", "stratified", "strided"):
        page.say({"kind": "act", "name": "strategy", "slice": here, "strategy": name})
    page.labeller.settle()
    eventually(lambda: session.strategy_name == "strided")


def test_nothing_can_be_chosen_while_a_query_is_being_chosen(page, session, monkeypatch):
    for slice_id in session.queue:
        session.skip(slice_id)
    seen = []

    def slow(n):
        seen.append(page.last("ui")["strategy"]["enabled"])
        raise BadInput("not today")

    monkeypatch.setattr(session, "ask", slow)
    page.act("ask")
    assert seen == [False]
    assert page.last("ui")["strategy"]["enabled"]


@pytest.fixture
def doubted(cohort, tmp_path):
    """A session whose model is measured as too weak to choose."""
    gate = Gate(dice=0.9)
    folder = tmp_path / "doubted"
    with Session.open(folder, cohort, strategy="entropy", learner=Bright(), gate=gate) as session:
        session.ask(2)
        oracle_answers(session)
        session.fit()
        session._commit(Evaluated(0, Metrics("val", (0.1, 0.2, 0.3), 2, 2)))
        yield session


def oracle_answers(session):
    from alnb.session.oracle import SimulatedOracle

    for slice_id in session.pending:
        session.annotate(*SimulatedOracle(session.cohort).annotate(slice_id))


@pytest.mark.parametrize("where", ["view", "cell"])
def test_a_query_of_the_cold_start_says_so_when_it_opens_and_afterwards(doubted, where):
    labeller = Labeller(doubted)
    page = Page(labeller)
    page.hello()
    assert page.last("ui")["note"] == ""
    if where == "view":
        page.act("ask")
    else:
        doubted.ask(2)
        labeller.settle()
    labeller.settle()
    line = page.last("ui")["line"]
    assert line["tone"] == "warn"
    assert "0.20, below 0.90" in line["text"]
    assert "cold start" in line["text"]
    page.act("next")
    assert "cold start" not in page.last("ui")["line"]["text"]
    assert page.last("ui")["note"] == doubted.round.note != ""
    labeller.close()


def test_a_model_that_may_choose_leaves_no_note(page, session):
    session.ask(2)
    page.labeller.settle()
    assert page.last("ui")["note"] == ""
