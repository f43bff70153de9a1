"""A procedural cohort of beating hearts in short-axis MRI: the default data everywhere.

Nothing is read or downloaded. Every volume comes from its own random stream, so that it is the
same in any process, in any order and in a cohort of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from alnb.data.cohort import Cohort
from alnb.data.heart import GROUPS, Anatomy, Beat, beat, draw_anatomy
from alnb.data.raster import rasterize
from alnb.data.scribbles import scribble_from_mask
from alnb.data.tissue import acquire, paint_chest, weave
from alnb.data.volume import ArrayCache, Volume, unlabelled
from alnb.errors import BadInput
from alnb.records import Floats, LabelMap
from alnb.rng import stream

CLASSES = ("background", "RV", "myocardium", "LV")
PHASES = ("ED", "ES")


def phantom(
    patients: int = 24,
    seed: int = 0,
    *,
    size: int = 128,
    slices: tuple[int, int] = (8, 12),
) -> Cohort:
    """`patients` hearts at end-diastole and end-systole, with references and scribbles.

    Five groups take turns: normal, dilated, hypertrophic, infarct, dilated right ventricle.
    `size` is the matrix size around which H and W vary, over a field of view of about 20 cm, and
    `slices` the least and the most slices of a volume: ``phantom(6, size=48, slices=(3, 4))`` is
    enough for a test. Volumes are drawn when first looked at.
    """
    if patients < 1 or size < 16 or not 1 <= slices[0] <= slices[1]:
        raise BadInput(
            f"phantom(patients={patients}, size={size}, slices={slices}) cannot be drawn; it takes "
            "at least 1 patient, a size of at least 16 and slices as (least, most)."
        )
    cache = ArrayCache()
    digits = max(3, len(str(patients)))
    volumes = []
    for number in range(1, patients + 1):
        scan = _Scan(f"phantom{number:0{digits}d}", number, seed, size, slices)
        volumes += [_volume(scan, phase, cache) for phase in PHASES]
    return Cohort("phantom", {volume.name: volume for volume in volumes}, CLASSES)


@dataclass(frozen=True)
class _Scan:
    """One patient in the scanner; everything follows from the fields, wherever it is drawn."""

    patient: str
    number: int
    seed: int
    size: int
    slices: tuple[int, int]

    @cached_property
    def who(self) -> Anatomy:
        group = GROUPS[(self.number - 1) % len(GROUPS)]
        return draw_anatomy(group, self.rng("anatomy"))

    @cached_property
    def grid(self) -> _Grid:
        rng = self.rng("grid")
        wanted = float(rng.uniform(8, 10))
        reach = self.who.length + float(rng.uniform(1, 11))
        count = int(np.clip(round(reach / wanted), *self.slices))
        thick = round(max(wanted, (self.who.length + 3.0) / count), 2)
        pixel = round(float(rng.uniform(1.35, 1.6)) * 128 / self.size, 3)
        height, width = (
            max(16, 8 * round(self.size * part / 8)) for part in rng.uniform(0.92, 1.08, 2)
        )
        return _Grid((count, height, width), (thick, pixel, pixel), float(rng.uniform(-0.4, 0.35)))

    def rng(self, *purpose: str | int) -> np.random.Generator:
        return stream(self.seed, "phantom", self.patient, *purpose)

    def beat(self, phase: str) -> Beat:
        (thick, pixel, _), (count, height, width) = self.grid.spacing_mm, self.grid.shape
        return beat(
            self.who,
            phase == "ES",
            z=thick * (np.arange(count) + self.grid.first),
            y=pixel * (np.arange(height) - (height - 1) / 2),
            x=pixel * (np.arange(width) - (width - 1) / 2),
        )


@dataclass(frozen=True)
class _Grid:
    """Size and spacing of a stack, and where it begins, in slices from the valve plane."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    first: float


@dataclass(frozen=True)
class _Image:
    scan: _Scan
    phase: str

    def __call__(self) -> Floats:
        who, heart = self.scan.who, self.scan.beat(self.phase)
        # both phases share the textures of the tissues, as they share the tissues
        grid = self.scan.grid
        cloth = weave(self.scan.rng("tissue"), grid.shape, grid.spacing_mm[1])
        signal = paint_chest(who, heart, cloth)
        return acquire(signal, who, heart, self.scan.rng("noise", self.phase))


@dataclass(frozen=True)
class _Reference:
    scan: _Scan
    phase: str

    def __call__(self) -> LabelMap:
        return self.scan.beat(self.phase).labels()


@dataclass(frozen=True)
class _Scribble:
    scan: _Scan
    phase: str
    labels: Callable[[], LabelMap]

    def __call__(self) -> LabelMap:
        drawn = [
            rasterize(
                scribble_from_mask(
                    mask, rng=self.scan.rng("scribble", self.phase, index), classes=len(CLASSES)
                ),
                unlabelled(mask.shape),
            )
            for index, mask in enumerate(self.labels())
        ]
        return np.stack(drawn)


def _volume(scan: _Scan, phase: str, cache: ArrayCache) -> Volume:
    spacing, shape = scan.grid.spacing_mm, scan.grid.shape
    name = f"{scan.patient}/{phase}"
    # scribbles are drawn from the reference, which is made once for both
    labels = partial(cache.get, (name, "labels"), _Reference(scan, phase))
    return Volume(
        name=name,
        patient=scan.patient,
        phase=phase,
        shape=shape,
        read_image=_Image(scan, phase),
        read_reference=labels,
        read_scribble=_Scribble(scan, phase, labels),
        spacing_mm=spacing,
        affine=_affine(scan.rng("affine"), spacing[::-1], shape[::-1]),
        axes=(2, 1, 0),
        metadata={"group": scan.who.group},
        cache=cache,
    )


def _affine(
    rng: np.random.Generator, spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Voxel index (x, y, z) to mm, oblique as short-axis stacks are."""
    long_axis = np.array([-0.72, -0.52, 0.46]) + rng.normal(0, 0.06, 3)
    long_axis /= np.linalg.norm(long_axis)
    across = np.cross([0.0, 0.0, 1.0], long_axis)
    across /= np.linalg.norm(across)
    axes = np.stack([across, np.cross(long_axis, across), long_axis], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = rng.normal(0, 15, 3) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine
