"""The vocabulary of the journal: frozen dataclasses and their JSON.

=================  =============================================  ================================
event              fields                                         what happened
=================  =============================================  ================================
SessionCreated     cohort, split, train, val, test, unit,         a project began; the split is
                   classes, seed, keep_labelled, version          frozen here and never moves
RoundOpened        number, query, scores, origin, strategy, rng,  a strategy chose what to ask
                   note
QueryAmended       added, removed                                 a person overrode the query
SliceOpened        slice_id, proposal, checkpoint                 what the person saw first
StrokeAdded        slice_id, stroke                               one pull of the pen
StrokeUndone       slice_id                                       the last stroke was taken back
StrokeRedone       slice_id                                       and put there again
SliceSubmitted     annotation, seen                               an answer was finished, and what
                                                                  became of the proposal shown
SliceSkipped       slice_id, reason, seconds                      a slice was passed over
SliceReopened      slice_id                                       and is to be answered after all
FitStarted         fit, trigger, items, rng                       training began
FitFinished        fit, checkpoint, report                        training ended, weights are kept
FitFailed          fit, error                                     training died, in words
Evaluated          fit, metrics                                   a model was measured
RoundClosed        number                                         the next query may come
Embedded           name, encoder, features, report                an encoder gave the pool features
EmbeddingChosen    name                                           queries use these features now
=================  =============================================  ================================

Every value is a dataclass, a tuple, a string, a number, a boolean or None. A dataclass is written
as an object with its class under the key "is"; a number that JSON lacks (infinity, not-a-number)
as ``{"is": "float", "value": "inf"}``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from alnb.errors import JournalError
from alnb.records import (
    Accepted,
    Annotation,
    FitReport,
    ItemId,
    Mask,
    Metrics,
    Scribble,
    SliceId,
    Stroke,
    VolumeId,
)


@dataclass(frozen=True, slots=True)
class SessionCreated:
    """A project began. `split` is the SHA-256 of the frozen patient split."""

    cohort: str
    split: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    unit: str
    classes: tuple[str, ...]
    seed: int
    keep_labelled: bool
    version: str


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """A strategy chose what to ask; a score without a finite value is None.

    `note` is a sentence for the person: that the cold start chose, and why.
    """

    number: int
    query: tuple[ItemId, ...]
    scores: tuple[float | None, ...]
    origin: tuple[str, ...]
    strategy: str
    rng: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class QueryAmended:
    """A person overrode the query."""

    added: tuple[ItemId, ...]
    removed: tuple[ItemId, ...]


@dataclass(frozen=True, slots=True)
class SliceOpened:
    """What the person saw first: the proposal's blob and its model, or None."""

    slice_id: SliceId
    proposal: str | None
    checkpoint: str | None


@dataclass(frozen=True, slots=True)
class StrokeAdded:
    """One pull of the pen."""

    slice_id: SliceId
    stroke: Stroke


@dataclass(frozen=True, slots=True)
class StrokeUndone:
    """The last stroke was taken back."""

    slice_id: SliceId


@dataclass(frozen=True, slots=True)
class StrokeRedone:
    """The stroke taken back last was put there again."""

    slice_id: SliceId


Became = Literal["accepted", "corrected", "ignored"]


@dataclass(frozen=True, slots=True)
class Seen:
    """The proposal that stood on a slice when its answer was finished, and what became of it.

    Attributes
    ----------
    proposal : SHA-256 of its label map.
    checkpoint : the model that made it or took part in it; None for strokes alone, or for one
        that was interpolated.
    live : whether it was made from the strokes while they were drawn.
    became : "accepted" as first shown; "corrected": the answer rests on it, and the person drew or
        took back something since a proposal was first shown; "ignored": the answer is the person's
        own strokes.
    changes : how often the person drew or took back since a proposal was first shown, as far as a
        new one followed or the answer did.
    """

    proposal: str
    checkpoint: str | None
    live: bool
    became: Became
    changes: int = 0


@dataclass(frozen=True, slots=True)
class SliceSubmitted:
    """An answer was finished; `seen` is None where no proposal was shown, or nobody noted it."""

    annotation: Annotation
    seen: Seen | None = None


@dataclass(frozen=True, slots=True)
class SliceSkipped:
    """A slice was passed over."""

    slice_id: SliceId
    reason: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class SliceReopened:
    """A slice that was passed over is to be answered after all."""

    slice_id: SliceId


@dataclass(frozen=True, slots=True)
class FitStarted:
    """Training began on `items` items; `trigger` is "person" or "loop"."""

    fit: int
    trigger: str
    items: int
    rng: str


@dataclass(frozen=True, slots=True)
class FitFinished:
    """Training ended; `checkpoint` is the SHA-256 of the weights."""

    fit: int
    checkpoint: str
    report: FitReport


@dataclass(frozen=True, slots=True)
class FitFailed:
    """Training died; `error` says so in words."""

    fit: int
    error: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The model of `fit` was measured."""

    fit: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """The next query may come."""

    number: int


@dataclass(frozen=True, slots=True)
class Embedded:
    """An encoder gave the pool features, which have the SHA-256 `features`.

    encoder : SHA-256 of its weights and `report` on its training; None for one that came as it is.
    """

    name: str
    encoder: str | None
    features: str
    report: FitReport | None


@dataclass(frozen=True, slots=True)
class EmbeddingChosen:
    """Queries use these features from now on."""

    name: str


Event = (
    SessionCreated
    | RoundOpened
    | QueryAmended
    | SliceOpened
    | StrokeAdded
    | StrokeUndone
    | StrokeRedone
    | SliceSubmitted
    | SliceSkipped
    | SliceReopened
    | FitStarted
    | FitFinished
    | FitFailed
    | Evaluated
    | RoundClosed
    | Embedded
    | EmbeddingChosen
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the journal: order, UTC time (ISO 8601), annotator, and what happened."""

    seq: int
    at: str
    by: str
    event: Event


EVENTS: dict[str, Any] = {kind.__name__: kind for kind in Event.__args__}
_VALUES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        SliceId,
        VolumeId,
        Stroke,
        Scribble,
        Mask,
        Accepted,
        Annotation,
        FitReport,
        Metrics,
        Seen,
    )
}


def encode(event: Event) -> str:
    """JSON of `event`, without its class: keys sorted, no spaces, so equal events equal text."""
    body = {f.name: _plain(getattr(event, f.name)) for f in dataclasses.fields(event)}
    return json.dumps(
        body, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True
    )


def decode(kind: str, body: str) -> Event:
    """The event that `encode` wrote; JournalError for a kind or field this version lacks."""
    try:
        fields = {key: _rich(value) for key, value in json.loads(body).items()}
        event: Event = EVENTS[kind](**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JournalError(
            f"The journal holds an event {kind!r} that this version of alnb cannot read "
            f"({error}). Open the project with the version that wrote it, or a newer one."
        ) from error
    return event


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        body = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__, **body}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else {"is": "float", "value": repr(value)}
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    raise TypeError(f"An event may not hold a {type(value).__name__}: {value!r}.")


def _rich(value: Any) -> Any:
    if isinstance(value, list):
        # a journal is mostly coordinates: a call for each would be half the time of opening it
        return tuple([item if type(item) is float else _rich(item) for item in value])
    if isinstance(value, dict):
        kind = value.pop("is")
        if kind == "float":
            return float(value["value"])
        return _VALUES[kind](**{key: _rich(item) for key, item in value.items()})
    return value
