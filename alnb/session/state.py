"""What a session knows: a fold over its journal. `apply` is the specification of a session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce, singledispatch
from types import MappingProxyType
from typing import Any

from alnb.errors import IllegalEvent
from alnb.records import (
    Accepted,
    Annotation,
    Content,
    FitReport,
    ItemId,
    Mask,
    Round,
    Scribble,
    SliceId,
    Stroke,
)
from alnb.store.events import (
    Embedded,
    EmbeddingChosen,
    Entry,
    Evaluated,
    FitFailed,
    FitFinished,
    FitStarted,
    QueryAmended,
    RoundClosed,
    RoundOpened,
    Seen,
    SessionCreated,
    SliceOpened,
    SliceReopened,
    SliceSkipped,
    SliceSubmitted,
    StrokeAdded,
    StrokeRedone,
    StrokeUndone,
)

Key = tuple[SliceId, str]
"""A slice and an annotator: nobody undoes another's stroke."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A slice under the pen.

    Attributes
    ----------
    strokes : what is drawn, in order.
    undone : what was taken back, last one first to return.
    base : the label map the strokes lie on, None for an empty slice.
    proposal, checkpoint : what the model showed, and which model.
    seen : ids of all strokes that ever arrived, so that a repeat is recognised.
    """

    strokes: tuple[Stroke, ...] = ()
    undone: tuple[Stroke, ...] = ()
    base: Mask | Accepted | None = None
    proposal: str | None = None
    checkpoint: str | None = None
    seen: frozenset[str] = frozenset()

    @property
    def beneath(self) -> tuple[Stroke, ...]:
        """The strokes that an accepted live proposal was made from."""
        return self.base.beneath if isinstance(self.base, Accepted) else ()

    @property
    def between(self) -> tuple[int, ...]:
        """The slices that an accepted interpolation was made from."""
        return self.base.between if isinstance(self.base, Accepted) else ()

    @property
    def undoable(self) -> bool:
        """Whether there is a stroke to take back, or an acceptance."""
        return bool(self.strokes or self.beneath or self.between)


@dataclass(frozen=True, slots=True)
class Fit:
    """One training: when it began and what became of it (neither report nor error: it runs).

    `taught` are the slices that were labelled when it began, `seconds` the annotation time spent
    until then.
    """

    number: int
    round: int
    trigger: str
    items: int
    taught: frozenset[SliceId]
    seconds: float
    checkpoint: str | None = None
    report: FitReport | None = None
    error: str | None = None

    @property
    def badge(self) -> str:
        """Names the model of this training beside its proposals."""
        slices = len(self.taught)
        return f"model of round {self.round + 1} · {slices} slice{'s' * (slices != 1)}"


@dataclass(frozen=True, slots=True)
class SessionState:
    """Everything a session knows; frozen and replaced, never edited.

    `before` are the slices that anybody had finished when the current round began.
    """

    seq: int = 0
    created: SessionCreated | None = None
    rounds: tuple[Round, ...] = ()
    drafts: Mapping[Key, Draft] = field(default_factory=lambda: MappingProxyType({}))
    annotations: Mapping[Key, Annotation] = field(default_factory=lambda: MappingProxyType({}))
    seen: Mapping[Key, Seen] = field(default_factory=lambda: MappingProxyType({}))
    skipped: Mapping[Key, str] = field(default_factory=lambda: MappingProxyType({}))
    counts: Mapping[ItemId, int] = field(default_factory=lambda: MappingProxyType({}))
    fits: tuple[Fit, ...] = ()
    seconds: float = 0.0
    embeddings: Mapping[str, Embedded] = field(default_factory=lambda: MappingProxyType({}))
    embedding: str | None = None
    before: frozenset[SliceId] = frozenset()

    @property
    def labelled(self) -> frozenset[SliceId]:
        """Slices that anybody has finished."""
        return frozenset(slice_id for slice_id, _ in self.annotations)

    @property
    def answers(self) -> dict[SliceId, tuple[Annotation, ...]]:
        """Everybody's answers, by slice."""
        found: dict[SliceId, tuple[Annotation, ...]] = {}
        for (slice_id, _), answer in self.annotations.items():
            found[slice_id] = (*found.get(slice_id, ()), answer)
        return found

    @property
    def checkpoint(self) -> str | None:
        """The weights of the last training that ended well."""
        return next((fit.checkpoint for fit in reversed(self.fits) if fit.checkpoint), None)


def ground(content: Content) -> Mask | Accepted | None:
    """What the strokes of an answer lie on; None for an empty slice."""
    return None if isinstance(content, Scribble) else replace(content, strokes=())


