"""How well predicted volumes agree with their references: numbers per volume and class."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

import numpy as np

from alnb.data.volume import Spacing
from alnb.errors import BadInput
from alnb.models.metrics import surfaces, volume_dice
from alnb.records import IGNORE, LabelMap

DistanceUnit = Literal["mm", "px"]

TOLERANCE = 2.0
"""Distance that surface Dice forgives unless told otherwise: a round number near the voxel size of
cine MRI, not one that was measured between annotators."""

_SPLITS = {"val": "validation"}


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One foreground class of one volume.

    Attributes
    ----------
    volume, patient, split : which volume, whose, and whether that patient is of "train" (the model
        may have seen it), "val" or "test"; "" for none of them.
    label, name : which class.
    dice : 3D Dice; 1 where neither side has the class.
    hd95 : pooled 95 % Hausdorff distance in `unit`; the diagonal of the image where exactly one
        side has the class. None where neither has it, or the reference is partly unlabelled: what
        nobody said has no surface.
    nsd : surface Dice at the tolerance of the table; None as above, 0 where one side is empty.
    unit : "mm", or "px" where the source has no spacing: voxels count as cubes of side 1 then.
    missed : whether exactly one side has the class.
    worst : index of the slice with most wrong voxels of the class, false or left out; where none
        is wrong, of the slice with most of the class.
    """

    volume: str
    patient: str
    split: str
    label: int
    name: str
    dice: float
    hd95: float | None
    nsd: float | None
    unit: DistanceUnit
    missed: bool
    worst: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation over `count` volumes; None where there are too few."""

    mean: float | None
    std: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Summary:
    """One class over the volumes; `name` "mean" is each volume's mean over its classes.

    `missed` counts the volumes in which exactly one side has the class.
    """

    name: str
    unit: DistanceUnit
    dice: Spread
    hd95: Spread
    nsd: Spread
    missed: int


@dataclass(frozen=True)
class VolumeScores:
    """The scores of one model on the volumes of one split.

    Attributes
    ----------
    split : "val" or "test".
    classes : all names, background first.
    scores : volume by volume, class by class.
    model : names the model, such as "model of round 3 · 12 slices".
    checkpoint : SHA-256 of its weights.
    tolerance : of `ClassScore.nsd`, in the unit of the volume.
    largest_component : whether each class was cut down to one piece.
    """

    split: str
    classes: tuple[str, ...]
    scores: tuple[ClassScore, ...]
    model: str
    checkpoint: str
    tolerance: float
    largest_component: bool

    @property
    def volumes(self) -> tuple[str, ...]:
        """The volumes that were measured, in order."""
        return tuple(dict.fromkeys(score.volume for score in self.scores))

    def summary(self) -> tuple[Summary, ...]:
        """A row per class and one for their mean; millimetres and pixels are never averaged."""
        rows: list[Summary] = []
        for unit in ("mm", "px"):
            scores = [score for score in self.scores if score.unit == unit]
            if scores:
                rows += self._summaries(scores, unit)
        return tuple(rows)

    def _summaries(self, scores: list[ClassScore], unit: DistanceUnit) -> Iterator[Summary]:
        for label, name in enumerate(self.classes[1:], start=1):
            of_class = [[score] for score in scores if score.label == label]
            yield _summary(name, unit, of_class)
        volumes = dict.fromkeys(score.volume for score in scores)
        yield _summary("mean", unit, [[s for s in scores if s.volume == v] for v in volumes])

    def to_table(self) -> str:
        """Mean ± standard deviation over the volumes, as text, with what the numbers mean."""
        rows = self.summary()
        units = dict.fromkeys(row.unit for row in rows)
        at = f"{self.tolerance:g} {'/'.join(units)}"
        head = ["class", "Dice", f"HD95 ({'/'.join(units)})", f"NSD at {at}", "missed", "volumes"]
        cells = [
            [
                row.name if len(units) == 1 else f"{row.name} ({row.unit})",
                _shown(row.dice, 3),
                _shown(row.hd95, 1),
                _shown(row.nsd, 3),
                str(row.missed),
                str(row.dice.count),
            ]
            for row in rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in [head, ["-" * width for width in widths], *cells]
        ]
        return "\n".join([self.title(), *lines, *self.notes()])

    def title(self) -> str:
        """What was measured on what."""
        tidy = ", one piece per class" if self.largest_component else ""
        count, split = len(self.volumes), _SPLITS.get(self.split, self.split)
        return f"{self.model}{tidy}, on {count} {split} volume{'' if count == 1 else 's'}"

    def notes(self) -> tuple[str, ...]:
        """Sentences that belong beside the numbers."""
        notes = ["mean ± standard deviation over volumes; a class that neither side has: Dice 1"]
        if any(score.missed for score in self.scores):
            notes.append(
                "missed: only prediction or only reference has the class; HD95 is the diagonal "
                "of the image there, surface Dice 0"
            )
        if any(score.unit == "px" for score in self.scores):
            notes.append("px: the source gives no spacing, voxels count as cubes; not millimetres")
        return tuple(notes)

    def to_csv(self) -> str:
        """One line per volume and class; `tolerance` is in the unit of its line."""
        return scores_csv(self.scores, self.tolerance)


def scores_csv(scores: Sequence[ClassScore], tolerance: float) -> str:
    """Scores as CSV; a name that a spreadsheet would run as a formula is quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*(field.name for field in fields(ClassScore)), "tolerance"])
    for score in scores:
        writer.writerow([*map(_cell, asdict(score).values()), f"{tolerance:g}"])
    return buffer.getvalue()


