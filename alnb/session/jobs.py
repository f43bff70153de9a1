"""One piece of work in the background: progress, a stop that is honoured, errors in words."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from alnb.records import Step

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
_log = logging.getLogger(__name__)
# absolute paths in a message, quoted or bare: only the last part may reach journal and exports
_PATHS = (
    re.compile(r"(?<=['\"])(?:[A-Za-z]:)?[\\/][^'\"]*[\\/](?=[^'\"\\/]*['\"])"),
    re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[\\/](?:[^\s'\"\\/:]+[\\/])+"),
)


class Work(Protocol[T_co]):
    """What a job runs: it reports steps and asks, at each of them, whether to stop."""

    def __call__(self, *, on_step: Callable[[Step], None], stopped: Callable[[], bool]) -> T_co: ...


class Job(Generic[T]):
    """Runs `work` in a daemon thread once it is started.

    Attributes
    ----------
    progress : the latest Step, or None before the first.
    error : why the work died, in words, or None.

    `on_change` is called in the job's thread after each step and once after the end, when
    `running` is already false.
    """

    def __init__(self, work: Work[T], *, on_change: Callable[[], None]) -> None:
        self.progress: Step | None = None
        self.error: str | None = None
        self._failure: BaseException | None = None
        self._value: T | None = None
        self._stop = threading.Event()
        self._done = threading.Event()
        self._on_change = on_change
        self._thread = threading.Thread(target=self._run, args=(work,), name="alnb-fit")
        self._thread.daemon = True

    def start(self) -> None:
        """Begin, once."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the work is still to be done."""
        return not self._done.is_set()

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask the work to end at its next step. Returns at once; twice is harmless."""
        self._stop.set()

    def wait(self, timeout: float) -> bool:
        """Whether the work ended within `timeout` seconds; at once in the work's own thread."""
        if threading.current_thread() is self._thread:
            return False
        return self._done.wait(timeout)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the end and return what the work gave, or raise what it raised.

        TimeoutError after `timeout` seconds; the work goes on.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"The training still runs after {timeout} s; wait, or stop() it.")
        if self._failure is not None:
            raise self._failure
        return self._value  # type: ignore[return-value]  # set whenever there is no failure

    def _run(self, work: Work[T]) -> None:
        try:
            self._value = work(on_step=self._step, stopped=self._stop.is_set)
        except BaseException as failure:  # the thread must not die in silence, whatever it was
            self._failure = failure
            self.error = in_words(failure)
            if not self.stopping:
                _log.exception("background work failed")
        finally:
            self._done.set()
            self._notify()

    def _step(self, step: Step) -> None:
        self.progress = step
        self._notify()

    def _notify(self) -> None:
        try:
            self._on_change()
        except Exception:  # a view that fails must not stop a training
            _log.exception("a listener failed")


def in_words(failure: BaseException, what: str = "Training stopped") -> str:
    """What went wrong, for a person: no traceback, no path of this machine, and what is safe."""
    text = str(failure) or type(failure).__name__
    if isinstance(failure, MemoryError) or "out of memory" in text.lower():
        return (
            f"{what}: out of memory. Choose a smaller size or batch for the learner. "
            "Labels are safe."
        )
    first = text.strip().splitlines()[0] if text.strip() else type(failure).__name__
    for path in _PATHS:
        first = path.sub("", first)
    stop = "" if first.endswith((".", "!", "?")) else "."
    return f"{what}: {first}{stop} Labels are safe."
