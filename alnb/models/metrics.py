"""Agreement of whole volumes, per class. NumPy and SciPy only; spacing in mm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alnb.records import IGNORE, LabelMap

Empties = Literal["one", "paper", "skip"]
"""Dice where the reference lacks a class, as (prediction lacks it too; prediction has it):
"one" (1; 0), MONAI's ``ignore_empty=False`` · "paper" (0; 0), Vepa et al. · "skip" (undefined;
undefined), MONAI's ``ignore_empty=True``. With a class only in the reference all three say 0."""

Convention = Literal["pooled", "directed"]
"""Whose percentile HD95 is; see `hd95`."""


def volume_dice(
    pred: LabelMap, ref: LabelMap, classes: int, empties: Empties = "one"
) -> NDArray[np.float64]:
    """2 |P ∩ G| / (|P| + |G|) over the whole volume, per foreground class: (classes - 1,).

    Any shape, the same for both; voxels that are IGNORE in `ref` count nowhere. NaN where `empties`
    leaves a class undefined. Dice of single slices must not be averaged into this number.
    """
    if pred.shape != ref.shape:
        raise ValueError(f"Prediction {pred.shape} and reference {ref.shape} differ in shape.")
    if empties not in ("one", "paper", "skip"):
        raise ValueError(f"empties is {empties!r}; it can be 'one', 'paper' or 'skip'.")
    known = ref != IGNORE
    p, g = pred[known].astype(np.int64), ref[known].astype(np.int64)
    overlap = np.bincount(g[p == g], minlength=classes)[1:classes]
    in_pred = np.bincount(p, minlength=classes)[1:classes]
    in_ref = np.bincount(g, minlength=classes)[1:classes]
    dice: NDArray[np.float64] = 2.0 * overlap / np.maximum(in_pred + in_ref, 1)
    if empties == "one":
        dice[(in_ref == 0) & (in_pred == 0)] = 1.0
    elif empties == "skip":
        dice[in_ref == 0] = np.nan
    return dice


def mean_over_volumes(dice: Sequence[NDArray[np.float64]]) -> tuple[float | None, ...]:
    """Per class the mean over volumes (rows) where it is defined; None where it never is."""
    table = np.stack(dice)
    defined = ~np.isnan(table)
    total = np.where(defined, table, 0.0).sum(0)
    counts = defined.sum(0)
    return tuple(
        float(value / count) if count else None for value, count in zip(total, counts, strict=True)
    )


@dataclass(frozen=True, eq=False)
class Surfaces:
    """How far the surfaces of two objects lie apart, one number per surface voxel.

    A surface voxel has a face neighbour outside the object; the image border is outside. Every
    voxel counts once, whatever area its faces have.

    Attributes
    ----------
    there : of every surface voxel of the prediction, to the nearest one of the reference.
    back : of every surface voxel of the reference, to the nearest one of the prediction.
        Infinite where the other object is empty.
    diagonal : of the image. All three in the unit of the spacing.
    """

    there: NDArray[np.float64]
    back: NDArray[np.float64]
    diagonal: float

    @property
    def missed(self) -> bool:
        """Whether one of the two objects is there and the other is not."""
        return bool(len(self.there)) != bool(len(self.back))

    def hd95(self, convention: Convention = "pooled") -> float:
        """See the function `hd95`."""
        if not len(self.there) or not len(self.back):
            return self.diagonal if self.missed else float("nan")
        if convention == "pooled":
            return float(np.percentile(np.concatenate([self.there, self.back]), 95))
        return float(max(np.percentile(self.there, 95), np.percentile(self.back, 95)))

    def normalised_dice(self, tolerance_mm: float) -> float:
        """See the function `normalised_surface_dice`."""
        if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
            raise ValueError(f"A tolerance of {tolerance_mm} mm: it must be a number from 0.")
        count = len(self.there) + len(self.back)
        if not count:
            return float("nan")
        # a distance that is the tolerance but for its rounding lies within it
        reach = tolerance_mm * (1 + 1e-9)
        return float((self.there <= reach).sum() + (self.back <= reach).sum()) / count


def surfaces(
    pred: NDArray[np.bool_], ref: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> Surfaces:
    """The distances between two surfaces, from which HD95 and surface Dice both follow.

    pred, ref: boolean, one class, same shape. One distance transform per surface, within the box
    around both objects: no voxel outside it is of either surface, so none can be the nearest, and
    objects that end at the box end at a border, which is outside. The distances are exact.
    """
    if pred.shape != ref.shape or pred.ndim != len(spacing_mm):
        raise ValueError(
            f"Prediction {pred.shape}, reference {ref.shape} and spacing of {len(spacing_mm)} "
            "numbers must agree in shape and dimension."
        )
    diagonal = float(np.linalg.norm(np.multiply(pred.shape, spacing_mm)))
    box = _box(pred, ref)
    of_pred, of_ref = _surface(pred[box]), _surface(ref[box])
    return Surfaces(
        _to_surface(of_pred, of_ref, spacing_mm), _to_surface(of_ref, of_pred, spacing_mm), diagonal
    )


def hd95(
    pred: NDArray[np.bool_],
    ref: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    convention: Convention = "pooled",
) -> float:
    """95th percentile of the distances between two surfaces, in mm.

    pred, ref: boolean, one class, same shape. "pooled" takes the percentile of both directions
    together (medpy), "directed" the larger of the two percentiles (MONAI). The surfaces are those
    of `Surfaces`. Where exactly one side is empty it is the diagonal of the image, never 0, the
    perfect value; NaN where both are.
    """
    return surfaces(pred, ref, spacing_mm).hd95(convention)


def normalised_surface_dice(
    pred: NDArray[np.bool_],
    ref: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> float:
    """Share of both surfaces that lies within `tolerance_mm` of the other: 0 worst, 1 best.

    (|S_P ∩ B_G| + |S_G ∩ B_P|) / (|S_P| + |S_G|), where B is all that lies no farther than the
    tolerance from a surface (Nikolov et al., arXiv 1809.04430; Maier-Hein et al., Metrics
    Reloaded). Surface elements are the boundary voxels of `Surfaces`, each counted once; Nikolov
    et al. weigh them by their area, which differs where voxels are anisotropic. 0 where exactly
    one side is empty, NaN where both are. ValueError for a negative tolerance.
    """
    return surfaces(pred, ref, spacing_mm).normalised_dice(tolerance_mm)


def _box(pred: NDArray[np.bool_], ref: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds both objects; the empty box where there is none."""
    either = pred | ref
    box = []
    for axis in range(either.ndim):
        others = tuple(a for a in range(either.ndim) if a != axis)
        held = np.flatnonzero(either.any(others))
        box.append(slice(held[0], held[-1] + 1) if len(held) else slice(0))
    return tuple(box)


def _to_surface(
    source: NDArray[np.bool_], goal: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> NDArray[np.float64]:
    """Distance of every voxel of the surface `source` to the nearest one of `goal`."""
    from scipy.ndimage import distance_transform_edt

    if not goal.any():
        return np.full(int(source.sum()), np.inf)
    distance: NDArray[np.float64] = distance_transform_edt(~goal, sampling=spacing_mm)
    return distance[source]


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    inside: NDArray[np.bool_] = binary_erosion(mask)
    return mask & ~inside
