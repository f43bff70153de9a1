"""Labeller: the labelling view of a session. It holds no truth; the session does."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from alnb.errors import IllegalEvent
from alnb.records import SliceId, Stroke
from alnb.session.ink import Inks
from alnb.session.live import LiveProposal
from alnb.session.offers import Offer
from alnb.session.session import Kind, Session
from alnb.store.events import (
    Entry,
    QueryAmended,
    SliceReopened,
    SliceSkipped,
    SliceSubmitted,
    StrokeAdded,
    StrokeRedone,
    StrokeUndone,
)
from alnb.widgets import status
from alnb.widgets.canvas import Handlers, ScribbleCanvas
from alnb.widgets.display import Display
from alnb.widgets.flow import Flow
from alnb.widgets.messages import read_slice
from alnb.widgets.status import Line
from alnb.widgets.stopwatch import Stopwatch
from alnb.widgets.volume_acts import VolumeActs
from alnb.widgets.walk import ahead
from alnb.widgets.worker import Worker

_LONGEST_STROKE_S = 30.0  # after a lost "up" the panels may move again
_log = logging.getLogger(__name__)


class Labeller:
    """Draw, submit, train and ask again, on the slices that a session asks for.

    Display it, or its `widget`. Everything it shows comes from the session, so that any number of
    views and tabs agree; every stroke is on disk before it is shown as saved.

    Parameters
    ----------
    session : the open project.
    n : how many items the next query takes; by default as many as the last one, at first 6 slices
        or 1 volume.
    auto : after the last answer of a query, train in the background and then ask for the next one.
    flip : (rows, cols) whether the display runs against storage order.
    live : whether the strokes on a slice are grown into a proposal while they are drawn; the
        view's own switch, and `session.live.switch`, change it at any time.
    """

    def __init__(
        self,
        session: Session,
        *,
        n: int | None = None,
        auto: bool = False,
        flip: tuple[bool, bool] = (False, False),
        live: bool = True,
    ) -> None:
        self.session = session
        session.live.switch(live)
        self.auto = auto
        self._pen_until = 0.0
        self._stopwatch = Stopwatch(session)
        self._worker = Worker(self.report)
        inks = Inks(session)
        handlers = Handlers(
            stroke=self._stroke,
            raster=inks.raster,
            act=self._act,
            hello=self._hello,
            ping=self._ping,
            pen=self._pen,
            failed=self.report,
        )
        self.canvas = ScribbleCanvas(session.classes, project=_project(session), handlers=handlers)
        self._display = Display(
            session,
            self.canvas,
            inks=inks,
            worker=self._worker,
            stopwatch=self._stopwatch,
            n=n,
            flip=flip,
        )
        self._flow = Flow(session, self._display, self._worker)
        self._volumes = VolumeActs(session, self._display, self._stopwatch, self._finished)
        self._ends = [
            session.subscribe(self._heard),
            session.subscribe(self._flow.heard),
            session.subscribe(self._stopwatch.heard),
            session.watch(self._watched),
            session.watch(self._flow.watched),
        ]
        start = ahead(session, None) or next(iter(session.queue), None) or _first(session)
        if start is not None:
            self.show(start)
        self._display.line = status.greeting(len(session.state.labelled), session.problems)

    @property
    def widget(self) -> Any:
        """The ipywidgets box that holds the whole view."""
        return self.canvas.widget

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.widget._repr_mimebundle_(**kwargs)

    @property
    def here(self) -> SliceId | None:
        """The slice in view."""
        return self._display.here

    @property
    def drawing(self) -> bool:
        """Whether a pen is down just now; panels keep still meanwhile."""
        return time.monotonic() < self._pen_until

    def show(self, slice_id: SliceId) -> None:
        """Bring a slice into view: one of the query, or any other of the cohort."""
        self._display.show(slice_id)

    def on_show(self, listener: Callable[[SliceId], None]) -> Callable[[], None]:
        """Call `listener`, on any thread, when another slice comes into view.

        What comes back ends it.
        """
        return self._display.on_show(listener)

    def place(self, widget: Any) -> None:
        """Put a widget beside the canvas, or below it where there is no room beside."""
        widget.add_class("alnb-aside")
        self.widget.children = (*self.widget.children, widget)

    def report(self, error: BaseException) -> None:
        """Put an error into the state line."""
        self._display.report(error)

    def settle(self, timeout: float = 10.0) -> None:
        """Wait until the view has caught up with everything that happened so far."""
        self._worker.settle(timeout)

    def close(self) -> None:
        """Take the view off the page and stop listening. The session stays open."""
        for end in self._ends:
            end()
        self._worker.close()
        self.canvas.close()

    # ---- from the browser ----

    def _hello(self) -> None:
        """A page, tab or new view came up blank: give it everything."""
        self._display.everything()

    def _ping(self, at: float, active: bool) -> None:
        if active and self.here is not None:
            self._stopwatch.tick(self.here, at)
        job = self.session.job
        if job is not None and job.running:
            self._display.refresh()

    def _pen(self, down: bool) -> None:
        self._pen_until = time.monotonic() + _LONGEST_STROKE_S if down else 0.0

    def _stroke(self, slice_id: SliceId, stroke: Stroke) -> bool:
        fresh = self.session.draw(slice_id, stroke)
        self._display.line = None
        self._stopwatch.tick(slice_id)
        return fresh

    def _act(self, name: str, details: Mapping[str, Any]) -> None:
        acts: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "show": lambda d: self.show(read_slice(d["target"])),
            "next": lambda _: self._go(1),
            "previous": lambda _: self._go(-1),
            "home": lambda _: self._home(),
            "next_open": lambda _: self._next_open(),
            "undo": lambda d: self._change(self.session.undo, d),
            "redo": lambda d: self._change(self.session.redo, d),
            "clear": lambda d: self._change(self.session.clear, d),
            "submit": lambda d: self._submit(d, "scribble"),
            "mask": lambda d: self._submit(d, "mask"),
            "accept": lambda d: self._submit(d, "accepted"),
            "skip": self._skip,
            "train": lambda _: self._flow.train(),
            "stop": lambda _: self._flow.stop(),
            "ask": lambda _: self._flow.ask(),
            "live": self._switch,
            "strategy": lambda d: self._flow.choose(str(d["strategy"])),
            **self._volumes.acts,
        }
        if name not in acts:
            _log.warning("the view sent an unknown act %r", name)
            return
        self._display.line = None
        acts[name](details)

    def _change(self, act: Callable[[SliceId], bool], details: Mapping[str, Any]) -> None:
        slice_id = read_slice(details["slice"])
        self._stopwatch.tick(slice_id)
        act(slice_id)
        self._display.ink(slice_id)

    def _switch(self, details: Mapping[str, Any]) -> None:
        live = self.session.live
        live.switch(bool(details.get("on", not live.on)))
        self._display.refresh()

    def _submit(self, details: Mapping[str, Any], kind: Kind) -> None:
        slice_id = read_slice(details["slice"])
        shown = self._shown(slice_id, details, kind)
        draft = self.session.draft(slice_id)
        # what is accepted is what was shown, also where a training has just ended
        if kind == "accepted" and shown is None and draft.proposal is None and not draft.beneath:
            self.session.opened(slice_id)
        seconds = self._stopwatch.seconds(slice_id)
        self.session.submit(slice_id, kind, seconds=seconds, shown=shown)
        self._finished(slice_id)

    def _shown(
        self, slice_id: SliceId, details: Mapping[str, Any], kind: Kind
    ) -> LiveProposal | Offer | None:
        """The proposal that the person had in view; a newer one may be on its way by now."""
        offer = self._display.offer_of(slice_id)
        if details.get("between") is not None:
            if offer is None or offer.id != details["between"]:
                if kind != "accepted":
                    return None
                raise IllegalEvent(
                    "What was interpolated here has changed meanwhile, so nothing was submitted. "
                    "Look at what is shown now, and accept that."
                )
            return offer
        if "live" not in details:
            return offer or self.session.live.latest(slice_id)
        if details["live"] is None:
            return None
        found = self.session.live.known(slice_id, str(details["live"]))
        if found is None and kind == "accepted" and not self.session.draft(slice_id).beneath:
            raise IllegalEvent(
                "The proposal in view is not held any more, so nothing was submitted. A new one "
                "comes with the next stroke; accept that one, or submit the strokes."
            )
        return found

    def _skip(self, details: Mapping[str, Any]) -> None:
        slice_id = read_slice(details["slice"])
        self.session.skip(slice_id, seconds=self._stopwatch.seconds(slice_id))
        self._finished(slice_id)

    def _finished(self, slice_id: SliceId) -> None:
        """Go on: to the next open slice, or, in automatic mode, to training."""
        if self.session.pending:
            self._next_open()
            return
        self.show(slice_id)
        if self.auto:
            self._flow.train_then_ask()

    # ---- going about ----

    def _go(self, by: int) -> None:
        queue = self.session.queue
        if not queue:
            return
        if self.here in queue:
            self.show(queue[(queue.index(self.here) + by) % len(queue)])
        else:
            self._home()

    def _home(self) -> None:
        """Back to the query: to its open slice nearest in the same volume, else the first."""
        queue = self.session.pending or self.session.queue
        if not queue:
            return
        here = self.here
        same = [s for s in queue if here is not None and s.volume == here.volume]
        self.show(min(same, key=lambda s: abs(s.index - here.index)) if same and here else queue[0])

    def _next_open(self) -> None:
        """Where the query goes on from the slice in view; see `walk.ahead`."""
        slice_id = ahead(self.session, self.here)
        if slice_id is not None:
            self.show(slice_id)

    # ---- from the session, on any thread ----

    def _heard(self, entry: Entry) -> None:
        match entry.event:
            case StrokeAdded() | StrokeUndone() | StrokeRedone():
                self._worker.soon("ink", self._ink)
            case SliceSubmitted() | SliceSkipped() | SliceReopened() | QueryAmended():
                self._worker.soon("ink", self._ink)
            case _:
                return
        self._worker.soon("walk", self._display.walk)

    def _watched(self, what: str) -> None:
        if what == "model":
            self._worker.soon("proposal", self._display.propose)
        elif what == "live":
            # here and not on the worker, where a query may be waited for
            self._display.grow()
        elif what == "closed":
            self._worker.soon("closed", self._closed)
        elif what == "problem":
            self._worker.soon("problem", self._problem)

    def _ink(self) -> None:
        self._display.ink(self.here)

    def _problem(self) -> None:
        self._display.say(Line(self.session.problems[-1], "warn"))

    def _closed(self) -> None:
        words = "The project was closed, or opened again in another view. Nothing is lost."
        if self.here is not None:
            self.show(self.here)
        self._display.say(Line(words, "error"))


def _project(session: Session) -> str:
    """Names the project for the browser's memory, without saying where it lies."""
    first = next(iter(session.journal.entries()))
    return hashlib.sha256(f"{session.folder}|{first.at}".encode()).hexdigest()[:16]


def _first(session: Session) -> SliceId | None:
    """A slice to look at before anything was asked: the middle of the first volume."""
    if not session.pool.slices:
        return None
    volume = session.pool.slices[0][0].volume
    return SliceId(volume, session.cohort.volumes[volume].shape[0] // 2)
