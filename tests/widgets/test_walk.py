"""The walk through a volume: where it goes on, what the page is told, what its acts do."""

from __future__ import annotations

import numpy as np
import pytest

from alnb.data.phantom import phantom
from alnb.records import IGNORE, Accepted, SliceId
from alnb.session.session import Session
from alnb.widgets.labeller import Labeller
from alnb.widgets.walk import Walk, ahead, worth
from tests.widgets.page import Bright, Page, eventually

HEARTS = phantom(5, size=32, slices=(7, 7))
SQUARE = [(8, 8), (8, 22), (22, 22), (22, 8)]
MARKS = {".": "empty", "o": "offered", "x": "labelled", "t": "taken", "d": "drawn", "-": "skipped"}


def cells(marks):
    return tuple(MARKS[mark] for mark in marks)


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        (".........", 4),
        ("....x....", 0),
        ("x...x....", 8),
        ("..x......", 8),
        ("x...x...x", 2),
        ("xoooxooox", 2),
        ("xoxoxooox", 6),
        ("xxxxx-..x", 6),
        ("x.d.x...x", 6),
        ("xxxdxxxxx", 3),
        ("xxxxxxxxx", None),
        ("-...-", 2),
    ],
)
def test_the_middle_comes_first_then_the_ends_then_the_middle_of_the_largest_gap(marks, expected):
    held = cells(marks)
    waiting = [i for i, cell in enumerate(held) if cell in ("empty", "offered", "drawn")]
    assert worth(held, waiting) == expected


def test_following_it_halves_every_gap_and_reaches_every_slice_once():
    held, order = list(cells("." * 33)), []
    while (index := worth(held, [i for i, c in enumerate(held) if c == "empty"])) is not None:
        order.append(index)
        held[index] = "labelled"
        if len(order) in (3, 5, 9, 17):
            known = [i for i, cell in enumerate(held) if cell == "labelled"]
            assert max(np.diff(known)) == 32 // (len(order) - 1)
    assert sorted(order) == list(range(33))


def test_accept_all_takes_the_gap_in_view_or_else_the_volume():
    held = cells("xoodoxoox.")
    assert Walk("v", 2, held).within_reach == (1, 2, 4)
    assert Walk("v", 7, held).within_reach == (6, 7)
    assert Walk("v", 9, held).within_reach == (1, 2, 4, 6, 7)
    assert Walk("v", 0, cells("x..")).within_reach == ()
    assert Walk("v", 2, cells("xtttxtx")).takeable_back == (1, 2, 3)
    assert Walk("v", 4, cells("xtttxtx")).takeable_back == ()


def test_the_sentence_says_where_one_is():
    walk = Walk("patient003/ES", 3, cells("x.x......")[:9], volumes=3, left=2)
    assert walk.sentence() == (
        "Volume patient003/ES: slice 4 of 9, 2 labelled, 2 of 3 volumes left."
    )
    assert Walk("v", 0, cells("xot-d")).summary() == (
        "2 of 5 labelled · 1 of them interpolated · 1 offered · 1 to submit · 1 passed over"
    )


@pytest.fixture
def session(tmp_path):
    opened = Session.open(
        tmp_path / "project", HEARTS, strategy="random", learner=Bright(), unit="volume"
    )
    opened.ask(2)
    yield opened
    opened.close()


@pytest.fixture
def page(session):
    labeller = Labeller(session, live=False)
    made = Page(labeller)
    made.hello()
    yield made
    labeller.close()


def go(page, index):
    volume = page.labeller.here.volume
    page.act("show", target={"volume": volume, "index": index})
    assert page.labeller.here == SliceId(volume, index)


def label(page, *indices):
    for index in indices:
        go(page, index)
        page.stroke(SQUARE, name=f"s{index}{page.labeller.here.volume}", tool="lasso")
        page.act("mask")


def track(page):
    return page.last("ui")["walk"]


def told(page, act):
    return next((a for a in track(page)["acts"] if a["act"] == act), None)


