"""Interpolated proposals of a session: offered between answers, taken by a person, taken back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from alnb.data.interpolate import between
from alnb.data.phantom import phantom
from alnb.errors import IllegalEvent
from alnb.records import IGNORE, Accepted, Annotation, Mask, Scribble, SliceId, Stroke, VolumeId
from alnb.session.answering import FINISHED
from alnb.session.session import Session
from alnb.session.state import replay
from alnb.store.blobs import npy
from tests.toys import ClassMeans

HEARTS = phantom(5, size=32, slices=(7, 7))
SQUARE = ((8.0, 8.0), (8.0, 20.0), (20.0, 20.0), (20.0, 8.0))


@pytest.fixture
def session(tmp_path):
    opened = Session.open(
        tmp_path / "project", HEARTS, unit="volume", learner=ClassMeans(), strategy="random"
    )
    opened.ask(2)
    yield opened
    opened.close()


@pytest.fixture
def name(session):
    return session.round.query[0].volume


def lasso(session, slice_id, *, grown=0.0, label=1):
    low, high = 8.0 - grown, 20.0 + grown
    points = ((low, low), (low, high), (high, high), (high, low))
    session.draw(slice_id, Stroke(points, label, tool="lasso"))


def answer(session, name, *indices, kind="mask"):
    for index in indices:
        lasso(session, SliceId(name, index), grown=index / 2)
        session.submit(SliceId(name, index), kind, seconds=1.0)


def test_offers_are_what_the_answers_on_both_sides_give(session, name):
    answer(session, name, 1, 5)
    offers = session.interpolate(name)
    assert [o.slice_id.index for o in offers] == [2, 3, 4]
    assert {o.between for o in offers} == {(1, 5)}
    given = {i: session.target(SliceId(name, i)) for i in (1, 5)}
    made = between(given, pixel_mm=HEARTS.pixel_mm(SliceId(name, 0)))
    for offer in offers:
        assert (offer.labels == made[offer.slice_id.index]).all()
        assert session.blobs.put(npy(offer.labels)) == offer.id
    assert session.interpolate(VolumeId(name)) == offers
    assert session.interpolate(SliceId(name, 3)) == offers
    assert session.interpolate(SliceId(name, 0)) == ()
    assert session.interpolate(SliceId(name, 5)) == ()


def test_offering_changes_nothing_that_is_kept(session, name):
    answer(session, name, 1, 5)
    before = session.state
    session.interpolate(name)
    assert session.state is before


def test_an_accepted_offer_says_where_it_comes_from_and_stands_after_reopening(session, name):
    answer(session, name, 1, 5)
    (offer, *_) = session.interpolate(name)
    session.submit(offer.slice_id, "accepted", 2.5, shown=offer)
    content = session.state.annotations[offer.slice_id, "me"].content
    assert content == Accepted(offer.id, None, between=(1, 5))
    seen = session.state.seen[offer.slice_id, "me"]
    assert (seen.proposal, seen.checkpoint, seen.live, seen.became) == (
        offer.id,
        None,
        False,
        "accepted",
    )
    assert session.interpolated(offer.slice_id)
    again = Session.open(session.folder, HEARTS, learner=ClassMeans())
    assert (again.target(offer.slice_id) == offer.labels).all()
    assert again.interpolated(offer.slice_id)
    again.close()


def test_strokes_drawn_on_an_offered_slice_win(session, name):
    answer(session, name, 1, 5)
    offer = session.interpolate(name)[1]
    lasso(session, offer.slice_id, grown=-4, label=2)
    assert offer in session.interpolate(name)
    session.submit(offer.slice_id, "accepted", shown=offer)
    taken = session.target(offer.slice_id)
    drawn = np.zeros_like(taken, dtype=bool)
    drawn[12:16, 12:16] = True
    assert (taken[drawn] == 2).all()
    assert (taken[~drawn] == offer.labels[~drawn]).all()
    seen = session.state.seen[offer.slice_id, "me"]
    assert (seen.became, seen.changes) == ("corrected", 1)


def test_what_was_offered_and_not_taken_is_journalled_as_ignored(session, name):
    answer(session, name, 1, 5)
    offer = session.interpolate(name)[0]
    lasso(session, offer.slice_id)
    session.submit(offer.slice_id, "scribble", shown=offer)
    assert isinstance(session.state.annotations[offer.slice_id, "me"].content, Scribble)
    seen = session.state.seen[offer.slice_id, "me"]
    assert (seen.proposal, seen.live, seen.became) == (offer.id, False, "ignored")


def test_all_of_a_gap_are_taken_in_one_transaction_and_each_is_undone_by_itself(session, name):
    answer(session, name, 1, 5)
    offers = session.interpolate(SliceId(name, 2))
    before = session.state.seq
    taken = session.accept_between(offers, {offers[0].slice_id: 3.0})
    assert [s.index for s in taken] == [2, 3, 4]
    assert session.state.seq == before + 3
    assert session.state.annotations[offers[0].slice_id, "me"].seconds == 3.0
    assert session.interpolate(name) == ()
    middle = SliceId(name, 3)
    assert session.undo(middle)
    assert session.status(middle) == "open"
    assert middle not in session.state.labelled
    # it is offered again, from its nearest answers now
    assert [(o.slice_id, o.between) for o in session.interpolate(name)] == [(middle, (2, 4))]
    assert not session.undo(middle)


def test_a_gap_is_taken_back_together_but_for_what_was_drawn_on(session, name):
    answer(session, name, 1, 5)
    taken = session.accept_between(session.interpolate(name))
    lasso(session, taken[0])
    session.submit(taken[0])
    assert session.withdraw([*taken, SliceId(name, 1)]) == taken[1:]
    assert session.status(taken[0]) == "submitted"
    assert session.state.annotations[taken[0], "me"].content.between == (1, 5)
    assert [session.status(s) for s in taken[1:]] == ["open", "open"]


def test_taking_a_gap_leaves_alone_what_people_drew_or_passed_over(session, name):
    answer(session, name, 1, 6)
    offers = session.interpolate(name)
    lasso(session, SliceId(name, 2))
    session.skip(SliceId(name, 3))
    other = np.ones(HEARTS.shape(SliceId(name, 4)), np.uint8)
    theirs = Annotation(SliceId(name, 4), Mask(session.blobs.put_array(other)), "you")
    session.annotate(theirs)
    assert session.accept_between(offers) == (SliceId(name, 5),)
    assert session.draft(SliceId(name, 2)).strokes
    assert session.status(SliceId(name, 2)) == "open"
    assert (session.target(SliceId(name, 4)) == 1).all()
    with pytest.raises(IllegalEvent, match="answered meanwhile"):
        session.submit(SliceId(name, 4), "accepted", shown=offers[2])


def test_an_offer_follows_its_neighbours_when_they_are_answered_anew(session, name):
    answer(session, name, 1, 5)
    old = session.interpolate(name)
    lasso(session, SliceId(name, 5), label=2)
    session.submit(SliceId(name, 5))
    assert [o.id for o in session.interpolate(name)] != [o.id for o in old]
    assert session.interpolate(name)[0] is session.interpolate(name)[0]


def test_a_lasso_without_background_offers_the_structure_and_nothing_around_it(session, name):
    answer(session, name, 1, 5, kind="scribble")
    for offer in session.interpolate(name):
        assert set(np.unique(offer.labels)) == {1, IGNORE}


def test_a_finished_volume_gives_its_slices_back(session, name):
    answer(session, name, 1, 5)
    session.skip(SliceId(name, 0), "blurred")
    for index in (2, 3, 4, 6):
        session.skip(SliceId(name, index), FINISHED, 0.0)
    assert session.interpolate(name) == ()
    assert all(s.volume != name for s in session.pending)
    assert session.reopen(name) == 4
    assert session.status(SliceId(name, 0)) == "skipped"
    assert [s.index for s in session.pending if s.volume == name] == [2, 3, 4, 6]
    assert len(session.interpolate(name)) == 3
    assert session.reopen(name) == 0


def test_a_slice_labelled_by_choice_lets_its_volume_join_the_query_once(session, name):
    other = next(i.volume for i in session.pool.ids if i not in session.round.query)
    answer(session, other, 1, 5)
    assert session.round.query[-1] == VolumeId(other)
    assert len(session.round.query) == 3
    assert session.state.counts[VolumeId(other)] == 1
    assert len([s for s in session.pending if s.volume == other]) == 5


def test_slices_of_a_slice_pool_that_are_accepted_together_join_the_query(tmp_path):
    with Session.open(tmp_path / "slices", HEARTS, learner=ClassMeans()) as session:
        session.ask(1)
        volume = next(v for v in session.pool.ids if v.volume != session.queue[0].volume).volume
        answer(session, volume, 1, 5)
        taken = session.accept_between(session.interpolate(volume))
        assert [s.index for s in taken] == [2, 3, 4]
        assert set(taken) <= set(session.round.query)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_done_in_whatever_order_taking_changes_no_answer_and_no_stroke(
    session, name, seed
):
    rng, count = np.random.default_rng(seed), 0
    slices = [SliceId(name, index) for index in range(7)]
    answer(session, name, 0, 6)

    def said():
        answers = {s: a for (s, _), a in session.state.annotations.items()}
        return answers, {s: session.draft(s).strokes for s in slices}

    for _ in range(40):
        here = slices[rng.integers(7)]
        match rng.integers(7):
            case 0 | 1 if session.status(here) == "open":
                lasso(session, here, grown=float(rng.integers(3)))
                session.submit(here, "mask" if rng.integers(2) else "scribble")
            case 2 if session.status(here) == "open":
                session.skip(here)
            case 3:
                lasso(session, here)
            case 4:
                session.undo(here)
            case 5 | 6:
                answers, strokes = said()
                offers = session.interpolate(here if rng.integers(2) else name)
                taken = session.accept_between(offers)
                count += len(taken)
                now, ink = said()
                assert ink == strokes
                assert {s: a for s, a in now.items() if s not in taken} == answers
                assert not set(taken) & set(answers)
                if rng.integers(2):
                    assert session.withdraw(taken) == taken
                    assert said() == (answers, strokes)
    assert count, "nothing was put to the test"
    assert replay(session.journal.entries()) == session.state


def test_an_export_tells_interpolated_answers_from_others(session, name, tmp_path):
    answer(session, name, 1, 5)
    session.accept_between(session.interpolate(name))
    session.export(tmp_path / "out")
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())["answers"]
    assert {a["slice"]: a["interpolated_from"] for a in told} == {
        f"{name}:{i}": ([1, 5] if i in (2, 3, 4) else []) for i in range(1, 6)
    }
