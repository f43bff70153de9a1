"""Where the members of a committee differ on a slice: everybody's outline, and a map of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alnb.data.greys import greys
from alnb.errors import ColdStart
from alnb.palette import class_colour
from alnb.panels.markup import Safe, element
from alnb.panels.sheet import Sheet, legend
from alnb.panels.volume_sheet import around, heat, outline, outlines, picture
from alnb.records import Floats, LabelMap, SliceId

if TYPE_CHECKING:
    from alnb.protocols import Learner
    from alnb.session.session import Session

SIDE = 170
"""Pixels of the page that the longer side of a slice takes."""


@dataclass(frozen=True, eq=False)
class Votes:
    """What the members of a committee say of one slice, cut to where anybody sees a structure.

    Attributes
    ----------
    slice_id : which.
    image : (H, W) uint8 greys.
    members : per member, an SVG path by foreground class that it sees.
    differ : (H, W) share of the pairs of members that differ there.
    disagreement : mean of `differ` over the whole slice.
    pixel : (row, column) size of a pixel.
    """

    slice_id: SliceId
    image: NDArray[np.uint8]
    members: tuple[Mapping[int, str], ...]
    differ: Floats
    disagreement: float
    pixel: tuple[float, float]


def differing(labels: NDArray[np.integer]) -> Floats:
    """(M, ...) label maps -> (...) share of the pairs of members that differ; 0 for one member."""
    pairs = [one != other for one, other in combinations(labels, 2)]
    return np.mean(pairs, axis=0) if pairs else np.zeros(labels.shape[1:])


def votes(session: Session, slices: Sequence[SliceId]) -> tuple[Votes, ...]:
    """What the members of the session's last model say of slices. ColdStart before a training."""
    found = session.trainer.model()
    if found is None:
        raise ColdStart("Nothing is trained yet, so nobody can vote. Label some slices and train.")
    return tuple(_votes_on(session, found[1], slice_id) for slice_id in slices)


def votes_sheet(session: Session, slices: Sequence[SliceId]) -> Sheet:
    """Slices, largest disagreement first: all members' outlines above, where they differ below."""
    found = sorted(votes(session, slices), key=lambda each: -each.disagreement)
    there = sorted({label for each in found for seen in each.members for label in seen})
    return Sheet(
        legend({session.classes[label]: class_colour(label) for label in there}),
        _keys(len(found[0].members) if found else 0),
        element("div", *(_column(each) for each in found), cls="alnb-volume alnb-votes"),
        _STYLE,
    )


def _votes_on(session: Session, learner: Learner, slice_id: SliceId) -> Votes:
    import torch

    cohort = session.cohort
    image = np.asarray(cohort.slice_image(slice_id), dtype=np.float32)
    if learner.unit == "volume":
        seen = np.asarray(cohort.volume(slice_id.volume).image(), dtype=np.float32)
    else:
        seen = image
    probs = next(iter(learner.probs([torch.from_numpy(seen)[None, None]])))[:, 0]
    if learner.unit == "volume":
        probs = probs[:, :, slice_id.index]
    labels: LabelMap = probs.argmax(1).cpu().numpy().astype(np.uint8)
    window = around(labels)
    _, (dark, bright) = greys(cohort.volume(slice_id.volume).image())
    grey = np.clip((image[window] - dark) * (255 / (bright - dark)), 0, 255)
    differ = differing(labels)
    classes = len(session.classes)
    return Votes(
        slice_id,
        grey.astype(np.uint8),
        tuple(outlines(each[window], classes) for each in labels),
        differ[window],
        float(differ.mean()),
        cohort.pixel_mm(slice_id),
    )


def _column(each: Votes) -> Safe:
    rows, columns = each.image.shape
    tall, wide = rows * each.pixel[0], columns * each.pixel[1]
    scale = SIDE / max(tall, wide)
    size = {"width": f"{wide * scale:.0f}", "height": f"{tall * scale:.0f}"}
    box = {**size, "viewBox": f"0 0 {columns} {rows}", "preserveAspectRatio": "none"}
    grey = picture(each.image)
    lines = [
        outline(path, class_colour(label), dashed=False)
        for seen in each.members
        for label, path in seen.items()
    ]
    name = str(each.slice_id)
    return element(
        "figure",
        element("svg", element("title", f"{name}: outlines"), grey, *lines, **box),
        element("svg", element("title", f"{name}: where"), grey, picture(heat(each.differ)), **box),
        element("figcaption", name, element("span", f"{each.disagreement:.1%}")),
    )


def _keys(members: int) -> Safe:
    return element(
        "div",
        element("span", f"above: the outlines of all {members} members"),
        element("span", "below: where they differ; the brighter, the more pairs of them"),
        element("span", "right: share of the slice on which two members differ"),
        cls="alnb-volume-keys",
    )


_STYLE = Safe("""<style>
.alnb-volume-keys { flex-basis: 100%; display: flex; flex-wrap: wrap; gap: 2px 20px; }
.alnb-votes { display: flex; flex-wrap: wrap; gap: 8px; }
.alnb-votes figure { margin: 0; display: flex; flex-direction: column; gap: 4px; }
.alnb-votes svg { display: block; border-radius: 3px; background: #000; }
.alnb-votes path { stroke-width: 1.2; stroke-opacity: 0.85; }
.alnb-votes figcaption { display: flex; justify-content: space-between; gap: 8px; font-size: 11px;
  font-variant-numeric: tabular-nums; }
</style>""")
