"""What a session's labels cost until the end of a round, validation labels included."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alnb.records import IGNORE, ItemId, pulls

if TYPE_CHECKING:
    from alnb.session.session import Session

MASK_FACTOR = 15
"""A full mask takes as long as this many scribbles (Valvano et al., 2021). Not validated."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything spent until a round's end.

    Attributes
    ----------
    slices, volumes : unique slices answered, and volumes touched.
    items : unique items of the pool that were asked for and answered, a volume at least in part.
    draws, repeats : items asked for, and how many of them had been asked for before (no cost).
    share : `items` of the whole pool, those of the first round included.
    asked_share : those beyond the first round, of the pool without them. Publications that keep
        what is labelled in the pool print now the one and now the other.
    control : items that chance chose beside the strategy.
    pixels, foreground : labelled pixels, and those of them that are not background.
    strokes : pulls of the pen; 0 for label maps that were given whole.
    seconds : annotation time; 0 for simulated answers.
    full_masks : annotation time of the same slices in full masks, by the model that a slice of
        scribbles takes 1/15 of a mask. It is a model, not a measurement.
    fit_seconds : wall clock of all trainings that ended.
    validation_volumes, validation_slices, validation_pixels : labels that model choice rests on.
        They are outside every budget, and free in no hospital.
    """

    round: int
    slices: int
    volumes: int
    items: int
    draws: int
    repeats: int
    share: float
    asked_share: float
    control: int
    pixels: int
    foreground: int
    strokes: int
    seconds: float
    full_masks: float
    fit_seconds: float
    validation_volumes: int
    validation_slices: int
    validation_pixels: int


def draws(session: Session, number: int) -> dict[ItemId, int]:
    """How often each item was asked for until the end of round `number`, in order of asking."""
    rounds = session.state.rounds[: number + 1]
    return dict(Counter(item for asked in rounds for item in asked.query))


def ledger(session: Session, number: int) -> Ledger:
    """The ledger of `session` at the end of round `number`, counted from 0."""
    state, pool = session.state, session.pool
    rounds = state.rounds[: number + 1]
    times = draws(session, number)
    slices = {item: pool.slices[row] for item, row in zip(times, pool.rows(times), strict=True)}
    asked = {s for of in slices.values() for s in of}
    labelled = {item for item, of in slices.items() if not state.labelled.isdisjoint(of)}
    first = labelled.intersection(*(r.query for r in rounds[:1]))
    rest = len(pool) - len(first)
    answers = {s: given for s, given in state.answers.items() if s in asked}
    maps = [session.merged(given) for given in answers.values()]
    contents = [answer.content for given in answers.values() for answer in given]
    partly = [bool((labels == IGNORE).any()) for labels in maps]
    fits = [f for f in state.fits if f.round <= number and f.report is not None]
    held = session.trainer.measurable("val")
    return Ledger(
        round=number,
        slices=len(answers),
        volumes=len({s.volume for s in answers}),
        items=len(labelled),
        draws=sum(times.values()),
        repeats=sum(times.values()) - len(times),
        share=len(labelled) / len(pool),
        asked_share=(len(labelled) - len(first)) / rest if rest else math.nan,
        control=sum(word == "control" for each in rounds for word in each.origin),
        pixels=sum(int((labels != IGNORE).sum()) for labels in maps),
        foreground=sum(int(((labels != IGNORE) & (labels > 0)).sum()) for labels in maps),
        strokes=sum(pulls(c) for c in contents),
        seconds=sum(a.seconds or 0.0 for given in answers.values() for a in given),
        full_masks=sum(1 / MASK_FACTOR if part else 1.0 for part in partly),
        fit_seconds=sum(f.report.seconds for f in fits if f.report),
        validation_volumes=len(held),
        validation_slices=sum(v.shape[0] for v in held),
        validation_pixels=sum(v.shape[0] * v.shape[1] * v.shape[2] for v in held),
    )
