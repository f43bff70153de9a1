"""TypiClust: the most typical slice of each cluster that nobody has labelled yet.

Source: Hacohen, Dekel and Weinshall, "Active learning on a budget: opposite strategies suit high
and low budgets", ICML 2022, arXiv 2202.02794.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alnb.protocols import Snapshot
from alnb.records import Floats, Rows, Selection
from alnb.strategies.clusters import k_means
from alnb.strategies.common import as_asked, candidates_for, in_order, made_once
from alnb.strategies.neighbours import Doubles, Points

_NEIGHBOURS = 20


def typicality(
    x: Floats, cluster: Rows, neighbours: int = _NEIGHBOURS, *, share: float = 0.5
) -> Doubles:
    """(N,) how dense a row's own cluster c is around it: 1 / (mean distance + 1e-5).

    The mean is over its min(`neighbours`, floor(`share` |c|)) nearest others in c, at least one;
    Euclidean.
    A row that is alone in its cluster has 0: nothing says that it is typical.
    """
    points = Points.of(x)
    found = np.zeros(len(x))
    order = np.argsort(cluster, kind="stable")
    starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    for members in np.split(order, starts[1:]):
        size = len(members)
        if size > 1:
            k = max(1, min(neighbours, int(share * size), size - 1))
            found[members] = 1 / (points.mean_distance(members, k) + 1e-5)
    return found


def typical_rows(
    cluster: Rows, typical: Doubles, labelled: Rows, candidates: Rows, n: int, *, least: int = 6
) -> Rows:
    """n candidates: cluster by cluster the most typical, in picking order.

    The next pick comes from the cluster with the fewest labelled rows, picks included, and among
    those from the largest; so clusters take turns. Clusters of fewer than `least` rows have their
    turn when the others have no candidate left, or if there are no others. Labelled rows that are
    candidates come last. The first of `candidates` wins a tie.
    """
    sizes = np.bincount(cluster)
    done = np.bincount(cluster[labelled], minlength=len(sizes))
    known = np.isin(candidates, labelled)
    # Per tier and cluster, what may be taken, the best at the end.
    waiting: tuple[dict[int, list[int]], ...] = ({}, {}, {})
    for place in np.argsort(-typical[candidates], kind="stable")[::-1]:
        row = int(candidates[place])
        own = int(cluster[row])
        tier = 2 if known[place] else int(sizes[own] < least)
        waiting[tier].setdefault(own, []).append(row)
    picks: list[int] = []
    for tier_rows in waiting:
        while tier_rows and len(picks) < n:
            own = min(tier_rows, key=lambda c: (done[c], -sizes[c], -typical[tier_rows[c][-1]]))
            picks.append(tier_rows[own].pop())
            done[own] += 1
            if not tier_rows[own]:
                del tier_rows[own]
    return np.array(picks, dtype=np.int64)


@dataclass(frozen=True)
class TypiClust:
    """As many clusters as there will be labels; of each one without any, the most typical row.

    The pool's features, which should come from a self-supervised encoder, are put into
    min(L + n, `clusters`) clusters by k-means, L being the number of labelled rows; see
    `typicality` and `typical_rows` for what follows. `neighbours` is 20 and the smallest cluster
    that counts has `least` = 6 rows, as published.

    Unlike the authors' code, this counts labelled rows anew after each pick, measures distances
    and not their squares, counts labelled rows in a cluster's density, and lets small clusters
    take part rather than fail when there are no others.

    Cost: k-means, O(N k D) an iteration, and distances within clusters, the sum of |c|^2 D. Works
    with nothing labelled. Chance enters through the seeds of k-means alone. Under a wrapper that
    asks again for the rest of a batch the clusters stay, so that the answer is the greedy one.
    The score is the typicality.
    """

    clusters: int = 500
    neighbours: int = _NEIGHBOURS
    least: int = 6

    def __post_init__(self) -> None:
        for name in ("clusters", "neighbours", "least"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates; scores are typicalities."""
        candidates = in_order(snapshot.pool, candidates_for(snapshot, n))
        k = min(len(snapshot.labelled) + n, self.clusters)
        cluster, typical = made_once(
            snapshot, (self, k), lambda: self._clustered(as_asked(snapshot), k, rng)
        )
        rows = typical_rows(cluster, typical, snapshot.labelled, candidates, n, least=self.least)
        return Selection(rows=rows, scores=typical[rows])

    def _clustered(
        self, snapshot: Snapshot, k: int, rng: np.random.Generator
    ) -> tuple[Rows, Doubles]:
        features = snapshot.features()
        order = in_order(snapshot.pool, np.arange(len(features)))
        cluster = np.empty(len(features), dtype=np.int64)
        cluster[order] = k_means(features[order], k, rng=rng)
        return cluster, typicality(features, cluster, self.neighbours)
