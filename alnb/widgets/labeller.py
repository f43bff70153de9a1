"""Labeller: the labelling view of a session. It holds no truth; the session does."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from alnb.records import LabelMap, SliceId, Stroke
from alnb.session.clock import active_seconds
from alnb.session.session import Kind, Session
from alnb.store.events import (
    Entry,
    Evaluated,
    FitFailed,
    FitFinished,
    FitStarted,
    QueryAmended,
    RoundOpened,
    SliceSkipped,
    SliceSubmitted,
    StrokeAdded,
    StrokeRedone,
    StrokeUndone,
)
from alnb.widgets import status
from alnb.widgets.canvas import Handlers, ScribbleCanvas
from alnb.widgets.imaging import Imaging
from alnb.widgets.ink import Inks
from alnb.widgets.messages import Scene, read_slice, slice_message
from alnb.widgets.status import Line, Situation
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
    n : how many items the next query takes; by default as many as the last one, at first 6.
    auto : after the last answer of a query, train in the background and then ask for the next one.
    flip : (rows, cols) whether the display runs against storage order.
    """

    def __init__(
        self,
        session: Session,
        *,
        n: int | None = None,
        auto: bool = False,
        flip: tuple[bool, bool] = (False, False),
    ) -> None:
        self.session = session
        self.auto = auto
        self._n = n
        self._flip = flip
        self._lock = threading.RLock()
        self._imaging = Imaging(session.cohort)
        self._inks = Inks(session)
        self._here: SliceId | None = None
        self._proposed: tuple[SliceId, LabelMap, str] | None = None
        self._ticks: dict[SliceId, list[float]] = {}
        self._line: Line | None = None
        self._choosing = False
        self._chain = False
        self._pen_until = 0.0
        self._worker = Worker(self.report)
        handlers = Handlers(
            stroke=self._stroke,
            raster=self._inks.raster,
            act=self._act,
            hello=self._hello,
            ping=self._ping,
            pen=self._pen,
            failed=self.report,
        )
        self.canvas = ScribbleCanvas(session.classes, project=_project(session), handlers=handlers)
        self._ends = [session.subscribe(self._entry), session.watch(self._watch)]
        start = next(iter(session.pending or session.queue), None) or _first(session)
        if start is not None:
            self.show(start)
        self._line = status.greeting(len(session.state.labelled), session.problems)

    @property
    def widget(self) -> Any:
        """The ipywidgets box that holds the whole view."""
        return self.canvas.widget

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.widget._repr_mimebundle_(**kwargs)

    @property
    def here(self) -> SliceId | None:
        """The slice in view."""
        return self._here

    @property
    def drawing(self) -> bool:
        """Whether a pen is down just now; panels keep still meanwhile."""
        return time.monotonic() < self._pen_until

    def close(self) -> None:
        """Take the view off the page and stop listening. The session stays open."""
        for end in self._ends:
            end()
        self._worker.close()
        self.canvas.close()

    def settle(self, timeout: float = 10.0) -> None:
        """Wait until the view has caught up with everything that happened so far."""
        self._worker.settle(timeout)

    # ---- showing ----

    def show(self, slice_id: SliceId) -> None:
        """Bring a slice into view: one of the query, or any other of the cohort."""
        view = self._imaging.view(slice_id)
        with self._lock:
            if slice_id != self._here:
                self._line = None
            self._here = slice_id
            self._tick(slice_id, time.time())
            self.canvas.enter(self._scene(slice_id, view))
            self._refresh()
        self._worker.soon("proposal", self._propose)
        self._worker.soon("neighbours", self._send_neighbours)

    def report(self, error: BaseException) -> None:
        """Put an error into the state line."""
        self._say(status.sentence(error))

    def _scene(self, slice_id: SliceId, view: Any) -> Scene:
        session = self.session
        volume = session.cohort.volumes[slice_id.volume]
        queue = session.queue
        editable = volume.patient in session.split.train and not session.closed
        shown = self._proposal_of(slice_id)
        why = ""
        if not editable:
            why = "Held out for validation: to look at only."
        elif slice_id not in queue:
            why = "Not in the query. What you submit here joins it."
        return Scene(
            view=view,
            ink=self._inks.raster(slice_id),
            proposal=None if shown is None else shown[1],
            depth=volume.shape[0],
            aspect=session.cohort.pixel_mm(slice_id),
            flip=self._flip,
            editable=editable,
            title=slice_id.volume,
            reason=_reason(session, slice_id),
            why=why,
            home=bool(queue),
        )

    def _proposal_of(self, slice_id: SliceId | None) -> tuple[SliceId, LabelMap, str] | None:
        known = self._proposed
        return known if known is not None and known[0] == slice_id else None

    def _propose(self) -> None:
        """Fetch the model's label map of the slice in view, and journal that it was seen."""
        slice_id = self._here
        session = self.session
        if slice_id is None or session.closed:
            return
        ours = session.cohort.volumes[slice_id.volume].patient in session.split.train
        # what is asked is journalled as seen; what somebody passes by on the wheel is not
        shown = session.opened if ours and slice_id in session.queue else session.prediction
        found = shown(slice_id)
        with self._lock:
            if slice_id != self._here:
                return
            self._proposed = None if found is None else (slice_id, *found)
            self.canvas.propose(slice_id, None if found is None else found[0])
            self._refresh()

    def _send_neighbours(self) -> None:
        """Send the slices above and below, and the next of the queue's volume, ahead."""
        here = self._here
        if here is None:
            return
        depth = self.session.cohort.volumes[here.volume].shape[0]
        for index in (here.index + 1, here.index - 1, here.index + 2, here.index - 2):
            if 0 <= index < depth and here == self._here:
                self.canvas.remember(self._imaging.view(SliceId(here.volume, index)))

    def _refresh(self) -> None:
        """Send queue, buttons, progress and state line as they are now."""
        with self._lock:
            now = self._situation()
            session, here = self.session, self._here
            queue = [(slice_message(s), session.status(s)) for s in session.queue]
            job = session.job
            running = now.training and job is not None
            line = self._line or status.hint(now)
            undone = here is not None and bool(session.draft(here).undone)
            proposal = self._proposal_of(here)
            self.canvas.ui(
                {
                    "queue": status.chips(queue, slice_message(here) if here else {}),
                    "round": None if session.round is None else session.round.number + 1,
                    "acts": [act.as_message() for act in status.acts(now)],
                    "undo": here is not None and bool(session.draft(here).strokes),
                    "redo": undone,
                    "badge": "" if proposal is None else proposal[2],
                    "training": _training(job) if running else None,
                    "line": line.as_message(),
                }
            )

    def _situation(self) -> Situation:
        session, here = self.session, self._here
        fit = session.last_fit
        labelled = session.state.labelled
        strokes_or_base = here is not None and (
            bool(session.draft(here).strokes) or session.draft(here).base is not None
        )
        answered = {*labelled, *(s for s, _ in session.state.skipped)}
        free = [i for i, s in enumerate(session.pool.slices) if not answered.issuperset(s)]
        keep = session.created.keep_labelled
        return Situation(
            asked=session.round is not None,
            status="submitted" if here is None else session.status(here),
            ink=strokes_or_base,
            proposal=self._proposal_of(here) is not None,
            pending=len(session.pending),
            untrained=len(labelled - (fit.taught if fit else frozenset())),
            labelled=len(labelled),
            training=session.job is not None and session.job.running,
            choosing=self._choosing,
            left=len(session.pool) if keep else len(free),
            n=self._next_n(),
            locked=session.closed,
        )

    def _next_n(self) -> int:
        if self._n is not None:
            return self._n
        return len(self.session.round.query) if self.session.round else 6

    def _say(self, line: Line | None) -> None:
        self._line = line
        self._refresh()

    # ---- from the browser ----

    def _hello(self) -> None:
        """A page, tab or new view came up blank: give it everything."""
        if self._here is not None:
            self.show(self._here)
        else:
            self._refresh()

    def _ping(self, at: float, active: bool) -> None:
        if active and self._here is not None:
            self._tick(self._here, at)
        job = self.session.job
        if job is not None and job.running:
            self._refresh()

    def _pen(self, down: bool) -> None:
        self._pen_until = time.monotonic() + _LONGEST_STROKE_S if down else 0.0

    def _tick(self, slice_id: SliceId, at: float) -> None:
        self._ticks.setdefault(slice_id, []).append(at)

    def _stroke(self, slice_id: SliceId, stroke: Stroke) -> bool:
        fresh = self.session.draw(slice_id, stroke)
        self._line = None
        self._tick(slice_id, time.time())
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
            "train": lambda _: self._worker.soon("train", self._train),
            "stop": lambda _: self._stop(),
            "ask": lambda _: self._ask_now(),
        }
        if name not in acts:
            _log.warning("the view sent an unknown act %r", name)
            return
        self._line = None
        acts[name](details)

    def _change(self, act: Callable[[SliceId], bool], details: Mapping[str, Any]) -> None:
        slice_id = read_slice(details["slice"])
        self._tick(slice_id, time.time())
        act(slice_id)
        self.canvas.ink(slice_id, self._inks.raster(slice_id))
        self._refresh()

    def _submit(self, details: Mapping[str, Any], kind: Kind) -> None:
        slice_id = read_slice(details["slice"])
        # what is accepted is what was shown, also where a training has just ended
        if kind == "accepted" and self.session.draft(slice_id).proposal is None:
            self.session.opened(slice_id)
        self.session.submit(slice_id, kind, seconds=self._seconds(slice_id))
        self._finished(slice_id)

    def _skip(self, details: Mapping[str, Any]) -> None:
        slice_id = read_slice(details["slice"])
        self.session.skip(slice_id, seconds=self._seconds(slice_id))
        self._finished(slice_id)

    def _seconds(self, slice_id: SliceId) -> float:
        return round(active_seconds(self._ticks.get(slice_id, ())), 1)

    def _finished(self, slice_id: SliceId) -> None:
        """Go on: to the next open slice, or, in automatic mode, to training."""
        self._ticks.pop(slice_id, None)
        if self.session.pending:
            self._next_open()
            return
        self.show(slice_id)
        if self.auto and self._situation().untrained:
            self._chain = True
            self._worker.soon("train", self._train)

    def _go(self, by: int) -> None:
        queue = self.session.queue
        if not queue:
            return
        if self._here in queue:
            self.show(queue[(queue.index(self._here) + by) % len(queue)])
        else:
            self._home()

    def _home(self) -> None:
        """Back to the query: to its open slice nearest in the same volume, else the first."""
        queue = self.session.pending or self.session.queue
        if not queue:
            return
        here = self._here
        same = [s for s in queue if here is not None and s.volume == here.volume]
        self.show(min(same, key=lambda s: abs(s.index - here.index)) if same and here else queue[0])

    def _next_open(self) -> None:
        """The next pending slice after the one in view, in query order, from the start again."""
        queue, pending = self.session.queue, set(self.session.pending)
        if not pending:
            return
        start = queue.index(self._here) + 1 if self._here in queue else 0
        self.show(next(s for s in (*queue[start:], *queue[:start]) if s in pending))

    # ---- learning ----

    def _train(self) -> None:
        job = self.session.job
        if job is not None and job.running:
            return
        self.session.fit_in_background()
        self._refresh()

    def _stop(self) -> None:
        self._chain = False
        if self.session.job is not None:
            self.session.job.stop()
        self._refresh()

    def _ask_now(self) -> None:
        """A person asks, so the automatic round need not ask again when its training ends."""
        self._chain = False
        self._begin_asking()

    def _begin_asking(self) -> None:
        self._choosing = True
        self._refresh()
        self._worker.soon("ask", self._ask)

    def _ask(self) -> None:
        try:
            opened = self.session.ask(min(self._next_n(), self._situation().left))
        finally:
            self._choosing = False
            self._refresh()
        self._line = Line(f"Round {opened.number + 1}: {len(opened.query)} to label.", "good")
        if self.session.pending:
            line = self._line
            self.show(self.session.pending[0])
            self._say(line)

    # ---- from the session, on any thread ----

    def _entry(self, entry: Entry) -> None:
        event = entry.event
        match event:
            case StrokeAdded() | StrokeUndone() | StrokeRedone():
                self._worker.soon("ink", self._ink)
            case SliceSubmitted() | SliceSkipped() | QueryAmended():
                self._worker.soon("ink", self._ink)
            case RoundOpened():
                self._worker.soon("round", self._round)
            case FitStarted():
                self._worker.soon("refresh", self._refresh)
            case FitFinished():
                self._worker.soon("fitted", lambda: self._fitted(event))
            case FitFailed():
                self._worker.soon("failed", lambda: self._fit_failed(event))
            case Evaluated():
                self._worker.soon("measured", lambda: self._measured(event))

    def _watch(self, what: str) -> None:
        if what == "model":
            self._worker.soon("proposal", self._propose)
        elif what == "closed":
            self._worker.soon("closed", self._closed)
        elif what == "problem":
            self._worker.soon("problem", self._problem)
        elif self.session.job is not None and not self.session.job.running:
            self._worker.soon("ended", self._ended)

    def _problem(self) -> None:
        self._say(Line(self.session.problems[-1], "warn"))

    def _closed(self) -> None:
        words = "The project was closed, or opened again in another view. Nothing is lost."
        if self._here is not None:
            self.show(self._here)
        self._say(Line(words, "error"))

    def _ink(self) -> None:
        here = self._here
        if here is not None:
            self.canvas.ink(here, self._inks.raster(here))
        self._refresh()

    def _round(self) -> None:
        """A query came, perhaps from a cell: go there unless something is open under the pen."""
        if self._choosing:
            return
        pending = self.session.pending
        if pending and self._here not in pending:
            self.show(pending[0])
        else:
            self._refresh()

    def _fitted(self, event: FitFinished) -> None:
        fit = self.session.state.fits[event.fit]
        report = event.report
        text = (
            f"Trained on {len(fit.taught)} slices in {status.duration(report.seconds)}"
            f"{' (stopped early)' if report.stopped else ''}. The outline is its proposal."
        )
        self._say(Line(" ".join((text, *report.notes)), "good"))

    def _measured(self, event: Evaluated) -> None:
        text = self._line.text if self._line is not None else "Model measured."
        self._say(Line(f"{text} {status.metrics_text(event.metrics)}", "good"))

    def _fit_failed(self, event: FitFailed) -> None:
        self._chain = False
        self._say(Line(event.error, "error"))

    def _ended(self) -> None:
        self._propose()
        self._refresh()
        job = self.session.job
        if self._chain and job is not None and job.error is None:
            self._chain = False
            self._begin_asking()