def replay(entries: Iterable[Entry], state: SessionState | None = None) -> SessionState:
    """The state after `entries`, from the start or from `state`."""
    return reduce(apply, entries, state or SessionState())


def apply(state: SessionState, entry: Entry) -> SessionState:
    """The state after one more entry; IllegalEvent if it cannot follow. Pure."""
    if state.created is None and not isinstance(entry.event, SessionCreated):
        raise IllegalEvent(f"Entry {entry.seq} comes before the session was created.")
    return replace(_after(entry.event, state, entry.by), seq=entry.seq)


def _with(mapping: Any, key: Any, value: Any) -> Mapping[Any, Any]:
    # a union copies the dict behind the proxy without hashing each key anew, as ** would
    return MappingProxyType(mapping | {key: value})


def _without(mapping: Mapping[Any, Any], key: Any) -> Mapping[Any, Any]:
    return MappingProxyType({k: v for k, v in mapping.items() if k != key})


def _draft(state: SessionState, key: Key, draft: Draft) -> SessionState:
    return replace(state, drafts=_with(state.drafts, key, draft))


@singledispatch
def _after(event: object, state: SessionState, by: str) -> SessionState:
    raise IllegalEvent(f"No rule for an event of type {type(event).__name__}.")


@_after.register
def _(event: SessionCreated, state: SessionState, by: str) -> SessionState:
    if state.created is not None:
        raise IllegalEvent("The session was created twice.")
    return replace(state, created=event)


@_after.register
def _(event: RoundOpened, state: SessionState, by: str) -> SessionState:
    if event.number != len(state.rounds):
        raise IllegalEvent(f"Round {event.number} cannot follow {len(state.rounds)} rounds.")
    if state.rounds and not state.rounds[-1].closed:
        raise IllegalEvent(f"Round {event.number - 1} is still open; close it first.")
    if len(set(event.query)) != len(event.query):
        raise IllegalEvent(f"Round {event.number} asks for an item twice.")
    counts = dict(state.counts)
    for item in event.query:
        counts[item] = counts.get(item, 0) + 1
    opened = Round(
        event.number, event.query, event.scores, event.origin, event.strategy, note=event.note
    )
    return replace(
        state,
        rounds=(*state.rounds, opened),
        counts=MappingProxyType(counts),
        before=state.labelled,
    )


@_after.register
def _(event: QueryAmended, state: SessionState, by: str) -> SessionState:
    if not state.rounds or state.rounds[-1].closed:
        raise IllegalEvent("There is no open round to amend; ask for one first.")
    last = state.rounds[-1]
    twice = len(set(event.added)) != len(event.added)
    if twice or set(event.added) & set(last.query) or set(event.removed) - set(last.query):
        raise IllegalEvent(
            "Only new items can be added, each once, and only items of the query removed."
        )
    kept = [i for i, item in enumerate(last.query) if item not in event.removed]
    origin = last.origin or ("",) * len(last.query)
    amended = replace(
        last,
        query=(*(last.query[i] for i in kept), *event.added),
        scores=(*(last.scores[i] for i in kept), *(None for _ in event.added)),
        origin=(*(origin[i] for i in kept), *("person" for _ in event.added)),
    )
    counts = dict(state.counts)
    for item in event.removed:
        counts[item] -= 1
    for item in event.added:
        counts[item] = counts.get(item, 0) + 1
    return replace(state, rounds=(*state.rounds[:-1], amended), counts=MappingProxyType(counts))


@_after.register
def _(event: SliceOpened, state: SessionState, by: str) -> SessionState:
    key = (event.slice_id, by)
    draft = state.drafts.get(key, Draft())
    return _draft(state, key, replace(draft, proposal=event.proposal, checkpoint=event.checkpoint))


@_after.register
def _(event: StrokeAdded, state: SessionState, by: str) -> SessionState:
    key = (event.slice_id, by)
    draft = state.drafts.get(key, Draft())
    if event.stroke.id and event.stroke.id in draft.seen:
        raise IllegalEvent(f"Stroke {event.stroke.id} is already there.")
    seen = draft.seen | {event.stroke.id} if event.stroke.id else draft.seen
    drawn = replace(draft, strokes=(*draft.strokes, event.stroke), undone=(), seen=seen)
    # who draws on a skipped slice has thought better of it
    skipped = _without(state.skipped, key) if key in state.skipped else state.skipped
    return replace(_draft(state, key, drawn), skipped=skipped)


