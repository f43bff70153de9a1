"""Sheets that show the records of `alnb.panels.metric`, and orders of slices, in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from alnb.palette import OKABE_ITO
from alnb.panels.metric import APART, KINDS, SAME_PATIENT, SAME_VOLUME, Batch, Neighbours, Settled
from alnb.panels.sheet import Dot, Sheet, Tile, curves, dial, legend, matrix, mosaic, strips
from alnb.records import Floats, Rows

if TYPE_CHECKING:
    from alnb.session.session import Session

_KIN = {APART: "#d55e00", SAME_PATIENT: "#56b4e9", SAME_VOLUME: "#0072b2"}
_KIN_WORDS = {
    SAME_VOLUME: "same volume",
    SAME_PATIENT: "same patient, another volume",
    APART: "another patient",
}
_FAINT = "rgba(128, 128, 128, 0.16)"
# not those of patients at the edges
_ACTS = (_FAINT, "#6a3d9a", "#c9a66b")
_ACT_WORDS = ("left out", "attract", "repel")


def slices_sheet(session: Session, lines: Mapping[str, Sequence[int] | Rows]) -> Sheet:
    """Rows of the pool as lines of slices, each line under its name."""
    drawn = [
        (words, [_named(session, row, short=True) for row in rows]) for words, rows in lines.items()
    ]
    return Sheet(strips(session.cohort, drawn, side=72))


def neighbours_sheet(session: Session, found: Neighbours) -> Sheet:
    """Each looked-up slice at the left, and what looks most like it; frames tell how related."""
    lines = []
    for row, nearest, kin in zip(found.rows, found.nearest, found.kin, strict=True):
        asked = _named(session, row)
        tiles = [
            _named(session, other, _KIN[int(how)]) for other, how in zip(nearest, kin, strict=True)
        ]
        lines.append((f"most like\n{asked.caption}", [asked, *tiles]))
    colours = {_KIN_WORDS[how]: _KIN[how] for how in (SAME_VOLUME, SAME_PATIENT, APART)}
    return Sheet(legend(colours), strips(session.cohort, lines, side=104))


def batch_sheet(session: Session, batch: Batch) -> Sheet:
    """A batch, a line per tuple, and beside it who is related to whom."""
    size = batch.tuple_size
    colours = _of_patients(batch)
    lines = []
    for start in range(0, len(batch.rows), size):
        part = range(start, start + size)
        first = session.pool.slices[int(batch.rows[start])][0]
        words = session.cohort.volume(first.volume).patient
        tiles = [_named(session, batch.rows[at], colours[at], short=True) for at in part]
        lines.append((words, tiles))
    matrices = [
        matrix(
            batch.related(kind).astype(np.int64),
            (_FAINT, "#808080"),
            title=f"same {kind}" if kind != "slice" else "same or next slice",
            edges=colours,
            block=size,
        )
        for kind in KINDS
    ]
    return Sheet(strips(session.cohort, lines, side=72), *matrices)


def acts_sheet(batch: Batch) -> Sheet:
    """Who attracts and who repels whom in a batch: NT-Xent, then the group losses."""
    titles = {"NT-Xent": None, **{f"group loss, {kind}": kind for kind in KINDS}}
    matrices = [
        matrix(
            batch.acts(kind), _ACTS, title=words, edges=_of_patients(batch), block=batch.tuple_size
        )
        for words, kind in titles.items()
    ]
    order = (1, 2, 0)
    return Sheet(legend({_ACT_WORDS[act]: _ACTS[act] for act in order}), *matrices)


def circles_sheet(batch: Batch, ends: Mapping[str, Floats | Settled]) -> Sheet:
    """Views of a batch on circles: (2B,) angles in degrees, or where they settled, by title.

    A colour is a patient; a disc is of the patient's first volume in the batch, a ring of another.
    """
    colours = _of_patients(batch)
    first = {int(p): int(batch.volume[batch.patient == p][0]) for p in batch.patient}
    lane = [int((batch.patient[:at] == batch.patient[at]).sum()) for at in range(len(batch.rows))]
    drawn = []
    for words, angles in ends.items():
        where = angles.end if isinstance(angles, Settled) else angles
        loss = f"\nloss {angles.loss:.2f}" if isinstance(angles, Settled) else "\n\u00a0"
        dots = [
            Dot(
                float(angle),
                colours[at],
                lane[at],
                first[int(batch.patient[at])] == int(batch.volume[at]),
            )
            for view in np.split(where, 2)
            for at, angle in enumerate(view)
        ]
        drawn.append(dial(dots, title=words + loss))
    return Sheet(*drawn)


def queue_sheet(
    session: Session,
    rows: Rows | Sequence[int],
    distances: Floats | None = None,
    *,
    first: int = 10,
) -> Sheet:
    """An order of slices: the first ones large with their distances, then all as one picture."""
    pool = session.pool
    tiles = []
    for place, row in enumerate(rows[:first]):
        far = ""
        if distances is not None:
            far = "opens" if np.isinf(distances[place]) else f"{distances[place]:.3g} away"
        slice_id = pool.slices[int(row)][0]
        name = _named(session, row).caption
        tiles.append(Tile(slice_id, f"{place + 1}. {far}\n{name}"))
    everything = [pool.slices[int(row)][0] for row in rows]
    return Sheet(
        strips(session.cohort, [("", tiles)], side=96),
        mosaic(
            session.cohort,
            everything,
            columns=28,
            title=f"All {len(everything):,} in their order, from left to right, line by line",
        ),
    )


def radius_sheet(radii: Mapping[str, Floats]) -> Sheet:
    """A curve for each name: `radii` as `alnb.panels.metric.cover_radii` gives them.

    Static, where other panels hold a live figure: one that never changes needs no plotly.
    """
    return Sheet(
        curves(radii, across="slices labelled", up="cover radius, in spreads of the features")
    )


def _named(
    session: Session, row: int | np.integer, colour: str = "", *, short: bool = False
) -> Tile:
    slice_id = session.pool.slices[int(row)][0]
    volume = session.cohort.volume(slice_id.volume)
    name = slice_id.volume
    if short:
        name = name.removeprefix(f"{volume.patient}/")
    return Tile(slice_id, f"{name} {slice_id.index + 1}", colour)


def _of_patients(batch: Batch) -> list[str]:
    codes = {int(p): place for place, p in enumerate(dict.fromkeys(batch.patient.tolist()))}
    return [OKABE_ITO[codes[int(p)] % len(OKABE_ITO)] for p in batch.patient]
