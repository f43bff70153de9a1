from __future__ import annotations

import ipycanvas.canvas
import numpy as np
import pytest

from alnb.records import IGNORE, Accepted, Scribble, Stroke
from alnb.widgets.labeller import Labeller
from tests.growing import Columns
from tests.widgets.page import Page, eventually

LINE = [(5, 5), (12, 20)]


@pytest.fixture
def grower(session):
    made = Columns()
    session.live.use(made)
    return made


@pytest.fixture
def drawing(grower, page, session):
    """A page whose strokes are grown; settled after each."""

    def stroke(points, **more):
        ack = page.stroke(points, **more)
        assert session.live.settle()
        page.labeller.settle()
        return ack

    page.draw = stroke
    return page


def shown_live(page):
    """Id and labels of the live proposal as the browser has them."""
    content = page.last("live")
    return content["id"], np.frombuffer(page.buffers("live")[0], np.uint8)


def seen(session, slice_id):
    return session.state.seen.get((slice_id, "me"))


def test_the_first_stroke_is_followed_by_a_proposal_in_its_own_message(drawing, session):
    assert drawing.last("live")["id"] is None
    drawing.draw(LINE, label=2)
    name, labels = shown_live(drawing)
    newest = session.live.latest(drawing.labeller.here)
    assert name == newest.id
    assert (labels == newest.labels.ravel()).all()
    sure = np.frombuffer(drawing.buffers("live")[1], np.uint8)
    assert (sure == 128).all()
    ui = drawing.last("ui")
    assert ui["badge"] == "from your strokes"
    assert ui["live"] is True
    assert "accept" in [act["act"] for act in ui["acts"]]
    assert drawing.primary() == "submit", "accepting is a choice of its own"


def test_undo_takes_the_proposal_along(drawing, session):
    drawing.draw(LINE)
    drawing.act("undo")
    assert session.live.settle()
    assert drawing.last("live")["id"] is None
    assert drawing.last("ui")["badge"] == ""
    assert "accept" not in [act["act"] for act in drawing.last("ui")["acts"]]


def test_what_is_accepted_is_what_the_browser_had_in_view(drawing, session):
    first = drawing.labeller.here
    drawing.draw(LINE, label=1, name="a")
    name, _ = shown_live(drawing)
    drawing.draw([(25, 5), (25, 20)], label=3, name="b")
    assert shown_live(drawing)[0] != name
    drawing.act("accept", live=name)
    assert (session.target(first)[0] == 1).all(), "the proposal before the second stroke"
    assert session.target(first)[25, 10] == 3, "and that stroke on top of it"
    assert seen(session, first).became == "corrected"
    assert drawing.labeller.here != first


def test_accepting_goes_on_and_undoing_there_later_brings_the_strokes_back(drawing, session):
    first = drawing.labeller.here
    drawing.draw(LINE)
    drawing.act("accept", live=shown_live(drawing)[0])
    assert isinstance(session.state.annotations[(first, "me")].content, Accepted)
    drawing.act("previous")
    assert drawing.labeller.here == first
    assert drawing.last("live")["id"] is None, "an answered slice shows its answer alone"
    assert drawing.last("ui")["undo"]
    drawing.act("undo")
    assert session.live.settle()
    assert len(session.draft(first).strokes) == 1
    assert shown_live(drawing)[0] is not None
    assert "Changed since" in drawing.last("ui")["line"]["text"]


def test_strokes_alone_are_submitted_and_the_proposal_counts_as_ignored(drawing, session):
    first, second = session.queue
    drawing.draw(LINE)
    drawing.act("submit", live=shown_live(drawing)[0])
    assert isinstance(session.state.annotations[(first, "me")].content, Scribble)
    assert seen(session, first).became == "ignored"
    drawing.draw(LINE)
    drawing.act("submit", live=None)  # hidden in the browser
    assert seen(session, second) is None


