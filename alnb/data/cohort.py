"""A cohort: named volumes, class names, reference label maps and a split by patient."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np

from alnb.data.volume import Volume
from alnb.errors import BadInput, UnknownItem
from alnb.records import IGNORE, Floats, ItemId, LabelMap, Pool, SliceId, Unit, VolumeId
from alnb.rng import stream


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key by which "patient2" comes before "patient10"."""
    return tuple(
        (0, int(part), part) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    )


@dataclass(frozen=True, slots=True)
class Split:
    """Patients to learn from, to choose models by and to report on; no patient is in two."""

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        everyone = (*self.train, *self.val, *self.test)
        if len(set(everyone)) != len(everyone):
            twice = sorted({who for who in everyone if everyone.count(who) > 1}, key=natural)
            raise BadInput(
                f"Patient {twice[0]} is in the split more than once; a patient belongs to one of "
                "train, val and test, or a model is measured on what it has seen."
            )

    def digest(self) -> str:
        """SHA-256 over the three sets, whatever the order within them."""
        sets = [sorted(self.train), sorted(self.val), sorted(self.test)]
        return hashlib.sha256(json.dumps(sets).encode()).hexdigest()


def by_patient(
    patients: Iterable[str], *, val: float = 0.15, test: float = 0.15, seed: int = 0
) -> Split:
    """A random split by patient; the same patients and seed give the same split in any order.

    `val` and `test` are fractions of the patients, rounded; a positive fraction takes at least
    one patient, and at least one stays for training. BadInput where that is impossible.
    """
    who = sorted(set(patients), key=natural)
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise BadInput(f"Fractions val={val} and test={test} must be 0 or more and sum below 1.")
    count = {
        key: max(1, round(part * len(who))) if part else 0
        for key, part in (("val", val), ("test", test))
    }
    if sum(count.values()) >= len(who):
        raise BadInput(
            f"{len(who)} patients are too few for val={val} and test={test} and a training set. "
            "Use more patients, or set a fraction to 0."
        )
    order = [who[i] for i in stream(seed, "split").permutation(len(who))]
    parts = order[: count["val"]], order[count["val"] : sum(count.values())]
    chosen = {*parts[0], *parts[1]}
    return Split(
        train=tuple(name for name in who if name not in chosen),
        val=tuple(sorted(parts[0], key=natural)),
        test=tuple(sorted(parts[1], key=natural)),
    )


