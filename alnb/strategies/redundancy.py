"""How much each row's image tells that the labelled ones told already.

Images never change, so that the mutual information of two is computed once and kept, under what the
images hold: a later query, another strategy or another run of the same project finds it again.
Per query only the pairs with what was labelled since the last one are new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from alnb.protocols import Snapshot
from alnb.records import Floats, Rows
from alnb.strategies.common import Cache, made_once
from alnb.strategies.mutual_information import Codes, Matrix, Quantiser, between, shared_field

Aggregate = Literal["mean", "max", "sum"]
Digests = NDArray[np.bytes_]
Result = TypeVar("Result")

_KEPT = np.dtype([("image", "S16"), ("nats", "<f8")])
_BYTES = 256 << 20


class Running:
    """Mean, maximum and sum over columns that come round by round, K numbers each.

    `add` takes (K, n) values and how often each of the n columns counts; NaN leaves a pair out.
    Where nothing was added all three are 0.
    """

    def __init__(self, length: int) -> None:
        self.sum = np.zeros(length)
        self.max = np.zeros(length)
        self._times = np.zeros(length)

    @property
    def mean(self) -> Matrix:
        """(K,) the sum over how many were added."""
        mean: Matrix = self.sum / np.maximum(self._times, 1)
        return mean

    def add(self, values: Matrix, times: Rows) -> None:
        """Take n more columns in, none of them below 0."""
        there = ~np.isnan(values)
        known = np.where(there, values, 0.0)
        self.sum += known @ times
        self._times += there @ times
        np.maximum(self.max, known.max(axis=1, initial=0.0), out=self.max)

    def of(self, aggregate: Aggregate) -> Matrix:
        """The one called `aggregate`."""
        found: Matrix = getattr(self, aggregate)
        return found


@dataclass(frozen=True)
class Redundancy:
    """Mutual information of each row's image with the labelled ones, as one number per row.

    Attributes
    ----------
    quantiser : grid, bins and mask. Slice pools compare slices, volume pools whole volumes.
    aggregate : of the pairs with labelled rows: "mean", "max" or "sum".
    include_self : a labelled row that may be asked again is compared with itself as well, which
        gives its entropy, the most there can be. Without it, that pair is left out.
    repeats : "count" a labelled row as often as it was chosen, or each "once".
    miller_madow : take the bias of the estimate off.
    cache : keeps what was computed, by name. Without one, this object does, and a session gives it
        one in the project's folder, where it stays for good.
    """

    quantiser: Quantiser = field(default_factory=Quantiser)
    aggregate: Aggregate = "mean"
    include_self: bool = True
    repeats: Literal["count", "once"] = "count"
    miller_madow: bool = False
    cache: Cache | None = field(default=None, compare=False, repr=False)
    _memory: Cache = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("aggregate", ("mean", "max", "sum")),
            ("repeats", ("count", "once")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}."
                )

    def with_cache(self, cache: Cache) -> Redundancy:
        """The same, keeping in `cache`; itself if it was given one already."""
        return self if self.cache is not None else replace(self, cache=cache)

    def to_labelled(self, snapshot: Snapshot, rows: Rows) -> Matrix:
        """(len(rows),) nats; 0 while nothing is labelled."""
        labelled = snapshot.labelled
        values = self.pairs(snapshot, rows, labelled)
        if not self.include_self:
            values[rows[:, None] == labelled] = np.nan
        # what was answered without being asked was chosen never, and is known all the same
        times = np.maximum(snapshot.counts[labelled], 1)
        running = Running(len(rows))
        running.add(values, times if self.repeats == "count" else np.ones_like(times))
        return running.of(self.aggregate)

    def pairs(self, snapshot: Snapshot, rows: Rows, columns: Rows) -> Matrix:
        """(K, L) nats of every row with every column; what is not kept yet is computed once."""
        found = np.full((len(rows), len(columns)), np.nan)
        if not found.size:
            return found
        left, right = _digests(snapshot, rows), _digests(snapshot, columns)
        keys = [self._key(snapshot, digest) for digest in right.tolist()]
        cache = self._memory if self.cache is None else self.cache
        kept = [_entries(cache.get(key, b"")) for key in keys]
        for column, entries in enumerate(kept):
            found[:, column] = _looked_up(entries, left)
        # among rows that are columns as well, each pair stands twice
        twice = _square(left, right)
        found[twice] = _mirrored(found[twice])
        wanted = np.isnan(found)
        changed = np.flatnonzero(wanted.any(axis=0))
        if not len(changed):
            return found
        wanted[twice] = np.triu(wanted[twice])
        self._compute(found, wanted, snapshot, rows, columns)
        found[twice] = _mirrored(found[twice])
        for column in changed.tolist():
            fresh = np.rec.fromarrays([left, found[:, column]], dtype=_KEPT)
            cache[keys[column]] = np.unique(np.concatenate([kept[column], fresh])).tobytes()
        return found

    def shared_fields(self, snapshot: Snapshot, rows: Rows, columns: Rows) -> Matrix:
        """(K, L) nats that rows and columns share by their bodies' outlines alone, a diagnostic.

        Where it is a large part of `pairs`, redundancy speaks of how patients lay in the scanner.
        """
        solid = _solid(snapshot)
        bodies = [
            np.array([self.quantiser.body(image, solid=solid) for image in _images(snapshot, of)])
            for of in (rows, columns)
        ]
        return shared_field(*bodies)

    def _compute(
        self,
        found: Matrix,
        wanted: NDArray[np.bool_],
        snapshot: Snapshot,
        rows: Rows,
        columns: Rows,
    ) -> None:
        """Fill in what is wanted, the rows in blocks whose codes fit into memory."""
        across = np.flatnonzero(wanted.any(axis=0))
        right = self._codes(snapshot, columns[across])
        down = np.flatnonzero(wanted.any(axis=1))
        step = max(2, _BYTES // right[0].nbytes)
        for start in range(0, len(down), step):
            places = down[start : start + step]
            block = np.ix_(places, across)
            fresh = between(
                self._codes(snapshot, rows[places]),
                right,
                self.quantiser,
                wanted=wanted[block],
                miller_madow=self.miller_madow,
            )
            found[block] = np.where(wanted[block], fresh, found[block])

    def _codes(self, snapshot: Snapshot, rows: Rows) -> Codes:
        solid = _solid(snapshot)
        known: dict[int, Codes] = made_once(snapshot, ("codes", self.quantiser), dict)
        codes = np.array(_each(snapshot, rows, known, partial(self.quantiser, solid=solid)))
        if codes[0].nbytes * len(known) > _BYTES:
            known.clear()
        return codes

    def _key(self, snapshot: Snapshot, digest: bytes) -> str:
        """Of what is kept about an image: its content and all that changes the numbers."""
        recipe = self.quantiser.name(solid=_solid(snapshot))
        told = f"mutual information {recipe} miller_madow={self.miller_madow} ".encode()
        return f"mi-{hashlib.sha256(told + digest).hexdigest()[:40]}"


def _solid(snapshot: Snapshot) -> bool:
    return any(len(slices) > 1 for slices in snapshot.pool.slices)


def _images(snapshot: Snapshot, rows: Rows) -> Iterator[Floats]:
    """(Z, H, W) of each row."""
    slices = (one for batch in snapshot.images(rows) for one in batch[:, 0].cpu().numpy())
    for row in rows.tolist():
        yield np.stack(list(islice(slices, len(snapshot.pool.slices[row]))))


def _each(
    snapshot: Snapshot, rows: Rows, known: dict[int, Result], make: Callable[[Floats], Result]
) -> list[Result]:
    """`make` of each row's image; what is `known` from an earlier part of the batch is not made."""
    missing = np.array([row for row in rows.tolist() if row not in known], dtype=np.int64)
    for row, image in zip(missing.tolist(), _images(snapshot, missing), strict=True):
        known[row] = make(image)
    return [known[row] for row in rows.tolist()]


