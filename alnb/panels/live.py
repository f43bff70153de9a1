"""A figure that follows a session: redrawn seldom, on one thread, and never under a moving pen."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import ipywidgets

from alnb.panels.figure import Screen, View
from alnb.store.events import Entry, SliceOpened, StrokeAdded, StrokeRedone, StrokeUndone

if TYPE_CHECKING:
    from alnb.session.session import Session

INTERVAL = 0.5
"""Seconds between drawings: panels and pen share the browser's main thread."""
DRAGGED = 0.1
"""Seconds between drawings while a person drags a slider, whose pen is up then."""
REST = 0.6
"""Seconds without a move after which the hand rests, and what is slow to draw is drawn."""

UNSEEN = (SliceOpened, StrokeAdded, StrokeRedone, StrokeUndone)
"""Events that no panel shows, although they are by far the most frequent ones."""

T = TypeVar("T")
Ask = Callable[[float], None]
_log = logging.getLogger(__name__)


class Part(Protocol):
    """One subplot of a panel, with what stands above and below it."""

    @property
    def controls(self) -> ipywidgets.DOMWidget:
        """What stands above the subplot."""
        ...

    @property
    def foot(self) -> ipywidgets.DOMWidget | None:
        """What stands below it."""
        ...

    @property
    def restless(self) -> bool:
        """Whether something goes on that is to be shown as it does, such as a training."""
        ...

    def view(self) -> View:
        """What to show now, with controls and foot brought up to date; quick."""
        ...

    def work(self) -> Callable[[], None] | None:
        """The slow step that is due, for any thread; None if there is none or it is running."""
        ...

    def connect(self, traces: Sequence[Any], say: Callable[[str], None], ask: Ask) -> None:
        """Listen to the part's traces and controls.

        `say` shows a sentence below the figure; `ask` wants a drawing, at least so many seconds
        after the last one.
        """
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
        self._timer: asyncio.TimerHandle | None = None
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

    def ask(self, interval: float | None = None) -> None:
        """Ask for a drawing; any thread may. `interval` replaces the usual one this time."""
        loop = self.loop
        if loop is not None:
            loop.call_soon_threadsafe(self._arm, self._interval if interval is None else interval)
            return
        with self._lock:
            if not self._closed and not self._busy():
                self._draw()

    def close(self) -> None:
        """Draw no more."""
        self._closed = True

    def _arm(self, interval: float) -> None:
        if self._loop is None:
            return
        when = max(self._loop.time(), self._last + interval)
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._closed or self._loop is None:
            return
        if self._busy():
            self._timer = self._loop.call_later(self._interval, self._fire)
            return
        try:
            self._draw()
        finally:
            self._last = self._loop.time()


class Due(Generic[T]):
    """A value that is worked out off the loop, for the newest key, one at a time.

    Attributes
    ----------
    key, value : the last that were worked out; the value is None before, and where it failed.
    error : why it failed, or None.
    """

    def __init__(self) -> None:
        self.key: Hashable = None
        self.value: T | None = None
        self.error: Exception | None = None
        self._running = False
        self._lock = threading.Lock()

    def work(self, key: Hashable, compute: Callable[[], T]) -> Callable[[], None] | None:
        """What to run for the value of `key`; None if it is known, or another one is running."""
        with self._lock:
            if self._running or key == self.key:
                return None
            self._running = True

        def run() -> None:
            try:
                self.value, self.error = compute(), None
            except Exception as error:  # on a worker thread nobody else would ever hear of it
                _log.exception("A view could not be worked out.")
                self.value, self.error = None, error
            finally:
                self.key, self._running = key, False

        return run


def pen_of(labeller: Any) -> Callable[[], bool]:
    """Whether the labeller's pen is down: its `drawing`, a property or a method."""

    def drawing() -> bool:
        found = getattr(labeller, "drawing", False)
        return bool(found() if callable(found) else found)

    return drawing


def run_beside(refresher: Refresher, work: Callable[[], None]) -> None:
    """Run `work` off the refresher's loop and ask for a drawing after it; without a loop, now."""
    loop = refresher.loop
    if loop is None:
        work()
    else:
        loop.run_in_executor(None, work).add_done_callback(lambda _: refresher.ask())


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
        views = [part.view() for part in parts]
        self._screen = Screen(*views)
        self._resting = 0.0
        self.figure = self._screen.widget
        self.line = ipywidgets.Label("")
        feet = [part.foot or ipywidgets.HBox() for part in parts]
        self.widget = ipywidgets.VBox(
            [_row([part.controls for part in parts]), self.figure, _row(feet), self.line]
        )
        self.widget.add_class("alnb-panel")
        first = 0
        for part, view in reversed(list(zip(parts, views, strict=True))):  # as `compose` has them
            part.connect(self.figure.data[first : first + len(view.traces)], self.say, self._asked)
            first += len(view.traces)
        self._refresher = Refresher(self._draw, busy=pen_of(labeller))
        self._ends = [session.subscribe(self._heard), session.watch(self._watched)]
        self.refresh()

    def refresh(self) -> None:
        """Draw again soon; any thread may ask."""
        self._refresher.ask()

    def say(self, sentence: str) -> None:
        """Show a sentence below the figure."""
        self.line.value = sentence

    def close(self) -> None:
        """Follow the session no longer; the last picture stays."""
        for end in self._ends:
            end()
        self._refresher.close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def _asked(self, interval: float) -> None:
        self._resting = time.monotonic() + REST
        self._refresher.ask(interval)

    def _heard(self, entry: Entry) -> None:
        if not isinstance(entry.event, UNSEEN):
            self.refresh()

    def _watched(self, what: str) -> None:
        if what == "embedding":
            self.refresh()

    def _draw(self) -> None:
        for part in self._parts:
            work = part.work()
            if work is not None:
                run_beside(self._refresher, work)
        self._screen.show(*(part.view() for part in self._parts))
        live = self._refresher.loop is not None
        moving = live and time.monotonic() < self._resting
        if not moving:
            self._screen.renew()
        if moving or (live and any(part.restless for part in self._parts)):
            self.refresh()


def _row(widgets: Sequence[ipywidgets.DOMWidget]) -> ipywidgets.HBox:
    cells = [
        ipywidgets.HBox([widget], layout={"flex": "1 1 0", "min_width": "0"}) for widget in widgets
    ]
    return ipywidgets.HBox(cells, layout={"flex_flow": "row wrap"})
