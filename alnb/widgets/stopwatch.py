"""When somebody was seen to work on which slice, also before the kernel was started anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import datetime

from alnb.records import SliceId
from alnb.session.clock import active_seconds
from alnb.session.session import Session
from alnb.store.events import (
    Entry,
    SliceSkipped,
    SliceSubmitted,
    StrokeAdded,
    StrokeRedone,
    StrokeUndone,
)


class Stopwatch:
    """Collects the times at which the session's annotator worked on a slice, until it is answered.

    All methods may be called from any thread.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._ticks: dict[SliceId, list[float]] = {}
        self._reading = threading.Lock()
        # what an earlier view or kernel left unfinished, until its times are recalled
        self._left = {
            slice_id
            for (slice_id, by), draft in session.state.drafts.items()
            if by == session.annotator
            and draft.seen
            and session.status(slice_id) in ("open", "edited")
        }

    def tick(self, slice_id: SliceId, at: float | None = None) -> None:
        """The person works on this slice, at `at` in seconds since 1970, or now."""
        with self._lock:
            self._ticks.setdefault(slice_id, []).append(time.time() if at is None else at)

    def recall(self, slice_id: SliceId) -> None:
        """Count what was drawn on this slice before the view began and never answered.

        The first such slice reads the whole journal, for all of them: not for a stroke to wait.
        """
        with self._reading:
            if slice_id not in self._left or self._session.closed:
                return
            earlier = drawing_times(self._session.journal.entries(), self._session.annotator)
            with self._lock:
                # without those that were answered meanwhile
                for left in self._left:
                    self._ticks.setdefault(left, []).extend(earlier.get(left, ()))
                self._left.clear()

    def seconds(self, slice_id: SliceId) -> float:
        """Active time on this slice since its last answer, to a tenth of a second."""
        self.recall(slice_id)
        with self._lock:
            return round(active_seconds(self._ticks.get(slice_id, ())), 1)

    def answered(self, slice_id: SliceId) -> None:
        """What came until now is counted; begin anew."""
        with self._lock:
            self._left.discard(slice_id)
            self._ticks.pop(slice_id, None)

    def heard(self, entry: Entry) -> None:
        """Begin anew after an answer, in whichever view it was given: no time counts twice."""
        me = self._session.annotator
        match entry.event:
            case SliceSubmitted(answer) if answer.annotator == me:
                self.answered(answer.slice_id)
            case SliceSkipped(slice_id) if entry.by == me:
                self.answered(slice_id)


def drawing_times(entries: Iterable[Entry], annotator: str) -> dict[SliceId, list[float]]:
    """When an annotator drew on each slice since their last answer for it; seconds since 1970."""
    times: dict[SliceId, list[float]] = {}
    for entry in entries:
        match entry.event:
            case StrokeAdded() | StrokeUndone() | StrokeRedone() as act if entry.by == annotator:
                at = datetime.fromisoformat(entry.at).timestamp()
                times.setdefault(act.slice_id, []).append(at)
            case SliceSubmitted(answer) if answer.annotator == annotator:
                times.pop(answer.slice_id, None)
            case SliceSkipped(slice_id) if entry.by == annotator:
                times.pop(slice_id, None)
    return times
