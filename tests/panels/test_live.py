from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest

from alnb.panels.dashboard import Panels
from alnb.panels.live import Refresher
from alnb.records import Stroke
from alnb.store.events import StrokeAdded


def test_asking_often_draws_at_once_and_then_at_most_once_per_interval():
    async def main() -> list[float]:
        loop, drawn = asyncio.get_running_loop(), []
        refresher = Refresher(lambda: drawn.append(loop.time()), interval=0.05)
        end = loop.time() + 0.22
        while loop.time() < end:
            refresher.ask()
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.08)
        return drawn

    drawn = asyncio.run(main())
    assert 2 <= len(drawn) <= 6
    gaps = [after - before for before, after in pairwise(drawn)]
    assert min(gaps) >= 0.045


def test_another_thread_only_asks_and_the_loop_draws():
    async def main() -> tuple[list[int], int]:
        threads: list[int] = []
        refresher = Refresher(lambda: threads.append(threading.get_ident()), interval=0.01)
        worker = threading.Thread(target=refresher.ask)
        worker.start()
        worker.join()
        assert threads == []
        await asyncio.sleep(0.03)
        return threads, threading.get_ident()

    threads, mine = asyncio.run(main())
    assert threads == [mine]


def test_nothing_is_drawn_under_a_pen_and_the_newest_once_it_is_lifted():
    async def main() -> None:
        pen, drawn = {"down": True}, []
        refresher = Refresher(lambda: drawn.append(1), busy=lambda: pen["down"], interval=0.01)
        refresher.ask()
        refresher.ask()
        await asyncio.sleep(0.05)
        assert drawn == []
        pen["down"] = False
        await asyncio.sleep(0.05)
        assert drawn == [1]

    asyncio.run(main())


def test_a_drawing_that_fails_does_not_end_the_drawing():
    async def main() -> int:
        calls = []

        def draw() -> None:
            calls.append(1)
            raise ValueError("once")

        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        refresher = Refresher(draw, interval=0.01)
        for _ in range(2):
            refresher.ask()
            await asyncio.sleep(0.03)
        return len(calls)

    assert asyncio.run(main()) == 2


def test_a_closed_refresher_draws_no_more():
    async def main() -> list[int]:
        drawn: list[int] = []
        refresher = Refresher(lambda: drawn.append(1), interval=0.01)
        refresher.ask()
        refresher.close()
        refresher.ask()
        await asyncio.sleep(0.03)
        return drawn

    assert asyncio.run(main()) == []


def test_without_a_loop_the_panels_are_up_to_date_at_once(fake):
    session = fake()
    panel = Panels(session)
    pool, labelled, query = panel.figure.data[:3]
    assert len(pool.x) == 40
    session.ask([4, 9])
    assert query.text == ("1", "2")
    session.label(9)
    assert len(labelled.x) == 1
    assert labelled.x[0] == pool.x[9]
    session.measure(0.1, 0.2, 0.3)
    assert [trace.name for trace in panel.figure.data[3:]] == [
        "RV",
        "myocardium",
        "LV",
        "mean, validation",
    ]
    assert panel.figure.data[0].name == "pool"


def test_with_a_loop_an_event_of_another_thread_reaches_the_figure_on_the_loop(fake):
    threads = []

    async def main() -> None:
        session = fake()
        panel = Panels(session)
        assert len(panel.figure.data[0].x) == 0  # the map is worked out off the loop
        draw = panel._refresher._draw
        panel._refresher._draw = lambda: (threads.append(threading.get_ident()), draw())
        panel._refresher._interval = 0.01
        while len(panel.figure.data[0].x) == 0:
            await asyncio.sleep(0.01)
        worker = threading.Thread(target=session.ask, args=([4, 9],))
        worker.start()
        worker.join()
        assert panel.figure.data[2].text in (None, ())
        while not panel.figure.data[2].text:
            await asyncio.sleep(0.01)
        assert panel.figure.data[2].text == ("1", "2")
        panel.close()

    asyncio.run(asyncio.wait_for(main(), 10))
    assert set(threads) == {threading.get_ident()}


def test_strokes_draw_nothing(fake):
    session = fake()
    panel = Panels(session)
    drawn = []
    panel._refresher._draw = lambda: drawn.append(1)
    session.commit(StrokeAdded(session.pool.ids[0], Stroke(((1.0, 1.0),), 1)))
    assert drawn == []
    session.ask([0])
    assert drawn == [1]


@pytest.mark.parametrize("drawing", [True, lambda: True])
def test_the_panels_keep_still_while_the_labeller_draws(fake, drawing):
    session = fake()
    labeller = SimpleNamespace(drawing=drawing, show=lambda slice_id: None)
    panel = Panels(session, labeller)
    session.ask([0, 1])
    assert len(panel.figure.data[2].x) == 0
    labeller.drawing = False
    session.label(0)
    assert len(panel.figure.data[2].x) == 2


def test_a_closed_panel_keeps_its_picture_and_forgets_the_session(fake):
    session = fake()
    panel = Panels(session)
    panel.close()
    session.ask([0, 1])
    assert session._listeners == []
    assert len(panel.figure.data[2].x) == 0


def test_a_zoom_by_hand_survives_a_redrawing(fake):
    session = fake()
    panel = Panels(session)
    session.ask([0])
    session.measure(0.1, 0.2, 0.3)
    panel.figure.layout.yaxis.range = (0.2, 0.5)
    session.measure(0.3, 0.4, 0.5)
    assert panel.figure.layout.yaxis.range == (0.2, 0.5)


def test_a_view_born_later_starts_from_the_present_picture(fake):
    session = fake()
    panel = Panels(session)
    session.ask([4, 9])
    assert panel.figure.get_state()["_widget_data"][2]["text"] == ["1", "2"]


def test_a_panel_displays_as_a_widget(fake):
    bundle = Panels(fake())._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
