"""Colours for the points of a map: by group, by place along the axis, or by how they stand."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alnb.palette import OKABE_ITO
from alnb.panels.places import NEVER, EmbeddingData
from alnb.records import Floats, Rows

ColourBy = Literal["patient", "volume", "position", "labelled", "covered", "round"]

UNLABELLED, LABELLED, ASKED = "#9a9a9a", "#0072b2", "#d55e00"
COVERED, OPEN = "#56b4e9", "#e69f00"

_NAMED = 12  # most categories that a colour bar names; beyond it, the hover text does
_VIRIDIS = ("#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b")


@dataclass(frozen=True, eq=False)
class Colouring:
    """A number per point, and what the numbers mean.

    Attributes
    ----------
    values : (n,) float32 within `span`.
    scale : colour stops from 0 to 1 across the span.
    ticks : values that the colour bar names; none means no colour bar.
    """

    values: Floats
    span: tuple[float, float]
    scale: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]


def colouring(
    data: EmbeddingData, by: ColourBy, inside: NDArray[np.bool_] | None = None
) -> Colouring:
    """Colours of the points by group, by place along the axis, or by how they stand.

    inside: (n,) which points a labelled slice covers; none, if it is not known.
    """
    if by == "position":
        stops = np.linspace(0, 1, len(_VIRIDIS))
        scale = tuple((float(stop), code) for stop, code in zip(stops, _VIRIDIS, strict=True))
        ticks = ((0.0, "first slice"), (0.5, "middle"), (1.0, "last slice"))
        return Colouring(data.position.astype(np.float32), (0.0, 1.0), scale, ticks)
    if by == "labelled":
        codes = np.where(data.labelled, 1, np.where(data.waiting, 2, 0))
        return _steps(codes, (UNLABELLED, LABELLED, ASKED), ("unlabelled", "labelled", "asked"))
    if by == "covered":
        codes = np.zeros(len(data.rows), dtype=np.int64) if inside is None else 1 - inside
        return _steps(codes, (COVERED, OPEN), ("covered", "not covered"))
    if by == "round":
        last = int(data.round.max(initial=NEVER))
        names = ["not asked", *(f"round {number + 1}" for number in range(last + 1))]
        return _steps(data.round + 1, (UNLABELLED, *_sequence(last + 1)), names)
    groups = data.patient if by == "patient" else data.volume
    code = {name: place for place, name in enumerate(dict.fromkeys(groups.tolist()))}
    codes = np.array([code[name] for name in groups.tolist()], dtype=np.int64)
    return _steps(codes, _categories(len(code)), list(code))


def _steps(codes: Rows, colours: Sequence[str], names: Sequence[str]) -> Colouring:
    """Whole numbers from 0, each with a colour of its own."""
    colours = tuple(colours) or (UNLABELLED,)
    k = len(colours)
    scale = tuple(
        (edge / k, code) for place, code in enumerate(colours) for edge in (place, place + 1)
    )
    ticks = tuple((float(place), name) for place, name in enumerate(names)) if k <= _NAMED else ()
    return Colouring(codes.astype(np.float32), (-0.5, k - 0.5), scale, ticks)


def _categories(k: int) -> list[str]:
    """k colours, each apart from its neighbours; those of the palette where they suffice."""
    palette = [code for code in OKABE_ITO if code != ASKED]
    if k <= len(palette):
        return palette[:k]
    # steps of the golden ratio never bring hues of neighbours close; the lightness, cycling with
    # another period, tells apart hues that come close later, and suits white and black pages
    golden = (5**0.5 - 1) / 2
    tones = [
        colorsys.hls_to_rgb(place * golden % 1, (0.42, 0.54, 0.66)[place % 3], 0.7)
        for place in range(k)
    ]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in tone) for tone in tones]


def _sequence(k: int) -> list[str]:
    """k colours from dark to light along viridis."""
    places = np.linspace(0, len(_VIRIDIS) - 1, k).round().astype(int)
    return [_VIRIDIS[place] for place in places]
