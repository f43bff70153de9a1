"""Core-set selection by greedy k-center: ask for what lies farthest from all that is known.

Sources: Gonzalez, Theoretical Computer Science 38, 1985 (the greedy and its factor 2); Sener and
Savarese, ICLR 2018, arXiv 1708.00489 (for active learning); Vepa et al., NeurIPS 2024, arXiv
2411.15763 (on features learnt by metric learning).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alnb.embed.features import PixelFeatures
from alnb.errors import BadSelection
from alnb.protocols import Encoder, Snapshot
from alnb.records import Floats, Rows, Selection
from alnb.strategies.cloud import Cloud
from alnb.strategies.common import candidates_for, mean_by_owner
from alnb.strategies.cost import Cost
from alnb.strategies.farthest import Cover, KCenter
from alnb.strategies.frontier import TIE
from alnb.strategies.strided import Strided
from alnb.strategies.wrappers import WarmStart, smallest_cap

_log = logging.getLogger(__name__)


def k_center(
    x: Floats,
    *,
    centres: Rows | Sequence[int],
    candidates: Rows | Sequence[int] | None = None,
    n: int,
    first: int | None = None,
    cost: Floats | None = None,
    volume: Rows | None = None,
    cap: int | None = None,
) -> Cover:
    """Greedy k-center: n times the candidate farthest from its nearest centre; Euclidean.

    x : (N, D) features of the whole pool. centres : rows that count as covered from the start.
    candidates : rows that may be picked, by default all that are no centres; each at most once,
    also among duplicates, and the lowest row wins a tie. first : the pick that opens an empty set
    of centres; ignored when there are centres. cost : (N,) positive; the largest distance per cost
    is picked.
    volume, cap : (N,) codes, and how many picks may share one.

    Since picks depend only on those before, n = K gives a queue to walk through, and asking for n
    and then for m more, with the n as centres, equals asking for n + m; `KCenter` does so without
    beginning anew. At most O((n + centres) N D), and far less as a rule: see `farthest`.

    BadInput if a feature is not finite, PoolExhausted if n > K, ValueError for bad rows.
    """
    state = KCenter(x, centres=centres, candidates=candidates, cost=cost, volume=volume, cap=cap)
    return state.take(n, first=first)


def cover_radius(x: Floats, centres: Rows | Sequence[int]) -> float:
    """Largest distance of any row of `x` to its nearest centre; infinite without centres."""
    return KCenter(x, centres=centres).radius


def medoid(x: Floats, candidates: Rows) -> int:
    """The candidate with the least sum of squared distances to the pool; lowest row in a tie.

    That sum is N |x - mean|^2 plus a constant, so that it is the candidate nearest to the mean.
    """
    away = Cloud(x).from_mean(candidates)
    return int(candidates[np.argmax(away * TIE <= away.min())])


@dataclass(frozen=True, repr=False)
class CoreSet:
    """Farthest-first over features; what is labelled counts as covered.

    Neither labels nor model enter, unless the features come from one: the order is a ranking that
    can be computed once.

    start : opens a session in which nothing is labelled: "medoid", "random" (as in the experiments
    of Vepa et al.) or a row; if that row is no candidate any more, the candidate nearest to it.
    of : "session", the features that the session chose; "learner", those of the network in
    training, which change with every fit (ColdStart before the first); or an encoder of slices,
    asked anew at every query. unit : every row is brought to length 1, so that angles count.
    per_volume : at most so many rows of one volume in a batch, raised by the least that fits the
    batch, which is logged. The same as `PerVolume` around it, at the price of one traversal.
    cost : ``(snapshot, rows) -> (K,)`` positive, such as `ByArea` of `cost`; picks then have the
    largest distance per cost.

    The score of a pick is its distance to the nearest centre, over its cost if there is one. The
    opening pick has infinity, for which JSON has no number: the session stores null.
    """

    start: Literal["medoid", "random"] | int = "medoid"
    of: Literal["session", "learner"] | Encoder = "session"
    unit: bool = False
    per_volume: int | None = None
    cost: Cost | None = None

    def __post_init__(self) -> None:
        if isinstance(self.start, str) and self.start not in ("medoid", "random"):
            raise ValueError(f"start is {self.start!r}; it must be 'medoid', 'random' or a row.")
        if isinstance(self.of, str) and self.of not in ("session", "learner"):
            raise ValueError(f"of is {self.of!r}; it must be 'session', 'learner' or an encoder.")
        if self.per_volume is not None and self.per_volume < 1:
            raise ValueError(f"per_volume is {self.per_volume}; it must be 1 or more, or None.")

    def __repr__(self) -> str:
        said = [f"start={self.start!r}"]
        if self.of != "session":
            said.append(f"of={self.of if isinstance(self.of, str) else self.of.name!r}")
        if self.unit:
            said.append("unit=True")
        if self.per_volume is not None:
            said.append(f"per_volume={self.per_volume}")
        if self.cost is not None:
            said.append(f"cost={getattr(self.cost, '__name__', repr(self.cost))}")
        return f"CoreSet({', '.join(said)})"

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates in farthest-first order; scores are distances, or distances per cost."""
        candidates = candidates_for(snapshot, n)
        features = self.features(snapshot)
        labelled = snapshot.labelled
        first = None if len(labelled) or not n else self._opening(features, candidates, rng)
        cost = self._costs(snapshot, candidates)
        volume = None if self.per_volume is None else snapshot.pool.volume
        cover = k_center(
            features,
            centres=labelled,
            candidates=candidates,
            n=n,
            first=first,
            cost=cost,
            volume=volume,
            cap=None if volume is None else self._cap(volume[candidates], n),
        )
        scores = cover.distances if cost is None else cover.distances / cost[cover.rows]
        return Selection(rows=cover.rows, scores=scores)

    def features(self, snapshot: Snapshot) -> Floats:
        """(N, D) features of the whole pool in which distances are measured."""
        everything = np.arange(len(snapshot.pool))
        if self.of == "session":
            found = snapshot.features()
        elif self.of == "learner":
            found = snapshot.learned(everything)
        else:
            assert not isinstance(self.of, str)
            held = [len(slices) for slices in snapshot.pool.slices]
            per_slice = self.of(_slices(snapshot, everything))
            found = mean_by_owner(per_slice, np.repeat(everything, held), len(everything))
        return unit_rows(found) if self.unit else found

    def _opening(self, features: Floats, candidates: Rows, rng: np.random.Generator) -> int:
        if self.start == "random":
            return int(rng.choice(candidates))
        if self.start == "medoid":
            return medoid(features, candidates)
        if not 0 <= self.start < len(features):
            raise ValueError(
                f"start is row {self.start}; it must be one of 0..{len(features) - 1}."
            )
        if self.start in candidates:
            return self.start
        away = Cloud(features).between(candidates, np.full(len(candidates), self.start))
        return int(candidates[np.argmin(away)])

    def _costs(self, snapshot: Snapshot, candidates: Rows) -> Floats | None:
        if self.cost is None or not len(candidates):
            return None
        given = np.asarray(self.cost(snapshot, candidates), dtype=np.float64)
        if given.shape != candidates.shape or not (np.isfinite(given) & (given > 0)).all():
            raise BadSelection(
                f"{self} needs a cost above 0 for each of {len(candidates)} rows; it was given "
                f"shape {given.shape}, smallest {given.min(initial=np.inf):.4g}."
            )
        costs = np.full(len(snapshot.pool), given.min())
        costs[candidates] = given
        return costs

    def _cap(self, volume: Rows, n: int) -> int:
        wanted = self.per_volume or 1
        cap = smallest_cap(volume, wanted, n)
        if cap > wanted:
            _log.warning(
                "%d slices do not fit with %d per volume; up to %d are taken.", n, wanted, cap
            )
        return cap


