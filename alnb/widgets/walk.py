"""The walk through a volume that a query asks for: where one is, and which slice comes next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Literal

from alnb.records import SliceId
from alnb.session.answering import FINISHED
from alnb.session.session import Session

Cell = Literal["empty", "drawn", "offered", "labelled", "taken", "skipped"]
"""A slice in the track: "drawn" holds strokes that wait to be submitted, "offered" an interpolation
that nobody took, "taken" one that stands as it was offered."""

KNOWN: tuple[Cell, ...] = ("labelled", "taken")


@dataclass(frozen=True, slots=True)
class Walk:
    """A volume under way.

    Attributes
    ----------
    volume, here : its name, and the index of the slice in view.
    cells : what each slice holds.
    open : indices of the slices that wait for an answer.
    volumes, left : how many volumes the query asks for, and how many have slices that wait.
    number : place of this volume in the query, from 1; 0 if it is not in it.
    finished : whether slices of it were passed over because somebody was done with it.
    offering : whether interpolations are offered.
    """

    volume: str
    here: int
    cells: tuple[Cell, ...]
    open: frozenset[int] = frozenset()
    volumes: int = 1
    left: int = 1
    number: int = 1
    finished: bool = False
    offering: bool = True

    @property
    def labelled(self) -> int:
        """How many slices have an answer."""
        return sum(cell in KNOWN for cell in self.cells)

    @property
    def within_reach(self) -> tuple[int, ...]:
        """What "accept all" takes: the offers of the gap in view, or else all of the volume."""
        return _run(self.cells, self.here, "offered", through=("drawn", "skipped", "empty")) or (
            tuple(i for i, cell in enumerate(self.cells) if cell == "offered")
        )

    @property
    def takeable_back(self) -> tuple[int, ...]:
        """The accepted interpolations around the slice in view, up to the next other answer."""
        return _run(self.cells, self.here, "taken")

    def sentence(self) -> str:
        """Where one is, for the state line."""
        return (
            f"Volume {self.volume}: slice {self.here + 1} of {len(self.cells)}, {self.labelled} "
            f"labelled, {self.left} of {self.volumes} volume{'s' * (self.volumes != 1)} left."
        )

    def summary(self) -> str:
        """How far this volume is, for the track."""
        counts = {word: self.cells.count(word) for word in ("taken", "offered", "drawn", "skipped")}
        words = {"drawn": "to submit", "skipped": "passed over", "taken": "of them interpolated"}
        parts = [f"{self.labelled} of {len(self.cells)} labelled"]
        parts += [f"{n} {words.get(word, word)}" for word, n in counts.items() if n]
        return " · ".join(parts)


def _run(
    cells: Sequence[Cell], here: int, wanted: Cell, through: Collection[Cell] = ()
) -> tuple[int, ...]:
    """The `wanted` cells in the stretch around `here` that only they, and `through`, make up."""
    if cells[here] != wanted:
        return ()
    place = 0
    for among, group in groupby(cells, lambda cell: cell == wanted or cell in through):
        size = len(list(group))
        if among and place <= here < place + size:
            return tuple(i for i in range(place, place + size) if cells[i] == wanted)
        place += size
    return ()


def worth(cells: Sequence[Cell], candidates: Collection[int]) -> int | None:
    """The slice most worth labelling next; None where no candidate is left.

    The middle of the volume first, then its two ends: from there on every slice lies between
    labelled ones. Then the middle of the largest gap, which halves the longest way that an
    interpolation has to go, and finds the end of a structure as a binary search does. Slices with
    strokes that wait to be submitted count as labelled, and come last themselves.
    """
    fresh = sorted(i for i in candidates if cells[i] != "drawn")
    if not fresh:
        return min(candidates, default=None)
    known = [i for i, cell in enumerate(cells) if cell in KNOWN or cell == "drawn"]
    if not known:
        return _nearest(fresh, (len(cells) - 1) / 2)
    before = [i for i in fresh if i < known[0]]
    after = [i for i in fresh if i > known[-1]]
    if before or after:
        return before[0] if len(before) >= len(after) else after[-1]
    low, high = max(
        (ends for ends in pairwise(known) if any(ends[0] < i < ends[1] for i in fresh)),
        key=lambda ends: ends[1] - ends[0],
    )
    return _nearest([i for i in fresh if low < i < high], (low + high) / 2)


def _nearest(candidates: Sequence[int], place: float) -> int:
    return min(candidates, key=lambda index: abs(index - place))


# ---- of a session ----


def by_volume(session: Session) -> bool:
    """Whether queries ask for whole volumes."""
    return session.created.unit == "volume"


def cells(session: Session, volume: str, offered: Collection[SliceId] = ()) -> tuple[Cell, ...]:
    """What every slice of a volume holds."""
    labelled, drafts, me = session.state.labelled, session.state.drafts, session.annotator
    found: list[Cell] = []
    for index in range(len(session.cohort.volumes[volume])):
        slice_id = SliceId(volume, index)
        draft = drafts.get((slice_id, me))
        match session.status(slice_id):
            case "submitted":
                found.append("taken" if session.interpolated(slice_id) else "labelled")
            case "edited":
                found.append("drawn")
            case "skipped":
                found.append("skipped")
            case "open" if draft is not None and draft.strokes:
                found.append("drawn")
            case "open" if slice_id in labelled:
                found.append("labelled")
            case "open":
                found.append("offered" if slice_id in offered else "empty")
    return tuple(found)


def walk(
    session: Session,
    here: SliceId,
    pending: Sequence[SliceId],
    offered: Collection[SliceId],
    *,
    offering: bool,
) -> Walk:
    """The walk through the volume of the slice in view; `pending` are those of the session."""
    names = list(dict.fromkeys(s.volume for s in session.queue))
    return Walk(
        volume=here.volume,
        here=here.index,
        cells=cells(session, here.volume, offered),
        open=frozenset(s.index for s in pending if s.volume == here.volume),
        volumes=len(names),
        left=len({s.volume for s in pending}),
        number=names.index(here.volume) + 1 if here.volume in names else 0,
        finished=any(
            reason == FINISHED and s.volume == here.volume and by == session.annotator
            for (s, by), reason in session.state.skipped.items()
        ),
        offering=offering,
    )


def ahead(session: Session, here: SliceId | None) -> SliceId | None:
    """Where to go on: None if nothing of the query waits.

    In a query of slices the next that waits, in its order and from the start again. In one of
    volumes the slice most worth labelling of this volume, or else of the next one that waits.
    """
    queue, waiting = session.queue, set(session.pending)
    if not waiting:
        return None
    if not by_volume(session):
        start = queue.index(here) + 1 if here in queue else 0
        return next(s for s in (*queue[start:], *queue[:start]) if s in waiting)
    names = list(dict.fromkeys(s.volume for s in queue))
    start = names.index(here.volume) if here is not None and here.volume in names else 0
    left = {s.volume for s in waiting}
    name = next(n for n in (*names[start:], *names[:start]) if n in left)
    candidates = {s.index for s in waiting if s.volume == name}
    index = worth(cells(session, name), candidates)
    return None if index is None else SliceId(name, index)


def beside(session: Session, here: SliceId | None, by: int) -> SliceId | None:
    """Where to begin in the volume `by` places further in the query; None without a query."""
    names = list(dict.fromkeys(s.volume for s in session.queue))
    if not names:
        return None
    place = names.index(here.volume) + by if here is not None and here.volume in names else 0
    name = names[place % len(names)]
    waiting = {s.index for s in session.pending if s.volume == name}
    depth = len(session.cohort.volumes[name])
    index = worth(cells(session, name), waiting or range(depth))
    return SliceId(name, depth // 2 if index is None or not waiting else index)


def volume_chips(
    session: Session, here: SliceId | None, pending: Sequence[SliceId]
) -> list[dict[str, Any]]:
    """The volumes of the query for the strip: where each leads, how it stands, how far it is."""
    waiting = {s.volume for s in pending}
    chips = []
    for name in dict.fromkeys(s.volume for s in session.queue):
        held = cells(session, name)
        done = sum(cell in KNOWN for cell in held)
        status = "open" if name in waiting else "submitted" if done else "skipped"
        chips.append(
            {
                "slice": {"volume": name, "index": _entry(held)},
                "status": status,
                "here": here is not None and here.volume == name,
                "title": f"{name}: {done} of {len(held)} slices labelled",
            }
        )
    return chips


def _entry(held: Sequence[Cell]) -> int:
    """Where a chip leads: the slice most worth labelling, or the middle of a finished volume."""
    waiting = [i for i, cell in enumerate(held) if cell in ("empty", "offered", "drawn")]
    index = worth(held, waiting)
    return len(held) // 2 if index is None else index
