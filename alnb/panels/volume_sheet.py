"""One volume on a sheet: slices with the outline of the prediction, and where the model doubts."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alnb.data.greys import greys
from alnb.errors import BadInput
from alnb.palette import class_colour
from alnb.panels.markup import Safe, element
from alnb.panels.sheet import Sheet, legend
from alnb.records import IGNORE, Floats, LabelMap

if TYPE_CHECKING:
    from alnb.data.volume import Volume
    from alnb.session.session import Session
    from alnb.session.volumes import PredictedVolume

SIDE = 150
"""Pixels of the page that the longer side of a slice takes."""
SLICES = 6

# dark violet to pale yellow, lighter all the way, so it reads without colour vision
_HEAT = np.array(
    [(59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)], float
)
_OPAQUE = 0.5
"""From this uncertainty on, no grey shines through."""
_CLEAR = 0.02
"""Up to this uncertainty, nothing lies over the image."""

Window = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class SliceData:
    """One slice of a predicted volume, cut to the window that the sheet shows.

    Attributes
    ----------
    index : of the slice in its volume.
    image : (H, W) uint8 greys.
    heat : (H, W, 4) uint8 colours of the uncertainty, see `heat`.
    outlines, reference : per foreground class that is there, an SVG path in pixels.
    doubt : mean uncertainty of the window.
    """

    index: int
    image: NDArray[np.uint8]
    heat: NDArray[np.uint8]
    outlines: Mapping[int, str]
    reference: Mapping[int, str]
    doubt: float


@dataclass(frozen=True, eq=False)
class VolumeData:
    """What a sheet shows of a volume; `pixel` is the (row, column) size of its pixels."""

    name: str
    model: str
    classes: tuple[str, ...]
    pixel: tuple[float, float]
    slices: tuple[SliceData, ...]


def volume_sheet(
    session: Session,
    volume: str,
    slices: Sequence[int] | None = None,
    *,
    reference: bool = True,
    zoom: bool = True,
    largest_component: bool = False,
) -> Sheet:
    """The last model on a volume: slices with its outline, and below them its uncertainty.

    slices : which; `SLICES` of those with foreground if left out. reference : whether the outline
        of a reference mask is shown, dashed. zoom : whether the slices are cut to the foreground.
    """
    found = next(session.predict([volume], largest_component=largest_component))
    known = session.cohort.volume(found.name)
    return sheet_of(
        volume_data(found, known, session.classes, slices, reference=reference, zoom=zoom)
    )


def volume_data(
    found: PredictedVolume,
    volume: Volume,
    classes: tuple[str, ...],
    slices: Sequence[int] | None = None,
    *,
    reference: bool = True,
    zoom: bool = True,
) -> VolumeData:
    """What a sheet shows, as plain arrays and paths. BadInput for a slice that is none."""
    labels = found.prediction.labels
    truth = volume.reference() if reference else None
    shown = labels if truth is None else np.maximum(labels, np.where(truth == IGNORE, 0, truth))
    chosen = _evenly(shown, SLICES) if slices is None else tuple(slices)
    for index in chosen:
        if not 0 <= index < len(labels):
            raise BadInput(f"{volume.name} has slices 0 to {len(labels) - 1}; {index} is none.")
    window = around(shown) if zoom else (slice(None), slice(None))
    _, (dark, bright) = greys(volume.image())
    spacing = volume.spacing_mm
    drawn = []
    for index in chosen:
        cut = (index, *window)
        image = (volume.image()[cut] - dark) * (255 / (bright - dark))
        doubt = found.prediction.uncertainty[cut]
        drawn.append(
            SliceData(
                index,
                np.clip(image, 0, 255).astype(np.uint8),
                heat(doubt),
                outlines(labels[cut], len(classes)),
                {} if truth is None else outlines(truth[cut], len(classes)),
                float(doubt.mean()),
            )
        )
    pixel = (1.0, 1.0) if spacing is None else (spacing[1], spacing[2])
    return VolumeData(found.name, found.badge, classes, pixel, tuple(drawn))


def heat(uncertainty: Floats) -> NDArray[np.uint8]:
    """(H, W) in 0..1 -> (H, W, 4): colour and opacity. One scale for all volumes and models."""
    stops = np.linspace(0, 1, len(_HEAT))
    out = np.empty((*uncertainty.shape, 4), np.uint8)
    for channel in range(3):
        out[..., channel] = np.rint(np.interp(uncertainty, stops, _HEAT[:, channel]))
    out[..., 3] = np.rint(np.interp(uncertainty, [_CLEAR, _OPAQUE], [0, 255]))
    return out


def outlines(labels: LabelMap, classes: int) -> dict[int, str]:
    """Per foreground class that is there, the lines around it as an SVG path in pixels.

    Pixel (r, c) covers [r, r + 1) x [c, c + 1), as everywhere; a path says x, that is the column,
    before y.
    """
    from skimage.measure import find_contours

    paths = {}
    for label in range(1, classes):
        mask = labels == label
        if mask.any():
            # a rim of background closes lines at the border; it shifts all by one pixel, and
            # contours run through pixel centres, which lie at one half
            lines = find_contours(np.pad(mask, 1).astype(float), 0.5)
            paths[label] = " ".join(
                "M" + "L".join(f"{x - 0.5:.2f},{y - 0.5:.2f}" for y, x in line[:-1].tolist()) + "Z"
                for line in lines
            )
    return paths


def _evenly(labels: LabelMap, most: int) -> tuple[int, ...]:
    """At most `most` slices, evenly over those that hold foreground, else over all."""
    held = np.flatnonzero((labels > 0).any((1, 2)))
    held = held if len(held) else np.arange(len(labels))
    places = np.linspace(0, len(held) - 1, min(most, len(held)))
    return tuple(int(held[place]) for place in np.rint(places).astype(int))


def around(labels: LabelMap) -> Window:
    """The box around all foreground, and a third of its longer side more; all where none is."""
    flat = np.asarray((labels > 0).any(0))
    if not flat.any():
        return slice(None), slice(None)
    held = [np.flatnonzero(flat.any(1)), np.flatnonzero(flat.any(0))]
    longest = max(int(where[-1] - where[0]) + 1 for where in held)
    rim = max(4, longest // 3)
    rows, columns = (
        slice(max(0, int(where[0]) - rim), min(size, int(where[-1]) + 1 + rim))
        for where, size in zip(held, flat.shape, strict=True)
    )
    return rows, columns


def sheet_of(data: VolumeData) -> Sheet:
    """The sheet that shows a record."""
    there = {label for each in data.slices for label in (*each.outlines, *each.reference)}
    colours = {data.classes[label]: class_colour(label) for label in sorted(there)}
    dashed = any(each.reference for each in data.slices)
    return Sheet(
        element("div", element("b", data.name), f"  {data.model}", cls="alnb-volume-head"),
        legend(colours),
        _keys(dashed),
        element(
            "div",
            *(_column(each, data) for each in data.slices),
            cls="alnb-volume",
        ),
        _STYLE,
    )


def _column(each: SliceData, data: VolumeData) -> Safe:
    rows, columns = each.image.shape
    tall, wide = rows * data.pixel[0], columns * data.pixel[1]
    scale = SIDE / max(tall, wide)
    size = {"width": f"{wide * scale:.0f}", "height": f"{tall * scale:.0f}"}
    box = {**size, "viewBox": f"0 0 {columns} {rows}", "preserveAspectRatio": "none"}
    grey = picture(each.image)
    lines = [
        # below, so that a prediction which follows the reference covers it
        *(outline(path, "#ffffff", dashed=True) for path in each.reference.values()),
        *(
            outline(path, class_colour(label), dashed=False)
            for label, path in each.outlines.items()
        ),
    ]
    words = f"slice {each.index + 1}"
    return element(
        "figure",
        element("svg", element("title", f"{words}: prediction"), grey, *lines, **box),
        element("svg", element("title", f"{words}: uncertainty"), grey, picture(each.heat), **box),
        element("figcaption", words, element("span", f"mean {each.doubt:.3f}")),
    )


def picture(pixels: NDArray[np.uint8]) -> Safe:
    """(H, W) or (H, W, 4) as an image element of a drawing whose units are pixels."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    source = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    size = {"width": str(pixels.shape[1]), "height": str(pixels.shape[0])}
    return element("image", href=source, preserveAspectRatio="none", **size)


