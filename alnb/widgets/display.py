"""What the labelling view shows of a session: one slice, its proposal, the buttons and the line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from alnb.records import LabelMap, SliceId
from alnb.session.ink import Inks
from alnb.session.live import LiveProposal
from alnb.session.offers import Offer
from alnb.session.session import Session
from alnb.session.state import SessionState
from alnb.widgets import status
from alnb.widgets.canvas import ScribbleCanvas
from alnb.widgets.film import Film
from alnb.widgets.imaging import Imaging
from alnb.widgets.messages import Scene, View, slice_message
from alnb.widgets.status import Line, Situation
from alnb.widgets.stopwatch import Stopwatch
from alnb.widgets.strategies import offered
from alnb.widgets.walk import Walk, ahead, by_volume, volume_chips, walk
from alnb.widgets.worker import Worker

_log = logging.getLogger(__name__)


class Display:
    """Sends what a session holds to the canvas. It changes nothing, but notes what was looked at.

    All methods may be called from any thread.

    Attributes
    ----------
    here : the slice in view.
    line : what the state line says; None for a hint at what to do next.
    choosing : whether the next query is being chosen just now.
    offering : whether slices between labelled ones of a volume are interpolated.
    """

    def __init__(
        self,
        session: Session,
        canvas: ScribbleCanvas,
        *,
        inks: Inks,
        worker: Worker,
        stopwatch: Stopwatch,
        n: int | None,
        flip: tuple[bool, bool],
    ) -> None:
        self.here: SliceId | None = None
        self.line: Line | None = None
        self.choosing = False
        self.offering = by_volume(session)
        self._session = session
        self._canvas = canvas
        self._inks = inks
        self._worker = worker
        self._stopwatch = stopwatch
        self._n = n
        self._flip = flip
        self._lock = threading.RLock()
        self._imaging = Imaging(session.cohort)
        self._film = Film(session, canvas, self._imaging, inks)
        self._offers: dict[SliceId, Offer] = {}
        self._counted: tuple[SessionState, tuple[SliceId, ...]] | None = None
        self._viewers: tuple[Callable[[SliceId], None], ...] = ()
        self._proposed: tuple[SliceId, LabelMap, str] | None = None
        self._live = session.live
        self._grown: tuple[SliceId, LiveProposal | None] | None = None

    # ---- one slice ----

    def show(self, slice_id: SliceId) -> None:
        """Bring a slice into view; its proposal and its neighbours follow."""
        view = self._imaging.view(slice_id)
        with self._lock:
            another = slice_id != self.here
            if another:
                self.line = None
            self.here = slice_id
            self._stopwatch.tick(slice_id)
            self._canvas.enter(self._scene(slice_id, view))
            self._grown = None
            self.grow()
            if self.offer_of(slice_id) is not None:
                self._canvas.offer(slice_id, self.offer_of(slice_id))
            self.refresh()
        self._live.look_at(slice_id)
        self._worker.soon("walk", self.walk)
        self._worker.soon("proposal", self.propose)
        self._worker.soon("neighbours", self._send_neighbours)
        self._worker.soon("recall", self._recall)
        if another:
            self._tell(slice_id)

    def on_show(self, listener: Callable[[SliceId], None]) -> Callable[[], None]:
        """Call `listener` when another slice comes into view; what comes back ends it."""
        with self._lock:
            self._viewers = (*self._viewers, listener)

        def end() -> None:
            with self._lock:
                self._viewers = tuple(each for each in self._viewers if each is not listener)

        return end

    def _tell(self, slice_id: SliceId) -> None:
        for viewer in self._viewers:
            try:
                viewer(slice_id)
            except Exception:  # what stands beside the canvas must not keep a slice from showing
                _log.exception("a listener failed")

    def begin(self) -> None:
        """Go where the query begins, or goes on."""
        slice_id = ahead(self._session, None)
        if slice_id is not None:
            self.show(slice_id)

    def everything(self) -> None:
        """Send all that is shown, to a page that came up blank."""
        self._film.forget()
        if self.here is not None:
            self.show(self.here)
        else:
            self.refresh()

    def ink(self, slice_id: SliceId | None) -> None:
        """Bring the ink of a slice up to date, and what depends on it."""
        if slice_id is not None:
            self._canvas.ink(slice_id, self._inks.raster(slice_id))
        self.grow()
        self.refresh()

    def grow(self) -> None:
        """Bring the live proposal of the slice in view up to date, if it is another one."""
        with self._lock:
            here = self.here
            if here is None:
                return
            newest = self._live.latest(here)
            if self._grown is None or self._grown != (here, newest):
                self._grown = here, newest
                self._canvas.grow(here, newest)
                self.refresh()

    def walk(self) -> None:
        """Bring up to date what is interpolated in the volume in view, and its small pictures."""
        session, here = self._session, self.here
        if here is None or not by_volume(session):
            return
        ours = self._ours(here) and self.offering and not session.closed
        found = {o.slice_id: o for o in session.interpolate(here.volume)} if ours else {}
        with self._lock:
            if self.here is None or self.here.volume != here.volume:
                return
            before, self._offers = self.offer_of(self.here), found
            if self.offer_of(self.here) is not before:
                self._canvas.offer(self.here, self.offer_of(self.here))
            self.refresh()
        self._film.show(here.volume, self.walking(here).cells, found)

    def offer_of(self, slice_id: SliceId | None) -> Offer | None:
        """What was interpolated for a slice, as far as it is shown."""
        return None if slice_id is None else self._offers.get(slice_id)

    def walking(self, here: SliceId) -> Walk:
        """Where one is in the volume of a slice."""
        return walk(self._session, here, self._pending(), self._offers, offering=self.offering)

    def _pending(self) -> tuple[SliceId, ...]:
        """The session's, which looks at every slice of the query, counted once per state."""
        state = self._session.state
        if self._counted is None or self._counted[0] is not state:
            self._counted = state, self._session.pending
        return self._counted[1]

    def _ours(self, slice_id: SliceId) -> bool:
        """Whether a slice is of a patient who may be labelled."""
        session = self._session
        return session.cohort.volumes[slice_id.volume].patient in session.split.train

    def propose(self) -> None:
        """Fetch the model's label map of the slice in view, and journal that it was seen."""
        slice_id = self.here
        session = self._session
        if slice_id is None or session.closed:
            return
        # what is asked is journalled as seen; what somebody passes by on the wheel is not, nor
        # what an interpolation stands in front of
        asked = self._ours(slice_id) and slice_id in session.queue
        seen = asked and self.offer_of(slice_id) is None
        shown = session.opened if seen else session.prediction
        found = shown(slice_id)
        with self._lock:
            if slice_id != self.here:
                return
            self._proposed = None if found is None else (slice_id, *found)
            self._canvas.propose(slice_id, None if found is None else found[0])
            self.refresh()

    def _scene(self, slice_id: SliceId, view: View) -> Scene:
        session = self._session
        volume = session.cohort.volumes[slice_id.volume]
        queue = session.queue
        ours = self._ours(slice_id)
        shown = self._proposal_of(slice_id)
        why = ""
        if not ours:
            why = "Held out for validation: to look at only."
        elif session.closed:
            why = "The project is closed in this view: to look at only."
        elif slice_id not in queue:
            why = "Not in the query. What you submit here joins it."
        return Scene(
            view=view,
            ink=self._inks.raster(slice_id),
            proposal=None if shown is None else shown[1],
            depth=volume.shape[0],
            aspect=session.cohort.pixel_mm(slice_id),
            flip=self._flip,
            editable=ours and not session.closed,
            title=slice_id.volume,
            reason=_reason(session, slice_id),
            why=why,
            home=bool(queue),
        )

    def _proposal_of(self, slice_id: SliceId | None) -> tuple[SliceId, LabelMap, str] | None:
        known = self._proposed
        return known if known is not None and known[0] == slice_id else None

    def _grown_of(self, slice_id: SliceId | None) -> LiveProposal | None:
        known = self._grown
        return known[1] if known is not None and known[0] == slice_id else None

    def _send_neighbours(self) -> None:
        """Send the slices above and below, and the two after those, ahead."""
        here = self.here
        if here is None:
            return
        depth = self._session.cohort.volumes[here.volume].shape[0]
        for index in (here.index + 1, here.index - 1, here.index + 2, here.index - 2):
            if 0 <= index < depth and here == self.here:
                self._canvas.remember(self._imaging.view(SliceId(here.volume, index)))

    def _recall(self) -> None:
        if self.here is not None:
            self._stopwatch.recall(self.here)

    # ---- what stands around it ----

    def say(self, line: Line | None) -> None:
        """Put a sentence into the state line."""
        self.line = line
        self.refresh()

    def report(self, error: BaseException) -> None:
        """Put an error into the state line."""
        self.say(status.sentence(error))

    def refresh(self) -> None:
        """Send queue, buttons, progress and state line as they are now."""
        with self._lock:
            now = self.situation()
            session, here = self._session, self.here
            job = session.job
            running = now.training and job is not None
            line = self.line or status.hint(now)
            undone = here is not None and bool(session.draft(here).undone)
            proposal, grown = self._proposal_of(here), self._grown_of(here)
            offer = self.offer_of(here)
            self._canvas.ui(
                {
                    "queue": self._chips(),
                    "walk": status.track(now),
                    "round": None if session.round is None else session.round.number + 1,
                    "acts": [act.as_message() for act in status.acts(now)],
                    "strategy": offered(
                        session.strategies,
                        session.strategy_name,
                        not (now.choosing or now.locked),
                    ),
                    "note": "" if session.round is None else session.round.note,
                    "undo": here is not None and session.draft(here).undoable,
                    "redo": undone,
                    "badge": status.badge(proposal, grown, offer),
                    "live": self._live.on,
                    "training": _training(job) if running else None,
                    "line": line.as_message(),
                }
            )

    def _chips(self) -> list[dict[str, Any]]:
        session, here = self._session, self.here
        if by_volume(session):
            return volume_chips(session, here, self._pending())
        queue = [(slice_message(s), session.status(s)) for s in session.queue]
        return status.chips(queue, slice_message(here) if here else {})

    def situation(self) -> Situation:
        """All that decides which buttons there are, as it is now."""
        session, here = self._session, self.here
        fit = session.last_fit
        labelled = session.state.labelled
        strokes_or_base = here is not None and (
            bool(session.draft(here).strokes) or session.draft(here).base is not None
        )
        free, _ = session.candidates()
        return Situation(
            asked=session.round is not None,
            status="submitted" if here is None else session.status(here),
            ink=strokes_or_base,
            proposal=self._proposal_of(here) is not None,
            live=self._grown_of(here) is not None,
            offered=self.offer_of(here) is not None,
            walk=self.walking(here) if here is not None and by_volume(session) else None,
            pending=len(self._pending()),
            untrained=len(labelled - (fit.taught if fit else frozenset())),
            labelled=len(labelled),
            training=session.job is not None and session.job.running,
            choosing=self.choosing,
            left=int(free.sum()),
            n=self._next_n(),
            locked=session.closed,
        )

    def _next_n(self) -> int:
        if self._n is not None:
            return self._n
        return len(self._session.round.query) if self._session.round else self._session.usual


def _training(job: Any) -> dict[str, Any]:
    step = job.progress
    return {
        "share": None if step is None or not step.total else step.step / step.total,
        "text": "Stopping …" if job.stopping else status.training_text(step),
        "stopping": job.stopping,
    }


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
