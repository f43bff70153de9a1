"""Sheets for a notebook: slices, matrices, circles and curves side by side; static, on any theme.

Every text that a file or a person may have chosen is escaped here, and nowhere else.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from alnb.palette import OKABE_ITO
from alnb.panels.thumbs import Thumbs
from alnb.records import Floats, Rows, SliceId

if TYPE_CHECKING:
    from alnb.data.cohort import Cohort

MATRIX = 190
"""Side of a drawn matrix in pixels of the page."""
DIAL = 190
"""Side of a drawn circle in pixels of the page."""
CHART = (620, 260)
"""Width and height of curves in pixels of the page."""
_MOSAIC = 38
_DASHES = ("none", "7 4", "2 3", "9 3 2 3")
_RING = 0.075


@dataclass(frozen=True, slots=True)
class Tile:
    """One slice on a sheet, the words under it, and the colour of its frame, if it has one."""

    slice_id: SliceId
    caption: str = ""
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Dot:
    """One direction on a circle.

    Attributes
    ----------
    degrees : counted anticlockwise from the right.
    lane : how many rings inside the circle it is drawn, so that equal directions all show.
    filled : whether it is a disc or a ring.
    """

    degrees: float
    colour: str
    lane: int = 0
    filled: bool = True


class Sheet:
    """Parts side by side, wrapped where the page is narrow. Show it by ending a cell with it."""

    def __init__(self, *parts: str) -> None:
        self.markup = "".join(parts)

    def __repr__(self) -> str:
        return "<Sheet of pictures: it needs a notebook to be seen>"

    def _repr_html_(self) -> str:
        return f'<div class="alnb-sheet">{self.markup}</div>{_STYLE}'


def strips(cohort: Cohort, lines: Iterable[tuple[str, Sequence[Tile]]], *, side: int = 84) -> str:
    """Lines of slices, each with words at its left; `side` is a tile's width and height."""
    thumbs = Thumbs(cohort)
    drawn = []
    for words, tiles in lines:
        head = f'<div class="alnb-sheet-head">{_lines(words)}</div>' if words else ""
        pictures = "".join(_tile(thumbs, tile, side) for tile in tiles)
        drawn.append(f'<div class="alnb-sheet-strip">{head}{pictures}</div>')
    return f'<div class="alnb-sheet-part">{"".join(drawn)}</div>'