@_after.register
def _(event: StrokeUndone, state: SessionState, by: str) -> SessionState:
    key = (event.slice_id, by)
    draft = state.drafts.get(key, Draft())
    if not draft.undoable:
        raise IllegalEvent(f"There is no stroke to undo on {event.slice_id}.")
    if not draft.strokes:
        # the acceptance goes, and the strokes that the proposal was made from are there again;
        # an interpolation was made from none, so nobody has said anything of the slice any more
        if draft.between:
            state = replace(
                state,
                annotations=_without(state.annotations, key),
                seen=_without(state.seen, key),
            )
        return _draft(state, key, replace(draft, base=None, strokes=draft.beneath))
    *rest, last = draft.strokes
    return _draft(state, key, replace(draft, strokes=tuple(rest), undone=(*draft.undone, last)))


@_after.register
def _(event: StrokeRedone, state: SessionState, by: str) -> SessionState:
    key = (event.slice_id, by)
    draft = state.drafts.get(key, Draft())
    if not draft.undone:
        raise IllegalEvent(f"There is no stroke to redo on {event.slice_id}.")
    *rest, last = draft.undone
    return _draft(state, key, replace(draft, strokes=(*draft.strokes, last), undone=tuple(rest)))


@_after.register
def _(event: SliceSubmitted, state: SessionState, by: str) -> SessionState:
    answer = event.annotation
    key = (answer.slice_id, answer.annotator)
    content = answer.content
    draft = replace(
        state.drafts.get(key, Draft()),
        base=ground(content),
        strokes=content.strokes,
    )
    seen = state.seen
    if event.seen is not None:
        seen = _with(seen, key, event.seen)
    elif key in seen:
        seen = _without(seen, key)
    return replace(
        _draft(state, key, draft),
        annotations=_with(state.annotations, key, answer),
        seen=seen,
        skipped=_without(state.skipped, key),
        seconds=state.seconds + (answer.seconds or 0.0),
    )


@_after.register
def _(event: SliceSkipped, state: SessionState, by: str) -> SessionState:
    key = (event.slice_id, by)
    if key in state.annotations:
        raise IllegalEvent(f"{event.slice_id} has an answer already and cannot be skipped.")
    return replace(
        state,
        skipped=_with(state.skipped, key, event.reason),
        seconds=state.seconds + (event.seconds or 0.0),
    )


@_after.register
def _(event: SliceReopened, state: SessionState, by: str) -> SessionState:
    key = (event.slice_id, by)
    if key not in state.skipped:
        raise IllegalEvent(f"{event.slice_id} was not passed over, so it cannot be opened again.")
    return replace(state, skipped=_without(state.skipped, key))


@_after.register
def _(event: FitStarted, state: SessionState, by: str) -> SessionState:
    if event.fit != len(state.fits):
        raise IllegalEvent(f"Training {event.fit} cannot follow {len(state.fits)} trainings.")
    started = Fit(
        number=event.fit,
        round=len(state.rounds) - 1,
        trigger=event.trigger,
        items=event.items,
        taught=state.labelled,
        seconds=state.seconds,
    )
    return replace(state, fits=(*state.fits, started))


def _ended(state: SessionState, number: int, **changes: Any) -> SessionState:
    if not 0 <= number < len(state.fits):
        raise IllegalEvent(f"Training {number} never began.")
    fits = list(state.fits)
    fits[number] = replace(fits[number], **changes)
    return replace(state, fits=tuple(fits))


@_after.register
def _(event: FitFinished, state: SessionState, by: str) -> SessionState:
    return _ended(state, event.fit, checkpoint=event.checkpoint, report=event.report)


@_after.register
def _(event: FitFailed, state: SessionState, by: str) -> SessionState:
    return _ended(state, event.fit, error=event.error)


@_after.register
def _(event: Evaluated, state: SessionState, by: str) -> SessionState:
    if not 0 <= event.fit < len(state.fits):
        raise IllegalEvent(f"Training {event.fit} never began, so it cannot be measured.")
    number = state.fits[event.fit].round
    if number < 0:
        return state
    rounds = list(state.rounds)
    rounds[number] = replace(rounds[number], metrics=(*rounds[number].metrics, event.metrics))
    return replace(state, rounds=tuple(rounds))


@_after.register
def _(event: Embedded, state: SessionState, by: str) -> SessionState:
    # an encoder that a person waited for is the one to use; one that came as it is stays a choice
    chosen = state.embedding if event.encoder is None else event.name
    return replace(state, embeddings=_with(state.embeddings, event.name, event), embedding=chosen)


@_after.register
def _(event: EmbeddingChosen, state: SessionState, by: str) -> SessionState:
    return replace(state, embedding=event.name)


@_after.register
def _(event: RoundClosed, state: SessionState, by: str) -> SessionState:
    if not state.rounds or state.rounds[-1].number != event.number or state.rounds[-1].closed:
        raise IllegalEvent(f"Round {event.number} is not the open one.")
    return replace(state, rounds=(*state.rounds[:-1], replace(state.rounds[-1], closed=True)))
