"""What a session's model says of whole volumes: predictions, scores against references, exports."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alnb.data.volume import Volume
from alnb.errors import AlnbError, BadInput, ColdStart, UnknownItem
from alnb.protocols import Learner, ignore, never
from alnb.session.asking import Asking
from alnb.session.scores import TOLERANCE, ClassScore, VolumeScores, class_scores, scores_csv
from alnb.session.state import Fit

if TYPE_CHECKING:
    from alnb.models.volumes import VolumePrediction

Which = str | Iterable[str] | None
"""A volume, a patient, several of them, or None for all volumes of the cohort."""

SCORES_FILE = "alnb_predictions.csv"
HELD_BYTES = 256 << 20
"""Predictions are held up to here; those used last stay."""


@dataclass(frozen=True, eq=False)
class PredictedVolume:
    """A volume as the model sees it.

    Attributes
    ----------
    name, patient, split : which volume, whose, and whether that patient is of "train", "val" or
        "test" ("" for none of them).
    prediction : label map and uncertainty, (Z, H, W) each.
    training, round : number of the training and of the round before it, from 0.
    checkpoint, badge : SHA-256 of the weights, and the model in words.
    """

    name: str
    patient: str
    split: str
    prediction: VolumePrediction
    training: int
    round: int
    checkpoint: str
    badge: str


class Predicting(Asking):
    """A session's predictions of whole volumes.

    They take no lock of the session, so drawing and training go on; what a checkpoint said of a
    volume is held.
    """

    _volumes: Volumes | None = None

    def predict(
        self, which: Which = None, *, largest_component: bool = False
    ) -> Iterator[PredictedVolume]:
        """The last model on volumes, one after another, each computed when it is drawn.

        which : a volume, a patient, or several; all if left out. largest_component : keep one
            piece of each class, see `alnb.models.volumes.largest_components`.

        Raises
        ------
        ColdStart while nothing is trained; UnknownItem for a name that is none.
        """
        return self._on_volumes.predict(which, largest_component=largest_component)

    def score_volumes(
        self,
        split: str = "val",
        *,
        tolerance: float = TOLERANCE,
        largest_component: bool = False,
        on_volume: Callable[[str], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> VolumeScores:
        """3D Dice, HD95 and surface Dice of the last model, per volume and class.

        split : "val" or "test", of which the volumes with a reference are measured. tolerance :
            what surface Dice forgives, in mm; in px where the source has no spacing. on_volume :
            told each volume before it is measured.

        Raises
        ------
        ColdStart while nothing is trained; BadInput where there is nothing to measure on.
        """
        return self._on_volumes.score(
            split,
            tolerance=tolerance,
            largest_component=largest_component,
            on_volume=on_volume,
            stopped=stopped,
        )

    def export_predictions(
        self,
        folder: str | os.PathLike[str],
        volumes: Which = None,
        *,
        uncertainty: bool = True,
        largest_component: bool = False,
        tolerance: float = TOLERANCE,
        on_volume: Callable[[str], None] = ignore,
    ) -> list[Path]:
        """Write ``NAME_prediction.nii.gz`` and ``NAME_uncertainty.nii.gz`` in source geometry.

        A sidecar of each names the model and, where there is a reference, the scores; those of
        this export stand in ``alnb_predictions.csv`` as well. Scores say of which split their
        patient is: those of training patients tell nothing of others.

        Raises
        ------
        ColdStart, UnknownItem; BadInput if the folder cannot be written, or holds a file of such
        a name that alnb did not write.
        """
        return self._on_volumes.export(
            Path(folder),
            volumes,
            uncertainty=uncertainty,
            largest_component=largest_component,
            tolerance=tolerance,
            on_volume=on_volume,
        )

    @property
    def _on_volumes(self) -> Volumes:
        with self._lock:
            if self._volumes is None:
                self._volumes = Volumes(self)
            return self._volumes


class Volumes:
    """Predicts and measures volumes for a session, and holds what it found by checkpoint.

    Its lock is taken for inference alone, which asks the session for nothing; so whoever holds the
    session's lock may wait for it.
    """

    def __init__(self, session: Predicting) -> None:
        self._session = session
        self._working = threading.Lock()
        self._held: OrderedDict[tuple[str, str, bool], VolumePrediction] = OrderedDict()
        self._scores: dict[tuple[str, str, bool, float], tuple[ClassScore, ...]] = {}

    # ------------------------------------------------------------------ predicting

    def predict(self, which: Which, *, largest_component: bool) -> Iterator[PredictedVolume]:
        """See `Predicting.predict`; complains at once, not when the first volume is drawn."""
        chosen = self._chosen(which)
        fit, learner = self._model()
        return (self._predicted(volume, fit, learner, largest_component) for volume in chosen)

    def _predicted(
        self, volume: Volume, fit: Fit, learner: Learner, largest_component: bool
    ) -> PredictedVolume:
        return PredictedVolume(
            volume.name,
            volume.patient,
            self._split_of(volume),
            self._prediction(volume, fit, learner, largest_component),
            fit.number,
            fit.round,
            weights_of(fit),
            fit.badge,
        )

    def _prediction(
        self, volume: Volume, fit: Fit, learner: Learner, largest_component: bool
    ) -> VolumePrediction:
        from alnb.models.volumes import predict

        key = (weights_of(fit), volume.name, largest_component)
        image = volume.image()
        with self._working:
            if key not in self._held:
                found = predict(
                    learner,
                    image,
                    largest_component=largest_component,
                    spacing_mm=volume.spacing_mm,
                )
                for array in (found.labels, found.uncertainty, found.information):
                    if array is not None:
                        array.flags.writeable = False
                self._held[key] = found
                held = sum(each.nbytes for each in self._held.values())
                while held > HELD_BYTES and len(self._held) > 1:
                    held -= self._held.popitem(last=False)[1].nbytes
            self._held.move_to_end(key)
            return self._held[key]

    def _model(self) -> tuple[Fit, Learner]:
        found = self._session.trainer.model()
        if found is None:
            raise ColdStart(
                "No model is trained yet, so no volume can be predicted. Label some slices and "
                "train: session.fit()."
            )
        return found

    def _chosen(self, which: Which) -> tuple[Volume, ...]:
        cohort = self._session.cohort
        if which is None:
            return tuple(cohort.volumes.values())
        names = [which] if isinstance(which, str) else list(which)
        chosen: dict[str, Volume] = {}
        for name in names:
            found = [v for v in cohort.volumes.values() if name in (v.name, v.patient)]
            if not found:
                first = next(iter(cohort.volumes.values()))
                raise UnknownItem(
                    f"{name!r} is neither a volume nor a patient of {cohort.name!r}; names look "
                    f"like {first.name!r} and {first.patient!r}, all stand in `cohort.volumes`."
                )
            # a volume may be called as its patient is, where each has one
            exact = [v for v in found if v.name == name]
            chosen |= {v.name: v for v in exact or found}
        return tuple(chosen.values())

    def _split_of(self, volume: Volume) -> str:
        split = self._session.split
        sets = {"train": split.train, "val": split.val, "test": split.test}
        return next((name for name, who in sets.items() if volume.patient in who), "")

    # ------------------------------------------------------------------ measuring

    def score(
        self,
        split: str,
        *,
        tolerance: float,
        largest_component: bool,
        on_volume: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> VolumeScores:
        """See `Predicting.score_volumes`."""
        volumes = self._session.trainer.measurable(split)
        if not volumes:
            raise BadInput(
                f"This project has no patients with reference masks in a split {split!r}. The "
                "splits are val and test; without such patients there is nothing to measure on."
            )
        fit, learner = self._model()
        scores: list[ClassScore] = []
        for volume in volumes:
            if stopped():
                raise AlnbError("The measurement was stopped.")
            on_volume(volume.name)
            scores += self._scored(volume, fit, learner, largest_component, tolerance)
        return VolumeScores(
            split,
            self._session.classes,
            tuple(scores),
            fit.badge,
            weights_of(fit),
            tolerance,
            largest_component,
        )

    def _scored(
        self, volume: Volume, fit: Fit, learner: Learner, largest_component: bool, tolerance: float
    ) -> tuple[ClassScore, ...]:
        """Empty where there is no reference."""
        key = (weights_of(fit), volume.name, largest_component, tolerance)
        if key not in self._scores:
            reference = volume.reference()
            if reference is None:
                return ()
            self._scores[key] = class_scores(
                self._prediction(volume, fit, learner, largest_component).labels,
                reference,
                self._session.classes,
                volume.spacing_mm,
                volume=volume.name,
                patient=volume.patient,
                split=self._split_of(volume),
                tolerance=tolerance,
            )
        return self._scores[key]

    # ------------------------------------------------------------------ out

    def export(
        self,
        folder: Path,
        which: Which,
        *,
        uncertainty: bool,
        largest_component: bool,
        tolerance: float,
        on_volume: Callable[[str], None],
    ) -> list[Path]:
        """See `Predicting.export_predictions`."""
        from alnb.store import export

        cohort, chosen = self._session.cohort, self._chosen(which)
        fit, learner = self._model()
        export.make_export_folder(folder)
        # all of them before the first is predicted: nothing is written where anything is in the way
        for volume in chosen:
            for path in export.prediction_paths(folder, cohort, volume.name).values():
                export.protect(path)
        written: list[Path] = []
        scores: list[ClassScore] = []
        for volume in chosen:
            on_volume(volume.name)
            prediction = self._prediction(volume, fit, learner, largest_component)
            scored = self._scored(volume, fit, learner, largest_component, tolerance)
            facts = self._facts(volume, fit, prediction, largest_component)
            facts["scores"] = _told(scored, tolerance)
            chosen_map = prediction.uncertainty if uncertainty else None
            out = export.Predicted(prediction.labels, chosen_map, facts)
            written += export.export_prediction(folder, cohort, volume.name, out)
            scores += scored
        # also without a reference, so that no scores of an earlier model stay beside these maps
        export.write(folder / SCORES_FILE, scores_csv(scores, tolerance).encode())
        return [*written, folder / SCORES_FILE]

    def _facts(
        self, volume: Volume, fit: Fit, prediction: VolumePrediction, largest_component: bool
    ) -> dict[str, Any]:
        learnt = sorted(s.index for s in fit.taught if s.volume == volume.name)
        return {
            "exported": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": {
                "checkpoint": weights_of(fit),
                "training": fit.number + 1,
                "round": fit.round + 1,
                "slices": len(fit.taught),
                "words": fit.badge,
            },
            "split": self._split_of(volume),
            "slices_it_learnt_of_this_volume": learnt,
            "post_processing": {
                "largest_component": largest_component,
                "voxels_changed": prediction.removed,
            },
        }


def _told(scores: tuple[ClassScore, ...], tolerance: float) -> list[dict[str, Any]] | None:
    """Scores as plain values, each distance with its unit; None where there is no reference."""
    if not scores:
        return None
    left_out = ("volume", "patient", "split")
    return [
        {k: v for k, v in dataclasses.asdict(score).items() if k not in left_out}
        | {"tolerance": tolerance}
        for score in scores
    ]


def weights_of(fit: Fit) -> str:
    """The SHA-256 of the weights that a training left."""
    assert fit.checkpoint is not None, "a model has weights"
    return fit.checkpoint
