"""What a person does to a slice, or to a volume: look, draw, take back, answer, pass over."""

from __future__ import annotations

import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from alnb.data.raster import target
from alnb.errors import BadInput, IllegalEvent, UnknownItem
from alnb.records import (
    IGNORE,
    Accepted,
    Annotation,
    LabelMap,
    Mask,
    Scribble,
    SliceId,
    Stroke,
    VolumeId,
)
from alnb.session.door import Door
from alnb.session.offers import Offer, Offers
from alnb.session.state import Draft, Fit
from alnb.store.events import (
    Became,
    Event,
    QueryAmended,
    Seen,
    SliceOpened,
    SliceReopened,
    SliceSkipped,
    SliceSubmitted,
    StrokeAdded,
    StrokeRedone,
    StrokeUndone,
)

Kind = Literal["scribble", "mask", "accepted"]
FINISHED = "finished without it"
"""Why the slices were passed over that were untouched when their volume was finished."""
NO_TIMES: Mapping[SliceId, float] = MappingProxyType({})


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

    _offers: Offers | None = None

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
        in its place: the strokes are there again, and the slice waits to be submitted again. An
        interpolation that was accepted goes with its answer: the slice is open again.
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
        shown: Shown | Offer | None = None,
    ) -> None:
        """Finish a slice.

        kind : "scribble" keeps untouched pixels unlabelled, "mask" makes them background,
            "accepted" takes the proposal that was shown, corrected by the strokes.
        seconds : active time spent since the last answer for this slice; times add up.
        shown : the live proposal that stood on the slice (`session.live.latest`), or the one that
            was interpolated (`interpolate`); without one it is the model's proposal that `opened`
            journalled, if there was one. It is what "accepted" takes, and what is journalled as
            seen. Strokes lie on top of what is accepted.

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

    # ------------------------------------------------------------------ whole volumes

    def interpolate(self, where: str | VolumeId | SliceId) -> tuple[Offer, ...]:
        """Label maps for the unanswered slices between answered ones; see `data.interpolate`.

        where : a volume, or a slice, for the gap in which it lies. They are proposals: nothing
        changes until one is accepted, by `submit` or `accept_between`. A slice that somebody
        answered gets none, nor does one that this annotator passed over.
        """
        name = where if isinstance(where, str) else where.volume
        self._known(where if isinstance(where, SliceId) else SliceId(name, 0))
        with self._lock:
            if self._offers is None:
                self._offers = Offers(self)
            offers = self._offers
        return offers.around(where) if isinstance(where, SliceId) else offers.of_volume(name)

    def accept_between(
        self, offers: Iterable[Offer], seconds: Mapping[SliceId, float] = NO_TIMES
    ) -> tuple[SliceId, ...]:
        """Take interpolations over as answers, all or none; returns the slices answered.

        Each slice gets an answer of its own, which `undo` takes back by itself, or `withdraw`
        together with others. Left alone is where a person has said more meanwhile: a slice that
        anybody answered or drew on, and one that was passed over. seconds : active time by slice.
        """
        with self._acting():
            events: list[Event] = []
            taken: dict[SliceId, Offer] = {o.slice_id: o for o in offers if self._untouched(o)}
            for slice_id, offer in taken.items():
                self._check_map(slice_id, offer.labels)
                time = seconds.get(slice_id, 0.0)
                _check_seconds(time)
                content = self._between(offer, ())
                answer = Annotation(slice_id, content, self.annotator, time)
                seen = Seen(content.blob, None, False, "accepted")
                # slices of one volume may join the query as one
                events += [event for event in self._joining(slice_id) if event not in events]
                events.append(SliceSubmitted(answer, seen))
            self._commit(*events)
            return tuple(taken)

    def withdraw(self, slices: Iterable[SliceId]) -> tuple[SliceId, ...]:
        """Take back, all or none, the accepted interpolations among `slices` as they came.

        Those that were drawn on stay. Returns the slices that are open again.
        """
        with self._acting():
            gone = tuple(s for s in dict.fromkeys(slices) if self.interpolated(s))
            self._commit(*(StrokeUndone(slice_id) for slice_id in gone))
            return gone

    def interpolated(self, slice_id: SliceId) -> bool:
        """Whether this slice's answer is an interpolation as it was offered."""
        draft = self.draft(slice_id)
        return bool(draft.between) and not draft.strokes and self.status(slice_id) == "submitted"

    def reopen(self, volume: str) -> int:
        """Give back the slices that were passed over when their volume was finished.

        Returns how many those are; slices that were passed over one by one stay so.
        """
        self._known(SliceId(volume, 0))
        with self._acting():
            back = [
                slice_id
                for (slice_id, by), reason in self.state.skipped.items()
                if slice_id.volume == volume and by == self.annotator and reason == FINISHED
            ]
            self._commit(*(SliceReopened(slice_id) for slice_id in sorted(back)))
            return len(back)

    def _untouched(self, offer: Offer) -> bool:
        here, state = offer.slice_id, self.state
        drawn = any(draft.strokes for (s, _), draft in state.drafts.items() if s == here)
        return self.status(here) == "open" and here not in state.labelled and not drawn

    def _between(self, offer: Offer, strokes: tuple[Stroke, ...]) -> Accepted:
        blob = self.blobs.put_array(offer.labels)
        return Accepted(blob, None, strokes, between=offer.between)

    # ------------------------------------------------------------------ whole answers

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
        self, slice_id: SliceId, kind: Kind, draft: Draft, live: Shown | Offer | None
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

    def _accepted(self, slice_id: SliceId, draft: Draft, live: Shown | Offer | None) -> Accepted:
        if isinstance(live, Offer):
            if slice_id in self.state.labelled:
                raise IllegalEvent(
                    f"{slice_id} was answered meanwhile, so nothing is interpolated there. Look at "
                    "the answer, and draw on it where it is wrong."
                )
            return self._between(live, draft.strokes)
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
        self, draft: Draft, content: Scribble | Mask | Accepted, live: Shown | Offer | None
    ) -> Seen | None:
        """The proposal that was shown, and what the answer makes of it."""
        taken = content if isinstance(content, Accepted) else draft.base
        if isinstance(live, Offer):
            blob, checkpoint, changes = self.blobs.put_array(live.labels), None, len(draft.strokes)
        elif live is not None:
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
        grown = live is not None and not isinstance(live, Offer)
        return Seen(blob, checkpoint, grown or bool(draft.beneath), became, changes)

    def _joining(self, slice_id: SliceId) -> list[Event]:
        """A slice answered by choice joins the query, so that counts and rounds stay true.

        Where whole volumes are asked for, its volume does.
        """
        if slice_id in self.queue or self.round is None or self.round.closed:
            return []
        item = slice_id if slice_id in self.pool else VolumeId(slice_id.volume)
        return [QueryAmended((item,), ())] if item in self.pool else []

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