@dataclass(frozen=True, eq=False)
class Cohort:
    """Named volumes of some patients.

    Attributes
    ----------
    name : what the cohort is called.
    volumes : name to Volume, in the order of the pool.
    classes : class names, background first; code c is `classes[c]`.
    split : the official split where the data set has one.
    problems : a sentence for everything that was left out, and why.
    """

    name: str
    volumes: Mapping[str, Volume] = field(repr=False)
    classes: tuple[str, ...]
    split: Split | None = field(default=None, repr=False)
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "volumes", MappingProxyType(dict(self.volumes)))
        if not self.volumes:
            raise BadInput(f"The cohort {self.name!r} holds no volume.")
        for name, volume in self.volumes.items():
            if name != volume.name:
                raise BadInput(f"Volume {volume.name!r} stands under the name {name!r}.")
        if len(self.classes) < 2 or len(self.classes) > IGNORE:
            raise BadInput(
                f"{len(self.classes)} classes were given; 2 to {IGNORE} are possible, "
                "background included."
            )
        for code, label in enumerate(self.classes):
            if not label.strip():
                raise BadInput(f"Class {code} has no name.")
            if label in self.classes[:code]:
                raise BadInput(f"Class {code} has the name of class {self.classes.index(label)}.")
        if self.split is not None:
            self._known((*self.split.train, *self.split.val, *self.split.test))

    def __reduce__(self) -> tuple[type[Cohort], tuple[object, ...]]:
        parts = (self.name, dict(self.volumes), self.classes, self.split, self.problems)
        return Cohort, parts

    def __repr__(self) -> str:
        slices = sum(len(volume) for volume in self.volumes.values())
        return (
            f"Cohort({self.name!r}, {len(self.patients)} patients, {len(self.volumes)} volumes, "
            f"{slices} slices, classes={self.classes})"
        )

    @cached_property
    def patients(self) -> tuple[str, ...]:
        """Every patient once, in the order of the volumes."""
        return tuple(dict.fromkeys(volume.patient for volume in self.volumes.values()))

    @property
    def notes(self) -> tuple[str, ...]:
        """The marks of all volumes, each with the name of its volume."""
        return tuple(
            f"{volume.name} {note}" for volume in self.volumes.values() for note in volume.notes
        )

    def fingerprint(self) -> str:
        """SHA-256 of names, patients, shapes and classes: cheap, and blind to pixels."""
        facts = [
            list(self.classes),
            [[volume.name, volume.patient, volume.shape] for volume in self.volumes.values()],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def volume(self, name: str) -> Volume:
        """The volume called `name`; UnknownItem where there is none."""
        try:
            return self.volumes[name]
        except KeyError:
            raise UnknownItem(
                f"The cohort {self.name!r} holds no volume {name!r}. "
                f"Its {len(self.volumes)} volumes are listed in `cohort.volumes`."
            ) from None

    def shape(self, slice_id: SliceId) -> tuple[int, int]:
        """(H, W) of a slice."""
        volume = self.volume(slice_id.volume)
        volume.check(slice_id.index)
        return volume.shape[1], volume.shape[2]

    def pixel_mm(self, slice_id: SliceId) -> tuple[float, float]:
        """(row, col) size of a pixel in mm; (1, 1) where the source does not say."""
        spacing = self.volume(slice_id.volume).spacing_mm
        return (1.0, 1.0) if spacing is None else (spacing[1], spacing[2])

    def slice_image(self, slice_id: SliceId) -> Floats:
        """(H, W) float32, the caller's own copy."""
        return self.volume(slice_id.volume).slice_image(slice_id.index)

    def reference(self, slice_id: SliceId) -> LabelMap | None:
        """(H, W) uint8 reference label map, the caller's own copy; None where there is none."""
        volume = self.volume(slice_id.volume)
        index = volume.check(slice_id.index)
        whole = volume.reference()
        return None if whole is None else whole[index].copy()

    def scribble(self, slice_id: SliceId) -> LabelMap | None:
        """(H, W) uint8 with IGNORE where nothing was drawn, a copy; None without scribbles."""
        volume = self.volume(slice_id.volume)
        index = volume.check(slice_id.index)
        whole = volume.scribble()
        return None if whole is None else whole[index].copy()

    def pool(self, unit: Unit = "slice", patients: Sequence[str] | None = None) -> Pool:
        """Everything that may be asked, in the order of the volumes.

        The codes in `Pool.patient` and `Pool.volume` count patients and volumes of the whole
        cohort, so that they mean the same in a pool restricted to `patients`.
        """
        wanted = set(self.patients if patients is None else self._known(patients))
        code = {who: number for number, who in enumerate(self.patients)}
        ids: list[ItemId] = []
        slices: list[tuple[SliceId, ...]] = []
        columns: list[tuple[int, int, float]] = []
        for number, volume in enumerate(self.volumes.values()):
            if volume.patient not in wanted:
                continue
            inside = [SliceId(volume.name, index) for index in range(len(volume))]
            if unit == "volume":
                ids.append(VolumeId(volume.name))
                slices.append(tuple(inside))
                columns.append((code[volume.patient], number, 0.5))
                continue
            ids.extend(inside)
            slices.extend((item,) for item in inside)
            columns.extend(
                (code[volume.patient], number, _position(item.index, len(volume)))
                for item in inside
            )
        patient, order, position = zip(*columns, strict=True) if columns else ((), (), ())
        return Pool(
            ids=tuple(ids),
            slices=tuple(slices),
            patient=np.array(patient, dtype=np.int64),
            volume=np.array(order, dtype=np.int64),
            position=np.array(position, dtype=np.float64),
        )

    def _known(self, patients: Sequence[str]) -> Sequence[str]:
        for who in patients:
            if who not in self.patients:
                raise UnknownItem(
                    f"Patient {who!r} is not among the {len(self.patients)} of {self.name!r}."
                )
        return patients


def _position(index: int, slices: int) -> float:
    return 0.5 if slices == 1 else index / (slices - 1)
