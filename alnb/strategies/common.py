"""What several strategies share: the door check, unscored selections, turns, narrowed snapshots."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, MutableMapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from alnb.errors import PoolExhausted
from alnb.protocols import Snapshot
from alnb.records import Floats, Pool, Rows, Selection

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")
Cache = MutableMapping[str, bytes]


@runtime_checkable
class Cached(Protocol):
    """A strategy, or a part of one, that keeps what it computed under names that never lie."""

    def with_cache(self, cache: Cache) -> Any:
        """The same, keeping in `cache`; itself if it was given one already."""
        ...


def with_cache(part: Result, cache: Cache) -> Result:
    """`part` with `cache` in all that is `Cached` within it, through wrappers of any depth.

    Wrappers are dataclasses; into anything else nobody looks. Itself where nothing is to be cached.
    """
    if isinstance(part, Cached):
        cached: Result = part.with_cache(cache)
        return cached
    if not is_dataclass(part) or isinstance(part, type):
        return part
    inner = {each.name: getattr(part, each.name) for each in fields(part) if each.init}
    changed = {name: with_cache(value, cache) for name, value in inner.items()}
    if all(changed[name] is inner[name] for name in inner):
        return part
    return replace(part, **changed)


def candidates_for(snapshot: Snapshot, n: int) -> Rows:
    """The candidates of `snapshot`, once it is sure that `n` of them can be chosen.

    PoolExhausted if there are fewer than `n`, ValueError if `n` is negative.
    """
    if n < 0:
        raise ValueError(f"Asked for {n} items; the number must be 0 or more.")
    count = len(snapshot.candidates)
    if n > count:
        raise PoolExhausted(
            f"Asked for {n} items, but only {count} can be chosen. "
            "Ask for fewer, or open the session with keep_labelled=True."
        )
    return snapshot.candidates


def unscored(rows: Rows) -> Selection:
    """A selection of `rows` without scores: NaN, which the session stores as null."""
    return Selection(rows=rows, scores=np.full(len(rows), np.nan))


def take_turns(volume: Rows, rank: Rows, done: Rows, *, rng: np.random.Generator) -> Rows:
    """Order in which volumes take turns, those with the fewest finished slices first.

    volume : (K,) volume code of each candidate. rank : (K,) its place in its volume's own order.
    done : (V,) finished slices per volume code; a volume with two waits until all others have two.
    Volumes that are level take turns in an order drawn from `rng`. Returns positions 0..K-1.
    """
    grouped = np.lexsort((rank, volume))
    _, start, size = np.unique(volume[grouped], return_index=True, return_counts=True)
    level = np.empty(len(volume), dtype=np.int64)
    level[grouped] = np.arange(len(volume)) - np.repeat(start, size)
    turn = rng.permutation(len(done))
    return np.lexsort((turn[volume], done[volume] + level))


def done_per_volume(snapshot: Snapshot) -> Rows:
    """(V,) how many labelled rows each volume code has."""
    volume = snapshot.pool.volume
    length = int(volume.max(initial=-1)) + 1
    return np.bincount(volume[snapshot.labelled], minlength=length).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Narrowed:
    """`base` with fewer candidates and, for a batch that is half chosen, more labelled rows.

    Wrappers hand it to the strategy they wrap. Rows already taken count as labelled, so that a
    strategy that avoids what is known avoids them too. Scores and learned features are remembered
    per row, because a wrapper may ask several times and a pass of the model over the pool is
    expensive.
    """

    base: Snapshot
    candidates: Rows
    labelled: Rows
    _known: dict[object, dict[int, Any]] = field(default_factory=dict, repr=False)
    _whole: dict[object, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, snapshot: Snapshot) -> Narrowed:
        """All of `snapshot`, ready to be narrowed."""
        return cls(snapshot, snapshot.candidates, snapshot.labelled)

    def to(self, candidates: Rows, *, taken: Rows | None = None) -> Narrowed:
        """The same with these candidates; `taken` rows count as labelled from now on."""
        labelled = self.labelled if taken is None else np.union1d(self.labelled, taken)
        return Narrowed(self.base, np.sort(candidates), labelled, self._known, self._whole)

    @property
    def pool(self) -> Pool:
        return self.base.pool

    @property
    def counts(self) -> Rows:
        return self.base.counts

    @property
    def rounds(self) -> int:
        return self.base.rounds

    @property
    def classes(self) -> int:
        return self.base.classes

    def features(self) -> Floats:
        """As the base gives them."""
        return self.base.features()

    def learned(self, rows: Rows) -> Floats:
        """As the base gives them, each row at most once."""
        return self._once("learned", self.base.learned, rows)

    def gradients(self, rows: Rows) -> Floats:
        """As the base gives them, each row at most once."""
        return self._once("gradients", self.base.gradients, rows)

    def images(self, rows: Rows) -> Iterator[Tensor]:
        """As the base gives them."""
        return self.base.images(rows)

    def presence(self) -> NDArray[np.bool_]:
        """As the base gives it."""
        return self.base.presence()

    def reduce(self, score: Callable[[Tensor], Tensor], rows: Rows) -> Floats:
        """As the base gives it, each row at most once for an equal `score`."""
        return self._once(score, lambda missing: self.base.reduce(score, missing), rows)

    def whole(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """What `make` gives, made once for a `key` and all narrowings of one snapshot."""
        if key not in self._whole:
            self._whole[key] = make()
        result: Result = self._whole[key]
        return result

    def _once(self, key: object, give: Callable[[Rows], Floats], rows: Rows) -> Floats:
        known = self._known.setdefault(key, {})
        missing = np.array(sorted(set(rows.tolist()) - known.keys()), dtype=np.int64)
        if len(missing):
            known.update(zip(missing.tolist(), give(missing), strict=True))
        return np.array([known[row] for row in rows.tolist()])


def as_asked(snapshot: Snapshot) -> Snapshot:
    """The snapshot as the session gave it, without what wrappers narrowed."""
    while isinstance(snapshot, Narrowed):
        snapshot = snapshot.base
    return snapshot


def made_once(snapshot: Snapshot, key: Hashable, make: Callable[[], Result]) -> Result:
    """What `make` gives; a wrapper that asks again for the rest of a batch gets the same object.

    For what is expensive and does not depend on the part of the batch that is already chosen,
    such as a clustering or a network trained for this query. Nobody may write to it.
    """
    if not isinstance(snapshot, Narrowed):
        return make()
    while isinstance(snapshot.base, Narrowed):
        snapshot = snapshot.base
    return snapshot.whole(key, make)


def begun(snapshot: Snapshot) -> Rows:
    """Rows of the batch that a wrapper has already chosen; none if nothing wraps."""
    return np.setdiff1d(snapshot.labelled, as_asked(snapshot).labelled)


def in_order(pool: Pool, rows: Rows) -> Rows:
    """`rows` sorted by the names of their items.

    What draws by chance from rows in this order does not depend on how the pool is written down.
    """
    return np.array(sorted(rows.tolist(), key=lambda row: str(pool.ids[row])), dtype=np.int64)


def mean_by_owner(values: Floats, owners: Rows, length: int) -> Floats:
    """(length, ...) means of `values` (S, ...) over those that share an owner, 0..length-1.

    With one value for each owner, in order, it is `values` itself.
    """
    if len(values) == length and np.array_equal(owners, np.arange(length)):
        return values
    total = np.zeros((length, *values.shape[1:]))
    np.add.at(total, owners, values)
    counts = np.bincount(owners, minlength=length)
    return total / counts.reshape(-1, *(1,) * (values.ndim - 1))
