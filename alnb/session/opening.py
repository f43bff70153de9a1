"""How a project is made and found again: its folder, its split, and the state on its disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from alnb.data.cohort import Cohort, Split, by_patient
from alnb.errors import IllegalEvent, JournalError
from alnb.session.state import SessionState, apply
from alnb.store.journal import Journal, make_folder


def project_folder(path: str | os.PathLike[str]) -> Path:
    """The absolute folder of a project, made if need be; JournalError where that fails."""
    folder = Path(path).expanduser().resolve()
    try:
        make_folder(folder)
    except OSError as error:
        raise JournalError(
            f"The project folder {folder} cannot be made ({error.strerror}). "
            "Choose another folder, or change its permissions."
        ) from error
    return folder


def recovered(journal: Journal) -> tuple[SessionState, tuple[str, ...]]:
    """The state that a journal holds, and a sentence for every record that could not be used.

    Where a record is damaged or missing, those that cannot follow without it are set aside too,
    and all others are used. JournalError when the first one is lost.
    """
    state, orphans = SessionState(), []
    for entry in journal.entries():
        try:
            state = apply(state, entry)
        except IllegalEvent as error:
            orphans.append(f"Record {entry.seq} no longer follows and was set aside: {error}")
    if journal.last and state.created is None:
        raise JournalError(
            f"{journal.path.name}: the record with which the project began is damaged or missing. "
            "Restore the project from a copy. Nothing was changed."
        )
    # a record set aside keeps its number: the next one comes behind it
    return replace(state, seq=journal.last), (*journal.problems, *orphans)


def split_by_reference(cohort: Cohort, seed: int) -> Split:
    """Patients for validation and test among those with reference masks; the rest train."""
    known = {v.patient for v in cohort.volumes.values() if v.has_reference}
    without = {v.patient for v in cohort.volumes.values() if not v.has_reference}
    measurable = tuple(p for p in cohort.patients if p in known - without)
    if len(measurable) < 3:
        return Split(train=cohort.patients, val=(), test=())
    drawn = by_patient(measurable, seed=seed)
    held = {*drawn.val, *drawn.test}
    return Split(tuple(p for p in cohort.patients if p not in held), drawn.val, drawn.test)
