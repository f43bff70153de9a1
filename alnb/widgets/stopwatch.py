"""When somebody was seen to work on which slice."""

from __future__ import annotations

import threading
import time

from alnb.records import SliceId
from alnb.session.clock import active_seconds


class Stopwatch:
    """Collects the times at which a person worked on a slice, until it is answered.

    All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ticks: dict[SliceId, list[float]] = {}

    def tick(self, slice_id: SliceId, at: float | None = None) -> None:
        """The person works on this slice, at `at` in seconds since 1970, or now."""
        with self._lock:
            self._ticks.setdefault(slice_id, []).append(time.time() if at is None else at)

    def seconds(self, slice_id: SliceId) -> float:
        """Active time on this slice since its last answer, to a tenth of a second."""
        with self._lock:
            ticks = tuple(self._ticks.get(slice_id, ()))
        return round(active_seconds(ticks), 1)

    def answered(self, slice_id: SliceId) -> None:
        """What came until now is counted; begin anew."""
        with self._lock:
            self._ticks.pop(slice_id, None)
