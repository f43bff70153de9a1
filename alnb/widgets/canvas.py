"""ScribbleCanvas: the layers of one slice and the booster that draws on them in the browser."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import ipycanvas
import ipywidgets
import numpy as np
import traitlets
from numpy.typing import NDArray

from alnb.errors import AlnbError, JournalError
from alnb.palette import class_colour
from alnb.records import LabelMap, SliceId, Stroke
from alnb.session.live import LiveProposal
from alnb.session.offers import Offer
from alnb.widgets.keys import KEYS
from alnb.widgets.messages import (
    Scene,
    View,
    changed_box,
    live_buffers,
    read_stroke,
    slice_message,
)
from alnb.widgets.plain import Plain
from alnb.widgets.status import sentence

FRONT = Path(__file__).parent / "front"
SCRIPTS = (
    "raster.js", "link.js", "tools.js", "painter.js", "stage.js", "film.js", "desk.js",
    "booster.js",
)  # fmt: skip
LAYERS = 5

_log = logging.getLogger(__name__)


def front_script() -> str:
    """The browser side as one module, in plain ESM without imports."""
    return "\n".join((FRONT / name).read_text(encoding="utf-8") for name in SCRIPTS)


class Booster(anywidget.AnyWidget):
    """Takes the pointer events of a MultiCanvas and paints its layers without the kernel."""

    _esm = front_script()
    _css = (FRONT / "desk.css").read_text(encoding="utf-8")
    target = traitlets.Unicode().tag(sync=True)
    project = traitlets.Unicode().tag(sync=True)


@dataclass(frozen=True)
class Handlers:
    """What a canvas calls; any of them may come on any thread.

    Attributes
    ----------
    stroke : take a stroke to disk; False if its id was there already. May raise.
    raster : the authoritative ink of a slice.
    act : a person's act by name, with the message's details.
    hello : a view came up and shows nothing yet.
    ping : the browser's heartbeat: its time in seconds, and whether the person was active.
    pen : whether a pen is down now.
    failed : an exception to put into words.
    """

    stroke: Callable[[SliceId, Stroke], bool]
    raster: Callable[[SliceId], LabelMap]
    act: Callable[[str, Mapping[str, Any]], None]
    hello: Callable[[], None]
    ping: Callable[[float, bool], None]
    pen: Callable[[bool], None]
    failed: Callable[[BaseException], None]


class ScribbleCanvas:
    """Layers image, proposals, ink and preview at slice resolution, drawn in the browser.

    It knows no session: what it shows is handed in, what a person does goes out by `handlers`.

    Attributes
    ----------
    widget : what to display.
    layers : the ipycanvas MultiCanvas.
    booster : the anywidget; None of its pixels is ever read back.
    """

    def __init__(self, classes: Sequence[str], *, project: str, handlers: Handlers) -> None:
        self._handlers = handlers
        self._classes = tuple(classes)
        self._lock = threading.RLock()
        self._sent: tuple[SliceId, LabelMap] | None = None
        self.met_booster = False
        self.layers = ipycanvas.MultiCanvas(LAYERS, width=256, height=256)
        self.booster = Booster(target=self.layers.model_id, project=project)
        self.booster.on_msg(self.receive)
        self.plain = Plain(self.layers, self._classes, handlers, lambda: not self.met_booster)
        stage = ipywidgets.Box([self.layers])
        stage.add_class("alnb-stage")
        self.widget = ipywidgets.VBox([stage, self.booster, self.plain.widget])
        self.widget.add_class("alnb-desk")

    # ---- to the browser ----

    def enter(self, scene: Scene) -> None:
        """Show another slice, or the same one from nothing."""
        height, width = scene.view.shape
        header, buffers = scene.message()
        with self._lock:
            self._sent = (scene.view.slice_id, scene.ink.copy())
            if (self.layers.width, self.layers.height) != (width, height):
                self.layers.width, self.layers.height = width, height
            self._send(header, buffers)
        self.plain.enter(scene)

    def remember(self, view: View) -> None:
        """Send a neighbouring slice ahead."""
        self._send(view.header() | {"kind": "near"}, [view.pixels.tobytes()])

    def propose(self, slice_id: SliceId, labels: LabelMap | None) -> None:
        """Show the model's label map of a slice, or take it away."""
        content = {"kind": "proposal", "slice": slice_message(slice_id)}
        self._send(content, [b"" if labels is None else labels.tobytes()])

    def grow(self, slice_id: SliceId, shown: LiveProposal | None) -> None:
        """Show the proposal that the strokes on a slice suggest, or take it away."""
        name = None if shown is None else shown.id
        content = {"kind": "live", "slice": slice_message(slice_id), "id": name}
        self._send(content, [b"", b""] if shown is None else live_buffers(shown))
        self.plain.grow(slice_id, None if shown is None else shown.labels)

    def offer(self, slice_id: SliceId, offered: Offer | None) -> None:
        """Show what was interpolated for a slice, before any other proposal, or take it away."""
        name = None if offered is None else offered.id
        content = {"kind": "between", "slice": slice_message(slice_id), "id": name}
        self._send(content, [b"" if offered is None else offered.labels.tobytes()])
        self.plain.offer(slice_id, None if offered is None else offered.labels)

    def film(self, header: Mapping[str, Any], pictures: NDArray[np.uint8]) -> None:
        """Show small pictures of every slice of a volume; (depth, h, w) greys."""
        self._send({"kind": "film", **header}, [pictures.tobytes()])

    def film_labels(self, volume: str, maps: Mapping[int, NDArray[np.uint8] | None]) -> None:
        """Put label maps of the pictures' size on them by index, or take them away."""
        content = {"kind": "film_labels", "volume": volume, "indices": list(maps)}
        self._send(content, [b"" if each is None else each.tobytes() for each in maps.values()])

    def ink(self, slice_id: SliceId, labels: LabelMap) -> None:
        """Bring the ink of a slice up to date; sends the box that differs, or nothing."""
        with self._lock:
            box = self._difference(slice_id, labels)
            if box:
                self._send({"kind": "ink", "slice": slice_message(slice_id)} | box[0], box[1])
        self.plain.ink(slice_id, labels)

    def ui(self, state: Mapping[str, Any]) -> None:
        """Queue, buttons, progress and the state line."""
        self._send({"kind": "ui", **state})
        self.plain.ui(state)

    def setup(self) -> None:
        """Send what does not change: classes with colours, and the table of keys."""
        classes = [
            {"label": code, "name": name, "colour": class_colour(code)}
            for code, name in enumerate(self._classes)
        ]
        keys = [key.as_message() for key in KEYS]
        self._send({"kind": "setup", "classes": classes, "keys": keys})

    def close(self) -> None:
        """Take the widgets off every page."""
        for widget in (self.widget, self.booster, self.layers, *self.layers._canvases):
            widget.close()
        self.plain.close()

    def _send(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        if self.met_booster:  # before the first hello nobody listens; the hello asks for everything
            self.booster.send(content, buffers)

    def _difference(
        self, slice_id: SliceId, labels: LabelMap
    ) -> tuple[dict[str, Any], list[bytes]] | None:
        """Header and pixels of the box by which the browser's ink is behind; None if it is not."""
        if self._sent is None or self._sent[0] != slice_id:
            return None
        box = changed_box(self._sent[1], labels)
        if box is None:
            return None
        top, left, height, width = box
        self._sent = (slice_id, labels.copy())
        return {"box": list(box)}, [labels[top : top + height, left : left + width].tobytes()]

    # ---- from the browser ----

    def receive(self, _: object, content: Any, buffers: Sequence[Any]) -> None:
        """Handle one message of the booster: hello, ping, stroke or act."""
        try:
            match content.get("kind"):
                case "stroke":
                    self._stroke(content, buffers)
                case "ping":
                    self._handlers.ping(float(content["at"]), bool(content["active"]))
                    self._send({"kind": "pong"})
                case "pen":
                    self._handlers.pen(bool(content["down"]))
                case "act":
                    self._handlers.act(str(content["name"]), content)
                case "hello":
                    self.met_booster = True
                    self.setup()
                    self._handlers.hello()
        except Exception as error:
            # a comm callback would drop it without a trace; a person has to see it in words
            _log.exception("a message of the view failed")
            self._handlers.failed(error)

    def _stroke(self, content: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        """Take a stroke to disk and acknowledge it; the ack carries the pixels it changed."""
        answer = {"kind": "ack", "id": content.get("id"), "slice": content.get("slice")}
        try:
            slice_id, stroke = read_stroke(content, buffers)
            self._handlers.stroke(slice_id, stroke)
        except Exception as error:
            final = isinstance(error, AlnbError | ValueError) and not isinstance(
                error, JournalError
            )
            _log.warning("a stroke was not taken: %s", error)
            words = sentence(error).text
            kept = "" if final else " The stroke is kept and sent again."
            self._send(answer | {"ok": False, "final": final, "error": words + kept})
            return
        with self._lock:
            labels = self._handlers.raster(slice_id)
            header, pixels = self._difference(slice_id, labels) or ({}, [])
            self._send(answer | {"ok": True} | header, pixels)
