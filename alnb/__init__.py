"""Label 3D medical images inside JupyterLab with active learning.

::

    import alnb
    session = alnb.open_session("my-project")      # the built-in phantom; or give it images
    alnb.show(session)                             # draw, train, ask, look
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alnb._version import __version__

if TYPE_CHECKING:
    from alnb.data.load import load
    from alnb.data.phantom import phantom
    from alnb.desk import open_session, show
    from alnb.records import Annotation, Pool, Round, SliceId
    from alnb.session.oracle import SimulatedOracle
    from alnb.session.session import Session

__all__ = [
    "Annotation",
    "Pool",
    "Round",
    "Session",
    "SimulatedOracle",
    "SliceId",
    "__version__",
    "load",
    "open_session",
    "phantom",
    "show",
]

# found when first used, so that `import alnb` loads neither torch nor a widget
_HOMES = {
    "Annotation": "alnb.records",
    "Pool": "alnb.records",
    "Round": "alnb.records",
    "Session": "alnb.session.session",
    "SimulatedOracle": "alnb.session.oracle",
    "SliceId": "alnb.records",
    "load": "alnb.data.load",
    "open_session": "alnb.desk",
    "phantom": "alnb.data.phantom",
    "show": "alnb.desk",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'alnb' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
