"""The one door: every change is computed, journalled, made visible and told, in that order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path

from alnb.data.cohort import Cohort
from alnb.errors import JournalError
from alnb.session.listeners import Listener, Listeners, Watcher
from alnb.session.opening import recovered
from alnb.session.reading import Reading
from alnb.session.state import apply, replay
from alnb.store.events import Entry, Event, SliceSkipped, SliceSubmitted
from alnb.store.journal import Journal

_log = logging.getLogger(__name__)


class Door(Reading):
    """A project that can change: `_commit` is the only way, and one lock guards it.

    Attributes
    ----------
    problems : sentences about records and models on disk that could not be used.
    """

    def __init__(self, folder: Path, cohort: Cohort, annotator: str, journal: Journal) -> None:
        state, problems = recovered(journal)
        super().__init__(folder, cohort, annotator, state)
        self.journal = journal
        self.problems: tuple[str, ...] = ()
        self._lock = threading.RLock()
        self._closed = False
        self._listeners = Listeners()
        self._doubt: tuple[Event, ...] = ()
        self._redone: tuple[Event, ...] = ()
        for problem in problems:
            self.report(problem)

    @property
    def closed(self) -> bool:
        """Whether the project was given back."""
        return self._closed

    def _commit(self, *events: Event) -> None:
        with self._acting():
            if all(_act(event) in map(_act, self._redone) for event in events):
                return
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            entries = [
                Entry(self.state.seq + i, at, self.annotator, event)
                for i, event in enumerate(events, start=1)
            ]
            # an impossible event stops here, before anything is written
            state = reduce(apply, entries, self.state)
            self._doubt = events
            self.journal.append(entries)
            self.state, self._doubt = state, ()
            self._listeners.tell(entries)

    @contextmanager
    def _acting(self) -> Iterator[None]:
        """The lock, over a state that has caught up with the disk."""
        with self._lock:
            self._writable()
            self._catch_up()
            try:
                yield
            finally:
                self._redone = ()

    def _catch_up(self) -> None:
        """Fold in an act whose saving failed, where it reached the disk all the same.

        A person who repeats that act now repeats nothing: `_redone` says what was found.
        """
        if self._doubt:
            entries = list(self.journal.entries(after=self.state.seq))
            self.state, self._doubt = replay(entries, self.state), ()
            self._redone = tuple(entry.event for entry in entries)
            self._listeners.tell(entries)

    def _writable(self) -> None:
        if self._closed:
            raise JournalError(
                f"This session of {self.folder.name!r} was closed, because the project was opened "
                "again. Use the new session; run the cell that shows the view once more."
            )

    # ------------------------------------------------------------------ listening

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(entry)` after each commit, in order, on the committing thread.

        It is called under the session's lock, so it must neither take long nor wait for another
        thread. What it raises is logged and undoes nothing. Returns a function that ends it.
        """
        return self._listeners.subscribe(listener)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher(what)` on changes that are not journalled.

        what : "progress" (of the running training), "model" (weights ready for `prediction`),
            "live" (another live proposal, or none any more), "problem" (one more in `problems`),
            "closed" (the project was opened again elsewhere in this process).

        Returns a function that ends it. Called on any thread.
        """
        return self._listeners.watch(watcher)

    def say(self, what: str) -> None:
        """Tell the watchers."""
        self._listeners.say(what)

    def report(self, problem: str) -> None:
        """Add to `problems`, log it, and tell the watchers."""
        _log.warning("%s", problem)
        with self._lock:
            self.problems = (*self.problems, problem)
        self.say("problem")


def _act(event: Event) -> Event:
    """The event without its time: the same act, taken again, has lasted longer."""
    if isinstance(event, SliceSubmitted):
        return replace(event, annotation=replace(event.annotation, seconds=None))
    return replace(event, seconds=None) if isinstance(event, SliceSkipped) else event
