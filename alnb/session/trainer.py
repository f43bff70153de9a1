"""The learning side of a session: fits in the background, predictions, measurements."""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alnb.data.volume import Volume
from alnb.errors import AlnbError, BadInput, ColdStart, JournalError
from alnb.protocols import Learner, never
from alnb.records import IGNORE, FitReport, LabelMap, Metrics, SliceId, Step, TrainSet
from alnb.rng import stream
from alnb.session.glimpses import Glimpses
from alnb.session.jobs import Job, in_words
from alnb.session.state import Fit, SessionState
from alnb.session.teaching import train_set
from alnb.session.volumes import weights_of
from alnb.store.events import Evaluated, FitFailed, FitFinished, FitStarted

if TYPE_CHECKING:
    from alnb.session.session import Session

_log = logging.getLogger(__name__)


class Trainer:
    """Owns a session's learner. Everything heavy is imported and made when first needed.

    Inference takes no lock, so drawing goes on during it; learners are replaced, never changed
    while they predict. The lock under which one is replaced is the trainer's own. Nothing is
    committed and nobody is told anything under it: whoever holds the session's lock may wait for
    it, never the other way round.

    Attributes
    ----------
    forecast : seconds and memory of the training that runs or ran last, for a person; empty until
        they are known. A watcher hears "progress" when they are.
    """

    def __init__(self, session: Session, learner: Learner | None) -> None:
        self._session = session
        self._learner = learner
        self.forecast = ""
        self._loaded: str | None = None
        self._learnt: tuple[str, Learner] | None = None
        self._damaged: set[str] = set()
        self._loading: threading.Thread | None = None
        self._starting = threading.Lock()
        self._swapping = threading.RLock()
        self._glimpses = Glimpses(session.cohort)
        self._looking = False
        self._wish: SliceId | None = None
        self._unseen: dict[tuple[str, str], Exception] = {}

    # ------------------------------------------------------------------ the learner

    def model(self) -> tuple[Fit, Learner] | None:
        """The last training whose weights can be read, and the learner with them; may take seconds.

        A damaged checkpoint is passed over for the one before it, and the session says so. None
        when nothing was learnt. BadInput when the weights are of a learner of another shape.
        """
        problems: list[str] = []
        try:
            with self._swapping:
                for fit in reversed(self._session.state.fits):
                    if fit.checkpoint is None or fit.checkpoint in self._damaged:
                        continue
                    try:
                        return fit, self._with_weights(fit.checkpoint)
                    except JournalError as error:
                        self._damaged.add(fit.checkpoint)
                        problems.append(
                            f"The model of training {fit.number + 1} cannot be used; the one "
                            f"before it is used, if there is one. {error}"
                        )
            return None
        finally:
            for problem in problems:
                self._session.report(problem)

    def learner(self) -> Learner:
        """The learner with the weights of `model`, or as it was given while there are none."""
        found = self.model()
        with self._swapping:
            return self._given() if found is None else found[1]

    def _given(self) -> Learner:
        if self._learner is None:
            from alnb.models.learners import SingleNet

            self._learner = SingleNet()
        return self._learner

    def _with_weights(self, checkpoint: str) -> Learner:
        if self._loaded != checkpoint:
            if self._learnt is not None and self._learnt[0] == checkpoint:
                learner = self._learnt[1]
            else:
                from alnb.models.checkpoint import from_bytes

                state = from_bytes(self._session.blobs.get(checkpoint))
                # into a copy: a snapshot may hold the learner that was in use until now
                learner = copy.deepcopy(self._given())
                learner.load_state_dict(state)
            self._learner, self._loaded, self._learnt = learner, checkpoint, None
        return self._given()

    # ------------------------------------------------------------------ fitting

    def prepare(self, trigger: str) -> Job[FitReport]:
        """Journal that a fit begins and return it, not yet started.

        The caller holds the session's lock. What the fit learns is the state as it is now; images
        are read and strokes painted in the job's own thread, so that drawing goes on.
        """
        session = self._session
        number = len(session.state.fits)
        session._commit(FitStarted(number, trigger, len(session.labelled), f"fit/{number}"))
        state = session.state
        self.forecast = ""

        def work(*, on_step: Callable[[Step], None], stopped: Callable[[], bool]) -> FitReport:
            try:
                report, learner = self._learn(number, state, on_step, stopped)
            except BaseException as failure:
                self._failed(number, in_words(failure))
                raise
            if learner is not None:
                try:
                    self._measure_fit(number, learner, stopped)
                except BaseException as failure:
                    words = "The model is trained and kept, but it could not be measured"
                    self._failed(number, in_words(failure, words))
                    raise
            return report

        return Job(work, on_change=lambda: session.say("progress"))

    def _failed(self, number: int, words: str) -> None:
        # where even this cannot be saved, the next opening of the project closes the training
        with contextlib.suppress(JournalError):
            self._session._commit(FitFailed(number, words))

    def _learn(
        self,
        number: int,
        state: SessionState,
        on_step: Callable[[Step], None],
        stopped: Callable[[], bool],
    ) -> tuple[FitReport, Learner | None]:
        """Train, save and journal. The learner is None when nothing new was learnt."""
        from alnb.models.checkpoint import to_bytes
        from alnb.models.estimate import remember

        session = self._session
        train = self._train_set(state)
        before = self.model()
        fresh = None if before is None else self._measure_new(number, before, state)
        # a copy learns, so that predictions go on with the model before it until the swap below
        learner = copy.deepcopy(self.learner())
        self._foretell(learner, train, stopped)
        report = learner.fit(
            train, rng=stream(session.seed, "fit", number), on_step=on_step, stopped=stopped
        )
        remember(learner, train, report)
        session._writable()
        kept = "the model before it is kept" if before else "there is no model yet"
        nothing = f"Training was stopped before it learnt anything: {kept}. Labels are safe."
        if report.stopped and not report.steps:
            session._commit(FitFailed(number, nothing))
            return report, None
        weights = learner.state_dict()
        if any(bool(value.isnan().any()) for value in weights.values()):
            raise FloatingPointError(f"it diverged, its weights are not numbers; {kept}.")
        checkpoint = session.blobs.put(to_bytes(weights))
        if report.stopped and before is not None and checkpoint == before[0].checkpoint:
            session._commit(FitFailed(number, nothing))
            return report, None
        with self._swapping:
            self._learnt = checkpoint, learner
            self._damaged.discard(checkpoint)  # the same weights, learnt and saved once more
        measured = [] if fresh is None else [Evaluated(number, fresh)]
        session._commit(FitFinished(number, checkpoint, report), *measured)
        self.model()
        session.say("model")
        return report, learner

    def _foretell(self, learner: Learner, train: TrainSet, stopped: Callable[[], bool]) -> None:
        """Say what the training will take, and warn where memory is short."""
        from alnb.models.estimate import estimate

        try:
            found = estimate(learner, train, stopped=stopped)
        except Exception:  # what fails on trial fails in the training as well, which says why
            _log.debug("no estimate", exc_info=True)
            return
        if found is None:
            return
        self.forecast = str(found)
        self._session.say("progress")
        if found.shortage:
            self._session.report(found.shortage)

    def _measure_fit(self, number: int, learner: Learner, stopped: Callable[[], bool]) -> None:
        volumes = self.measurable("val")
        if volumes:
            metrics = self._measure("val", learner, volumes, stopped)
            if metrics is not None and not self._session.closed:
                self._session._commit(Evaluated(number, self._stamp(metrics, number)))

    def _train_set(self, state: SessionState) -> TrainSet:
        with self._swapping:
            unit = self._given().unit
        return train_set(self._session, state, unit)

    # ------------------------------------------------------------------ measuring

    def evaluate(self, split: str) -> Metrics:
        """Measure the last model on "val" or "test" and journal the result."""
        found = self.model()
        if found is None:
            raise ColdStart("No model is trained yet, so there is nothing to measure. Train first.")
        volumes = self.measurable(split)
        if not volumes:
            raise BadInput(
                f"This project has no patients with reference masks in a split {split!r}. The "
                "splits are val and test; without such patients there is nothing to measure on."
            )
        fit, learner = found
        measured = self._measure(split, learner, volumes)
        if measured is None:
            raise AlnbError("The measurement was stopped.")
        metrics = self._stamp(measured, fit.number)
        self._session._commit(Evaluated(fit.number, metrics))
        return metrics

    def measurable(self, split: str) -> list[Volume]:
        """The volumes of a split that have a reference mask."""
        patients = self._session.split
        chosen = {"val": patients.val, "test": patients.test}.get(split, ())
        volumes = self._session.cohort.volumes.values()
        return [v for v in volumes if v.patient in chosen and v.has_reference]

    def _measure(
        self,
        split: str,
        learner: Learner,
        volumes: list[Volume],
        stopped: Callable[[], bool] = never,
    ) -> Metrics | None:
        """Mean over `volumes` of the 3D Dice per class; None if stopped on the way."""
        from alnb.models.infer import predict_volume
        from alnb.models.metrics import volume_dice

        classes = len(self._session.classes)
        scores: list[list[float]] = []
        for volume in volumes:
            if stopped():
                return None
            reference = volume.reference()
            assert reference is not None, "only volumes with a reference are measured"
            predicted = predict_volume(learner, volume.image())
            scores.append([float(d) for d in volume_dice(predicted, reference, classes)])
        return Metrics(split, _means(scores), volumes=len(scores))

    def _measure_new(
        self, number: int, before: tuple[Fit, Learner], state: SessionState
    ) -> Metrics | None:
        """Dice on the pixels a person drew since the last fit, before they are trained on.

        The one honest curve of a project without reference masks; None where there are validation
        volumes, or nothing is new.
        """
        from alnb.models.metrics import volume_dice

        session = self._session
        if self.measurable("val"):
            return None
        scores = []
        for slice_id in sorted(state.fits[number].taught - before[0].taught):
            truth = session.merged(state.answers[slice_id])
            if (truth != IGNORE).any():
                predicted = self._labels(before, slice_id)
                dice = volume_dice(predicted[None], truth[None], len(session.classes), "skip")
                scores.append([float(d) for d in dice])
        if not scores:
            return None
        return self._stamp(Metrics("new", _means(scores), volumes=len(scores)), number)

    def _stamp(self, metrics: Metrics, number: int) -> Metrics:
        fit: Fit = self._session.state.fits[number]
        return replace(metrics, labelled=len(fit.taught), seconds=fit.seconds)

    # ------------------------------------------------------------------ predicting

    def proposal(self, slice_id: SliceId) -> tuple[Fit, LabelMap] | None:
        """The last model's label map, read-only, and its training; None while weights load."""
        # without the lock, which a loading thread may hold for seconds
        if self._loaded is None and self._learnt is None:
            self._load_in_background()
            return None
        found = self.model()
        return None if found is None else (found[0], self._labels(found, slice_id))

    def at_hand(self, slice_id: SliceId) -> tuple[Fit, Learner] | None:
        """The last model, where it can say something of a slice at once.

        Else None, and what takes long, to load the weights or to predict a whole volume, is done
        in the background; watchers hear "model" after it. Raises what went wrong with that.
        """
        if self._loaded is None and self._learnt is None:
            self._load_in_background()
            return None
        found = self.model()
        if found is None:
            return None
        key = weights_of(found[0]), slice_id.volume
        if key in self._unseen:
            raise self._unseen[key]
        if self._glimpses.at_hand(found[1], key[0], slice_id):
            return found
        with self._starting:
            self._wish, busy = slice_id, self._looking
            self._looking = True
        if not busy:
            threading.Thread(target=self._look, name="alnb-look", daemon=True).start()
        return None

    def _look(self) -> None:
        """Predict the volumes that somebody waits for, the one wanted last first."""
        while True:
            with self._starting:
                slice_id, self._wish = self._wish, None
                if slice_id is None or self._session.closed:
                    self._looking = False
                    return
            found = None
            try:
                found = self.model()
                if found is not None:
                    self._labels(found, slice_id)
                    self.probabilities(found, slice_id)
            except Exception as error:  # told to whoever asks again; without a model, by `model`
                if found is not None:
                    self._unseen[weights_of(found[0]), slice_id.volume] = error
            self._session.say("model")

    def probabilities(self, model: tuple[Fit, Learner], slice_id: SliceId) -> NDArray[np.float32]:
        """(C, H, W) of a slice by what `model` gave, mean over its members."""
        return self._glimpses.probabilities(model[1], weights_of(model[0]), slice_id)

    def _labels(self, model: tuple[Fit, Learner], slice_id: SliceId) -> LabelMap:
        return self._glimpses.labels(model[1], weights_of(model[0]), slice_id)

    def _load_in_background(self) -> None:
        """A resumed project loads torch and its weights off the path to the first stroke."""
        with self._starting:
            if self._loading is None:
                self._loading = threading.Thread(target=self._load, name="alnb-load", daemon=True)
                self._loading.start()

    def _load(self) -> None:
        try:
            self.model()
        except Exception as error:
            words = in_words(error, "The model of this project cannot be loaded")
            self._session.report(words)
        else:
            self._session.say("model")


def _means(scores: list[list[float]]) -> tuple[float | None, ...]:
    """Per class, the mean over volumes of what is defined."""
    columns = np.array(scores, dtype=float).T
    return tuple(
        float(np.nanmean(column)) if np.isfinite(column).any() else None for column in columns
    )