def outline(path: str, colour: str, *, dashed: bool) -> Safe:
    """A line along a path of `outlines`, as wide on the page whatever the scale."""
    look = {"stroke-width": "1.2" if dashed else "2", "vector-effect": "non-scaling-stroke"}
    if dashed:
        look |= {"stroke-dasharray": "3 3"}
    return element("path", d=path, fill="none", stroke=colour, **look)


def _keys(dashed: bool) -> Safe:
    """What lines and heat mean."""
    stops = ", ".join(f"rgb({r:.0f}, {g:.0f}, {b:.0f})" for r, g, b in _HEAT)
    bar = element("i", style=f"background: linear-gradient(to right, {stops})", cls="alnb-heat")
    parts = [element("span", "above: outline of the prediction")]
    if dashed:
        parts.append(element("span", element("i", cls="alnb-dash"), "reference"))
    parts.append(
        element("span", "below: uncertainty, certain ", bar, " all classes equally probable")
    )
    return element("div", *parts, cls="alnb-volume-keys")


_STYLE = Safe("""<style>
.alnb-volume-head, .alnb-volume-keys { flex-basis: 100%; display: flex; flex-wrap: wrap;
  gap: 2px 20px; align-items: center; }
.alnb-volume-keys span { display: inline-flex; align-items: center; gap: 6px; }
.alnb-heat { display: inline-block; width: 110px; height: 10px; border-radius: 3px; }
.alnb-dash { display: inline-block; width: 24px; height: 0; border-top: 2px dashed #808080; }
.alnb-volume { display: flex; flex-wrap: wrap; gap: 6px; }
.alnb-volume figure { margin: 0; display: flex; flex-direction: column; gap: 4px; }
.alnb-volume svg { display: block; border-radius: 3px; background: #000; }
.alnb-volume image { image-rendering: auto; }
.alnb-volume figcaption { display: flex; justify-content: space-between; font-size: 11px;
  font-variant-numeric: tabular-nums; }
</style>""")
