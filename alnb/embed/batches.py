"""Batches of slices for metric learning: tuples of slices that belong together.

Source: Vepa et al., NeurIPS 2024, arXiv 2411.15763, Algorithm 1.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput
from alnb.records import Rows

if TYPE_CHECKING:
    from alnb.losses.contrastive import Kind

_NARROW_TO_WIDE = ("slice", "volume", "patient")


class GroupBatches:
    """Draws batches of tuples, a tuple being an anchor and one mate for each relation.

    The mates come in the order neighbour in the volume, other slice of the volume, other slice of
    the patient, as far as their kinds are asked for, and repeat no slice of the tuple. Where there
    is none left, the mate is drawn from the volume, then from the patient, and at last the anchor
    itself is repeated: a loss that reads its positives from metadata is not misled.

    The tuples of a batch are of distinct patients, so that each has others to be told from. Without
    any kind there are no tuples, and batches are plain shuffled slices, as SimCLR draws them.

    Parameters
    ----------
    patient, volume, index : (N,) codes, and the place along the axis. Equal volume codes of two
        patients are two volumes.
    kinds : relations whose loss is used: `Weights.kinds`.
    batch : slices in a batch, B; `tuple_size` must divide it.

    Attributes
    ----------
    tuple_size : slices in a tuple: 1 and one for each kind.
    batch : slices in a batch; fewer than asked for where there are not enough patients.
    problems : sentences about what could not be had, each also given as a warning.
    """

    def __init__(
        self, patient: Rows, volume: Rows, index: Rows, kinds: Sequence[Kind], batch: int
    ) -> None:
        patient, volume, index = _columns(patient, volume, index)
        self._kinds = _ordered(kinds)
        self.tuple_size = 1 + len(self._kinds)
        if batch < 1 or batch % self.tuple_size:
            raise BadInput(_does_not_divide(batch, self._kinds))
        self._in_turn, self._ranges = _ranges(patient, volume, index)
        # Without kinds every slice is drawn for itself, as if each were a patient.
        owner = patient if self._kinds else np.arange(len(patient))
        self._owner = np.unique(owner, return_inverse=True)[1]
        self._count = np.bincount(self._owner)
        self._per_batch = min(batch // self.tuple_size, len(self._count))
        self.batch = self._per_batch * self.tuple_size
        self.problems = self._shortages(batch)
        for problem in self.problems:
            warnings.warn(problem, stacklevel=2)

    def __len__(self) -> int:
        """Batches in an epoch: as many as can be filled with distinct patients."""

        def too_many(batches: int) -> bool:
            return bool(np.minimum(self._count, batches).sum() < self._per_batch * batches)

        return bisect_left(range(1, self._count.sum() // self._per_batch + 2), True, key=too_many)

    def tuples(self, rng: np.random.Generator) -> Rows:
        """(N, tuple_size) rows: one tuple per slice, which is its first member."""
        size = len(self._in_turn)
        places = np.arange(size)[:, None]
        for kind in self._kinds:
            wider = [self._ranges[name] for name in _NARROW_TO_WIDE[_NARROW_TO_WIDE.index(kind) :]]
            places = np.column_stack([places, _mate(places, wider, rng)])
        rows = np.empty((size, self.tuple_size), dtype=np.int64)
        rows[self._in_turn] = self._in_turn[places]
        return rows

    def epoch(self, rng: np.random.Generator) -> Iterator[Rows]:
        """Batches of (B,) rows; each `tuple_size` consecutive rows are a tuple. New at every call.

        Every slice is an anchor at most once. Batches draw patients at random, in proportion to
        their tuples that are left, and each patient's tuples in random order; a patient who could
        otherwise not use up the tuples meant for this epoch comes first. So no more tuples are
        left out than must be: with equally many slices per patient less than one batch.

        `rng` is used up to the epoch's end before the first batch is given.
        """
        tuples = self.tuples(rng)
        anchors = self._of_distinct_patients(rng) if self._kinds else self._shuffled(rng)
        return iter(tuples[anchors].reshape(-1, self.batch))

    def _shuffled(self, rng: np.random.Generator) -> Rows:
        """(batches, slices in a batch) rows."""
        size = len(self) * self._per_batch
        return rng.permutation(len(self._owner))[:size].reshape(-1, self._per_batch)

    def _of_distinct_patients(self, rng: np.random.Generator) -> Rows:
        """(batches, tuples in a batch) rows of anchors, those of a batch of distinct patients."""
        batches = len(self)
        left = self._budget(batches, rng)
        queue = np.lexsort((rng.random(len(self._owner)), self._owner))
        start = np.cumsum(self._count) - self._count
        anchors = np.empty((batches, self._per_batch), dtype=np.int64)
        for number in range(batches):
            drawn = self._draw(left, batches - number, rng)
            left[drawn] -= 1
            anchors[number] = queue[start[drawn] + left[drawn]]
        return anchors

    def _budget(self, batches: int, rng: np.random.Generator) -> Rows:
        """How many tuples of each patient this epoch uses: at most one per batch, all filled."""
        budget = np.minimum(self._count, batches)
        surplus = budget.sum() - batches * self._per_batch
        drop = rng.permutation(np.repeat(np.arange(len(budget)), budget))[:surplus]
        trimmed: Rows = budget - np.bincount(drop, minlength=len(budget))
        return trimmed

    def _draw(self, left: Rows, batches: int, rng: np.random.Generator) -> Rows:
        """Distinct patients for the next of `batches` batches."""
        # The smallest of exponential times with these rates: a draw without replacement.
        time = np.full(len(left), np.inf)
        np.divide(rng.exponential(size=len(left)), left, out=time, where=left > 0)
        time[left == batches] = -1.0
        return np.argpartition(time, self._per_batch - 1)[: self._per_batch]

    def _shortages(self, batch: int) -> tuple[str, ...]:
        what = "patient" if self._kinds else "slice"
        there = len(self._count)
        found = []
        if self.batch < batch:
            found.append(
                f"A batch of {batch} needs {batch // self.tuple_size} distinct {what}s and there "
                f"{'is' if there == 1 else 'are'} {there}: batches hold {self.batch} slices."
            )
        if there == 1:
            found.append(
                f"All slices are of one {what}, so that there is no other to tell it from; the "
                f"embedding will learn little. Add {what}s."
            )
        return tuple(found)


def _columns(*columns: Rows) -> list[Rows]:
    arrays = [np.asarray(column) for column in columns]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 1:
        raise BadInput(f"patient, volume, index have shapes {sorted(shapes)}; each must be (N,).")
    if not arrays[0].size:
        raise BadInput("There are no slices to draw batches from; give at least one.")
    return [array.astype(np.int64) for array in arrays]


def _ordered(kinds: Sequence[Kind]) -> tuple[str, ...]:
    if len(set(kinds)) < len(kinds) or not set(kinds) <= set(_NARROW_TO_WIDE):
        raise BadInput(
            f"kinds are {tuple(kinds)}; each must be one of {', '.join(_NARROW_TO_WIDE)}, once."
        )
    return tuple(kind for kind in _NARROW_TO_WIDE if kind in kinds)


def _does_not_divide(batch: int, kinds: Sequence[str]) -> str:
    size = 1 + len(kinds)
    lower = batch - batch % size
    fits = f"{lower} or {lower + size}" if lower >= size else f"{size}"
    mates = f"an anchor and a mate for each of {', '.join(kinds)}" if kinds else "single slices"
    return f"A batch of {batch} does not divide into tuples of {size} ({mates}); use {fits}."


def _ranges(patient: Rows, volume: Rows, index: Rows) -> tuple[Rows, dict[str, tuple[Rows, Rows]]]:
    """Rows sorted so that every group is a range of places, and per kind each place's range."""
    in_turn = np.lexsort((index, volume, patient))
    patient, volume, index = patient[in_turn], volume[in_turn], index[in_turn]
    next_patient = np.append(True, np.diff(patient) != 0)
    next_volume = next_patient | np.append(True, np.diff(volume) != 0)
    # One ascending key for all volumes, with gaps too wide for a neighbour to reach across.
    index = index - index.min()
    key = np.cumsum(next_volume) * (index.max() + 3) + index
    near = np.searchsorted(key, key - 1), np.searchsorted(key, key + 1, side="right")
    return in_turn, {
        "slice": near,
        "volume": _runs(next_volume),
        "patient": _runs(next_patient),
    }


def _runs(begins: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """(start, stop) of each place's run, given where runs begin."""
    start = np.flatnonzero(begins)
    stop = np.append(start[1:], len(begins))
    which = np.cumsum(begins) - 1
    return start[which], stop[which]


def _mate(taken: Rows, ranges: Sequence[tuple[Rows, Rows]], rng: np.random.Generator) -> Rows:
    """One more place per row of `taken` (N, t): from its first range with a place not taken.

    Every free place of that range is equally likely; without any, the row's anchor. `ranges` are
    nested, and from call to call begin ever wider. So the places taken lie all in the range that is
    drawn from: one beyond it was drawn only because the range had been used up.
    """
    anchor = taken[:, 0]
    first, free = np.zeros((2, len(taken)), dtype=np.int64)
    for start, stop in reversed(ranges):
        left = stop - start - taken.shape[1]
        first, free = np.where(left > 0, (start, left), (first, free))
    # Counts the free places only: step over each taken one at or below, in ascending order.
    place = first + rng.integers(0, np.maximum(free, 1))
    for column in np.sort(taken, axis=1).T:
        place += column <= place
    mate: Rows = np.where(free > 0, place, anchor)
    return mate
