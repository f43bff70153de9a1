"""Every exception of alnb, each also a built-in, so that a plain ``except ValueError`` works.

::

    AlnbError
    ├── PoolExhausted (ValueError)      more items asked for than are left
    ├── BadSelection (ValueError)       a strategy returned rows that break its contract
    ├── ColdStart (RuntimeError)        a model-based step before anything was learnt
    ├── UnknownItem (KeyError)          an id that the pool or the cohort does not hold
    ├── BadInput (ValueError)           a file or folder that cannot be used as asked
    ├── JournalError (RuntimeError)     the project on disk cannot be read or written
    │   ├── JournalMoved                another writer was first
    │   └── ProjectBusy                 another process has this project open
    ├── IllegalEvent (ValueError)       an act that the session's state forbids
    └── MissingExtra (ImportError)      an optional package is not installed

Every message states the value, the rule and the way out.
"""


class AlnbError(Exception):
    """Base of all errors that alnb raises on purpose."""


class PoolExhausted(AlnbError, ValueError):
    """More items were asked for than the pool can still give."""


class BadSelection(AlnbError, ValueError):
    """A strategy returned rows that break its contract."""


class ColdStart(AlnbError, RuntimeError):
    """A model-based step was taken before anything was learnt."""


class UnknownItem(AlnbError, KeyError):
    """An id that the pool or the cohort does not hold."""

    def __str__(self) -> str:
        """The message itself; KeyError would show its repr."""
        return str(self.args[0]) if self.args else ""


class BadInput(AlnbError, ValueError):
    """A file or folder that cannot be used as asked."""


class JournalError(AlnbError, RuntimeError):
    """The project on disk cannot be read or written."""


class JournalMoved(JournalError):
    """Another writer appended first; catch up and repeat the act."""


class ProjectBusy(JournalError):
    """Another process has this project open."""


class IllegalEvent(AlnbError, ValueError):
    """An act that the session's state forbids."""


class MissingExtra(AlnbError, ImportError):
    """An optional package is not installed."""
