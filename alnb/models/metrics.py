"""Agreement of whole volumes, per class. NumPy and SciPy only; spacing in mm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alnb.records import IGNORE, LabelMap

Empties = Literal["one", "paper", "skip"]
"""Dice where the reference lacks a class, as (prediction lacks it too; prediction has it):
"one" (1; 0), MONAI's ``ignore_empty=False`` · "paper" (0; 0), Vepa et al. · "skip" (undefined;
undefined), MONAI's ``ignore_empty=True``. With a class only in the reference all three say 0."""


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


def hd95(
    pred: NDArray[np.bool_],
    ref: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    convention: Literal["pooled", "directed"] = "pooled",
) -> float:
    """95th percentile of the distances between two surfaces, in mm.

    pred, ref: boolean, one class, same shape. "pooled" takes the percentile of both directions
    together (medpy), "directed" the larger of the two percentiles (MONAI). A surface voxel has a
    face neighbour outside the object; the image border is outside. Where exactly one side is empty
    it is the diagonal of the image, never 0, the perfect value; NaN where both are.
    """
    if pred.shape != ref.shape or pred.ndim != len(spacing_mm):
        raise ValueError(
            f"Prediction {pred.shape}, reference {ref.shape} and spacing of {len(spacing_mm)} "
            "numbers must agree in shape and dimension."
        )
    if not pred.any() or not ref.any():
        both = not pred.any() and not ref.any()
        diagonal = np.linalg.norm(np.multiply(pred.shape, spacing_mm))
        return float("nan") if both else float(diagonal)
    there, back = _to_surface(pred, ref, spacing_mm), _to_surface(ref, pred, spacing_mm)
    if convention == "pooled":
        return float(np.percentile(np.concatenate([there, back]), 95))
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _to_surface(
    source: NDArray[np.bool_], goal: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> NDArray[np.float64]:
    """Distance of every surface voxel of `source` to the nearest surface voxel of `goal`."""
    from scipy.ndimage import distance_transform_edt

    distance: NDArray[np.float64] = distance_transform_edt(~_surface(goal), sampling=spacing_mm)
    return distance[_surface(source)]


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    inside: NDArray[np.bool_] = binary_erosion(mask)
    return mask & ~inside