def _training(job: Any) -> dict[str, Any]:
    step = job.progress
    return {
        "share": None if step is None or not step.total else step.step / step.total,
        "text": "Stopping …" if job.stopping else status.training_text(step),
        "stopping": job.stopping,
    }


def _project(session: Session) -> str:
    """Names the project for the browser's memory, without saying where it lies."""
    first = next(iter(session.journal.entries()))
    return hashlib.sha256(f"{session.folder}|{first.at}".encode()).hexdigest()[:16]


def _reason(session: Session, slice_id: SliceId) -> str:
    """Why this slice is asked: its round, its score and its origin, as far as they are known."""
    asked = session.round
    if asked is None:
        return ""
    row_of = dict(zip(session.pool.ids, session.pool.slices, strict=True))
    place = next((i for i, item in enumerate(asked.query) if slice_id in row_of[item]), None)
    if place is None:
        return ""
    words = {"control": "drawn at random as a control", "again": "asked again"}
    words["person"] = "added by hand"
    score, origin = asked.scores[place], asked.origin[place] if asked.origin else ""
    parts = [f"round {asked.number + 1}"]
    parts += [] if score is None else [f"score {score:.3g}"]
    parts += [words[origin]] if origin in words else []
    return " · ".join(parts)


def _first(session: Session) -> SliceId | None:
    """A slice to look at before anything was asked: the middle of the first volume."""
    if not session.pool.slices:
        return None
    volume = session.pool.slices[0][0].volume
    return SliceId(volume, session.cohort.volumes[volume].shape[0] // 2)
