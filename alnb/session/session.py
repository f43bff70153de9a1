"""Session: a labelling project from its opening to its closing, with asking and learning."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from alnb._version import __version__
from alnb.data.cohort import Cohort, Split
from alnb.errors import BadInput, ColdStart, IllegalEvent, JournalError, UnknownItem
from alnb.protocols import Encoder, Learner, Strategy
from alnb.records import FitReport, LabelMap, Metrics, SliceId, Unit
from alnb.session.answering import Kind
from alnb.session.choosing import found
from alnb.session.gate import GATE, Gate
from alnb.session.jobs import Job
from alnb.session.opening import project_folder, split_by_reference
from alnb.session.state import Fit
from alnb.session.volumes import Predicting
from alnb.store.events import FitFailed, SessionCreated
from alnb.store.journal import Journal
from alnb.store.lock import ProjectLock

if TYPE_CHECKING:
    from alnb.session.ledger import Ledger
    from alnb.session.live import Live
    from alnb.session.trainer import Trainer

__all__ = ["Kind", "Session"]

STOP_SECONDS = 2.0
"""How long closing waits for a training to keep what it learnt."""

# A cell that is run again opens the same project in the same process: the older session hands over.
_OPEN: weakref.WeakValueDictionary[Path, Session] = weakref.WeakValueDictionary()


class Session(Predicting):
    """A labelling project: what was asked, drawn, learnt and measured, on disk at every step.

    Use `Session.open`. All methods may be called from any thread; one lock guards the state.

    Attributes
    ----------
    cohort, pool : the images, and the rows that may be asked (training patients only).
    split : the patients of training, validation and test, frozen when the project began.
    state : everything known, a fold over the journal.
    strategy : chooses the next query; may be replaced between rounds (`choose_strategy`).
    annotator : whose strokes these are.
    problems : sentences about records and models on disk that could not be used.
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
        cold_start: Strategy,
        per_volume: int | None,
        gate: Gate | None,
        reveal: bool,
        encoder: Encoder | None,
        make_trainer: Callable[[Session], Trainer],
    ) -> None:
        super().__init__(
            folder,
            cohort,
            annotator,
            journal,
            encoder=encoder,
            strategy=strategy,
            cold_start=cold_start,
            per_volume=per_volume,
            gate=gate,
            reveal=reveal,
        )
        self.job: Job[FitReport] | None = None
        self._file_lock = lock
        self._make_trainer = make_trainer
        self._trainer: Trainer | None = None
        self._live: Live | None = None

    # ------------------------------------------------------------------ opening and closing

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        cohort: Cohort,
        *,
        strategy: Strategy | str = "stratified",
        learner: Learner | None = None,
        encoder: Encoder | None = None,
        unit: Unit = "slice",
        seed: int = 0,
        keep_labelled: bool = False,
        annotator: str = "me",
        per_volume: int | None = 2,
        split: Split | None = None,
        cold_start: Strategy | str = "strided",
        gate: Gate | None = GATE,
        reveal: bool = False,
    ) -> Session:
        """Create the project in folder `path`, or resume it exactly where it stopped.

        Parameters
        ----------
        strategy : an object with `select`, or a name of `alnb.strategies.STRATEGIES`. The default
            spreads chance over volumes, which did best on the validation hearts of benchmarks/.
        learner, encoder : default `SingleNet()` and `PixelFeatures()`, made when first needed. A
            learner of volumes does for both units: what nobody said of a volume teaches nothing.
        unit, seed, keep_labelled, split : fixed when the project is created; a resumed project
            keeps its own. Where "volume" is asked for, all slices of one wait for an answer, any of
            which makes it labelled; see `finish`. `split` defaults to the cohort's official one,
            else to patients drawn by `seed` among those with reference masks.
        per_volume : at most this many slices of one volume in a query; None for no limit. Where
            whole volumes are asked for there is none.
        cold_start, gate : what chooses while the gate finds the model too weak to be asked; a gate
            of None trusts every model.
        reveal : let strategies see which classes a slice holds from its reference. Only simulated
            experiments may.

        Raises
        ------
        ProjectBusy, JournalError, BadInput
        """
        from alnb.session.trainer import Trainer

        chosen, opener = found(strategy), found(cold_start)
        folder = project_folder(path)
        older = _OPEN.get(folder)
        if older is not None:
            older.close()
        with contextlib.ExitStack() as undo:
            lock = ProjectLock(folder)
            undo.callback(lock.release)
            journal = Journal(folder / "journal.db")
            undo.callback(journal.close)
            session = cls(
                folder,
                cohort,
                journal,
                lock,
                strategy=chosen,
                annotator=annotator,
                cold_start=opener,
                per_volume=per_volume,
                gate=gate,
                reveal=reveal,
                encoder=encoder,
                make_trainer=lambda session: Trainer(session, learner),
            )
            session._begin(unit=unit, seed=seed, keep_labelled=keep_labelled, split=split)
            undo.pop_all()
        session.choose_strategy(strategy)
        _OPEN[folder] = session
        return session

    def _begin(self, *, unit: Unit, seed: int, keep_labelled: bool, split: Split | None) -> None:
        fingerprint = self.cohort.fingerprint()
        if self.state.created is None:
            chosen = split or self.cohort.split or split_by_reference(self.cohort, seed)
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
        self.pool = self.cohort.pool(
            "volume" if created.unit == "volume" else "slice", self.split.train
        )
        if created.unit == "volume":
            self._per_volume = None
        self._end_fits("Training stopped because its kernel ended. Labels are safe.")

    def close(self) -> None:
        """Stop a running training, give the project back, and detach every view. Repeatable.

        The training keeps what it learnt if it stops within `STOP_SECONDS`.
        """
        for job in (self.job, self.embedding_job):
            if job is not None and job.running:
                job.stop()
                job.wait(STOP_SECONDS)
        with self._lock:
            if self._closed:
                return
            self._end_fits("Training stopped because the project was closed. Labels are safe.")
            self._closed = True
        self.say("closed")
        with self._lock:
            self._listeners.dismiss()
            self.journal.close()
            self._file_lock.release()

    def _end_fits(self, words: str) -> None:
        running = [f.number for f in self.state.fits if f.report is None and f.error is None]
        # a disk that takes no more keeps nobody from opening or closing a project
        with contextlib.suppress(JournalError):
            self._commit(*(FitFailed(number, words) for number in running))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ learning

    @property
    def trainer(self) -> Trainer:
        """What trains, predicts and measures; made when first needed."""
        with self._lock:
            if self._trainer is None:
                self._trainer = self._make_trainer(self)
            return self._trainer

    def fit(self) -> FitReport:
        """Train on everything labelled, and wait. Measures the model on the validation split.

        Interrupting the wait stops the training.
        """
        with self._lock:
            if self._listeners.telling:
                raise IllegalEvent(
                    "A listener cannot wait for a training, which itself waits for the listener. "
                    "Call fit_in_background() there."
                )
        job = self.fit_in_background(trigger="loop")
        try:
            return job.result()
        except KeyboardInterrupt:
            job.stop()
            raise

    def fit_in_background(self, *, trigger: str = "person") -> Job[FitReport]:
        """Train in the background: drawing goes on, `job.stop()` ends it within one step.

        What is labelled now is learnt; what is drawn meanwhile belongs to the next training.
        """
        with self._acting():
            if self.job is not None and self.job.running:
                raise IllegalEvent("A training runs already; wait for it, or stop it.")
            if not self.labelled:
                raise ColdStart("Nothing is labelled yet. Draw on a slice and submit it first.")
            self.job = self.trainer.prepare(trigger)
            self.job.start()
            return self.job

    @property
    def live(self) -> Live:
        """What proposes a slice from its strokes while they are drawn; begins when first used."""
        with self._lock:
            if self._live is None:
                from alnb.session.live import Live

                self._live = Live(self)
            return self._live

    def evaluate(self, split: str = "val") -> Metrics:
        """Measure the current model on "val" or "test", journal it and return it."""
        return self.trainer.evaluate(split)

    def prediction(self, slice_id: SliceId) -> tuple[LabelMap, str] | None:
        """The current model's label map for a slice, read-only, and a badge naming the model.

        None before the first training, and while a resumed project still loads its weights. Where
        they cannot be loaded it stays None, and `problems` says why.
        """
        proposal = self._proposal(slice_id)
        return None if proposal is None else (proposal[1], proposal[0].badge)

    def _proposal(self, slice_id: SliceId) -> tuple[Fit, LabelMap] | None:
        return None if self.state.checkpoint is None else self.trainer.proposal(slice_id)

    # ------------------------------------------------------------------ out

    def ledger(self, number: int | None = None) -> Ledger:
        """What the labels cost until the end of round `number`, counted from 0; by default, so far.

        Items asked for again, which cost nothing where labelled ones stay in the pool, are counted
        apart, and both shares of the pool that are in use stand beside each other.
        """
        from alnb.session.ledger import ledger

        last = len(self.state.rounds) - 1
        if number is not None and not 0 <= number <= last:
            raise UnknownItem(f"There is no round {number}; rounds are 0 to {last}.")
        return ledger(self, last if number is None else number)

    def export(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write a NIfTI label map in source geometry for every labelled volume, with provenance.

        Unlabelled voxels are 255, which is not background; each sidecar says so.
        """
        from alnb.store.export import export_label_maps, rounds_of

        state = self.state
        by_volume: dict[str, dict[int, LabelMap]] = {}
        for slice_id, answers in sorted(state.answers.items()):
            by_volume.setdefault(slice_id.volume, {})[slice_id.index] = self.merged(answers)
        return export_label_maps(Path(folder), self.cohort, by_volume, rounds_of(state))
