"""The contract of a cohort, for those of alnb and for anybody's own loader."""

from __future__ import annotations

import numpy as np

from alnb.data.cohort import Cohort
from alnb.data.volume import Volume
from alnb.records import IGNORE, LabelMap, SliceId


def check_cohort(cohort: Cohort) -> None:
    """Raise AssertionError with the reason unless `cohort` keeps its contract. Reads every pixel.

    - Ids are unique: the slice pool holds each volume's indices 0..Z-1 once, the volume pool each
      volume once, with the same group codes, also when restricted to some patients.
    - The split, where there is one, shares no patient between its sets.
    - Spacing is positive; a label map survives the way to the source's axis order and back.
    - Images are finite float32 of the promised shape; label maps hold class codes and IGNORE.
    - Reading twice gives the same arrays; what a caller does to a slice changes no other reading.
    """
    _check_pools(cohort)
    if cohort.split is not None:
        sets = [set(part) for part in (cohort.split.train, cohort.split.val, cohort.split.test)]
        _require(sum(map(len, sets)) == len(set().union(*sets)), "A patient is in two sets.")
    _require(cohort.fingerprint() == cohort.fingerprint(), "The fingerprint changes.")
    for volume in cohort.volumes.values():
        _check_geometry(volume)
        _check_pixels(cohort, volume)


def _check_pools(cohort: Cohort) -> None:
    pool = cohort.pool()
    expected = [
        SliceId(volume.name, index)
        for volume in cohort.volumes.values()
        for index in range(volume.shape[0])
    ]
    _require(list(pool.ids) == expected, "The slice pool is not every slice 0..Z-1 in order.")
    _require(
        bool(((pool.position >= 0) & (pool.position <= 1)).all()), "A position is outside 0..1."
    )
    whole = cohort.pool("volume")
    _require(
        [str(item) for item in whole.ids] == list(cohort.volumes),
        "The volume pool is not every volume in order.",
    )
    _require(
        set(zip(pool.patient, pool.volume, strict=True))
        == set(zip(whole.patient, whole.volume, strict=True)),
        "The two pools give other codes to patients and volumes.",
    )
    for who in cohort.patients:
        own = cohort.pool(patients=[who])
        rows = pool.rows(own.ids)
        _require(
            set(own.ids) == {i for i in pool.ids if cohort.volume(i.volume).patient == who}
            and np.array_equal(own.patient, pool.patient[rows])
            and np.array_equal(own.volume, pool.volume[rows]),
            f"The pool of {who} alone is not the part of the whole pool that is theirs.",
        )


def _check_geometry(volume: Volume) -> None:
    name = volume.name
    _require("\0" not in name and not name.startswith("/"), f"{name!r} is a path, not a name.")
    steps = volume.spacing_mm
    _require(steps is None or min(steps) > 0, f"{name} has the spacing {steps}.")
    if volume.affine is not None:
        _require(
            volume.affine.shape == (4, 4) and bool(np.isfinite(volume.affine).all()),
            f"{name} has an affine that is no finite (4, 4) matrix.",
        )
        lengths = np.linalg.norm(volume.affine[:3, :3], axis=0)[list(volume.axes)]
        _require(
            steps is not None and np.allclose(steps, lengths, rtol=1e-3),
            f"{name} has the spacing {steps}, its affine {tuple(lengths)}.",
        )
    marks = np.arange(np.prod(volume.shape), dtype=np.int64).reshape(volume.shape)
    back = volume.from_native(volume.to_native(marks))
    _require(np.array_equal(back, marks), f"{name} loses voxels between its two axis orders.")


def _check_pixels(cohort: Cohort, volume: Volume) -> None:
    name, image = volume.name, volume.image()
    _require(image.dtype == np.float32, f"{name} has pixels of {image.dtype}, not float32.")
    _require(image.shape == volume.shape, f"{name} has the shape {image.shape}.")
    _require(bool(np.isfinite(image).all()), f"{name} has pixels that are not numbers.")
    for what, promised, label in (
        ("reference", volume.has_reference, volume.reference()),
        ("scribble", volume.has_scribble, volume.scribble()),
    ):
        _require(promised == (label is not None), f"{name} promises a {what} and has none.")
        if label is not None:
            _check_labels(label, volume, what, len(cohort.classes))
    middle = SliceId(name, volume.shape[0] // 2)
    once = cohort.slice_image(middle)
    before = once.copy()
    once += 1
    _require(
        np.array_equal(cohort.slice_image(middle), before),
        f"A change to a slice of {name} shows in the next reading of it.",
    )
    _require(cohort.shape(middle) == before.shape, f"{name} has slices of another shape.")


def _check_labels(label: LabelMap, volume: Volume, what: str, classes: int) -> None:
    name = volume.name
    _require(label.dtype == np.uint8, f"{name} has a {what} of {label.dtype}, not uint8.")
    _require(label.shape == volume.shape, f"{name} has a {what} of the shape {label.shape}.")
    strange = sorted(set(np.unique(label).tolist()) - {*range(classes), IGNORE})
    _require(not strange, f"{name} has a {what} with the codes {strange}; classes: {classes}.")


def _require(kept: bool, reason: str) -> None:
    if not kept:
        raise AssertionError(reason)
