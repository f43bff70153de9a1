from __future__ import annotations

import asyncio
from math import comb

import numpy as np
import pytest

from alnb.data.phantom import phantom
from alnb.panels.strategies import BINS, StrategyComparison, board, board_message
from alnb.records import SliceId, Stroke
from alnb.session.session import Session


@pytest.fixture(scope="module")
def cohort():
    return phantom(6, size=48, slices=(3, 5))


@pytest.fixture
def session(tmp_path, cohort):
    with Session.open(tmp_path / "project", cohort, strategy="strided") as opened:
        yield opened


class Shown:
    """Stands for a labeller."""

    def __init__(self):
        self.slices = []

    def show(self, slice_id):
        self.slices.append(slice_id)


def answer(session, slice_id):
    session.draw(slice_id, Stroke(points=((5.0, 5.0), (9.0, 9.0)), label=1, id=str(slice_id)))
    session.submit(slice_id, "scribble", seconds=4.0)


def late(snapshot):
    """The higher in the volume, the sooner."""
    return snapshot.pool.position[snapshot.candidates]


def test_the_board_says_of_each_query_what_the_pool_says(session):
    compared = session.compare_strategies(["strided", "coreset", late], 6)
    found = board(session, compared)
    pool, x = session.pool, session.features().astype(float)
    usual = [np.linalg.norm(a - b) for i, a in enumerate(x) for b in x[:i]]
    for wish in found.wishes:
        query = compared.queries[wish.name]
        assert [pick.slice_id for pick in wish.picks] == list(query)
        assert [pick.score for pick in wish.picks] == list(compared.scores[wish.name])
        volumes = {item.volume for item in query}
        assert wish.volumes == len(volumes)
        assert wish.patients == len({session.cohort.volumes[v].patient for v in volumes})
        assert wish.neighbours == sum(
            a.volume == b.volume and a.index - b.index == 1 for a in query for b in query
        )
        rows = pool.rows(query)
        own = [np.linalg.norm(x[a] - x[b]) for i, a in enumerate(rows) for b in rows[:i]]
        assert wish.spread == pytest.approx(np.mean(own) / np.mean(usual), rel=1e-5)
        assert sum(wish.positions) == 6
        for pick in wish.picks:
            others = [n for n, q in compared.queries.items() if pick.slice_id in q]
            assert set(others) == {wish.name, *pick.others}
    assert found.wishes[2].positions[-1] == 6
    assert sum(found.pool) == pytest.approx(1)
    assert found.free == len(pool)


def test_chance_is_that_of_two_random_queries(session):
    found = board(session, session.compare_strategies(["strided", "coreset"], 4))
    n, free = 4, found.free
    for shared in range(n + 1):
        ways = sum(comb(n, k) * comb(free - n, n - k) for k in range(shared, n + 1))
        assert found.by_chance(shared) == pytest.approx(ways / comb(free, n))
    assert found.expected == pytest.approx(n * n / free)


def test_a_slice_that_several_ask_has_one_colour_everywhere_and_no_other_has_one(session):
    found = board(session, session.compare_strategies(["strided", "random", "coreset"], 8))
    message = board_message(found, lambda slice_id: f"picture of {slice_id}")
    frame = {}
    for wish, sent in zip(found.wishes, message["wishes"], strict=True):
        for pick, told in zip(wish.picks, sent["picks"], strict=True):
            assert bool(told["colour"]) == bool(pick.others)
            look = (told["colour"], told["line"])
            assert frame.setdefault(pick.slice_id, look) == look
            assert told["wanted"] == 1 + len(pick.others)
            assert all(name in told["title"] for name in pick.others)
            assert message["pictures"][told["picture"]] == f"picture of {pick.slice_id}"
    looks = [look for look in frame.values() if look[0]]
    assert 0 < len(looks) == len(set(looks)), "eight of a small pool overlap"


