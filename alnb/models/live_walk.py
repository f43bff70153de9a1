"""Random walks with restart on a pixel grid: how strokes spread until they meet an edge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alnb.records import IGNORE, LabelMap

Field = NDArray[np.float32]


def edge_weights(channels: Field, steepness: float, least: float) -> tuple[Field, Field]:
    """How easily a walker steps from a pixel to the one below and to the one on its right.

    channels: (F, H, W); the step is judged by the channel that changes most. Returns (H-1, W) and
    (H, W-1), in `least`..1 + `least`: exp(-steepness · change² / mean change²) + `least`, so that
    a slice of faint contrast has edges too. 1 everywhere where nothing changes.
    """
    down = np.square(np.diff(channels, axis=1)).max(axis=0)
    across = np.square(np.diff(channels, axis=2)).max(axis=0)
    both = np.concatenate([down.ravel(), across.ravel()])
    usual = float(both.mean()) if both.size else 0.0
    factor = np.float32(steepness / max(usual, 1e-12))
    return np.exp(-factor * down) + np.float32(least), np.exp(-factor * across) + np.float32(least)


def walk(
    weights: tuple[Field, Field],
    seeds: LabelMap,
    target: Field,
    pull: Field,
    *,
    tolerance: float = 5e-3,
    most: int = 200,
) -> tuple[Field, int]:
    """Class probabilities that agree with the seeds, with their neighbours and with a target.

    Minimises, for every class, ``Σ w_ij (x_i - x_j)² + Σ pull_i (x_i - target_i)²`` with x fixed to
    0 or 1 on the seeds: the probability that a walker who starts at a pixel first meets a seed of
    the class, or stops on its way at a pixel that the target gives to it (Grady, CVPR 2005 and
    TPAMI 2006). Conjugate gradients, all classes at once, on the grid itself without a matrix.

    Parameters
    ----------
    weights : of `edge_weights`, (H-1, W) and (H, W-1).
    seeds : (H, W) class codes, IGNORE where the walk decides.
    target : (C, H, W), summing to 1 over C; the walk starts from it.
    pull : (H, W), positive; how strongly a pixel is drawn to its target, where 1 is as strongly as
        to a neighbour without an edge between.
    tolerance : the residual at which it stops, as a share of the first one's.
    most : the most iterations.

    Returns (C, H, W), which sums to 1 over C up to `tolerance`, and the iterations taken.
    """
    free = (seeds == IGNORE).astype(np.float32)
    codes = np.arange(len(target), dtype=np.uint8)[:, None, None]
    x: Field = np.where(free > 0, target, seeds == codes).astype(np.float32)
    degree = pull.astype(np.float32)
    down, across = weights
    degree[:-1] += down
    degree[1:] += down
    degree[:, :-1] += across
    degree[:, 1:] += across

    def applied(v: Field) -> Field:
        out = degree * v
        out[:, :-1] -= down * v[:, 1:]
        out[:, 1:] -= down * v[:, :-1]
        out[:, :, :-1] -= across * v[:, :, 1:]
        out[:, :, 1:] -= across * v[:, :, :-1]
        out *= free
        return out

    residual = (pull * target) * free - applied(x)
    scaled = residual / degree
    course = scaled.copy()
    size = np.einsum("chw,chw->c", residual, scaled)
    goal = tolerance**2 * np.maximum(size, 1e-12)
    taken = 0
    while taken < most and (size > goal).any():
        ahead = applied(course)
        length = size / np.maximum(np.einsum("chw,chw->c", course, ahead), 1e-30)
        x += length[:, None, None] * course
        residual -= length[:, None, None] * ahead
        np.divide(residual, degree, out=scaled)
        now = np.einsum("chw,chw->c", residual, scaled)
        course *= (now / np.maximum(size, 1e-30))[:, None, None]
        course += scaled
        size, taken = now, taken + 1
    return np.clip(x, 0.0, 1.0), taken
