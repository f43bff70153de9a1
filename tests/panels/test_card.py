from __future__ import annotations

import asyncio
import io

import numpy as np
import pytest

from alnb.data.phantom import phantom
from alnb.panels.card import WhyCard, why_html
from alnb.panels.ranks import Rank
from alnb.panels.thumbs import SIDE, Thumbs
from alnb.panels.why import Why
from alnb.records import SliceId, Stroke
from alnb.session.session import Session
from alnb.widgets.labeller import Labeller


@pytest.fixture
def session(tmp_path):
    cohort = phantom(6, size=48, slices=(3, 4))
    with Session.open(tmp_path / "project", cohort, strategy="coreset") as opened:
        opened.ask(3)
        yield opened


@pytest.fixture
def labeller(session):
    made = Labeller(session)
    yield made
    made.close()


def answer(session, slice_id):
    session.draw(slice_id, Stroke(points=((5.0, 5.0), (9.0, 9.0)), label=1, id=str(slice_id)))
    session.submit(slice_id, "scribble", seconds=4.0)


def test_the_card_says_of_the_slice_in_view_what_the_session_knows(session, labeller):
    card = WhyCard(session, labeller)
    assert card.shown.slice_id == labeller.here == session.queue[0]
    assert card.shown.nearest is None
    answer(session, session.queue[0])
    labeller.show(session.queue[1])
    shown = card.shown
    assert (shown.slice_id, shown.nearest) == (session.queue[1], session.queue[0])
    x = session.features()
    first, second = session.pool.rows(session.round.query)[:2]
    assert shown.distance == pytest.approx(np.linalg.norm(x[first] - x[second]), rel=1e-5)
    assert shown.ranks["coreset"].place == 2
    assert str(shown.ranks["entropy"]) == "needs a model"
    assert card.body.value.count("<img") == 2
    card.close()


def test_another_slice_outside_the_query_and_outside_the_pool_has_a_card_too(session, labeller):
    card = WhyCard(session, labeller)
    other = next(item for item in session.pool.ids if item not in session.queue)
    labeller.show(other)
    assert (card.shown.slice_id, card.shown.asked) == (other, "")
    held_out = next(v for v in session.cohort.volumes.values() if v.patient in session.split.val)
    labeller.show(SliceId(held_out.name, 0))
    assert "never asked" in card.body.value
    assert not card.shown.ranks


def test_nothing_is_worked_out_under_a_pen_nor_while_folded(session, labeller):
    card = WhyCard(session, labeller, folded=True)
    assert card.shown is None
    labeller._pen(True)
    card.head.value = True
    assert card.shown is None
    labeller._pen(False)
    card.refresh()
    assert card.shown is not None
    shown = card.body.value
    labeller._pen(True)
    labeller.show(session.queue[2])
    assert card.body.value == shown


def test_with_a_loop_the_card_is_worked_out_off_it_and_the_newest_slice_wins(session, labeller):
    async def main():
        card = WhyCard(session, labeller)
        assert card.shown is None
        for slice_id in session.queue:
            labeller.show(slice_id)
        for _ in range(400):
            await asyncio.sleep(0.02)
            if card.shown is not None and card.shown.ranks:
                break
        assert card.shown.slice_id == session.queue[-1]
        assert card.shown.ranks["coreset"].place == 3
        card.close()

    asyncio.run(main())


def test_features_that_fail_leave_a_sentence(session, labeller, monkeypatch):
    monkeypatch.setattr(type(session), "features", lambda self, name=None: 1 / 0)
    card = WhyCard(session, labeller)
    assert "Nothing can be said of it: division by zero" in card.body.value


def test_names_cannot_become_markup_on_the_card():
    evil = SliceId("<b>x", 0)
    found = Why(
        evil, "<i>p", "slice 1 of 2", nearest=evil, distance=1.0, ranks={"<u>": Rank(1, 2, "<s>")}
    )
    text = why_html(found, None)
    for tag in ("<b>", "<i>", "<u>", "<s>"):
        assert tag not in text


def test_a_thumbnail_has_the_proportions_of_the_body_and_the_window_of_the_canvas(hearts):
    from PIL import Image

    name = next(iter(hearts.volumes))
    slice_id = SliceId(name, 1)
    picture = Image.open(io.BytesIO(Thumbs(hearts).png(slice_id)))
    assert max(picture.size) == SIDE
    height, width = hearts.shape(slice_id)
    row_mm, col_mm = hearts.pixel_mm(slice_id)
    assert picture.width / picture.height == pytest.approx(
        width * col_mm / (height * row_mm), rel=0.03
    )
    values = np.asarray(picture)
    assert values.min() < 10
    assert values.max() > 200


def test_a_labeller_places_a_widget_and_tells_of_the_slices_it_shows(session, labeller):
    import ipywidgets

    aside, seen = ipywidgets.HTML("x"), []
    before = labeller.widget.children
    labeller.place(aside)
    assert labeller.widget.children == (*before, aside)
    end = labeller.on_show(seen.append)
    labeller.show(session.queue[1])
    labeller.show(session.queue[1])
    labeller.on_show(lambda _: 1 / 0)
    labeller.show(session.queue[2])
    end()
    labeller.show(session.queue[0])
    assert seen == [session.queue[1], session.queue[2]]