def test_a_query_of_slices_has_no_track(tmp_path):
    with Session.open(tmp_path / "p", HEARTS, strategy="random", learner=Bright()) as session:
        session.ask(2)
        labeller = Labeller(session)
        page = Page(labeller)
        page.hello()
        page.stroke(SQUARE, tool="lasso")
        page.labeller.settle()
        assert track(page) is None
        assert not page.of("film")
        assert {c["id"] for c in page.of("between")} <= {None}
        assert next(a["label"] for a in page.last("ui")["acts"] if a["act"] == "mask") == (
            "Submit as mask"
        )
        labeller.close()


def test_one_begins_in_the_middle_of_the_first_volume_and_sees_all_of_it(page, session):
    first = session.round.query[0].volume
    assert page.labeller.here == SliceId(first, 3)
    assert track(page)["cells"] == ["empty"] * 7
    assert page.last("ui")["line"]["text"].startswith(f"Volume {first}: slice 4 of 7, 0 labelled")
    film, (greys,) = page.last("film"), page.buffers("film")
    assert film["depth"] * film["size"][0] * film["size"][1] == len(greys)
    assert [chip["here"] for chip in page.last("ui")["queue"]] == [True, False]


def test_what_lies_between_is_shown_and_accepted_as_it_was_shown(page, session):
    label(page, 1, 5)
    assert track(page)["cells"][1:6] == ["labelled", *["offered"] * 3, "labelled"]
    go(page, 3)
    here = page.labeller.here
    (offer,) = [o for o in session.interpolate(here.volume) if o.slice_id == here]
    shown = np.frombuffer(page.buffers("between")[0], np.uint8)
    assert (shown == offer.labels.ravel()).all()
    assert page.last("between")["id"] == offer.id
    assert page.last("ui")["badge"] == "between slices 2 and 6"
    page.act("accept", live=None, between=offer.id)
    answer = session.state.annotations[here, "me"]
    assert answer.content == Accepted(offer.id, None, between=(1, 5))
    assert answer.seconds is not None
    go(page, 3)
    assert track(page)["cells"][3] == "taken"
    page.act("undo")
    assert session.status(here) == "open"
    assert track(page)["cells"][3] == "offered"
    assert page.last("between")["id"] == offer.id


def test_an_interpolation_that_is_out_of_date_is_not_accepted(page, session):
    label(page, 1, 5)
    go(page, 3)
    page.act("accept", live=None, between="0" * 64)
    assert "changed meanwhile" in page.last("ui")["line"]["text"]
    assert session.status(page.labeller.here) == "open"


def test_strokes_on_an_offered_slice_correct_it(page, session):
    label(page, 1, 5)
    go(page, 3)
    here, shown = page.labeller.here, page.last("between")["id"]
    page.stroke([(2, 2), (2, 5)], name="fix", label=2, radius=1.0)
    page.labeller.settle()
    assert page.last("ui")["badge"] == "between slices 2 and 6"
    page.act("accept", live=None, between=shown)
    assert session.state.seen[here, "me"].became == "corrected"
    assert (session.target(here) == 2).any()
    assert (session.target(here) == 1).any()


def test_a_gap_is_accepted_and_taken_back_in_one_click_each(page, session):
    label(page, 1, 5)
    go(page, 3)
    assert told(page, "accept_all")["label"] == "Accept all 3"
    page.act("accept_all")
    assert track(page)["cells"][1:6] == ["labelled", *["taken"] * 3, "labelled"]
    assert told(page, "accept_all") is None
    assert "3 interpolated slices accepted" in page.last("ui")["line"]["text"]
    volume = page.labeller.here.volume
    assert all(session.target(SliceId(volume, i)).any() for i in (2, 3, 4))
    page.act("withdraw")
    assert track(page)["cells"][1:6] == ["labelled", *["offered"] * 3, "labelled"]