def unit_rows(features: Floats) -> Floats:
    """(N, D) rows of length 1; rows of zeros stay zeros."""
    found = features.astype(np.result_type(features, np.float32))
    # Twice, because squares of extreme values leave the range.
    for order in (np.inf, 2):
        length = np.linalg.norm(found, ord=order, axis=1, keepdims=True)
        found /= np.where(length > 0, length, 1)
    return found


def _slices(snapshot: Snapshot, rows: Rows) -> Iterator[Floats]:
    for batch in snapshot.images(rows):
        yield from batch[:, 0].cpu().numpy()


def vepa2024() -> CoreSet:
    """The method of Vepa et al. 2024 as in their experiments: features as they are, random start.

    The session's encoder should be one learnt with the group contrastive loss.
    """
    return CoreSet(start="random")


def coreset_pixels(size: int = 256) -> CoreSet:
    """The paper's plain baseline: distances between images of size x size pixels.

    Each slice takes 4 size^2 bytes while a query runs, 256 KiB by default.
    """
    return CoreSet(of=PixelFeatures(size))


def coreset_features() -> WarmStart:
    """Sener and Savarese: features of the network in training, measured anew after each fit."""
    return WarmStart(Strided(), CoreSet(of="learner"))


def coreset_frozen() -> CoreSet:
    """The session's features, brought to length 1: for an encoder trained elsewhere."""
    return CoreSet(unit=True)
