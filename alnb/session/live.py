"""Live proposals: what the strokes on a slice suggest for the rest of it, while they are drawn."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alnb.errors import AlnbError
from alnb.protocols import Learner
from alnb.records import Floats, LabelMap, SliceId, Stroke
from alnb.session.ink import Inks
from alnb.session.jobs import in_words
from alnb.session.state import Draft, Fit
from alnb.store.events import (
    Entry,
    SliceSkipped,
    SliceSubmitted,
    StrokeAdded,
    StrokeRedone,
    StrokeUndone,
)

if TYPE_CHECKING:
    from alnb.session.session import Session

KEPT_SLICES = 8
"""How many prepared slices are held."""

KEPT_PROPOSALS = 8
"""How many proposals of a slice are held: a person may accept one that is about to be replaced."""

ALONE = "from your strokes"

_log = logging.getLogger(__name__)


class Grown(Protocol):
    """What a proposer gives: a label map, and how sure it is of each pixel, 0 to 1."""

    @property
    def labels(self) -> LabelMap: ...

    @property
    def confidence(self) -> NDArray[np.float32]: ...


class Proposer(Protocol):
    """Grows strokes into a label map of the whole slice. Used by one thread at a time."""

    def prepare(
        self,
        image: Floats,
        features: Floats | None = None,
        prior: NDArray[np.float32] | None = None,
    ) -> Any:
        """All that depends on the (H, W) image and the model's (C, H, W) probabilities alone."""
        ...

    def propose(self, prepared: Any, labels: LabelMap) -> Grown | None:
        """The proposal for `labels`, IGNORE where nothing is drawn; None where none can be made."""
        ...


@dataclass(frozen=True, eq=False)
class LiveProposal:
    """One proposal, as it is shown.

    Attributes
    ----------
    slice_id : whose it is.
    id : by which a view says what it shows.
    labels, confidence : (H, W) uint8 and float32, read-only.
    strokes : those it was made from.
    checkpoint : the model whose probabilities took part; None for strokes alone.
    badge : says in a few words what it was made from.
    changes : how often the strokes had changed since a proposal was first shown on this slice.
    """

    slice_id: SliceId
    id: str
    labels: LabelMap
    confidence: NDArray[np.float32]
    strokes: tuple[Stroke, ...]
    checkpoint: str | None
    badge: str
    changes: int