def _digests(snapshot: Snapshot, rows: Rows) -> Digests:
    """16 bytes of the SHA-256 of what each row's image holds."""
    known: dict[int, bytes] = made_once(snapshot, "digests of images", dict)
    return np.array(_each(snapshot, rows, known, _digest), dtype="S16")


def _digest(image: Floats) -> bytes:
    content = hashlib.sha256(f"{image.shape} {image.dtype.str}".encode())
    content.update(np.ascontiguousarray(image).data)
    return content.digest()[:16]


def _entries(data: bytes) -> NDArray[np.void]:
    """What is kept about one image, by the other's digest; nothing if the file is damaged."""
    whole = len(data) % _KEPT.itemsize == 0
    return np.frombuffer(data if whole else b"", dtype=_KEPT)


def _looked_up(entries: NDArray[np.void], digests: Digests) -> Matrix:
    """(K,) nats of the images with these digests, NaN where none are kept."""
    found = np.full(len(digests), np.nan)
    if len(entries):
        place = np.minimum(np.searchsorted(entries["image"], digests), len(entries) - 1)
        hit = entries["image"][place] == digests
        found[hit] = entries["nats"][place[hit]]
    return found


def _square(left: Digests, right: Digests) -> tuple[NDArray[np.intp], ...]:
    """Where, among rows that are columns as well, row i with column j is row j with column i."""
    names, first = np.unique(right, return_index=True)
    place = np.minimum(np.searchsorted(names, left), len(names) - 1)
    rows = np.flatnonzero(names[place] == left)
    return np.ix_(rows, first[place[rows]])


def _mirrored(square: Matrix) -> Matrix:
    """Where a value is missing, the one across the diagonal."""
    filled: Matrix = np.where(np.isnan(square), square.T, square)
    return filled
