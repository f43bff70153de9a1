"""Clusters, for the strategies that group the pool first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Importing it draws from the global generator of `random`, so not in the middle of a query.
from sklearn.cluster import AgglomerativeClustering, KMeans, MiniBatchKMeans
from sklearn.metrics import pairwise_distances_argmin

from alnb.records import Floats, Rows

_LLOYD = 20_000_000
_WARD = 5_000


def k_means(x: Floats, k: int, *, rng: np.random.Generator) -> Rows:
    """(N,) cluster 0..k-1 of each row; fewer clusters if fewer rows are distinct.

    Lloyd's algorithm from k-means++ seeds, on mini-batches once N k exceeds 20 million: below that
    all rows at a time took half as long, at 20 000 rows and 100 clusters, and fit more closely.
    """
    x = np.ascontiguousarray(x, dtype=np.float32)
    k = min(k, len(np.unique(x.view(f"V{x.shape[1] * 4}"))) if x.size else 1)
    if k <= 1:
        return np.zeros(len(x), dtype=np.int64)
    seed = int(rng.integers(2**31))
    if len(x) * k <= _LLOYD:
        model = KMeans(k, init=x[_spread(x, k, rng)], n_init=1, random_state=seed)
    else:
        model = MiniBatchKMeans(k, n_init=1, batch_size=4096, random_state=seed)
    return np.asarray(model.fit_predict(x), dtype=np.int64)


def _spread(x: NDArray[np.float32], k: int, rng: np.random.Generator) -> Rows:
    """(k,) rows by greedy k-means++: the best of a few draws each, as scikit-learn's own does it.

    That one raises float32 rows to float64 for every seed, which took most of the clustering's
    time; a start needs no such care.
    """
    x = x - x.mean(axis=0)
    norms = np.einsum("nd,nd->n", x, x)
    seeds = np.empty(k, dtype=np.int64)
    nearest = np.ones(len(x), dtype=np.float32)
    for turn in range(k):
        reach = np.cumsum(nearest, dtype=np.float64)
        tries = rng.random(2 + int(np.log(k)) if turn else 1) * reach[-1]
        drawn = np.minimum(np.searchsorted(reach, tries, side="right"), len(x) - 1)
        away = norms + norms[drawn][:, None] - 2 * (x[drawn] @ x.T)
        away = np.minimum(np.maximum(away, 0), nearest if turn else np.inf)
        best = int(np.argmin(away.sum(axis=1)))
        seeds[turn], nearest = drawn[best], away[best]
        nearest[drawn[best]] = 0
    return seeds


def ward(x: Floats, k: int, *, rng: np.random.Generator) -> Rows:
    """(N,) cluster 0..k-1 of each row, by merging the pair that adds least variance (Ward).

    That takes all distances. Beyond 5000 rows, that many are drawn and clustered, and the others
    join the cluster with the nearest mean.
    """
    if k <= 1:
        return np.zeros(len(x), dtype=np.int64)
    drawn = np.arange(len(x))
    if len(x) > _WARD:
        drawn = np.sort(rng.choice(len(x), size=max(_WARD, k), replace=False))
    some = x[drawn].astype(np.float64)
    labels = AgglomerativeClustering(k).fit_predict(some)
    if len(drawn) == len(x):
        return np.asarray(labels, dtype=np.int64)
    return np.asarray(pairwise_distances_argmin(x, means(some, labels)), dtype=np.int64)


def means(x: Floats, cluster: Rows) -> Floats:
    """(clusters, D) mean of each cluster's rows; no cluster is empty."""
    total = np.zeros((int(cluster.max()) + 1, x.shape[1]))
    np.add.at(total, cluster, x)
    return total / np.bincount(cluster)[:, None]
