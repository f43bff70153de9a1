"""The kernel-drawn fallback: for hosts where the booster's module does not come up.

Each pen move is a round trip to the kernel here, so the ink trails the pen; nothing is lost,
because the same strokes go the same way to disk.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ipycanvas
import ipywidgets
import numpy as np
from numpy.typing import NDArray

from alnb.data.raster import rasterize
from alnb.palette import class_rgb
from alnb.records import IGNORE, LabelMap, SliceId
from alnb.widgets.brush import Brush
from alnb.widgets.drawing import drawing
from alnb.widgets.messages import Scene, slice_message
from alnb.widgets.viewport import Viewport

if TYPE_CHECKING:
    from alnb.widgets.canvas import Handlers

PATIENCE_S = 4.0
PLAIN_ACTS = (
    "undo", "redo", "previous", "next", "submit", "accept", "skip", "train", "ask", "live",
)  # fmt: skip
PROPOSAL, LIVE, INK, PREVIEW = 1, 2, 3, 4
_log = logging.getLogger(__name__)


def coloured(labels: LabelMap, alpha: int) -> NDArray[np.uint8]:
    """(H, W, 4) of a label map: IGNORE transparent, every class in its colour."""
    table: NDArray[np.uint8] = np.zeros((256, 4), np.uint8)
    table[:255] = [(*class_rgb(code), alpha) for code in range(255)]
    pixels: NDArray[np.uint8] = table[labels]
    return pixels


def grey(scene: Scene) -> NDArray[np.uint8]:
    """(H, W) of a scene's image under its default window."""
    view = scene.view
    low, high = view.window
    values = view.bounds[0] + view.pixels * ((view.bounds[1] - view.bounds[0]) / 65535)
    pixels: NDArray[np.uint8] = np.clip(
        (values - low) * (255 / max(high - low, 1e-9)), 0, 255
    ).astype(np.uint8)
    return pixels


