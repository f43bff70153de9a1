from __future__ import annotations

import ipycanvas.canvas
import numpy as np
import pytest

from alnb.data.raster import rasterize
from alnb.records import IGNORE
from alnb.widgets.labeller import Labeller


@pytest.fixture
def pen(session, monkeypatch):
    """Sends mouse events as ipycanvas does, to a view that never met its booster."""
    messages = []
    manager = ipycanvas.canvas._CANVAS_MANAGER
    monkeypatch.setattr(
        manager, "_send_custom", lambda command, buffers=(): messages.append(command)
    )
    session.ask(1)
    labeller = Labeller(session)

    def send(event, x, y):
        content = {"event": f"mouse_{event}", "x": x, "y": y}
        labeller.canvas.layers[-1]._handle_frontend_event(None, content, [])

    send.labeller, send.messages = labeller, messages
    yield send
    labeller.close()


def test_without_the_booster_the_mouse_draws_through_the_kernel(pen, session):
    for event, x, y in [("down", 5, 6), ("move", 9, 8), ("move", 12, 8), ("up", 12, 8)]:
        pen(event, x, y)
    (stroke,) = session.draft(session.queue[0]).strokes
    assert stroke.points == ((6, 5), (8, 9), (8, 12))
    assert stroke.id
    assert len(pen.messages) == 3, "one message per event that shows something"


def test_leaving_the_canvas_ends_the_stroke_and_the_next_one_is_not_joined_to_it(pen, session):
    for event, x, y in [
        ("down", 5, 5),
        ("out", 30, 5),
        ("move", 20, 20),
        ("down", 9, 9),
        ("up", 9, 9),
    ]:
        pen(event, x, y)
    first, second = session.draft(session.queue[0]).strokes
    assert first.points == ((5, 5),)
    assert second.points == ((9, 9),)


def test_once_the_booster_is_there_the_kernel_draws_nothing(pen, session):
    pen.labeller.canvas.receive(None, {"kind": "hello"}, [])
    pen.messages.clear()
    pen("down", 5, 5)
    pen("up", 5, 5)
    assert session.draft(session.queue[0]).strokes == ()
    assert pen.messages == []


def test_the_plain_eraser_takes_ink_away(pen, session):
    pen("down", 8, 8)
    pen("up", 8, 8)
    pen.labeller.canvas.plain._erase.value = True
    pen("down", 8, 8)
    pen("up", 8, 8)
    assert (session.raster(session.queue[0]) == IGNORE).all()
    strokes = session.draft(session.queue[0]).strokes
    assert (rasterize(strokes, session.raster(session.queue[0])) == IGNORE).all()


def test_what_is_interpolated_takes_the_place_of_other_proposals_where_the_kernel_draws(
    session, monkeypatch
):
    session.ask(1)
    labeller = Labeller(session)
    plain, here = labeller.canvas.plain, session.queue[0]
    labeller.settle()
    painted = {}
    monkeypatch.setattr(plain, "_put", painted.__setitem__)
    labels = np.zeros(session.cohort.shape(here), np.uint8)
    labels[4:12, 4:12] = 2
    plain._timer = object()
    plain._grown = np.ones_like(labels)
    plain.offer(here, labels)
    (pixels,) = painted.values()
    inked = pixels[..., 3] > 0
    assert inked.any()
    assert not inked[labels == 0].any()
    assert (inked[4:12, 4] == inked[4:12, 11]).all(), "the hatch runs along the rows"
    plain._timer = None
    labeller.close()
