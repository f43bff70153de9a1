"""What a person does to a slice: look, draw, take back, answer, pass over."""

from __future__ import annotations

import math
import uuid
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from alnb.data.raster import target
from alnb.errors import BadInput, IllegalEvent, UnknownItem
from alnb.records import IGNORE, Accepted, Annotation, LabelMap, Mask, Scribble, SliceId, Stroke
from alnb.session.door import Door
from alnb.session.state import Draft, Fit
from alnb.store.events import (
    Became,
    Event,
    QueryAmended,
    Seen,
    SliceOpened,
    SliceSkipped,
    SliceSubmitted,
    StrokeAdded,
    StrokeRedone,
    StrokeUndone,
)

Kind = Literal["scribble", "mask", "accepted"]


class Shown(Protocol):
    """A live proposal as `submit` needs it: see `alnb.session.live.LiveProposal`."""

    @property
    def labels(self) -> LabelMap: ...

    @property
    def checkpoint(self) -> str | None: ...

    @property
    def strokes(self) -> tuple[Stroke, ...]: ...

    @property
    def changes(self) -> int: ...


class Answering(Door, ABC):
    """The acts of an annotator. Each is on disk when it returns, or raises and changed nothing."""

    def opened(self, slice_id: SliceId) -> tuple[LabelMap, str] | None:
        """Journal that a person saw this slice, and which proposal with it, once per model.

        Returns the proposal, as `prediction` does: what "accepted" then takes.
        """
        self._known(slice_id)
        proposal = self._proposal(slice_id)
        blob = checkpoint = None
        if proposal is not None:
            checkpoint = proposal[0].checkpoint
            if self.draft(slice_id).checkpoint != checkpoint:
                blob = self.blobs.put_array(proposal[1])
        with self._acting():
            drafts, key = self.state.drafts, (slice_id, self.annotator)
            if key not in drafts or drafts[key].checkpoint != checkpoint:
                self._commit(SliceOpened(slice_id, blob, checkpoint))
        return None if proposal is None else (proposal[1], proposal[0].badge)

    def draw(self, slice_id: SliceId, stroke: Stroke) -> bool:
        """Add a stroke; on return it is on disk. False if this stroke id was there already."""
        self._known(slice_id)
        if stroke.label != IGNORE and stroke.label >= len(self.classes):
            raise IllegalEvent(
                f"Label {stroke.label} is not a class of this project (0 to "
                f"{len(self.classes) - 1}, or {IGNORE} to erase)."
            )
        with self._acting():
            if stroke.id and stroke.id in self.draft(slice_id).seen:
                return False
            self._commit(
                StrokeAdded(slice_id, stroke if stroke.id else replace(stroke, id=uuid.uuid4().hex))
            )
            return True

    def undo(self, slice_id: SliceId) -> bool:
        """Take the last stroke back; False if there is none.

        Where a live proposal was accepted and nothing is drawn on it, the acceptance is taken back
        in its place: the strokes are there again, and the slice waits to be submitted again.
        """
        with self._acting():
            event = StrokeUndone(slice_id)
            if event not in self._redone and not self.draft(slice_id).undoable:
                return False
            self._commit(event)
            return True

    def redo(self, slice_id: SliceId) -> bool:
        """Put back the stroke undone last; False if there is none."""
        with self._acting():
            event = StrokeRedone(slice_id)
            if event not in self._redone and not self.draft(slice_id).undone:
                return False
            self._commit(event)
            return True

    def clear(self, slice_id: SliceId) -> bool:
        """Erase the whole slice, as one stroke that can be undone; False if it is blank."""
        self._known(slice_id)
        height, width = self.cohort.shape(slice_id)
        corners = ((0.0, 0.0), (0.0, float(width)), (float(height), float(width)))
        everything = Stroke((*corners, (float(height), 0.0)), IGNORE, tool="lasso")
        with self._acting():
            blank = bool((self.raster(slice_id) == IGNORE).all())
            return False if blank else self.draw(slice_id, everything)

    def submit(
        self,
        slice_id: SliceId,
        kind: Kind = "scribble",
        seconds: float | None = None,
        *,
        shown: Shown | None = None,
    ) -> None:
        """Finish a slice.

        kind : "scribble" keeps untouched pixels unlabelled, "mask" makes them background,
            "accepted" takes the proposal that was shown, corrected by the strokes.
        seconds : active time spent since the last answer for this slice; times add up.
        shown : the live proposal that stood on the slice (`session.live.latest`); without one it
            is the model's proposal that `opened` journalled, if there was one. It is what
            "accepted" takes, and what is journalled as seen.

        IllegalEvent when there is nothing to submit.
        """
        self._known(slice_id)
        _check_seconds(seconds)
        if shown is not None:
            self._check_map(slice_id, shown.labels)
        with self._acting():
            draft = self.draft(slice_id)
            # on an answer that was taken over already, no live proposal can stand
            live = shown if draft.base is None else None
            content = self._content(slice_id, kind, draft, live)
            answer = Annotation(slice_id, content, self.annotator, seconds)
            seen = self._seen(draft, content, live)
            self._commit(*self._joining(slice_id), SliceSubmitted(answer, seen))

    def skip(self, slice_id: SliceId, reason: str = "", seconds: float | None = None) -> None:
        """Pass over a slice; it is not asked again unless somebody draws on it."""
        self._known(slice_id)
        _check_seconds(seconds)
        self._commit(SliceSkipped(slice_id, reason, seconds))

    def annotate(
        self, annotation: Annotation, maps: dict[str, NDArray[np.uint8]] | None = None
    ) -> None:
        """Take a whole answer, from an oracle or an import, in one transaction.

        BadInput when a label map has another size than its slice, or holds a code that is no
        class of the project.
        """
        self._known(annotation.slice_id)
        _check_seconds(annotation.seconds)
        shape = self.cohort.shape(annotation.slice_id)
        for array in (maps or {}).values():
            self._check_map(annotation.slice_id, array)
            self.blobs.put_array(array.astype(np.uint8, copy=False))
        # refuses what cannot be drawn
        whole = target(annotation.content, shape, self.label_map)
        self._check_codes(annotation.slice_id, whole)
        with self._acting():
            self._commit(*self._joining(annotation.slice_id), SliceSubmitted(annotation))

    def _content(
        self, slice_id: SliceId, kind: Kind, draft: Draft, live: Shown | None
    ) -> Scribble | Mask | Accepted:
        if kind not in get_args(Kind):
            raise BadInput(f"{kind!r} is no kind of answer; it can be {', '.join(get_args(Kind))}.")
        if kind == "accepted" and not draft.beneath:
            return self._accepted(slice_id, draft, live)
        ink = self.raster(slice_id)
        if kind == "mask":
            whole = np.where(ink == IGNORE, 0, ink).astype(np.uint8)
            return Mask(self.blobs.put_array(whole))
        if bool((ink == IGNORE).all()):
            raise IllegalEvent(
                f"Nothing is drawn on {slice_id}. Draw a stroke of some class (background counts), "
                "or skip the slice."
            )
        if draft.base is None:
            return Scribble(draft.strokes)
        return replace(draft.base, strokes=draft.strokes)

    def _accepted(self, slice_id: SliceId, draft: Draft, live: Shown | None) -> Accepted:
        if live is None:
            if draft.proposal is None or draft.checkpoint is None:
                raise IllegalEvent(
                    f"No proposal was shown on {slice_id}, so there is none to accept. "
                    "Draw or train first, or submit what you drew."
                )
            return Accepted(draft.proposal, draft.checkpoint, draft.strokes)
        if not draft.strokes:
            raise IllegalEvent(
                f"All strokes on {slice_id} were taken back, and with them the proposal made from "
                "them. Draw again, or skip the slice."
            )
        # as it is seen: the ink covers the proposal, and what was erased shows it again
        ink = self.raster(slice_id)
        whole = np.where(ink == IGNORE, live.labels, ink).astype(np.uint8)
        return Accepted(self.blobs.put_array(whole), live.checkpoint, beneath=draft.strokes)

    def _seen(
        self, draft: Draft, content: Scribble | Mask | Accepted, live: Shown | None
    ) -> Seen | None:
        """The proposal that was shown, and what the answer makes of it."""
        taken = content if isinstance(content, Accepted) else draft.base
        if live is not None:
            blob, checkpoint = self.blobs.put_array(live.labels), live.checkpoint
            changes = live.changes + (live.strokes != draft.strokes)
        elif isinstance(taken, Accepted):
            # an accepted answer, drawn on: the proposal is the one it rests on
            blob, checkpoint, changes = taken.blob, taken.checkpoint, len(draft.strokes)
        elif draft.proposal is not None:
            blob, checkpoint, changes = draft.proposal, draft.checkpoint, len(draft.strokes)
        else:
            return None
        rests = isinstance(taken, Accepted)
        became: Became = "ignored" if not rests else "corrected" if changes else "accepted"
        return Seen(blob, checkpoint, live is not None or bool(draft.beneath), became, changes)

    def _joining(self, slice_id: SliceId) -> list[Event]:
        """A slice answered by choice joins the query, so that counts and rounds stay true."""
        if slice_id in self.queue or self.round is None or self.round.closed:
            return []
        return [QueryAmended((slice_id,), ())] if slice_id in self.pool else []

    def _known(self, slice_id: SliceId) -> None:
        volume = self.cohort.volumes.get(slice_id.volume)
        if volume is None or not 0 <= slice_id.index < volume.shape[0]:
            raise UnknownItem(f"{slice_id} is not a slice of the cohort {self.cohort.name!r}.")
        if volume.patient not in self.split.train:
            raise UnknownItem(
                f"{slice_id} belongs to the validation or test split, which is never annotated "
                "here. Choose a slice of the pool."
            )

    def _check_map(self, slice_id: SliceId, labels: NDArray[np.generic]) -> None:
        shape = self.cohort.shape(slice_id)
        if labels.shape != shape:
            raise BadInput(
                f"The answer for {slice_id} is {labels.shape}, its slice {shape}. "
                "Give a label map of the slice's own size."
            )
        self._check_codes(slice_id, labels)

    def _check_codes(self, slice_id: SliceId, labels: NDArray[np.generic]) -> None:
        codes = set(np.unique(labels).tolist())
        wrong = sorted(codes - {*range(len(self.classes)), IGNORE})
        if wrong:
            raise BadInput(
                f"The answer for {slice_id} holds {wrong[0]}; the classes of this project are 0 "
                f"to {len(self.classes) - 1}, and {IGNORE} is unlabelled. Nothing was changed."
            )

    @abstractmethod
    def _proposal(self, slice_id: SliceId) -> tuple[Fit, LabelMap] | None:
        """The last model's label map of a slice and its training; None without a model."""


def _check_seconds(seconds: float | None) -> None:
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise BadInput(f"{seconds} is no active time; give seconds from 0 on, or None.")
