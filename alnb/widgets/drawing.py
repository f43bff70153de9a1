"""Batches ipycanvas commands safely: `hold_canvas` is neither thread-safe nor exception-safe."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import ipycanvas.canvas

_LOCK = threading.RLock()


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Send every draw command of the block as one message, whole, whatever other threads do.

    It nests, and after an exception the canvases go on working; what was drawn until then is sent.
    Uses private names of ipycanvas 0.14, hence the pin of that series.
    """
    manager = ipycanvas.canvas._CANVAS_MANAGER
    with _LOCK:
        outermost = not manager._caching
        manager._caching = True
        try:
            yield
        finally:
            if outermost:
                try:
                    manager.flush()
                finally:
                    manager._commands_cache, manager._buffers_cache = [], []
                    manager._caching = False