def test_the_time_of_a_gap_is_the_time_spent_on_each_of_its_slices(page, session, monkeypatch):
    monkeypatch.setattr("alnb.widgets.stopwatch.time.time", lambda: 0.0)
    label(page, 1, 5)
    go(page, 3)
    volume = page.labeller.here.volume
    for at in (1000, 1006, 1009):
        page.say({"kind": "ping", "at": at, "active": True})
    page.act("accept_all")
    seconds = [session.state.annotations[SliceId(volume, i), "me"].seconds for i in (2, 3, 4)]
    assert seconds == [0.0, 9.0, 0.0]


def test_a_blank_slice_of_a_volume_can_be_said_to_hold_nothing(page, session):
    here = page.labeller.here
    mask = next(a for a in page.last("ui")["acts"] if a["act"] == "mask")
    assert (mask["label"], mask["enabled"]) == ("Nothing here", True)
    page.act("mask")
    assert (session.target(here) == 0).all()


def test_after_an_answer_one_goes_on_where_it_is_most_worth_and_then_to_the_next_volume(
    page, session
):
    first, second = (item.volume for item in session.round.query)
    visited = []
    while page.labeller.here.volume == first:
        visited.append(page.labeller.here.index)
        page.act("mask")
    assert visited == [3, 0, 6, 1, 4, 2, 5]
    assert page.labeller.here == SliceId(second, 3)
    assert [chip["status"] for chip in page.last("ui")["queue"]] == ["submitted", "open"]


def test_done_with_a_volume_leaves_the_rest_unlabelled_and_can_be_taken_back(page, session):
    first, second = (item.volume for item in session.round.query)
    label(page, 3)
    go(page, 1)
    page.act("finish")
    assert page.labeller.here.volume == second
    assert session.labelled == (SliceId(first, 3),)
    assert {s.volume for s in session.pending} == {second}
    page.act("previous_volume")
    assert track(page)["cells"] == list(cells("---x---"))
    page.act("reopen")
    assert track(page)["cells"] == list(cells("...x..."))
    assert len([s for s in session.pending if s.volume == first]) == 6


def test_strokes_that_were_not_submitted_keep_a_volume_from_being_done(page, session):
    go(page, 2)
    drawn = page.labeller.here
    page.stroke(SQUARE, tool="lasso")
    go(page, 5)
    page.act("finish")
    assert page.labeller.here == drawn
    assert "not submitted" in page.last("ui")["line"]["text"]
    assert [s for s in session.pending if s.volume == drawn.volume] == [drawn]


def test_interpolation_can_be_switched_off_and_on(page, session):
    label(page, 1, 5)
    go(page, 3)
    page.act("between", on=False)
    assert page.last("between")["id"] is None
    assert track(page)["cells"][3] == "empty"
    assert not track(page)["offering"]
    page.act("between", on=True)
    assert page.last("between")["id"] is not None


def test_small_pictures_follow_the_answers(page, session):
    label(page, 1, 5)
    filmed = {}
    for content, buffers in page.sent:
        if content["kind"] == "film_labels":
            filmed |= dict(zip(content["indices"], buffers, strict=True))
    assert {i for i, each in filmed.items() if each} == {1, 2, 3, 4, 5}
    assert all(1 in set(filmed[i]) - {0, IGNORE} for i in range(1, 6))


def test_a_page_that_comes_up_blank_gets_the_pictures_again(page, session):
    label(page, 1, 5)
    page.sent.clear()
    page.hello()
    assert len(page.of("film")) == 1
    assert sorted(i for c in page.of("film_labels") for i in c["indices"]) == [1, 2, 3, 4, 5]


def test_a_round_of_volumes_is_announced_as_such(page, session):
    for item in session.round.query:
        session.finish(item)
    page.act("ask")
    eventually(lambda: len(session.state.rounds) == 2)
    page.labeller.settle()
    assert "Round 2: 2 volumes to label." in page.last("ui")["line"]["text"]
    assert page.labeller.here == ahead(session, None)
