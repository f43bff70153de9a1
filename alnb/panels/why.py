"""Why this slice? What labelling it would cover, what it looks like, and who else would ask it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from alnb.panels.covers import Covers, covers, reach
from alnb.panels.places import opened_by
from alnb.panels.ranks import Rank
from alnb.records import Floats, SliceId

if TYPE_CHECKING:
    from alnb.session.session import Session

_CHANCE = ("RandomSampling", "StratifiedRandom")


@dataclass(frozen=True, slots=True)
class Why:
    """One slice against what is labelled, by true distances in feature space.

    A labelled slice is compared with the other labelled ones.

    Attributes
    ----------
    slice_id : which slice.
    nearest : the labelled slice that looks most like it, or None.
    distance : to it, in feature units; infinite where there is none.
    farther : share of the unlabelled rest of the pool that is nearer to a labelled slice than
        this one is; None where there is no labelled slice or no rest.
    closer : how many other rows of the pool are nearer to it than to any labelled slice.
    radius : r for `gained`: the cover radius that the whole query reaches.
    gained : how many other rows no labelled slice covers within r, and this one would.
    before, after : the cover radius without and with it, other answers as they are now.
    patient, position : whose it is, and where in the volume.
    asked : in words, who asked for it and as which of how many; empty if it is not in the query.
    labelled : whether it is labelled.
    ranks : its place in the order of other strategies.
    note : a sentence if there is something to add, or why nothing can be said.
    """

    slice_id: SliceId
    patient: str
    position: str
    nearest: SliceId | None = None
    distance: float = float("inf")
    farther: float | None = None
    closer: int = 0
    radius: float = 0.0
    gained: int = 0
    before: float = float("inf")
    after: float = float("inf")
    asked: str = ""
    labelled: bool = False
    ranks: Mapping[str, Rank] = field(default_factory=dict)
    note: str = ""


def why(
    session: Session,
    slice_id: SliceId,
    features: Floats,
    known: Covers,
    ranks: Mapping[str, Rank] | None = None,
) -> Why:
    """Compare a slice with what is labelled. features: (N, D) of the pool. known: its covers.

    O(N D), and for a labelled slice O(C N D), since it has to be left out of the centres.
    """
    volume = session.cohort.volumes[slice_id.volume]
    position = _position(slice_id.index, volume.shape[0])
    row = row_of(session, slice_id)
    if row is None:
        words = "It is held out of the pool for validation or testing, so it is never asked."
        return Why(slice_id, volume.patient, position, note=words)
    labelled = bool((known.centres == row).any())
    base = known
    if labelled:
        base = covers(features, known.centres[known.centres != row], known.waiting)
    to_it = np.linalg.norm(features.astype(np.float64) - features[row], axis=1)
    rest = np.ones(len(to_it), dtype=np.bool_)
    rest[row] = False
    unlabelled = rest.copy()
    unlabelled[base.centres] = False
    radius = known.radius_after
    found = bool(len(base.centres))
    nearer = base.distance[unlabelled] < base.distance[row]
    gains = rest & ~base.covered(radius) & (to_it <= reach(radius))
    return Why(
        slice_id,
        volume.patient,
        position,
        nearest=opened_by(session.pool, int(base.nearest[row])) if found else None,
        distance=float(base.distance[row]),
        farther=float(nearer.mean()) if found and len(nearer) else None,
        closer=int((to_it < base.distance)[rest].sum()),
        radius=radius,
        gained=int(gains.sum()),
        before=base.radius,
        after=float(np.minimum(base.distance, to_it).max()),
        asked=asked_by(session, row),
        labelled=labelled,
        ranks={} if ranks is None else ranks,
        note=_note(session, row),
    )


def row_of(session: Session, slice_id: SliceId) -> int | None:
    """The row of the pool that holds a slice, or None."""
    slices = session.pool.slices
    return next((row for row, held in enumerate(slices) if slice_id in held), None)


def asked_by(session: Session, row: int) -> str:
    """Who asked for a row of the current query, and as which of how many."""
    current = session.round
    item = session.pool.ids[row]
    if current is None or item not in current.query:
        return ""
    place = current.query.index(item)
    origin = current.origin[place] if current.origin else ""
    words = {"control": "drawn at random as a control", "person": "added by hand"}
    who = words.get(origin, f"asked by {strategy_name(current.strategy)}")
    return f"{who}, number {place + 1} of {len(current.query)} in round {current.number + 1}"


def strategy_name(told: str) -> str:
    """A strategy's `repr` as journalled, without its settings and the cap on slices per volume."""
    head, tail = "PerVolume(strategy=", ", cap="
    if told.startswith(head) and tail in told:
        told = told[len(head) : told.rindex(tail)]
    return re.sub(r"\((?:\w+=[^()]*)?\)", "", told)


def sentences(found: Why) -> tuple[str, ...]:
    """What the record says, in words: what it looks like, and what labelling it would cover."""
    if not found.asked and not found.labelled and found.note:
        return (found.note,)
    first = "Nothing is labelled yet, so it cannot be compared with anything."
    if found.nearest is not None:
        first = f"{_alike(found)}: nearest is {_named(found.nearest)} ({_far(found)})."
    verb = "Labelled, it covers" if found.labelled else "Labelling it covers"
    more = []
    if found.nearest is not None:
        other = f"{found.closer:,} other {_slices(found.closer)}"
        look = "looks" if found.closer == 1 else "look"
        more.append(f"{other} {look} more like it than like anything labelled.")
    if found.gained:
        gain = f"{found.gained:,} more {_slices(found.gained)}"
        more.append(f"{verb} {gain} within r = {found.radius:.3g}.")
    if np.isfinite(found.before):
        same = f"{found.before:.3g}" == f"{found.after:.3g}"
        change = "stays" if same else f"goes from {found.before:.3g} to"
        more.append(f"The cover radius {change} {found.after:.3g}.")
    return (first, " ".join(more), found.note) if found.note else (first, " ".join(more))


def _alike(found: Why) -> str:
    share = found.farther
    if share is None or share < 0.5:
        return "Looks much like something labelled already"
    if share < 0.9:
        return "Looks unlike most of what is labelled so far"
    return "Looks least like anything labelled so far"


def _far(found: Why) -> str:
    far = f"distance {found.distance:.3g}"
    if found.farther is None:
        return far
    share = "all" if found.farther == 1 else f"{int(100 * found.farther)} %"
    return f"{far}, farther than {share} of the rest"


def _named(slice_id: SliceId) -> str:
    return f"{slice_id.volume} slice {slice_id.index + 1}"


def _slices(count: int) -> str:
    return "slice" if count == 1 else "slices"


def _position(index: int, depth: int) -> str:
    third = ("lower", "middle", "upper")[min(2, 3 * index // depth)]
    return f"slice {index + 1} of {depth}, {third} third"


def _note(session: Session, row: int) -> str:
    current = session.round
    if current is None or session.pool.ids[row] not in current.query:
        return ""
    if strategy_name(current.strategy) in _CHANCE:
        return "It was drawn by chance: these numbers did not choose it."
    return current.note
