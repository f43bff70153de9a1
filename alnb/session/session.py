"""The one door: every change is computed, journalled, made visible and told, in that order."""

from __future__ import annotations

import logging
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from alnb._version import __version__
from alnb.data.cohort import Cohort, Split, by_patient
from alnb.data.raster import rasterize, target
from alnb.errors import (
    BadInput,
    BadSelection,
    ColdStart,
    IllegalEvent,
    JournalError,
    PoolExhausted,
    UnknownItem,
)
from alnb.protocols import Encoder, Learner, Strategy
from alnb.records import (
    IGNORE,
    Accepted,
    Annotation,
    FitReport,
    Floats,
    ItemId,
    LabelMap,
    Mask,
    Metrics,
    Pool,
    Round,
    Scribble,
    Selection,
    SliceId,
    Stroke,
    Unit,
)
from alnb.rng import stream
from alnb.session.jobs import Job
from alnb.session.snapshot import PoolSnapshot
from alnb.session.state import Draft, Fit, SessionState, apply, replay
from alnb.session.targets import merge
from alnb.store.blobs import Blobs
from alnb.store.events import (
    Entry,
    Event,
    FitFailed,
    QueryAmended,
    RoundClosed,
    RoundOpened,
    SessionCreated,
    SliceOpened,
    SliceSkipped,
    SliceSubmitted,
    StrokeAdded,
    StrokeRedone,
    StrokeUndone,
)
from alnb.store.journal import Journal
from alnb.store.lock import ProjectLock

if TYPE_CHECKING:
    from alnb.session.trainer import Trainer

Listener = Callable[[Entry], None]
Watcher = Callable[[str], None]
Kind = Literal["scribble", "mask", "accepted"]
SliceStatus = Literal["open", "edited", "submitted", "skipped"]

_log = logging.getLogger(__name__)
# A cell that is run again opens the same project in the same process: the older session hands over.
_OPEN: weakref.WeakValueDictionary[Path, Session] = weakref.WeakValueDictionary()


