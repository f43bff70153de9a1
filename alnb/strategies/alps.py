"""Cold starts that read features alone: the slice in the middle of each cluster.

Sources: ALPS, Yuan, Lin and Boyd-Graber, EMNLP 2020, arXiv 2010.09535 (on text); CALR, Jin et al.,
Information Sciences 616, 2022; both as compared on volumes by Liu et al., "COLosSAL", MICCAI 2023,
arXiv 2307.12004.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alnb.protocols import Snapshot
from alnb.records import Floats, Rows, Selection
from alnb.strategies.clusters import k_means, means, ward
from alnb.strategies.common import as_asked, candidates_for, in_order, made_once
from alnb.strategies.neighbours import Doubles
from alnb.strategies.typiclust import typical_rows, typicality

Middling = Callable[[Floats, int, np.random.Generator], tuple[Rows, Doubles]]


def around_means(x: Floats, k: int, rng: np.random.Generator) -> tuple[Rows, Doubles]:
    """k-means clusters (N,), and minus the distance of each row to the mean of its own."""
    cluster = k_means(x, k, rng=rng)
    away: Doubles = np.linalg.norm(x - means(x, cluster)[cluster], axis=1)
    return cluster, -away


def dense_in_tree(x: Floats, k: int, rng: np.random.Generator) -> tuple[Rows, Doubles]:
    """Agglomerative clusters (N,), and each row's density: 1 / mean distance to its cluster."""
    cluster = ward(x, k, rng=rng)
    return cluster, typicality(x, cluster, len(x), share=1.0)


@dataclass(frozen=True)
class ALPS:
    """k-means with one cluster per label; of each cluster the row nearest to its mean.

    Meant for the first batch, k = n. Later, k = L + n, and clusters with the fewest labelled rows
    come first, the largest of them before the others, as in TypiClust. Cost: k-means, O(N k D) an
    iteration. Works with nothing labelled; chance seeds k-means. The score is the number of rows
    in the cluster for which the pick stands.
    """

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates, one per cluster; scores are the clusters' sizes."""
        return _middle_of_each(self, around_means, snapshot, n, rng)


@dataclass(frozen=True)
class CALR:
    """Agglomerative clusters, one per label; of each cluster the densest row.

    Clusters merge by Ward's rule, where the source builds them with BIRCH, a tree that
    approximates it; density is the inverse mean distance to the rest of the cluster. Beyond 5000
    rows the tree is built on that many, drawn at random. Otherwise as `ALPS`. Cost: O(N^2 D) up to
    5000 rows, then the sum of |cluster|^2 D.
    """

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates, one per cluster; scores are the clusters' sizes."""
        return _middle_of_each(self, dense_in_tree, snapshot, n, rng)


def _middle_of_each(
    strategy: ALPS | CALR,
    middling: Middling,
    snapshot: Snapshot,
    n: int,
    rng: np.random.Generator,
) -> Selection:
    candidates = in_order(snapshot.pool, candidates_for(snapshot, n))
    if not n:
        return Selection(rows=candidates[:0], scores=np.empty(0))
    k = len(snapshot.labelled) + n

    def clustered() -> tuple[Rows, Doubles]:
        features = as_asked(snapshot).features()
        order = in_order(snapshot.pool, np.arange(len(features)))
        cluster, middle = np.empty(len(order), dtype=np.int64), np.empty(len(order))
        cluster[order], middle[order] = middling(features[order], min(k, len(order)), rng)
        return cluster, middle

    cluster, middle = made_once(snapshot, (strategy, k), clustered)
    rows = typical_rows(cluster, middle, snapshot.labelled, candidates, n, least=1)
    return Selection(rows=rows, scores=np.bincount(cluster)[cluster[rows]].astype(np.float64))