def test_the_first_sentence_names_the_two_that_agree_most(session):
    found = board(session, session.compare_strategies(["strided", "entropy", "coreset"], 3))
    assert "strided and entropy: 3 of 3 shared" in found.sentence()
    assert "nothing is labelled" in found.wishes[1].note
    alone = board(session, session.compare_strategies(["strided"], 3))
    assert "alike" not in alone.sentence()


def test_who_cannot_choose_says_why_and_the_others_are_shown(session):
    def broken(snapshot):
        return np.zeros(3)

    view = StrategyComparison(session, [broken, "strided"], 2)
    assert [wish.name for wish in view.shown.wishes] == ["strided"]
    ((name, why),) = view.widget.board["problems"]
    assert name == "broken"
    assert "one score for each" in why


def test_it_shows_its_moment_until_it_is_asked_again(session):
    view = StrategyComparison(session, ["strided", "coreset"], 3)
    first = view.widget.board
    assert view.widget.line == ""
    session.ask(2)
    answer(session, session.queue[0])
    assert "moved on" in view.widget.line
    assert view.widget.board is first
    view.widget._handle_custom_msg({"kind": "again"}, [])
    assert view.widget.line == ""
    asked = [pick["slice"] for wish in view.widget.board["wishes"] for pick in wish["picks"]]
    done = session.queue[0]
    assert {"volume": done.volume, "index": done.index} not in asked
    view.close()
    before = view.widget.board
    answer(session, session.queue[1])
    assert view.widget.board is before


def test_a_clicked_picture_comes_into_view_and_a_strange_message_does_nothing(session):
    shown = Shown()
    view = StrategyComparison(session, ["strided"], 2, labeller=shown)
    assert view.widget.opens
    where = view.widget.board["wishes"][0]["picks"][1]["slice"]
    view.widget._handle_custom_msg({"kind": "open", "slice": where}, [])
    assert shown.slices == [SliceId(where["volume"], where["index"])]
    for strange in ({"kind": "open", "slice": "x"}, {"kind": "?"}, "no", None):
        view.widget._handle_custom_msg(strange, [])
    assert len(shown.slices) == 1


def test_without_a_browser_it_is_the_table_of_the_comparison(session):
    view = StrategyComparison(session, ["strided", "coreset"], 3)
    data, _ = view._repr_mimebundle_()
    expected = session.compare_strategies(["strided", "coreset"], 3).to_table()
    assert data["text/plain"] == expected
    assert "application/vnd.jupyter.widget-view+json" in data


def test_by_default_the_one_in_charge_is_among_them(session):
    session.add_strategy(late)
    session.choose_strategy("late")
    view = StrategyComparison(session)
    assert view.widget.board["names"] == ["random", "strided", "coreset", "late"]
    assert view.shown.n == 6
    session.ask(3)
    view.again()
    assert view.shown.n == 3


def test_a_pool_of_volumes_shows_the_middle_slice_of_each(tmp_path, cohort):
    with Session.open(tmp_path / "volumes", cohort, unit="volume") as session:
        view = StrategyComparison(session, ["random", "strided"], 2)
        for wish in view.shown.wishes:
            for pick in wish.picks:
                depth = cohort.volumes[pick.slice_id.volume].shape[0]
                assert pick.slice_id.index == depth // 2
                assert pick.place == f"{depth} slices"
            assert wish.positions[BINS // 2] == 2


def test_too_many_are_refused_in_words(session):
    view = StrategyComparison(session, ["strided"], len(session.pool) + 1)
    assert "Ask for 1 to" in view.widget.line
    assert not view.widget.busy
    assert view.shown is None


def test_in_a_notebook_the_strategies_are_asked_off_the_loop(session):
    async def cell():
        view = StrategyComparison(session, ["strided", "coreset"], 3)
        assert view.widget.busy
        for _ in range(500):
            if not view.widget.busy:
                break
            await asyncio.sleep(0.01)
        return view

    view = asyncio.run(cell())
    assert not view.widget.busy
    assert view.widget.board["names"] == ["strided", "coreset"]