class Session:
    """A labelling project: what was asked, drawn, learnt and measured, on disk at every step.

    Use `Session.open`. All methods may be called from any thread; one lock guards the state.

    Attributes
    ----------
    cohort, pool : the images, and the rows that may be asked (training patients only).
    split : the patients of training, validation and test, frozen when the project began.
    state : everything known, a fold over the journal.
    strategy : chooses the next query; may be replaced between rounds.
    annotator : whose strokes these are.
    """

    def __init__(
        self,
        folder: Path,
        cohort: Cohort,
        journal: Journal,
        lock: ProjectLock,
        *,
        strategy: Strategy,
        annotator: str,
        reveal: bool,
        make_trainer: Callable[[Session], Trainer],
    ) -> None:
        self.folder = folder
        self.cohort = cohort
        self.strategy = strategy
        self.annotator = annotator
        self.journal = journal
        self.blobs = Blobs(folder / "blobs")
        self.job: Job[FitReport] | None = None
        self._reveal = reveal
        self._file_lock = lock
        self._lock = threading.RLock()
        self._closed = False
        self._listeners: tuple[Listener, ...] = ()
        self._watchers: tuple[Watcher, ...] = ()
        self._features: Floats | None = None
        self._maps: dict[str, LabelMap] = {}
        self.state: SessionState = replay(journal.entries())
        self.problems: tuple[str, ...] = journal.problems
        self._make_trainer = make_trainer
        self._trainer: Trainer | None = None

    # ------------------------------------------------------------------ opening and closing

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        cohort: Cohort,
        *,
        strategy: Strategy | str = "coreset",
        learner: Learner | None = None,
        encoder: Encoder | None = None,
        unit: Unit = "slice",
        seed: int = 0,
        keep_labelled: bool = False,
        annotator: str = "me",
        per_volume: int | None = 2,
        split: Split | None = None,
        reveal: bool = False,
    ) -> Session:
        """Create the project in folder `path`, or resume it exactly where it stopped.

        Parameters
        ----------
        strategy : an object with `select`, or a name of `alnb.strategies.STRATEGIES`.
        learner, encoder : default `SingleNet()` and `PixelFeatures()`, made when first needed.
        unit, seed, keep_labelled, split : fixed when the project is created; a resumed project
            keeps its own. `split` defaults to the cohort's official one, else to patients drawn
            by `seed` among those with reference masks.
        per_volume : at most this many slices of one volume in a query; None for no limit.
        reveal : let strategies see which classes a slice holds from its reference. Only simulated
            experiments may.

        Raises
        ------
        ProjectBusy, JournalError, BadInput
        """
        from alnb.session.trainer import Trainer

        chosen = _strategy(strategy, per_volume if unit == "slice" else None)
        folder = Path(path).expanduser().resolve()
        if folder in _OPEN:
            _OPEN[folder].close()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(
                f"The project folder {folder} cannot be made ({error.strerror}). "
                "Choose another folder, or change its permissions."
            ) from error
        lock = ProjectLock(folder)
        try:
            journal = Journal(folder / "journal.db")
            session = cls(
                folder,
                cohort,
                journal,
                lock,
                strategy=chosen,
                annotator=annotator,
                reveal=reveal,
                make_trainer=lambda session: Trainer(session, learner, encoder),
            )
            session._begin(unit=unit, seed=seed, keep_labelled=keep_labelled, split=split)
        except BaseException:
            lock.release()
            raise
        _OPEN[folder] = session
        return session

    def _begin(self, *, unit: Unit, seed: int, keep_labelled: bool, split: Split | None) -> None:
        fingerprint = self.cohort.fingerprint()
        if self.state.created is None:
            chosen = split or self.cohort.split or _split_by_reference(self.cohort, seed)
            self._commit(
                SessionCreated(
                    cohort=fingerprint,
                    split=chosen.digest(),
                    train=chosen.train,
                    val=chosen.val,
                    test=chosen.test,
                    unit=unit,
                    classes=self.cohort.classes,
                    seed=seed,
                    keep_labelled=keep_labelled,
                    version=__version__,
                )
            )
        elif self.created.cohort != fingerprint:
            raise BadInput(
                f"The project {self.folder.name!r} was made with other images than the cohort "
                f"{self.cohort.name!r} ({self.created.cohort[:8]} is not {fingerprint[:8]}). Open "
                "it with the data it was made with, or choose another folder. Nothing was changed."
            )
        created = self.created
        self.split = Split(created.train, created.val, created.test)
        self.pool: Pool = self.cohort.pool(_unit(created.unit), self.split.train)
        for fit in self.state.fits:
            if fit.report is None and fit.error is None:
                words = "Training stopped because its kernel ended. Labels are safe."
                self._commit(FitFailed(fit.number, words))

    def close(self) -> None:
        """Stop a running training, give the project back, and detach every view. Repeatable."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            job, self._listeners = self.job, ()
        if job is not None:
            job.stop()
        self._tell("closed")
        with self._lock:
            self._watchers = ()
            self.journal.close()
            self._file_lock.release()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        done = len(self.state.labelled)
        return (
            f"<Session {self.folder.name!r}: {len(self.pool)} in the pool, {done} slices "
            f"labelled, {len(self.state.rounds)} rounds>"
        )

    # ------------------------------------------------------------------ what is known

    @property
    def closed(self) -> bool:
        """Whether the project was given back."""
        return self._closed

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
        return self.state.rounds[-1] if self.state.rounds else None

    @property
    def queue(self) -> tuple[SliceId, ...]:
        """The slices of the current query in order, answered or not."""
        if self.round is None:
            return ()
        rows = self.pool.rows(self.round.query)
        return tuple(slice_id for row in rows.tolist() for slice_id in self.pool.slices[row])

    @property
    def pending(self) -> tuple[SliceId, ...]:
        """The slices of the current query that still wait for an answer."""
        return tuple(s for s in self.queue if self.status(s) in ("open", "edited"))

    def status(self, slice_id: SliceId) -> SliceStatus:
        """Where this slice stands; "edited" was submitted and then drawn on."""
        key = (slice_id, self.annotator)
        answer = self.state.annotations.get(key)
        if answer is not None:
            draft = self.state.drafts.get(key)
            unchanged = draft is None or draft.strokes == answer.content.strokes
            return "submitted" if unchanged else "edited"
        return "skipped" if key in self.state.skipped else "open"

    def draft(self, slice_id: SliceId) -> Draft:
        """The strokes of this annotator on a slice, with what was undone."""
        return self.state.drafts.get((slice_id, self.annotator), Draft())

    def raster(self, slice_id: SliceId) -> LabelMap:
        """The authoritative ink of a slice, (H, W) uint8, IGNORE where nothing is drawn."""
        draft = self.draft(slice_id)
        base = (
            np.full(self.cohort.shape(slice_id), IGNORE, np.uint8)
            if draft.base is None
            else self.label_map(draft.base.blob)
        )
        return rasterize(draft.strokes, base)

    def target(self, slice_id: SliceId) -> LabelMap:
        """What a learner is taught of a slice; IGNORE where annotators differ."""
        answers = [a for (s, _), a in self.state.annotations.items() if s == slice_id]
        if not answers:
            raise UnknownItem(f"{slice_id} has no answer yet; label it first.")
        shape = self.cohort.shape(slice_id)
        return merge([target(a.content, shape, self.label_map) for a in answers])

    def label_map(self, blob: str) -> LabelMap:
        """The label map of blob `blob`; read from disk once."""
        if blob not in self._maps:
            self._maps[blob] = self.blobs.label_map(blob)
        return self._maps[blob]

    @property
    def labelled(self) -> tuple[SliceId, ...]:
        """Every slice with an answer, in pool order."""
        done = self.state.labelled
        return tuple(s for slices in self.pool.slices for s in slices if s in done)

    def snapshot(self) -> PoolSnapshot:
        """The pool as a strategy would see it now."""
        with self._lock:
            state = self.state
            done = state.labelled | {slice_id for slice_id, _ in state.skipped}
            answered = np.array(
                [all(s in done for s in slices) for slices in self.pool.slices], dtype=bool
            )
            skipped = np.array(
                [
                    any((s, self.annotator) in state.skipped for s in slices)
                    for slices in self.pool.slices
                ],
                dtype=bool,
            )
            free = ~skipped if self.created.keep_labelled else ~answered
            fitted = state.checkpoint is not None
        return PoolSnapshot(
            pool=self.pool,
            candidates=np.flatnonzero(free),
            labelled=np.flatnonzero(answered & ~skipped),
            counts=np.array([state.counts.get(i, 0) for i in self.pool.ids], dtype=np.int64),
            cohort=self.cohort,
            learner=self.trainer.learner() if fitted else None,
            embed=self.features,
            reveal=self._reveal,
        )

    def features(self) -> Floats:
        """(N, D) features of the pool by the session's encoder, computed once."""
        if self._features is None:
            self._features = self.trainer.embed()
        return self._features

    # ------------------------------------------------------------------ acts

    def ask(self, n: int, *, strategy: Strategy | None = None) -> Round:
        """Open the next round: `n` items chosen by the strategy out of those that may be asked.

        The slices of the current query that nobody answered go back to the pool.

        Raises
        ------
        PoolExhausted, BadSelection, ColdStart, IllegalEvent
        """
        chooser = strategy or self.strategy
        snapshot = self.snapshot()
        free = len(snapshot.candidates)
        if not 1 <= n <= free:
            raise PoolExhausted(
                f"Asked for {n} items; {free} of {len(self.pool)} can still be asked. "
                f"Ask for 1 to {free}, or open the project with keep_labelled=True."
                if free
                else f"All {len(self.pool)} items of the pool are answered. Train, or export."
            )
        number = len(self.state.rounds)
        chosen = chooser.select(snapshot, n, rng=stream(self.seed, "query", number))
        _check_selection(chosen, snapshot, n)
        opened = RoundOpened(
            number=number,
            query=tuple(self.pool.ids[row] for row in chosen.rows.tolist()),
            scores=tuple(s if np.isfinite(s) else None for s in chosen.scores.tolist()),
            origin=tuple(chosen.origin) or ("",) * n,
            strategy=repr(chooser),
            rng=f"query/{number}",
        )
        with self._lock:
            last = self.round
            closing = [RoundClosed(last.number)] if last is not None and not last.closed else []
            self._commit(*closing, opened)
            return self.state.rounds[-1]

    def amend(self, *, add: Sequence[ItemId] = (), remove: Sequence[ItemId] = ()) -> None:
        """Override the query by hand."""
        self.pool.rows([*add, *remove])
        self._commit(QueryAmended(tuple(add), tuple(remove)))

    def opened(self, slice_id: SliceId) -> None:
        """Journal that a person saw this slice, and which proposal with it, once per model."""
        self._known(slice_id)
        shown = self.prediction(slice_id)
        checkpoint = self.state.checkpoint if shown is not None else None
        with self._lock:
            key = (slice_id, self.annotator)
            if key in self.state.drafts and self.state.drafts[key].checkpoint == checkpoint:
                return
            blob = self.blobs.put_array(shown[0]) if shown is not None else None
            self._commit(SliceOpened(slice_id, blob, checkpoint))

    def draw(self, slice_id: SliceId, stroke: Stroke) -> bool:
        """Add a stroke; on return it is on disk. False if this stroke id was there already."""
        self._known(slice_id)
        if stroke.label != IGNORE and stroke.label >= len(self.classes):
            raise IllegalEvent(
                f"Label {stroke.label} is not a class of this project (0 to "
                f"{len(self.classes) - 1}, or {IGNORE} to erase)."
            )
        with self._lock:
            if stroke.id and stroke.id in self.draft(slice_id).seen:
                return False
            self._commit(
                StrokeAdded(slice_id, stroke if stroke.id else replace(stroke, id=uuid.uuid4().hex))
            )
            return True

    def undo(self, slice_id: SliceId) -> bool:
        """Take the last stroke back; False if there is none."""
        with self._lock:
            if not self.draft(slice_id).strokes:
                return False
            self._commit(StrokeUndone(slice_id))
            return True

    def redo(self, slice_id: SliceId) -> bool:
        """Put back the stroke undone last; False if there is none."""
        with self._lock:
            if not self.draft(slice_id).undone:
                return False
            self._commit(StrokeRedone(slice_id))
            return True

    def clear(self, slice_id: SliceId) -> bool:
        """Erase the whole slice, as one stroke that can be undone; False if it is blank."""
        self._known(slice_id)
        height, width = self.cohort.shape(slice_id)
        corners = ((0.0, 0.0), (0.0, float(width)), (float(height), float(width)))
        everything = Stroke((*corners, (float(height), 0.0)), IGNORE, tool="lasso")
        with self._lock:
            blank = bool((self.raster(slice_id) == IGNORE).all())
            return False if blank else self.draw(slice_id, everything)

    def submit(
        self, slice_id: SliceId, kind: Kind = "scribble", seconds: float | None = None
    ) -> None:
        """Finish a slice.

        kind : "scribble" keeps untouched pixels unlabelled, "mask" makes them background,
            "accepted" takes the proposal that was shown, corrected by the strokes.

        IllegalEvent when there is nothing to submit.
        """
        self._known(slice_id)
        with self._lock:
            content = self._content(slice_id, kind)
            answer = Annotation(slice_id, content, self.annotator, seconds)
            self._commit(*self._joining(slice_id), SliceSubmitted(answer))

    def skip(self, slice_id: SliceId, reason: str = "", seconds: float | None = None) -> None:
        """Pass over a slice; it is not asked again."""
        self._known(slice_id)
        self._commit(SliceSkipped(slice_id, reason, seconds))

    def annotate(
        self, annotation: Annotation, maps: dict[str, NDArray[np.uint8]] | None = None
    ) -> None:
        """Take a whole answer, from an oracle or an import, in one transaction."""
        self._known(annotation.slice_id)
        shape = self.cohort.shape(annotation.slice_id)
        for array in (maps or {}).values():
            if array.shape != shape:
                raise BadInput(
                    f"The answer for {annotation.slice_id} is {array.shape}, its slice {shape}. "
                    "Give a label map of the slice's own size."
                )
            self.blobs.put_array(array.astype(np.uint8, copy=False))
        with self._lock:
            target(annotation.content, shape, self.label_map)  # refuses what cannot be drawn
            self._commit(*self._joining(annotation.slice_id), SliceSubmitted(annotation))

    # ------------------------------------------------------------------ learning

    @property
    def trainer(self) -> Trainer:
        """What trains, predicts and measures; made when first needed."""
        with self._lock:
            if self._trainer is None:
                self._trainer = self._make_trainer(self)
            return self._trainer

    def fit(self) -> FitReport:
        """Train on everything labelled, and wait. Measures the model on the validation split."""
        return self.fit_in_background(trigger="loop").result()

    def fit_in_background(self, *, trigger: str = "person") -> Job[FitReport]:
        """Train in the background: drawing goes on, `job.stop()` ends it within one step."""
        with self._lock:
            self._writable()
            if self.job is not None and self.job.running:
                raise IllegalEvent("A training runs already; wait for it, or stop it.")
            if not self.labelled:
                raise ColdStart("Nothing is labelled yet. Draw on a slice and submit it first.")
            self.job = self.trainer.start(trigger)
            return self.job

    def evaluate(self, split: str = "val") -> Metrics:
        """Measure the current model on "val" or "test", journal it and return it."""
        return self.trainer.evaluate(split)

    def prediction(self, slice_id: SliceId) -> tuple[LabelMap, str] | None:
        """The current model's label map for a slice and a badge naming the model, or None.

        None before the first training, and while a resumed project still loads its weights.
        """
        if self.state.checkpoint is None:
            return None
        return self.trainer.prediction(slice_id)

    @property
    def last_fit(self) -> Fit | None:
        """The last training that left weights, or None."""
        return next((fit for fit in reversed(self.state.fits) if fit.checkpoint), None)

    # ------------------------------------------------------------------ out

    def export(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write a NIfTI label map in source geometry for every labelled volume, with provenance.

        Unlabelled voxels are 255, which is not background; each sidecar says so.
        """
        from alnb.store.export import export_label_maps, rounds_of

        by_volume: dict[str, dict[int, LabelMap]] = {}
        for slice_id in self.labelled:
            by_volume.setdefault(slice_id.volume, {})[slice_id.index] = self.target(slice_id)
        return export_label_maps(Path(folder), self.cohort, by_volume, rounds_of(self.state))

    # ------------------------------------------------------------------ listening

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(entry)` after each commit, in order, on the committing thread.

        Returns a function that ends it. What a listener raises is logged and undoes nothing.
        """
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(x for x in self._listeners if x is not listener)

        return unsubscribe

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher(what)` on changes that are not journalled.

        what : "progress" (of the running training), "model" (weights ready for `prediction`),
            "closed" (the project was opened again elsewhere in this process).

        Returns a function that ends it. Called on any thread.
        """
        with self._lock:
            self._watchers = (*self._watchers, watcher)

        def unwatch() -> None:
            with self._lock:
                self._watchers = tuple(x for x in self._watchers if x is not watcher)

        return unwatch

    def _tell(self, what: str) -> None:
        for watcher in self._watchers:
            with _logged("a watcher failed"):
                watcher(what)

    # ------------------------------------------------------------------ the heart

    def _commit(self, *events: Event) -> None:
        with self._lock:
            self._writable()
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            entries = [
                Entry(self.state.seq + i, at, self.annotator, event)
                for i, event in enumerate(events, start=1)
            ]
            # an impossible event stops here, before anything is written
            state = reduce(apply, entries, self.state)
            self.journal.append(entries)
            self.state = state
            for entry in entries:
                for listener in self._listeners:
                    with _logged("a listener failed"):
                        listener(entry)

    def _writable(self) -> None:
        if self._closed:
            raise JournalError(
                f"This session of {self.folder.name!r} was closed, because the project was opened "
                "again. Use the new session; run the cell that shows the view once more."
            )

    def _known(self, slice_id: SliceId) -> None:
        volume = self.cohort.volumes.get(slice_id.volume)
        if volume is None or not 0 <= slice_id.index < volume.shape[0]:
            raise UnknownItem(f"{slice_id} is not a slice of the cohort {self.cohort.name!r}.")
        if volume.patient not in self.split.train:
            raise UnknownItem(
                f"{slice_id} belongs to the validation or test split, which is never annotated "
                "here. Choose a slice of the pool."
            )

    def _joining(self, slice_id: SliceId) -> list[Event]:
        """A slice answered by choice joins the query, so that counts and rounds stay true."""
        if slice_id in self.queue or self.round is None or self.round.closed:
            return []
        return [QueryAmended((slice_id,), ())] if slice_id in self.pool else []

    def _content(self, slice_id: SliceId, kind: Kind) -> Scribble | Mask | Accepted:
        draft = self.draft(slice_id)
        if kind == "accepted":
            if draft.proposal is None or draft.checkpoint is None:
                raise IllegalEvent(
                    f"No proposal was shown on {slice_id}, so there is none to accept. "
                    "Train first, or submit what you drew."
                )
            return Accepted(draft.proposal, draft.checkpoint, draft.strokes)
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


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log what a listener raises; a view's fault must not undo a commit."""
    try:
        yield
    except Exception:
        _log.exception(what)


def _strategy(strategy: Strategy | str, per_volume: int | None) -> Strategy:
    from alnb.strategies.wrappers import PerVolume

    if isinstance(strategy, str):
        from alnb.strategies import resolve

        strategy = resolve(strategy)
    return strategy if per_volume is None else PerVolume(strategy, per_volume)


def _unit(text: str) -> Unit:
    return "volume" if text == "volume" else "slice"


def _split_by_reference(cohort: Cohort, seed: int) -> Split:
    """Patients for validation and test among those with reference masks; the rest train."""
    known = {v.patient for v in cohort.volumes.values() if v.has_reference}
    without = {v.patient for v in cohort.volumes.values() if not v.has_reference}
    measurable = tuple(p for p in cohort.patients if p in known - without)
    if len(measurable) < 3:
        return Split(train=cohort.patients, val=(), test=())
    drawn = by_patient(measurable, seed=seed)
    held = {*drawn.val, *drawn.test}
    return Split(tuple(p for p in cohort.patients if p not in held), drawn.val, drawn.test)


def _check_selection(chosen: Selection, snapshot: PoolSnapshot, n: int) -> None:
    rows = np.asarray(chosen.rows)
    wrong: Any = np.setdiff1d(rows, snapshot.candidates)
    if len(rows) != n or len(np.unique(rows)) != n or len(wrong) or len(chosen.scores) != n:
        raise BadSelection(
            f"The strategy was asked for {n} distinct rows with a score each and gave {len(rows)} "
            f"rows ({len(np.unique(rows))} distinct, {len(wrong)} not among the candidates) and "
            f"{len(chosen.scores)} scores. Run alnb.testing.check_strategy on it."
        )
