"""Who is told what happened in a session."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from alnb.store.events import Entry

Listener = Callable[[Entry], None]
Watcher = Callable[[str], None]

_log = logging.getLogger(__name__)


class Listeners:
    """Listeners hear entries of the journal, watchers hear words. Any thread may join or leave.

    What one of them raises is logged, and keeps nothing from the others.
    """

    def __init__(self) -> None:
        self.telling = False
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()
        self._watchers: tuple[Watcher, ...] = ()
        self._outbox: deque[Entry] = deque()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; what comes back removes it."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(x for x in self._listeners if x is not listener)

        return unsubscribe

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Add a watcher; what comes back removes it."""
        with self._lock:
            self._watchers = (*self._watchers, watcher)

        def unwatch() -> None:
            with self._lock:
                self._watchers = tuple(x for x in self._watchers if x is not watcher)

        return unwatch

    def tell(self, entries: Iterable[Entry]) -> None:
        """Tell every listener every entry, in order. The caller holds the session's lock.

        What a listener commits is told to all after what it listens to, not in between.
        """
        self._outbox.extend(entries)
        if self.telling:
            return
        self.telling = True
        try:
            while self._outbox:
                entry = self._outbox.popleft()
                for listener in self._listeners:
                    with _logged("a listener failed"):
                        listener(entry)
        finally:
            self.telling = False

    def say(self, what: str) -> None:
        """Tell every watcher a word."""
        for watcher in self._watchers:
            with _logged("a watcher failed"):
                watcher(what)

    def dismiss(self) -> None:
        """Let everybody go."""
        with self._lock:
            self._listeners, self._watchers = (), ()


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log what a listener raises; a view's fault must not undo a commit."""
    try:
        yield
    except Exception:
        _log.exception(what)
