"""A figure that follows a session: redrawn seldom, on one thread, and never under a moving pen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import ipywidgets

from alnb.panels.figure import Screen, View
from alnb.store.events import Entry, SliceOpened, StrokeAdded, StrokeRedone, StrokeUndone

if TYPE_CHECKING:
    from alnb.session.session import Session

INTERVAL = 0.5
"""Seconds between drawings: panels and pen share the browser's main thread."""

_UNSEEN = (SliceOpened, StrokeAdded, StrokeRedone, StrokeUndone)
"""Events that no panel shows, although they are by far the most frequent ones."""


class Part(Protocol):
    """One subplot of a panel and its control."""

    @property
    def control(self) -> ipywidgets.DOMWidget:
        """The widget whose `value` changes the view."""
        ...

    def view(self) -> View:
        """What to show now; quick."""
        ...

    def work(self) -> Callable[[], None] | None:
        """The slow step that is due, for any thread; None if there is none or it is running."""
        ...

    def connect(self, traces: Sequence[Any], say: Callable[[str], None]) -> None:
        """Listen to clicks on the part's traces; `say` shows a sentence below the figure."""
        ...


class Refresher:
    """Calls `draw` on the event loop it was built on, however often and wherever it is asked.

    Parameters
    ----------
    draw : called on the loop's thread only, at most once per `interval` seconds; without a running
        loop on the asking thread, at once and under a lock.
    busy : while it is true, drawing waits.
    interval : seconds.
    """

    def __init__(
        self,
        draw: Callable[[], None],
        *,
        busy: Callable[[], bool] = lambda: False,
        interval: float = INTERVAL,
    ) -> None:
        self._draw = draw
        self._busy = busy
        self._interval = interval
        self._last = float("-inf")
        self._due = False
        self._closed = False
        self._lock = threading.RLock()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that drawing happens on; None if it happens on the asking thread."""
        return None if self._loop is None or self._loop.is_closed() else self._loop

    def ask(self) -> None:
        """Ask for a drawing; any thread may."""
        loop = self.loop
        if loop is not None:
            loop.call_soon_threadsafe(self._arm)
            return
        with self._lock:
            if not self._closed and not self._busy():
                self._draw()

    def close(self) -> None:
        """Draw no more."""
        self._closed = True

    def _arm(self) -> None:
        if self._due or self._loop is None:
            return
        self._due = True
        wait = self._last + self._interval - self._loop.time()
        self._loop.call_later(max(0.0, wait), self._fire)

    def _fire(self) -> None:
        if self._closed or self._loop is None:
            return
        if self._busy():
            self._loop.call_later(self._interval, self._fire)
            return
        self._due = False
        try:
            self._draw()
        finally:
            self._last = self._loop.time()


class FigurePanel:
    """One plotly widget whose subplots follow a session.

    Each figure widget ships some 5 MB of script to the browser, so parts share one.

    Parameters
    ----------
    session : followed through `subscribe` until `close`.
    parts : subplots from left to right; only the first may gain traces later.
    labeller : while its `drawing` is true, a pointer is down and the panel keeps still.
    """

    def __init__(self, session: Session, parts: Sequence[Part], labeller: Any = None) -> None:
        self._parts = tuple(parts)
        self._labeller = labeller
        views = [part.view() for part in parts]
        self._screen = Screen(*views)
        self.figure = self._screen.widget
        self._line = ipywidgets.Label("")
        self.widget = ipywidgets.VBox(
            [_row([part.control for part in parts]), self.figure, self._line]
        )
        first = 0
        for part, view in reversed(list(zip(parts, views, strict=True))):  # as `compose` has them
            part.connect(self.figure.data[first : first + len(view.traces)], self.say)
            part.control.observe(lambda _: self.refresh(), "value")
            first += len(view.traces)
        self._refresher = Refresher(self._draw, busy=self._drawing)
        self._unsubscribe = session.subscribe(self._heard)
        self.refresh()

    def refresh(self) -> None:
        """Draw again soon; any thread may ask."""
        self._refresher.ask()

    def say(self, sentence: str) -> None:
        """Show a sentence below the figure."""
        self._line.value = sentence

    def close(self) -> None:
        """Follow the session no longer; the last picture stays."""
        self._unsubscribe()
        self._refresher.close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def _heard(self, entry: Entry) -> None:
        if not isinstance(entry.event, _UNSEEN):
            self.refresh()

    def _drawing(self) -> bool:
        drawing = getattr(self._labeller, "drawing", False)
        return bool(drawing() if callable(drawing) else drawing)

    def _draw(self) -> None:
        for part in self._parts:
            work = part.work()
            if work is not None:
                self._run(work)
        self._screen.show(*(part.view() for part in self._parts))

    def _run(self, work: Callable[[], None]) -> None:
        loop = self._refresher.loop
        if loop is None:
            work()
        else:
            loop.run_in_executor(None, work).add_done_callback(lambda _: self.refresh())


def _row(controls: Sequence[ipywidgets.DOMWidget]) -> ipywidgets.HBox:
    cells = [
        ipywidgets.HBox([control], layout={"flex": "1 1 0", "min_width": "0"})
        for control in controls
    ]
    return ipywidgets.HBox(cells, layout={"flex_flow": "row wrap"})
