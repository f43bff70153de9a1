"""Volumes on another grid than the one they were stored on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alnb.data.cohort import Cohort
from alnb.data.volume import ArrayCache, Shape, Volume
from alnb.errors import BadInput
from alnb.records import Floats, LabelMap

Vector = NDArray[np.float64]


def isotropic(cohort: Cohort, mm: float) -> Cohort:
    """`cohort` with voxels of `mm` along all axes; images and label maps on the same new grid.

    The middle of each volume stays where it is, and so does its extent, up to half a voxel. Images
    are interpolated linearly after a Gaussian that takes off what the new grid cannot hold; label
    maps take their nearest voxel, so that no code comes about that was not there. Volumes are
    resampled when first looked at. Stored scribbles are left behind: lines thinner than a voxel
    do not survive. BadInput names the first volume whose spacing is unknown.
    """
    if not (math.isfinite(mm) and mm > 0):
        raise BadInput(f"Voxels of {mm} mm cannot be made; give a length above 0.")
    unknown = [volume.name for volume in cohort.volumes.values() if volume.spacing_mm is None]
    if unknown:
        raise BadInput(
            f"{len(unknown)} volumes, first {unknown[0]!r}, do not say how large their voxels are, "
            f"so they cannot be brought to {mm:g} mm. Read them from files that do, such as NIfTI."
        )
    cache = ArrayCache()
    volumes = {name: _resampled(volume, mm, cache) for name, volume in cohort.volumes.items()}
    return replace(cohort, name=f"{cohort.name} at {mm:g} mm", volumes=volumes)


@dataclass(frozen=True, eq=False)
class _Grid:
    """A new grid around the middle of a volume's own; `step` in its voxels, per axis."""

    volume: Volume
    shape: Shape
    step: Vector

    @property
    def start(self) -> Vector:
        """Where voxel (0, 0, 0) lies, in voxels of the volume."""
        old, new = np.array(self.volume.shape), np.array(self.shape)
        start: Vector = (old - 1) / 2 - self.step * (new - 1) / 2
        return start


@dataclass(frozen=True, eq=False)
class _Image(_Grid):
    def __call__(self) -> Floats:
        from scipy.ndimage import affine_transform, gaussian_filter

        image = np.asarray(self.volume.image(), dtype=np.float32)
        # half the excess of the step: the usual compromise of aliasing and blur
        smooth = gaussian_filter(image, np.maximum(self.step - 1, 0) / 2, mode="nearest")
        found: Floats = affine_transform(
            smooth, self.step, self.start, output_shape=self.shape, order=1, mode="nearest"
        )
        return found


@dataclass(frozen=True, eq=False)
class _Labels(_Grid):
    def __call__(self) -> LabelMap:
        whole = self.volume.reference()
        assert whole is not None, "made for volumes that have a reference"
        places = [
            np.clip(np.floor(first + step * np.arange(new) + 0.5), 0, old - 1).astype(np.intp)
            for first, step, new, old in zip(
                self.start, self.step, self.shape, self.volume.shape, strict=True
            )
        ]
        return whole[np.ix_(*places)]


def _resampled(volume: Volume, mm: float, cache: ArrayCache) -> Volume:
    assert volume.spacing_mm is not None, "asked before"
    step = mm / np.array(volume.spacing_mm, dtype=np.float64)
    depth, height, width = (
        max(1, round(length / each)) for length, each in zip(volume.shape, step, strict=True)
    )
    shape = depth, height, width
    grid = _Grid(volume, shape, step)
    return replace(
        volume,
        shape=shape,
        read_image=_Image(volume, shape, step),
        read_reference=_Labels(volume, shape, step) if volume.has_reference else None,
        read_scribble=None,
        spacing_mm=(mm, mm, mm),
        affine=None if volume.affine is None else _affine(volume, grid),
        cache=cache,
    )


def _affine(volume: Volume, grid: _Grid) -> NDArray[np.float64]:
    """Of the new grid, in the axis order of the source as the old one is."""
    to_old = np.eye(4)
    order = list(volume.axes)
    to_old[order, order] = grid.step
    to_old[order, 3] = grid.start
    affine: NDArray[np.float64] = np.asarray(volume.affine, dtype=np.float64) @ to_old
    return affine
