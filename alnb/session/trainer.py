"""The learning side of a session: fits in the background, predictions, measurements."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from alnb.errors import AlnbError, BadInput, ColdStart
from alnb.protocols import Encoder, Learner, never
from alnb.records import IGNORE, FitReport, Floats, LabelMap, Metrics, SliceId, Step, TrainSet
from alnb.rng import stream
from alnb.session.jobs import Job, in_words
from alnb.session.state import Fit
from alnb.store.events import Evaluated, FitFailed, FitFinished, FitStarted

if TYPE_CHECKING:
    from alnb.session.session import Session

_KEPT_PREDICTIONS = 256


class Trainer:
    """Owns a session's learner. Everything heavy is imported and made when first needed.

    Inference takes its own lock, never the session's, so drawing goes on during it.
    """

    def __init__(self, session: Session, learner: Learner | None, encoder: Encoder | None) -> None:
        self._session = session
        self._learner = learner
        self._encoder = encoder
        self._loaded: str | None = None
        self._loading: threading.Thread | None = None
        self._predicting = threading.RLock()
        self._predictions: OrderedDict[tuple[str, SliceId], LabelMap] = OrderedDict()

    # ------------------------------------------------------------------ the learner

    def learner(self) -> Learner:
        """The learner with the project's last weights; loads them, which may take seconds."""
        with self._predicting:
            if self._learner is None:
                from alnb.models.learners import SingleNet

                self._learner = SingleNet()
            wanted = self._session.state.checkpoint
            if wanted is not None and self._loaded != wanted:
                from alnb.models.checkpoint import from_bytes

                self._learner.load_state_dict(from_bytes(self._session.blobs.get(wanted)))
                self._loaded = wanted
            return self._learner

    def embed(self) -> Floats:
        """(N, D) features of the session's pool; a volume's are the mean over its slices."""
        if self._encoder is None:
            from alnb.embed.features import PixelFeatures

            self._encoder = PixelFeatures()
        session = self._session
        images = (session.cohort.slice_image(s) for slices in session.pool.slices for s in slices)
        owners = np.repeat(
            np.arange(len(session.pool)), [len(slices) for slices in session.pool.slices]
        )
        features = self._encoder(images)
        if not np.isfinite(features).all():
            bad = np.unique(owners[~np.isfinite(features).all(axis=1)])
            raise BadInput(
                f"The encoder {self._encoder.name} gave values that are not numbers for "
                f"{len(bad)} items, first {session.pool.ids[bad[0]]}. Check these images."
            )
        if len(features) == len(session.pool):
            return features
        counts = np.bincount(owners)[:, None]
        return np.add.reduceat(features, np.flatnonzero(np.diff(owners, prepend=-1))) / counts

    # ------------------------------------------------------------------ fitting

    def start(self, trigger: str) -> Job[FitReport]:
        """Begin a fit. The caller holds the session's lock, so the labels are a clean copy."""
        session = self._session
        number = len(session.state.fits)
        train = self._train_set()
        path = f"fit/{number}"
        session._commit(FitStarted(number, trigger, len(train.images), path))

        def work(*, on_step: Callable[[Step], None], stopped: Callable[[], bool]) -> FitReport:
            try:
                return self._run(number, train, on_step, stopped)
            except BaseException as failure:
                if not session.closed:
                    session._commit(FitFailed(number, in_words(failure)))
                raise

        return Job(work, on_change=lambda: session._tell("progress"))

    def _run(
        self,
        number: int,
        train: TrainSet,
        on_step: Callable[[Step], None],
        stopped: Callable[[], bool],
    ) -> FitReport:
        from alnb.models.checkpoint import to_bytes

        session = self._session
        fresh = self._measure_new(number)
        # a copy learns, so that predictions go on with the model before it until the swap below
        learner = copy.deepcopy(self.learner())
        report = learner.fit(
            train, rng=stream(session.seed, "fit", number), on_step=on_step, stopped=stopped
        )
        checkpoint = session.blobs.put(to_bytes(learner.state_dict()))
        with self._predicting:
            session._commit(FitFinished(number, checkpoint, report))
            self._learner, self._loaded = learner, checkpoint
        session._tell("model")
        if fresh is not None:
            session._commit(Evaluated(number, self._stamp(fresh, number)))
        if session.split.val:
            metrics = self._measure("val", stopped)
            if metrics is not None and not session.closed:
                session._commit(Evaluated(number, self._stamp(metrics, number)))
        return report

    def _train_set(self) -> TrainSet:
        session = self._session
        counts = session.state.counts
        owner = {
            s: i
            for i, slices in zip(session.pool.ids, session.pool.slices, strict=True)
            for s in slices
        }
        slices = [s for s in session.labelled if (session.target(s) != IGNORE).any()]
        if not slices:
            raise ColdStart("Every answer is blank, so there is nothing to learn. Draw something.")
        return TrainSet(
            images=tuple(session.cohort.slice_image(s) for s in slices),
            targets=tuple(session.target(s) for s in slices),
            weight=np.array([max(1, counts.get(owner[s], 1)) for s in slices], dtype=np.int64),
            classes=len(session.classes),
            names=tuple(str(s) for s in slices),
        )

    # ------------------------------------------------------------------ measuring

    def evaluate(self, split: str) -> Metrics:
        """Measure the last model on "val" or "test" and journal the result."""
        session = self._session
        fit = session.last_fit
        if fit is None:
            raise ColdStart("No model is trained yet, so there is nothing to measure. Train first.")
        measured = self._measure(split)
        if measured is None:
            raise AlnbError("The measurement was stopped.")
        metrics = self._stamp(measured, fit.number)
        session._commit(Evaluated(fit.number, metrics))
        return metrics

    def _measure(self, split: str, stopped: Callable[[], bool] = never) -> Metrics | None:
        """Mean over the split's volumes of the 3D Dice per class; None if stopped on the way."""
        from alnb.models.infer import predict_volume
        from alnb.models.metrics import volume_dice

        session = self._session
        patients = {"val": session.split.val, "test": session.split.test}.get(split)
        if not patients:
            raise BadInput(
                f"This project has no patients in a split {split!r}. The splits are val and test, "
                "and they need patients with reference masks."
            )
        learner = self.learner()
        classes = len(session.classes)
        scores: list[list[float]] = []
        for volume in session.cohort.volumes.values():
            if stopped():
                return None
            reference = volume.reference() if volume.patient in patients else None
            if reference is not None:
                predicted = predict_volume(learner, volume.image())
                scores.append([float(d) for d in volume_dice(predicted, reference, classes)])
        return Metrics(split, _means(scores), volumes=len(scores))

    def _measure_new(self, number: int) -> Metrics | None:
        """Dice on the pixels a person drew since the last fit, before they are trained on.

        The one honest curve of a project without reference masks; None where there is a
        validation split, a model is missing, or nothing is new.
        """
        from alnb.models.metrics import volume_dice

        session = self._session
        last = session.last_fit
        if last is None or session.split.val:
            return None
        scores = []
        for slice_id in sorted(session.state.fits[number].taught - last.taught):
            truth = session.target(slice_id)
            if (truth != IGNORE).any():
                predicted = self._predict(slice_id)
                dice = volume_dice(predicted[None], truth[None], len(session.classes), "skip")
                scores.append([float(d) for d in dice])
        return Metrics("new", _means(scores), volumes=len(scores)) if scores else None

    def _stamp(self, metrics: Metrics, number: int) -> Metrics:
        fit: Fit = self._session.state.fits[number]
        return replace(metrics, labelled=len(fit.taught), seconds=fit.seconds)

    # ------------------------------------------------------------------ predicting

    def prediction(self, slice_id: SliceId) -> tuple[LabelMap, str] | None:
        """The last model's label map and its badge; None while its weights are being loaded."""
        session = self._session
        fit = session.last_fit
        if fit is None or fit.checkpoint is None:
            return None
        if self._loaded is None:
            self._load_in_background()
            return None
        badge = f"model of round {fit.round + 1} · {len(fit.taught)} slices"
        key = (fit.checkpoint, slice_id)
        with self._predicting:
            if key not in self._predictions:
                self._predictions[key] = self._predict(slice_id)
                if len(self._predictions) > _KEPT_PREDICTIONS:
                    self._predictions.popitem(last=False)
            return self._predictions[key], badge

    def _predict(self, slice_id: SliceId) -> LabelMap:
        import torch

        with self._predicting:
            image = np.asarray(self._session.cohort.slice_image(slice_id), dtype=np.float32)
            probs = next(iter(self.learner().probs([torch.from_numpy(image)[None, None]])))
            labels: LabelMap = probs.mean(0)[0].argmax(0).cpu().numpy().astype(np.uint8)
            return labels

    def _load_in_background(self) -> None:
        """A resumed project loads torch and its weights off the path to the first stroke."""
        if self._loading is None:

            def load() -> None:
                self.learner()
                self._session._tell("model")

            self._loading = threading.Thread(target=load, name="alnb-load", daemon=True)
            self._loading.start()


def _means(scores: list[list[float]]) -> tuple[float | None, ...]:
    """Per class, the mean over volumes of what is defined."""
    columns = np.array(scores, dtype=float).T
    return tuple(
        float(np.nanmean(column)) if np.isfinite(column).any() else None for column in columns
    )
