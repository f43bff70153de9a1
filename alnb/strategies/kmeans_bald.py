"""k-means-BALD: of the slices on which the committee disagrees most, those that differ most.

Source: Lüth et al., "nnActive", 2025, arXiv 2511.19183, there on patches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from alnb.protocols import Snapshot, Strategy
from alnb.records import Selection
from alnb.strategies.badge import Explicit, k_means_pp
from alnb.strategies.common import begun, candidates_for, in_order
from alnb.strategies.coreset import k_center
from alnb.strategies.uncertainty import TopScore, bald


@dataclass(frozen=True)
class KMeansBALD:
    """The `factor` n candidates that `base` would choose, thinned out to n that lie far apart.

    Distances are between the fitted learner's pooled features, each divided by its standard
    deviation over those candidates (+ 1e-6). The first pick has the longest feature vector, and
    the others are the farthest from all picks; with `stochastic` they are drawn as k-means++ does.
    The source keeps the 2 n best of each image, this the 2 n best of the pool: put `PerVolume`
    around `base` for a like effect.

    Cost: `base`, a forward pass over `factor` n rows, and O(factor n^2 D). ColdStart until a model
    is fitted; with one member BALD is 0 everywhere, so that `base` chooses by chance. The score is
    the distance to the nearest pick, for the first pick the length of its features.
    """

    base: Strategy = field(default_factory=lambda: TopScore(bald))
    factor: int = 2
    stochastic: bool = False

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}; it must be 1 or more.")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates; scores are distances between scaled features."""
        keep = min(self.factor * n, len(candidates_for(snapshot, n)))
        kept = in_order(snapshot.pool, self.base.select(snapshot, keep, rng=rng).rows)
        taken = begun(snapshot)
        if not n:
            return Selection(rows=kept, scores=np.empty(0))
        features = snapshot.learned(np.concatenate([kept, taken]))
        features = features / (features[:keep].std(axis=0) + 1e-6)
        centres = np.arange(keep, keep + len(taken))
        space = Explicit.of(features)
        if self.stochastic:
            picks, distances = k_means_pp(space, np.arange(keep), n, rng=rng, centres=centres)
        else:
            first = int(np.argmax(space.norms[:keep]))
            cover = k_center(features, centres=centres, candidates=range(keep), n=n, first=first)
            picks, distances = cover.rows, cover.distances
            distances[:1] = np.minimum(distances[:1], np.sqrt(space.norms[first]))
        return Selection(rows=kept[picks], scores=distances)
