"""What a person does to a volume in view: accept what lies between, go about, be done with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from alnb.records import SliceId, VolumeId
from alnb.session.answering import FINISHED
from alnb.session.session import Session
from alnb.widgets import status
from alnb.widgets.display import Display
from alnb.widgets.messages import read_slice
from alnb.widgets.status import Line
from alnb.widgets.stopwatch import Stopwatch
from alnb.widgets.walk import ahead, beside, by_volume, worth

Details = Mapping[str, Any]


class VolumeActs:
    """Acts by name, for the labelling view of a session that asks for whole volumes.

    finished : what follows when a volume is done.
    """

    def __init__(
        self,
        session: Session,
        display: Display,
        stopwatch: Stopwatch,
        finished: Callable[[SliceId], None],
    ) -> None:
        self._session = session
        self._display = display
        self._stopwatch = stopwatch
        self._finished = finished

    @property
    def acts(self) -> dict[str, Callable[[Details], None]]:
        """What the browser may ask for; nothing where single slices are asked for."""
        if not by_volume(self._session):
            return {}
        return {
            "between": self._interpolate,
            "accept_all": self._accept_all,
            "withdraw": self._withdraw,
            "worth": self._worth,
            "finish": self._finish,
            "reopen": self._reopen,
            "next_volume": lambda _: self._go(1),
            "previous_volume": lambda _: self._go(-1),
        }

    def _interpolate(self, details: Details) -> None:
        self._display.offering = bool(details.get("on", not self._display.offering))
        self._display.walk()

    def _accept_all(self, details: Details) -> None:
        """Take the interpolations of the gap in view, or of the volume; the view stays."""
        here = read_slice(details["slice"])
        reach = [SliceId(here.volume, i) for i in self._display.walking(here).within_reach]
        offers = [offer for s in reach if (offer := self._display.offer_of(s)) is not None]
        seconds = {s: self._stopwatch.seconds(s) for s in reach}
        taken = self._session.accept_between(offers, seconds)
        words = f"{status.count(len(taken), 'interpolated slice')} accepted."
        self._changed(Line(f"{words} Each can be undone by itself, or all taken back.", "good"))

    def _withdraw(self, details: Details) -> None:
        """Take back the interpolations around the slice in view that stand as they came."""
        here = read_slice(details["slice"])
        back = self._display.walking(here).takeable_back
        gone = self._session.withdraw(SliceId(here.volume, i) for i in back)
        words = status.count(len(gone), "interpolated slice")
        self._changed(Line(f"{words} taken back, and offered again."))

    def _changed(self, line: Line) -> None:
        self._display.walk()
        self._display.ink(self._display.here)
        self._display.say(line)

    def _worth(self, details: Details) -> None:
        """The slice most worth labelling of the volume in view, or where the query goes on."""
        here = read_slice(details["slice"])
        now = self._display.walking(here)
        index = worth(now.cells, now.open - {here.index} or now.open)
        going = ahead(self._session, here) if index is None else SliceId(here.volume, index)
        if going is not None:
            self._display.show(going)

    def _finish(self, details: Details) -> None:
        """Wait no longer for the untouched slices of a volume, and go on with the next one."""
        session, here = self._session, read_slice(details["slice"])
        for slice_id in [s for s in session.pending if s.volume == here.volume]:
            seconds = self._stopwatch.seconds(slice_id)
            if seconds and not session.draft(slice_id).strokes:
                session.skip(slice_id, FINISHED, seconds)
        session.finish(VolumeId(here.volume))
        left = [s for s in session.pending if s.volume == here.volume]
        if not left:
            self._finished(here)
            return
        self._display.show(left[0])
        words = "These strokes were not submitted. Submit them or take them back; the rest of "
        self._display.say(Line(f"{words}the volume is done.", "warn"))

    def _reopen(self, details: Details) -> None:
        here = read_slice(details["slice"])
        self._session.reopen(here.volume)
        self._display.show(here)

    def _go(self, by: int) -> None:
        slice_id = beside(self._session, self._display.here, by)
        if slice_id is not None:
            self._display.show(slice_id)