def class_scores(
    predicted: LabelMap,
    reference: LabelMap,
    classes: Sequence[str],
    spacing_mm: Spacing | None,
    *,
    volume: str,
    patient: str,
    split: str = "",
    tolerance: float = TOLERANCE,
) -> tuple[ClassScore, ...]:
    """Every foreground class of one volume. Label maps: (Z, H, W), IGNORE in the reference only.

    tolerance : in mm, or in px where there is no spacing. BadInput if it is no distance.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise BadInput(f"The tolerance is {tolerance}; it must be a distance of 0 or more.")
    known = reference != IGNORE
    unit: DistanceUnit = "px" if spacing_mm is None else "mm"
    dice = volume_dice(predicted, reference, len(classes))
    scores = []
    for label, name in enumerate(classes[1:], start=1):
        mine, theirs = (predicted == label) & known, reference == label
        wrong = (mine != theirs).sum((1, 2))
        distance = surfaces(mine, theirs, spacing_mm or (1.0, 1.0, 1.0))
        whole = bool(known.all()) and bool(len(distance.there) or len(distance.back))
        scores.append(
            ClassScore(
                volume=volume,
                patient=patient,
                split=split,
                label=label,
                name=name,
                dice=float(dice[label - 1]),
                hd95=distance.hd95() if whole else None,
                nsd=distance.normalised_dice(tolerance) if whole else None,
                unit=unit,
                missed=distance.missed,
                worst=int((wrong if wrong.any() else theirs.sum((1, 2))).argmax()),
            )
        )
    return tuple(scores)


def spread(values: Sequence[float | None]) -> Spread:
    """Over the values that are defined."""
    known = np.array([value for value in values if value is not None], dtype=float)
    return Spread(
        float(known.mean()) if known.size else None,
        float(known.std(ddof=1)) if known.size > 1 else None,
        known.size,
    )


def _summary(name: str, unit: DistanceUnit, groups: Sequence[Sequence[ClassScore]]) -> Summary:
    """Over volumes, each the mean over the scores in its group that are defined."""
    return Summary(
        name,
        unit,
        spread([spread([s.dice for s in group]).mean for group in groups]),
        spread([spread([s.hd95 for s in group]).mean for group in groups]),
        spread([spread([s.nsd for s in group]).mean for group in groups]),
        sum(any(s.missed for s in group) for group in groups),
    )


def _shown(found: Spread, digits: int) -> str:
    if found.mean is None:
        return "–"
    plus = "" if found.std is None else f" ± {found.std:.{digits}f}"
    return f"{found.mean:.{digits}f}{plus}"


def _cell(value: object) -> object:
    if isinstance(value, str):
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else value
