from __future__ import annotations

import threading

import ipycanvas.canvas
import pytest

from alnb.widgets.drawing import drawing


@pytest.fixture
def sent(monkeypatch):
    messages = []
    manager = ipycanvas.canvas._CANVAS_MANAGER
    monkeypatch.setattr(
        manager, "_send_custom", lambda command, buffers=(): messages.append(command)
    )
    return messages


def test_a_block_is_one_message_and_blocks_nest(sent):
    canvas = ipycanvas.Canvas()
    with drawing():
        canvas.fill_rect(0, 0, 1, 1)
        with drawing():
            canvas.fill_rect(1, 1, 1, 1)
        canvas.fill_rect(2, 2, 1, 1)
    assert len(sent) == 1


def test_after_an_exception_canvases_go_on_drawing(sent):
    canvas = ipycanvas.Canvas()

    def fail():
        with drawing():
            canvas.fill_rect(0, 0, 1, 1)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    before = len(sent)
    canvas.fill_rect(1, 1, 1, 1)
    assert len(sent) > before


def test_two_threads_never_mix_their_blocks(sent):
    canvas = ipycanvas.Canvas()

    def draw():
        for _ in range(200):
            with drawing():
                canvas.fill_rect(0, 0, 1, 1)
                canvas.fill_rect(1, 1, 1, 1)

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 400
