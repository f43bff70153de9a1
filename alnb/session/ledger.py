"""What a session's labels cost until the end of a round, validation labels included."""

from __future__ import annotations

from dataclasses import dataclass

from alnb.records import IGNORE, pulls
from alnb.session.session import Session

MASK_FACTOR = 15
"""A full mask takes as long as this many scribbles (Valvano et al., 2021). Not validated."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything spent until a round's end.

    Attributes
    ----------
    slices, volumes : unique slices answered, and volumes touched.
    draws, repeats : items asked for, and how many of them had been asked for before (no cost).
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
    draws: int
    repeats: int
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


def ledger(session: Session, number: int) -> Ledger:
    """The ledger of `session` at the end of round `number`, counted from 0."""
    state = session.state
    rounds = state.rounds[: number + 1]
    rows = session.pool.rows(item for asked in rounds for item in asked.query)
    asked = {s for row in rows.tolist() for s in session.pool.slices[row]}
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
        draws=len(rows),
        repeats=len(rows) - len(set(rows.tolist())),
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
