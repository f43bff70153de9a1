from __future__ import annotations

import comm
from comm.base_comm import BaseComm

from alnb.panels.figure import Screen, View


def line(*y):
    return View(traces=({"type": "scatter", "y": list(y)},), xaxis={}, yaxis={})


def test_a_page_hears_of_a_figure_once_and_of_all_of_it(monkeypatch):
    told = []

    class Noted(BaseComm):
        def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
            told.append((msg_type, data or {}))

    monkeypatch.setattr(comm, "create_comm", Noted)
    screen = Screen(line(1, 2), line(3))
    assert [kind for kind, _ in told] == ["comm_open"]
    state = told[0][1]["state"]
    assert len(state["_widget_data"]) == 2
    assert state["_widget_layout"]["height"]
    assert state["_config"]["responsive"]
    screen.show(line(1, 2), line(4))
    assert len(told) > 1
    assert list(screen.widget.data[0].y) == [4]