class Live:
    """Keeps the proposal of the slice under the pen up to date, in a thread of its own.

    The newest wish wins: strokes that come while a proposal is being made are answered together,
    and a proposal for strokes that have changed meanwhile is dropped. Watchers of the session hear
    "live" when there is a new proposal, or none any more. Nothing here is done under the session's
    lock, and nobody waits for it.

    A model takes part once it is better than strokes alone: where its mean Dice on validation
    volumes, or on freshly answered slices, was at least `least_dice` after its training. A worse
    one would pull good strokes towards its errors. One that was never measured takes part.

    session : whose strokes these are.
    proposer : by default `alnb.models.live.LiveProposer`, made when first needed.
    """

    least_dice: float = 0.6

    def __init__(self, session: Session, proposer: Proposer | None = None) -> None:
        self._session = session
        self._proposer = proposer
        self._inks = Inks(session)
        self._lock = threading.Lock()
        self._on = True
        self._running = False
        self._here: SliceId | None = None
        self._wanted: SliceId | None = None
        self._shown: OrderedDict[SliceId, tuple[LiveProposal, ...]] = OrderedDict()
        self._history: dict[SliceId, tuple[int, tuple[Stroke, ...]]] = {}
        self._prepared: OrderedDict[tuple[SliceId, str | None], tuple[Any, Fit | None]] = (
            OrderedDict()
        )
        self._troubles: dict[str, str] = {}
        self._idle = threading.Event()
        self._idle.set()
        session.subscribe(self._heard)
        session.watch(self._watched)

    # ------------------------------------------------------------------ the switch

    @property
    def on(self) -> bool:
        """Whether proposals are made."""
        return self._on

    def switch(self, on: bool) -> None:
        """Make proposals from now on, or none; switching off takes away those that are shown."""
        with self._lock:
            if on == self._on:
                return
            self._on = on
            here = self._here
            if not on:
                self._shown.clear()
        self._session.say("live")
        if on and here is not None:
            self.look_at(here)

    def use(self, proposer: Proposer) -> None:
        """Let another algorithm make the proposals from the next stroke on."""
        with self._lock:
            self._proposer = proposer
            self._prepared.clear()

    # ------------------------------------------------------------------ asking

    def look_at(self, slice_id: SliceId) -> None:
        """Prepare a slice before its first stroke, and propose where strokes are there already.

        Returns at once; any earlier wish that nobody has begun to answer is forgotten.
        """
        with self._lock:
            self._here = slice_id
            if not self._on or self._session.closed:
                return
            self._wanted = slice_id
            if self._running:
                return
            self._running = True
            self._idle.clear()
        threading.Thread(target=self._work, name="alnb-live", daemon=True).start()

    def latest(self, slice_id: SliceId) -> LiveProposal | None:
        """The newest proposal of a slice whose strokes wait for submission; None without one."""
        return next(reversed(self._shown.get(slice_id, ())), None)

    def known(self, slice_id: SliceId, name: str) -> LiveProposal | None:
        """The proposal whose id is `name`, if it is one of the last few of the slice."""
        return next((p for p in self._shown.get(slice_id, ()) if p.id == name), None)

    def settle(self, timeout: float = 10.0) -> bool:
        """Wait until every wish is answered; whether that happened within `timeout` seconds."""
        return self._idle.wait(timeout)

    # ------------------------------------------------------------------ from the session

    def _heard(self, entry: Entry) -> None:
        """Follow the journal. Under the session's lock: note what is wanted, and no more."""
        me = self._session.annotator
        match entry.event:
            case StrokeAdded() | StrokeUndone() | StrokeRedone() as act if entry.by == me:
                self.look_at(act.slice_id)
            case SliceSubmitted(answer) if answer.annotator == me:
                with self._lock:
                    self._shown.pop(answer.slice_id, None)
                    self._history.pop(answer.slice_id, None)
            case SliceSkipped(slice_id) if entry.by == me:
                with self._lock:
                    self._shown.pop(slice_id, None)

    def _watched(self, what: str) -> None:
        if what == "model" and self._here is not None:
            self.look_at(self._here)

    # ------------------------------------------------------------------ in the thread

    def _work(self) -> None:
        while True:
            with self._lock:
                slice_id, self._wanted = self._wanted, None
                if slice_id is None or self._session.closed:
                    self._running = False
                    self._idle.set()
                    return
            try:
                self._answer(slice_id)
                self._troubles.pop(_GROWING, None)
            except Exception as error:  # the next stroke may well succeed; drawing goes on
                self._report(_GROWING, error)
                self._take_away(slice_id)

    def _answer(self, slice_id: SliceId) -> None:
        draft = self._session.draft(slice_id)
        if not self._growable(slice_id, draft):
            self._take_away(slice_id)
            if draft.base is None and not draft.strokes:
                self._ready(slice_id)
            return
        prepared, fit = self._ready(slice_id)
        grown = self._maker().propose(prepared, self._inks.raster(slice_id))
        if grown is None:
            self._take_away(slice_id)
        else:
            self._publish(slice_id, grown, fit, draft.strokes)

    def _growable(self, slice_id: SliceId, draft: Draft) -> bool:
        # on a label map that was given as a whole there is nothing left to propose
        unfinished = self._session.status(slice_id) in ("open", "edited")
        return bool(draft.strokes) and draft.base is None and unfinished

    def _publish(
        self, slice_id: SliceId, grown: Grown, fit: Fit | None, strokes: tuple[Stroke, ...]
    ) -> None:
        """Show a proposal, unless what it was made from has changed meanwhile."""
        with self._lock:
            # looked at under the lock that `_heard` takes after every change: none slips between
            now = self._session.draft(slice_id)
            if now.strokes is not strokes or not self._growable(slice_id, now) or not self._on:
                return
            changes, known = self._history.get(slice_id, (0, strokes))
            changes += known is not strokes
            self._history[slice_id] = changes, strokes
            fresh = _proposal(slice_id, grown, fit, strokes, changes)
            self._shown[slice_id] = (*self._shown.pop(slice_id, ()), fresh)[-KEPT_PROPOSALS:]
            while len(self._shown) > KEPT_SLICES:
                self._shown.popitem(last=False)
        self._session.say("live")

    def _take_away(self, slice_id: SliceId) -> None:
        with self._lock:
            gone = self._shown.pop(slice_id, None)
        if gone is not None:
            self._session.say("live")

    def _ready(self, slice_id: SliceId) -> tuple[Any, Fit | None]:
        """The prepared slice, and the training of the model whose probabilities are part of it."""
        model = self._model(slice_id)
        fit = None if model is None else model[0]
        key = slice_id, None if fit is None else fit.checkpoint
        with self._lock:
            found = self._prepared.pop(key, None)
        if found is None:
            session = self._session
            image = np.asarray(session.cohort.slice_image(slice_id))
            prior = None if model is None else session.trainer.probabilities(model, slice_id)
            found = self._maker().prepare(image, prior=prior), fit
        with self._lock:
            self._prepared[key] = found
            while len(self._prepared) > KEPT_SLICES:
                self._prepared.popitem(last=False)
        return found

    def _model(self, slice_id: SliceId) -> tuple[Fit, Learner] | None:
        """The last model; None without one, until it is at hand, and where it cannot be."""
        session = self._session
        try:
            if session.state.checkpoint is None:
                return None
            found = session.trainer.at_hand(slice_id)
        except Exception as error:  # strokes alone can be grown as well
            self._report(_MODEL, error)
            return None
        self._troubles.pop(_MODEL, None)
        return found if found is not None and self._trusts(found[0]) else None

    def _trusts(self, fit: Fit) -> bool:
        """Whether a training's model is known to be worse than what strokes give alone."""
        if fit.round < 0:
            return True
        measured = [
            m.mean for m in self._session.state.rounds[fit.round].metrics if m.split != "test"
        ]
        return not measured or measured[-1] is None or measured[-1] >= self.least_dice

    def _maker(self) -> Proposer:
        if self._proposer is None:
            from alnb.models.live import LiveProposer

            self._proposer = LiveProposer(len(self._session.classes))
        return self._proposer

    def _report(self, what: str, error: Exception) -> None:
        """Say once what went wrong; at every further stroke the same words would be noise."""
        words = str(error) if isinstance(error, AlnbError) else in_words(error, what)
        _log.debug("%s", what, exc_info=error)
        if words != self._troubles.get(what) and not self._session.closed:
            self._troubles[what] = words
            self._session.report(words)


_GROWING = "No live proposal could be made"
_MODEL = "Live proposals go without the model"


def _proposal(
    slice_id: SliceId, grown: Grown, fit: Fit | None, strokes: tuple[Stroke, ...], changes: int
) -> LiveProposal:
    labels, confidence = grown.labels.astype(np.uint8), grown.confidence.astype(np.float32)
    labels.flags.writeable = confidence.flags.writeable = False
    return LiveProposal(
        slice_id=slice_id,
        id=uuid.uuid4().hex,
        labels=labels,
        confidence=confidence,
        strokes=strokes,
        checkpoint=None if fit is None else fit.checkpoint,
        badge=ALONE if fit is None else f"strokes + round {fit.round + 1} model",
        changes=changes,
    )