class Plain:
    """Mouse callbacks of the MultiCanvas and plain controls; silent while the booster is there."""

    def __init__(
        self,
        layers: ipycanvas.MultiCanvas,
        classes: Sequence[str],
        handlers: Handlers,
        needed: Callable[[], bool],
    ) -> None:
        self._layers = layers
        self._handlers = handlers
        self._needed = needed
        self._brush = Brush()
        self._scene: Scene | None = None
        self._ink: LabelMap | None = None
        self._grown: LabelMap | None = None
        self._offered: LabelMap | None = None
        self._timer: threading.Timer | None = None
        self.widget = self._controls(classes)
        layers.on_client_ready(self._client_ready)
        layers.on_mouse_down(self._guarded(self._down))
        layers.on_mouse_move(self._guarded(self._move))
        layers.on_mouse_up(self._guarded(self._up))
        layers.on_mouse_out(self._guarded(self._up))  # no pointer capture: leaving ends the stroke

    def _controls(self, classes: Sequence[str]) -> ipywidgets.VBox:
        self._class = ipywidgets.ToggleButtons(options=[(n, i) for i, n in enumerate(classes)])
        self._class.value = min(1, len(classes) - 1)
        self._erase = ipywidgets.ToggleButton(description="Eraser")
        self._radius = ipywidgets.FloatSlider(2.5, min=0.75, max=20, description="Radius")
        self._line = ipywidgets.Label()
        row = [self._erase, self._radius]
        for name in PLAIN_ACTS:
            button = ipywidgets.Button(description=name.capitalize())
            button.on_click(self._clicked(name))
            row.append(button)
        box = ipywidgets.VBox([self._class, ipywidgets.Box(row), self._line])
        box.add_class("alnb-plain")
        return box

    def _clicked(self, name: str) -> Callable[[object], None]:
        def click(_: object) -> None:
            details = (
                {} if self._scene is None else {"slice": slice_message(self._scene.view.slice_id)}
            )
            try:
                self._handlers.act(name, details)
            except Exception as error:
                _log.exception("the act %s failed", name)
                self._handlers.failed(error)

        return click

    # ---- showing ----

    def enter(self, scene: Scene) -> None:
        """Show a scene, if nobody else does."""
        self._scene, self._ink, self._brush = scene, scene.ink, self._brush.cancel()
        self._grown = self._offered = None
        viewport = self._viewport()
        wide, tall = viewport.fitted(640, 560)
        self._layers.layout.width, self._layers.layout.height = f"{wide:.0f}px", f"{tall:.0f}px"
        if self._needed() and self._timer is not None:
            self.paint()

    def ink(self, slice_id: SliceId, labels: LabelMap) -> None:
        """Show newer ink of the slice in view."""
        if self._scene is None or self._scene.view.slice_id != slice_id:
            return
        self._ink = labels
        if self._needed() and self._timer is not None:
            with drawing():
                self._layers[PREVIEW].clear()
                self._put(INK, coloured(labels, 190))

    def grow(self, slice_id: SliceId, labels: LabelMap | None) -> None:
        """Show the live proposal of the slice in view in place of the model's, or take it away."""
        if self._scene is None or self._scene.view.slice_id != slice_id:
            return
        self._grown = labels
        if self._needed() and self._timer is not None:
            with drawing():
                self._proposals()

    def offer(self, slice_id: SliceId, labels: LabelMap | None) -> None:
        """Show what was interpolated for the slice in view in place of other proposals."""
        if self._scene is None or self._scene.view.slice_id != slice_id:
            return
        self._offered = labels
        if self._needed() and self._timer is not None:
            with drawing():
                self._proposals()

    def ui(self, state: Mapping[str, Any]) -> None:
        """Show the state line."""
        if self._needed():
            self._line.value = state["line"]["text"]

    def paint(self) -> None:
        """Draw every layer from the scene."""
        if self._scene is None or self._ink is None:
            return
        with drawing():
            self._layers.clear()
            self._put(0, grey(self._scene))
            self._proposals()
            self._put(INK, coloured(self._ink, 190))

    def _proposals(self) -> None:
        """What was interpolated, or the live proposal, hatched; or the model's filled: only one."""
        self._layers[PROPOSAL].clear()
        self._layers[LIVE].clear()
        shown = self._grown if self._offered is None else self._offered
        if shown is not None:
            rows, cols = np.indices(shown.shape)
            slant = cols if self._offered is None else 0
            kept = (shown != 0) & ((rows - slant) % 4 < 2)
            self._put(LIVE, coloured(np.where(kept, shown, IGNORE).astype(np.uint8), 110))
        elif self._scene is not None and self._scene.proposal is not None:
            model = self._scene.proposal
            self._put(PROPOSAL, coloured(np.where(model == 0, IGNORE, model).astype(np.uint8), 80))

    def _put(self, layer: int, pixels: NDArray[np.uint8]) -> None:
        self._layers[layer].clear()
        # 3 channels would be sent as JPEG; grey and RGBA are lossless
        self._layers[layer].put_image_data(np.ascontiguousarray(self._viewport().oriented(pixels)))

    def _viewport(self) -> Viewport:
        assert self._scene is not None  # callers check
        return Viewport(self._scene.view.shape, self._scene.aspect, self._scene.flip)

    def _client_ready(self) -> None:
        """A page came up. The booster says hello within a moment, or this path takes over."""
        if self._needed():
            self._timer = threading.Timer(PATIENCE_S, self._take_over)
            self._timer.daemon = True
            self._timer.start()

    def _take_over(self) -> None:
        if self._needed():
            self._handlers.hello()
            self.paint()

    def close(self) -> None:
        """Stop waiting for a booster."""
        if self._timer is not None:
            self._timer.cancel()

    # ---- pen ----

    def _guarded(self, handle: Callable[[float, float], None]) -> Callable[[float, float], None]:
        def call(x: float, y: float) -> None:
            if not self._needed() or self._scene is None or not self._scene.editable:
                return
            try:
                handle(x, y)
            except Exception as error:
                _log.exception("a kernel-drawn stroke failed")
                self._brush = self._brush.cancel()
                self._handlers.failed(error)

        return call

    def _down(self, x: float, y: float) -> None:
        brush = replace(
            self._brush,
            label=self._class.value,
            radius=self._radius.value,
            erasing=self._erase.value,
        )
        self._brush = brush.down(self._viewport().to_slice(x, y))
        self._preview(0)

    def _move(self, x: float, y: float) -> None:
        if self._brush.is_down:
            last = len(self._brush.points) - 1
            self._brush = self._brush.move(self._viewport().to_slice(x, y))
            self._preview(last)

    def _up(self, x: float, y: float) -> None:
        self._brush, stroke = self._brush.up()
        if stroke is None or self._scene is None:
            return
        slice_id = self._scene.view.slice_id
        self._handlers.stroke(slice_id, replace(stroke, id=uuid.uuid4().hex))
        self.ink(slice_id, self._handlers.raster(slice_id))

    def _preview(self, since: int) -> None:
        stroke = self._brush.stroke(since)
        if stroke is None or self._scene is None:
            return
        if stroke.label == IGNORE:
            stroke = replace(stroke, label=254)
        blank = np.full(self._scene.view.shape, IGNORE, np.uint8)
        with drawing():
            pixels = coloured(rasterize([stroke], blank), 120)
            self._layers[PREVIEW].put_image_data(
                np.ascontiguousarray(self._viewport().oriented(pixels))
            )
