"""Feature rows as points on a map."""

from __future__ import annotations

import numpy as np

from alnb.errors import BadInput
from alnb.records import Floats


def pca_map(features: Floats, dims: int = 2) -> Floats:
    """(N, D) features -> (N, dims) principal components, the same at every call.

    A component's sign is free; here its loading of largest magnitude is positive, so that a map
    does not flip from one round to the next. Components without variance, as with equal rows or
    fewer rows than `dims`, are zero. Exact; O(N D min(N, D)). BadInput if a value is not finite.
    """
    if features.ndim != 2:
        raise BadInput(f"Features have shape {features.shape}; a map needs (rows, features).")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise BadInput(f"Row {row} has features that are not finite; encode the pool again.")
    places = np.zeros((len(features), dims))
    if features.size:
        x = features.astype(np.float64)
        scale = np.abs(x).max()
        x -= x.mean(axis=0)
        axes = _principal_axes(x, dims, least=float(scale) * 1e-12)
        places[:, : axes.shape[1]] = x @ axes
    return places


def _principal_axes(x: Floats, dims: int, least: float) -> Floats:
    """(D, up to dims) unit axes along which centred `x` deviates by more than `least`, in order."""
    from scipy.linalg import eigh

    n, d = x.shape
    wide = d > n
    gram = x @ x.T if wide else x.T @ x
    size = len(gram)
    _, vectors = eigh(gram, subset_by_index=(max(size - dims, 0), size - 1))
    # Eigenvalues come ascending, and of a wide matrix they belong to the rows.
    axes = (x.T @ vectors if wide else vectors)[:, ::-1]
    length = np.linalg.norm(axes, axis=0)
    axes = axes / np.where(length > 0, length, 1.0)
    deviation = np.linalg.norm(x @ axes, axis=0) / np.sqrt(n)
    axes = axes[:, (deviation > least) & (length > 0)]
    strongest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    signed: Floats = axes * np.sign(strongest)
    return signed
