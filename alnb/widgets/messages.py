"""What travels between the browser and the kernel, checked at the door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput
from alnb.records import LabelMap, SliceId, Stroke
from alnb.session.live import LiveProposal

MOST_POINTS = 100_000
Buffers = list[bytes]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class View:
    """A slice image as it travels: 16 bits over the volume's range, so that windows stay smooth.

    Attributes
    ----------
    slice_id, shape : which slice, and its (H, W).
    bounds : the image values that 0 and 65535 stand for.
    window : the values shown as black and white until the person changes them.
    pixels : (H, W) uint16.
    """

    slice_id: SliceId
    shape: tuple[int, int]
    bounds: tuple[float, float]
    window: tuple[float, float]
    pixels: NDArray[np.uint16]

    def header(self) -> dict[str, Any]:
        """All but the pixels."""
        return {
            "slice": slice_message(self.slice_id),
            "shape": list(self.shape),
            "range": list(self.bounds),
            "window": list(self.window),
        }


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything a view needs to draw one slice from nothing.

    Attributes
    ----------
    view : the image.
    ink, proposal : (H, W) label maps; the model's is None where there is none.
    depth : slices in the volume.
    aspect : (row, col) size of a pixel in mm.
    flip : (rows, cols) whether the display runs against storage order.
    editable : whether strokes are taken here.
    title, reason : the volume's name, and in a few words why the slice is asked.
    why : a sentence if this slice is not one that was asked.
    home : whether there is a query to go back to.
    """

    view: View
    ink: LabelMap
    proposal: LabelMap | None
    depth: int
    aspect: tuple[float, float]
    flip: tuple[bool, bool] = (False, False)
    editable: bool = True
    title: str = ""
    reason: str = ""
    why: str = ""
    home: bool = False

    def message(self) -> tuple[dict[str, Any], Buffers]:
        """Header and buffers: image, ink, proposal (empty if there is none)."""
        header = self.view.header() | {
            "kind": "scene",
            "depth": self.depth,
            "aspect": list(self.aspect),
            "flip": list(self.flip),
            "editable": self.editable,
            "title": self.title,
            "reason": self.reason,
            "why": self.why,
            "home": self.home,
        }
        proposal = b"" if self.proposal is None else self.proposal.tobytes()
        return header, [self.view.pixels.tobytes(), self.ink.tobytes(), proposal]


def live_buffers(shown: LiveProposal) -> Buffers:
    """Labels, and the confidence in each of them as 0 to 255."""
    sure = np.clip(np.rint(255 * shown.confidence), 0, 255).astype(np.uint8)
    return [shown.labels.tobytes(), sure.tobytes()]


def slice_message(slice_id: SliceId) -> dict[str, Any]:
    """A slice id as JSON."""
    return {"volume": slice_id.volume, "index": slice_id.index}


def read_slice(content: Any) -> SliceId:
    """A slice id from JSON, or BadInput."""
    if (
        not isinstance(content, Mapping)
        or not isinstance(content.get("volume"), str)
        or not isinstance(content.get("index"), int)
    ):
        raise BadInput("A message names no slice. Reload the page.")
    return SliceId(content["volume"], content["index"])


def read_stroke(content: Mapping[str, Any], buffers: Sequence[Any]) -> tuple[SliceId, Stroke]:
    """The stroke of a message, its points as little-endian float32 pairs (row, col).

    BadInput, or ValueError from `Stroke`, if it cannot be one.
    """
    slice_id = read_slice(content.get("slice"))
    raw = bytes(buffers[0]) if buffers else b""
    if not raw or len(raw) % 8 or len(raw) > 8 * MOST_POINTS:
        raise BadInput(
            f"A stroke came with {len(raw)} bytes of points; it takes 1 to {MOST_POINTS} points of "
            "8 bytes. Draw it again."
        )
    points = np.frombuffer(raw, dtype="<f4").reshape(-1, 2).astype(float)
    label, radius, keep = content.get("label"), content.get("radius"), content.get("keep", [])
    if not isinstance(label, int) or not isinstance(radius, int | float):
        raise BadInput("A stroke came without a label or a radius. Draw it again.")
    return slice_id, Stroke(
        points=tuple((row, col) for row, col in points.tolist()),
        label=label,
        radius=float(radius),
        tool="lasso" if content.get("tool") == "lasso" else "brush",
        keep=tuple(int(code) for code in keep),
        id=str(content.get("id", ""))[:64],
    )


def changed_box(before: LabelMap, after: LabelMap) -> Box | None:
    """The smallest (row, col, height, width) that holds every difference, or None."""
    rows, cols = np.nonzero(before != after)
    if not len(rows):
        return None
    top, left = int(rows.min()), int(cols.min())
    return top, left, int(rows.max()) - top + 1, int(cols.max()) - left + 1