def test_a_proposal_that_is_not_held_any_more_is_not_replaced_by_another(drawing, session):
    drawing.draw(LINE)
    drawing.act("accept", live="of an earlier kernel")
    assert session.labelled == ()
    assert drawing.last("ui")["line"]["tone"] == "error"
    assert "nothing was submitted" in drawing.last("ui")["line"]["text"]


def test_a_second_press_of_accept_accepts_nothing_else(drawing, session):
    first = drawing.labeller.here
    drawing.draw(LINE)
    name = shown_live(drawing)[0]
    drawing.act("accept", live=name)
    content = session.state.annotations[(first, "me")].content
    drawing.say(
        {"kind": "act", "name": "accept", "live": name}
        | {"slice": {"volume": first.volume, "index": first.index}}
    )
    assert session.state.annotations[(first, "me")].content == content
    assert len(session.labelled) == 1


def test_the_switch_takes_the_proposal_away_and_brings_it_back(drawing, session):
    drawing.draw(LINE)
    drawing.act("live", on=False)
    assert drawing.last("live")["id"] is None
    assert drawing.last("ui")["live"] is False
    assert drawing.last("ui")["badge"] == ""
    drawing.draw(LINE, name="more")
    assert drawing.last("live")["id"] is None
    drawing.act("live", on=True)
    eventually(lambda: drawing.last("live")["id"] is not None)
    eventually(lambda: drawing.last("ui")["live"] is True)


def test_a_view_can_begin_without_live_proposals(session, grower):
    session.ask(1)
    labeller = Labeller(session, live=False)
    page = Page(labeller)
    page.hello()
    page.stroke(LINE)
    session.live.settle()
    assert grower.prepared == grower.proposed == []
    assert page.last("ui")["live"] is False
    labeller.close()


def test_a_reload_shows_the_proposal_again(drawing, session):
    drawing.draw(LINE)
    _, labels = shown_live(drawing)
    drawing.sent.clear()
    drawing.hello()
    assert session.live.settle()
    again, pixels = shown_live(drawing)
    assert again is not None
    assert (pixels == labels).all()


def test_a_fault_of_the_proposer_is_one_sentence_and_the_stroke_is_saved(drawing, session, grower):
    grower.fails = RuntimeError("no luck")
    assert drawing.draw(LINE)["ok"]
    eventually(lambda: "No live proposal" in drawing.last("ui")["line"]["text"])
    assert "no luck" in drawing.last("ui")["line"]["text"]
    assert len(session.draft(drawing.labeller.here).strokes) == 1


def test_an_ack_does_not_wait_for_a_proposal(drawing, session, grower):
    grower.gate.clear()
    for name in "abc":
        assert drawing.stroke(LINE, name=name)["ok"]
    assert drawing.last("live")["id"] is None
    grower.gate.set()
    assert session.live.settle()
    assert len(grower.proposed) <= 2
    assert shown_live(drawing)[0] is not None


def test_without_the_booster_the_proposal_is_hatched_and_can_be_accepted(
    session, grower, monkeypatch
):
    manager = ipycanvas.canvas._CANVAS_MANAGER
    monkeypatch.setattr(manager, "_send_custom", lambda command, buffers=(): None)
    session.ask(1)
    labeller = Labeller(session)
    plain = labeller.canvas.plain
    plain._client_ready()
    painted = {}
    monkeypatch.setattr(plain, "_put", lambda layer, pixels: painted.update({layer: pixels}))
    (here,) = session.queue
    session.draw(here, Stroke(((5.0, 5.0), (5.0, 20.0)), 1))
    assert session.live.settle()
    alpha = painted[2][..., 3]
    assert 0.4 < (alpha > 0).mean() < 0.6
    buttons = {b.description: b for b in plain.widget.children[1].children[2:]}
    buttons["Live"].click()
    assert not session.live.on
    buttons["Live"].click()
    assert session.live.settle()
    buttons["Accept"].click()
    assert (session.target(here) != IGNORE).all()
    labeller.close()
