"""What is known of a project, without a way to change it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alnb.data.cohort import Cohort, Split
from alnb.data.raster import merge, rasterize, target
from alnb.data.volume import ArrayCache, unlabelled
from alnb.errors import JournalError, UnknownItem
from alnb.records import Annotation, LabelMap, Pool, Round, SliceId
from alnb.session.state import Draft, Fit, SessionState, ground
from alnb.store.blobs import Blobs
from alnb.store.events import SessionCreated

SliceStatus = Literal["open", "edited", "submitted", "skipped"]

_HELD_BYTES = 64 << 20


class Reading:
    """A project as it stands: a state, the cohort it speaks of, and the blobs it names.

    Every answer is a function of `state`, which is replaced and never edited, so no lock is needed.
    """

    folder: Path
    cohort: Cohort
    annotator: str
    blobs: Blobs
    state: SessionState
    split: Split
    pool: Pool

    def __init__(self, folder: Path, cohort: Cohort, annotator: str, state: SessionState) -> None:
        self.folder, self.cohort, self.annotator, self.state = folder, cohort, annotator, state
        self.blobs = Blobs(folder / "blobs")
        self._maps = ArrayCache(_HELD_BYTES)

    def __repr__(self) -> str:
        done = len(self.state.labelled)
        return (
            f"<Session {self.folder.name!r}: {len(self.pool)} in the pool, {done} slices "
            f"labelled, {len(self.state.rounds)} rounds>"
        )

    @property
    def created(self) -> SessionCreated:
        """How the project began."""
        if self.state.created is None:
            raise JournalError(f"{self.folder.name} has no beginning; restore it from a copy.")
        return self.state.created

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, background first."""
        return self.cohort.classes

    @property
    def seed(self) -> int:
        """The project's seed, from which every stream of random numbers derives."""
        return self.created.seed

    @property
    def round(self) -> Round | None:
        """The current round, or None before the first query."""
        rounds = self.state.rounds
        return rounds[-1] if rounds else None

    @property
    def queue(self) -> tuple[SliceId, ...]:
        """The slices of the current query in order, answered or not."""
        current = self.round
        if current is None:
            return ()
        rows = self.pool.rows(current.query)
        return tuple(slice_id for row in rows.tolist() for slice_id in self.pool.slices[row])

    @property
    def pending(self) -> tuple[SliceId, ...]:
        """The slices of the current query that still wait for an answer.

        What a strategy asked for again costs nothing: it does not wait for further opinions, nor a
        volume for the slices that were left unanswered, unless somebody draws on them.
        """
        current = self.round
        if current is None:
            return ()
        before = self.state.before
        rows = self.pool.rows(current.query).tolist()
        found: list[SliceId] = []
        for row, origin in zip(rows, current.origin or ("",) * len(rows), strict=True):
            slices = self.pool.slices[row]
            again = origin != "person" and not before.isdisjoint(slices)
            found += [s for s in slices if self._is_pending(s, again=again)]
        return tuple(found)

    def _is_pending(self, slice_id: SliceId, *, again: bool) -> bool:
        status = self.status(slice_id)
        drawn = status == "open" and bool(self.draft(slice_id).strokes)
        return status == "edited" or drawn or (status == "open" and not again)

    def status(self, slice_id: SliceId) -> SliceStatus:
        """Where this slice stands; "edited" was submitted and then drawn on."""
        key, state = (slice_id, self.annotator), self.state
        answer = state.annotations.get(key)
        if answer is not None:
            draft = state.drafts.get(key)
            content = answer.content
            unchanged = draft is None or (
                draft.strokes == content.strokes and draft.base == ground(content)
            )
            return "submitted" if unchanged else "edited"
        return "skipped" if key in state.skipped else "open"

    def draft(self, slice_id: SliceId) -> Draft:
        """The strokes of this annotator on a slice, with what was undone."""
        return self.state.drafts.get((slice_id, self.annotator), Draft())

    def raster(self, slice_id: SliceId) -> LabelMap:
        """The authoritative ink of a slice, (H, W) uint8, IGNORE where nothing is drawn."""
        draft = self.draft(slice_id)
        base = (
            unlabelled(self.cohort.shape(slice_id))
            if draft.base is None
            else self.label_map(draft.base.blob)
        )
        return rasterize(draft.strokes, base)

    def target(self, slice_id: SliceId) -> LabelMap:
        """What a learner is taught of a slice; IGNORE where annotators differ."""
        answers = self.state.answers.get(slice_id)
        if not answers:
            raise UnknownItem(f"{slice_id} has no answer yet; label it first.")
        return self.merged(answers)

    def merged(self, answers: tuple[Annotation, ...]) -> LabelMap:
        """One label map out of the answers for one slice."""
        shape = self.cohort.shape(answers[0].slice_id)
        return merge([target(a.content, shape, self.label_map) for a in answers])

    def label_map(self, blob: str) -> LabelMap:
        """The label map of blob `blob`, read-only; those used last are held."""
        return self._maps.get(blob, lambda: self.blobs.label_map(blob))

    @property
    def labelled(self) -> tuple[SliceId, ...]:
        """Every slice with an answer, in pool order."""
        done = self.state.labelled
        return tuple(s for slices in self.pool.slices for s in slices if s in done)

    @property
    def last_fit(self) -> Fit | None:
        """The last training that left weights, or None."""
        return next((fit for fit in reversed(self.state.fits) if fit.checkpoint), None)

    def candidates(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows may be asked now, and which are labelled; both (N,) bool.

        A row is labelled when any of its slices is answered. Unless labelled rows are kept, what
        is labelled or passed over as a whole is not asked again; what nobody said of a volume's
        other slices stays unsaid.
        """
        state = self.state
        labelled = state.labelled
        done = labelled | {slice_id for slice_id, _ in state.skipped}
        mine = {slice_id for slice_id, by in state.skipped if by == self.annotator}
        rows = self.pool.slices
        touched = np.array([not labelled.isdisjoint(slices) for slices in rows], dtype=bool)
        closed = np.array([done.issuperset(slices) for slices in rows], dtype=bool)
        passed = np.array([mine.issuperset(slices) for slices in rows], dtype=bool)
        free = ~passed if self.created.keep_labelled else ~(touched | closed)
        return free, touched