def mosaic(cohort: Cohort, slices: Sequence[SliceId], *, columns: int, title: str) -> str:
    """Many slices as one picture, `columns` in a line, in reading order."""
    from PIL import Image

    thumbs = Thumbs(cohort)
    high = math.ceil(len(slices) / columns)
    picture = Image.new("L", (columns * _MOSAIC, high * _MOSAIC), 0)
    for place, slice_id in enumerate(slices):
        with Image.open(io.BytesIO(thumbs.png(slice_id))) as tile:
            tile.thumbnail((_MOSAIC - 1, _MOSAIC - 1))
            picture.paste(tile, (place % columns * _MOSAIC, place // columns * _MOSAIC))
    out = io.BytesIO()
    picture.save(out, format="PNG")
    source = base64.b64encode(out.getvalue()).decode()
    return (
        f'<div class="alnb-sheet-part"><div class="alnb-sheet-title">{_lines(title)}</div>'
        f'<img class="alnb-sheet-mosaic" alt="{html.escape(title)}" '
        f'src="data:image/png;base64,{source}"></div>'
    )


def matrix(
    codes: Rows, colours: Sequence[str], *, title: str, edges: Sequence[str], block: int = 1
) -> str:
    """A square matrix: `colours[code]` in each cell, a colour per row and column at the edges.

    codes : (n, n) from 0 to len(colours) - 1. edges : n colours. A line parts every `block` rows.
    """
    size = len(codes)
    cells = []
    for row, values in enumerate(codes.tolist()):
        at = 0
        for code, run in groupby(values):
            width = len(list(run))
            cells.append(_box(at, row, width, 1, colours[code]))
            at += width
    rims = [
        _box(at, -1.4, 1, 1, colour) + _box(-1.4, at, 1, 1, colour)
        for at, colour in enumerate(edges)
    ]
    lines = [
        f'<path d="M{at},0V{size}M0,{at}H{size}" class="alnb-sheet-cut"/>'
        for at in range(block, size, block)
    ]
    drawing = (
        f'<svg width="{MATRIX}" height="{MATRIX}" viewBox="-1.5 -1.5 {size + 1.6} {size + 1.6}" '
        f'shape-rendering="crispEdges">{"".join([*cells, *rims, *lines])}</svg>'
    )
    return _titled(title, drawing)


def dial(dots: Iterable[Dot], *, title: str) -> str:
    """Directions as dots on a circle."""
    drawn = []
    for dot in dots:
        away = 1 - _RING * dot.lane
        angle = math.radians(dot.degrees)
        place = f'cx="{away * math.cos(angle):.4f}" cy="{-away * math.sin(angle):.4f}" r="0.05"'
        look = dot.colour if dot.filled else "none"
        drawn.append(f'<circle {place} fill="{look}" stroke="{dot.colour}" stroke-width="0.025"/>')
    drawing = (
        f'<svg width="{DIAL}" height="{DIAL}" viewBox="-1.1 -1.1 2.2 2.2">'
        f'<circle r="1" class="alnb-sheet-rim"/>{"".join(drawn)}</svg>'
    )
    return _titled(title, drawing)


def curves(lines: Mapping[str, Floats], *, across: str, up: str) -> str:
    """A line for each name, its values standing at 1, 2, …; both axes begin at 0.

    across, up : what the axes show.
    """
    most = max((len(values) for values in lines.values()), default=1)
    top = max((float(np.max(values, initial=0.0)) for values in lines.values()), default=1.0) or 1.0
    wide, high = CHART[0] / most, CHART[1] / top
    drawn = []
    for tick in _ticks(most):
        x = f"{wide * tick:.1f}"
        drawn.append(f'<text x="{x}" y="18" text-anchor="middle">{tick:g}</text>')
    for tick in _ticks(top):
        y = f"{-high * tick:.1f}"
        drawn.append(f'<path d="M0,{y}H{CHART[0]}" class="alnb-sheet-grid"/>')
        drawn.append(f'<text x="-7" y="{y}" dy="4" text-anchor="end">{tick:g}</text>')
    for place, values in enumerate(lines.values()):
        points = " ".join(
            f"{wide * (at + 1):.1f},{-high * value:.1f}" for at, value in enumerate(values.tolist())
        )
        drawn.append(
            f'<polyline points="{points}" fill="none" stroke-width="2" '
            f'stroke="{_ink(place)}" stroke-dasharray="{_DASHES[place % len(_DASHES)]}"/>'
        )
    drawn.append(f'<text x="{CHART[0] / 2}" y="36" text-anchor="middle">{_lines(across)}</text>')
    width, height = CHART[0] + 56, CHART[1] + 52
    drawing = (
        f'<svg width="{width}" height="{height}" viewBox="-42 {-CHART[1] - 10} {width} {height}" '
        f'class="alnb-sheet-chart">{"".join(drawn)}</svg>'
    )
    return legend({name: _ink(place) for place, name in enumerate(lines)}) + _titled(up, drawing)


def _ink(place: int) -> str:
    return OKABE_ITO[place % len(OKABE_ITO)]


def _ticks(top: float) -> list[float]:
    """From 0 up to `top` in about five steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(top / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= top / 5)
    return [step * count for count in range(int(top / step * (1 + 1e-9)) + 1)]


def legend(entries: Mapping[str, str]) -> str:
    """What the colours mean: words, and the colour of each; over the whole width."""
    said = "".join(
        f'<span><i style="background:{colour}"></i>{html.escape(words)}</span>'
        for words, colour in entries.items()
    )
    return f'<div class="alnb-sheet-legend">{said}</div>'


def _titled(title: str, drawing: str) -> str:
    head = f'<div class="alnb-sheet-title">{_lines(title)}</div>'
    return f'<div class="alnb-sheet-part">{head}{drawing}</div>'


def _tile(thumbs: Thumbs, tile: Tile, side: int) -> str:
    frame = f"border-color:{tile.colour}" if tile.colour else ""
    return (
        f'<figure style="width:{side + 6}px"><img alt="{html.escape(str(tile.slice_id))}" '
        f'title="{html.escape(str(tile.slice_id))}" src="{thumbs.data_url(tile.slice_id)}" '
        f'style="width:{side}px;height:{side}px;{frame}">'
        f"<figcaption>{_lines(tile.caption)}</figcaption></figure>"
    )


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{colour}"/>'


def _lines(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


_STYLE = """<style>
.alnb-sheet { display: flex; flex-wrap: wrap; gap: 14px 22px; align-items: flex-start;
  color: var(--jp-ui-font-color1, #57606a); font: 12px/1.35 system-ui, sans-serif;
  padding: 4px 0 6px; }
.alnb-sheet-part { min-width: 0; max-width: 100%; }
.alnb-sheet-strip { display: flex; flex-wrap: wrap; gap: 4px; align-items: flex-start;
  margin-bottom: 5px; }
.alnb-sheet-head { width: 92px; padding-top: 4px; font-weight: 600; overflow-wrap: anywhere; }
.alnb-sheet-strip figure { margin: 0; }
.alnb-sheet-strip img { box-sizing: content-box; object-fit: contain; background: #000;
  display: block; border: 3px solid transparent; border-radius: 3px; max-width: none; }
.alnb-sheet-strip figcaption { font-size: 11px; text-align: center; overflow-wrap: anywhere;
  line-height: 1.2; padding: 1px 0 2px; }
.alnb-sheet-title { font-weight: 600; margin-bottom: 5px; }
.alnb-sheet-mosaic { max-width: 100%; height: auto; display: block; }
.alnb-sheet-legend { flex-basis: 100%; display: flex; flex-wrap: wrap; gap: 2px 20px; }
.alnb-sheet-legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; vertical-align: -1px; }
.alnb-sheet-cut { stroke: #808080; stroke-width: 0.12; fill: none; }
.alnb-sheet-grid { stroke: #808080; stroke-opacity: 0.25; }
.alnb-sheet-chart { max-width: 100%; }
.alnb-sheet-chart text { fill: currentColor; font-size: 12px; }
.alnb-sheet-rim { fill: none; stroke: #808080; stroke-width: 0.012; }
</style>"""
