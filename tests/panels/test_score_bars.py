from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from alnb.errors import ColdStart
from alnb.panels.score_bars import (
    SHOWN,
    ScoreBars,
    facts,
    no_bars,
    score_bars,
    score_figure,
    score_view,
    strategy_within,
)
from alnb.panels.scoring import ScorePanel
from alnb.records import SliceId
from alnb.session.oracle import SimulatedOracle
from alnb.strategies.nath import EntropyMinusMI
from alnb.strategies.random_sampling import RandomSampling
from alnb.strategies.wrappers import PerVolume, WarmStart


def answer(session):
    oracle = SimulatedOracle(session.cohort, "mask", name="me")
    for slice_id in session.pending:
        session.annotate(*oracle.annotate(slice_id))


@pytest.fixture
def fitted(project):
    def open_fitted(**changes):
        session = project(**changes)
        session.ask(4, strategy=RandomSampling())
        answer(session)
        session.fit()
        return session

    return open_fitted


def bars(n, *, chosen=(), again=(), is_open=True):
    up = np.linspace(1, 0.2, n)
    places = np.arange(n)
    return ScoreBars(
        places,
        tuple(SliceId("v", i) for i in range(n)),
        tuple(SliceId("v", i) for i in range(n)),
        *(up, up, up, -up / 4),
        np.isin(places, chosen),
        np.isin(places, again),
        1.0,
        n,
        is_open,
    )


@pytest.mark.parametrize("unit", ["slice", "volume"])
def test_the_first_bars_are_what_the_strategy_asks(fitted, unit):
    strategy = EntropyMinusMI(alpha=2.0)
    session = fitted(unit=unit, strategy=strategy)
    data = score_bars(session, n=3)
    assert data.alpha == 2
    assert not data.open
    np.testing.assert_allclose(data.up.max(), 2)
    np.testing.assert_allclose(data.down.min(), -0.5)
    asked = session.ask(3)
    assert asked.query == data.items[:3]
    np.testing.assert_allclose(asked.scores, data.score[:3])


def test_the_open_query_is_marked_among_the_candidates_it_came_from(fitted):
    session = fitted(strategy=EntropyMinusMI())
    before = score_bars(session)
    asked = session.ask(3)
    data = score_bars(session)
    assert data.open
    assert {data.items[at] for at in np.flatnonzero(data.chosen)} == set(asked.query)
    np.testing.assert_array_equal(data.rows, before.rows)
    np.testing.assert_allclose(data.score, before.score)
    assert ", asked" in facts(data, 0)[0]


def test_labelled_rows_are_marked_where_they_stay_candidates(fitted):
    session = fitted(keep_labelled=True)
    data = score_bars(session)
    labelled = set(session.pool.rows(session.labelled).tolist())
    assert {int(row) for row in data.rows[data.again]} == labelled
    place = int(np.flatnonzero(data.again)[0])
    assert "would cost nothing" in facts(data, place)[0]
    assert not score_bars(fitted(folder=session.folder / "other")).again.any()


def test_without_a_model_there_are_no_bars(project):
    with pytest.raises(ColdStart, match="first training"):
        score_bars(project())


def test_the_strategy_is_found_within_wrappers():
    wanted = EntropyMinusMI(alpha=3.0)
    assert strategy_within(PerVolume(WarmStart(RandomSampling(), wanted), 2)) is wanted
    assert strategy_within(PerVolume(RandomSampling(), 2)) is None


def test_the_chosen_are_shown_however_far_down_they_stand():
    data = bars(100, chosen=[1, 90, 99])
    first = data.first.tolist()
    assert len(first) == SHOWN
    assert {1, 90, 99} <= set(first)
    assert first == sorted(first)
    assert f"the best and the chosen {SHOWN} of 100" in score_view(data).xaxis["title"]["text"]


def test_bars_stand_on_each_others_place_and_marks_on_theirs():
    view = score_view(bars(6, chosen=[0, 2], again=[2, 5]), picked=3)
    up, down, dots, chosen, again = view.traces
    assert up["offset"] == down["offset"]
    assert (up["y"] > 0).all()
    assert (down["y"] < 0).all()
    np.testing.assert_allclose(dots["y"], up["y"] + down["y"])
    assert dots["marker"]["size"].argmax() == 3
    assert chosen["x"].tolist() == [0, 2]
    assert again["x"].tolist() == [2, 5]
    assert view.xaxis["ticktext"][0] == "v:0"


def test_the_figure_is_drawn_with_and_without_bars():
    assert len(score_figure(bars(60)).data) == len(score_figure(no_bars()).data) == 5


def test_a_click_or_the_list_opens_a_candidate(fitted):
    session = fitted(strategy=EntropyMinusMI())
    opened = []
    labeller = SimpleNamespace(show=opened.append, drawing=False)
    panel = ScorePanel(session, labeller)
    part = panel.part
    part._clicked(None, SimpleNamespace(point_inds=[2]), None)
    third = part.data.opens[int(part.data.first[2])]
    assert opened == [third]
    assert "MI =" in part.words.value
    assert "<img" in part.words.value
    part.list.value = 0
    assert opened[-1] == part.data.opens[0]
    # another query: the list begins anew, and nothing is opened by itself
    session.ask(3)
    assert part.picked == -1
    assert part.data.open
    assert len(opened) == 2
    panel.close()


def test_the_panel_says_what_will_bring_bars(project):
    panel = ScorePanel(project())
    assert "after the first training" in panel.figure.layout.annotations[0].text
    panel.close()
