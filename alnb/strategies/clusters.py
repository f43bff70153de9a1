"""Clusters, for the strategies that group the pool first."""

from __future__ import annotations

import numpy as np

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
        model = KMeans(k, n_init=1, random_state=seed)
    else:
        model = MiniBatchKMeans(k, n_init=1, batch_size=4096, random_state=seed)
    return np.asarray(model.fit_predict(x), dtype=np.int64)


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
