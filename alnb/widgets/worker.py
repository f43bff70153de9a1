"""One thread for what a callback must not wait for; equal requests are done once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_log = logging.getLogger(__name__)


class Worker:
    """Runs jobs one after the other, beside the kernel's threads.

    Not on the event loop: a cell that blocks the kernel would stop it, while strokes still come.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="alnb-view")
        self._failed = failed
        self._lock = threading.Lock()
        self._waiting: set[str] = set()
        self._closed = False

    def soon(self, name: str, job: Callable[[], None]) -> None:
        """Run `job`, unless one of the same name is already waiting: a flood becomes one."""
        with self._lock:
            if self._closed or name in self._waiting:
                return
            self._waiting.add(name)
            self._pool.submit(self._run, name, job)

    def _run(self, name: str, job: Callable[[], None]) -> None:
        with self._lock:
            self._waiting.discard(name)
        try:
            job()
        except Exception as error:
            _log.exception("%s failed", name)
            self._failed(error)

    def settle(self, timeout: float = 10.0) -> None:
        """Wait until everything asked for so far is done."""
        done: Future[None] = self._pool.submit(lambda: None)
        done.result(timeout)

    def close(self) -> None:
        """Take no more jobs; those that wait are dropped."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
