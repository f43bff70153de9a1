"""The pool as a strategy sees it: lazy, over a session's state, learner and features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput, ColdStart
from alnb.protocols import GradientLearner
from alnb.records import Floats, Pool, Rows, SliceId
from alnb.strategies.common import mean_by_owner
from alnb.strategies.streaming import Running, Sums, needs_of

if TYPE_CHECKING:
    from torch import Tensor

    from alnb.data.cohort import Cohort
    from alnb.protocols import Learner

_BATCH = 16


@dataclass(frozen=True, eq=False)
class PoolSnapshot:
    """A `Snapshot` whose parts are computed when asked for.

    `embed` gives the (N, D) features; `learner` is None until something is fitted; `reveal` says
    that `presence` may use the reference, as a simulated experiment does. With a `doubt` about the
    learner, in words, everything that needs it raises ColdStart, and `refused` says that it did.
    `wanted` gains an entry whenever the learner is needed, whether there is one or not. If
    `coarse`, `reduce` scores on the learner's own grid where that is not the slice's, which saves
    more time than the networks take when slices are larger than it; a sum over the slice then
    counts the grid's pixels.
    """

    pool: Pool
    candidates: Rows
    labelled: Rows
    counts: Rows
    cohort: Cohort
    learner: Learner | None
    embed: Callable[[], Floats]
    reveal: bool = False
    doubt: str = ""
    refused: list[str] = field(default_factory=list)
    wanted: list[bool] = field(default_factory=list)
    rounds: int = 0
    coarse: bool = False

    @property
    def classes(self) -> int:
        """C, background included."""
        return len(self.cohort.classes)

    def features(self) -> Floats:
        """(N, D) embedding of the whole pool."""
        return self.embed()

    def learned(self, rows: Rows) -> Floats:
        """(len(rows), D) of the learner's features; a volume's are the mean over its slices."""
        learner = self._fitted()
        values, owners = [], []
        for owner, batch in self._batches(rows):
            values += [f.double().cpu().numpy() for f in learner.features([batch])]
            owners.append(owner)
        return mean_by_owner(np.concatenate(values), np.concatenate(owners), len(rows))

    def gradients(self, rows: Rows) -> Floats:
        """(len(rows), G) of the learner's last layer; a volume's are the mean over its slices."""
        learner = self._fitted()
        if not isinstance(learner, GradientLearner):
            raise BadInput(
                f"{type(learner).__name__} gives no gradients, on which BADGE rests. Choose "
                "k-means-BALD, which needs features alone, or a learner with a method gradients."
            )
        values, owners = [], []
        for owner, batch in self._batches(rows):
            values += [g.double().cpu().numpy() for g in learner.gradients([batch])]
            owners.append(owner)
        return mean_by_owner(np.concatenate(values), np.concatenate(owners), len(rows))

    def images(self, rows: Rows) -> Iterator[Tensor]:
        """Batches (B, 1, H, W); a batch ends early where the matrix size changes."""
        for _, batch in self._batches(rows):
            yield batch

    def reduce(self, score: Callable[[Tensor], Tensor], rows: Rows) -> Floats:
        """(len(rows), ...) of `score`; a volume's score is the mean over its slices.

        A score that declares what it needs (`alnb.strategies.streaming`) is handed sums over the
        members, one of whom is held at a time. Any other gets the stacked probabilities of a batch.
        """
        learner = self._fitted()
        if not len(rows):
            return np.empty(0)
        owners: list[Rows] = []
        values = [
            value.double().cpu().numpy()
            for value in _scores(learner, score, self._noted(rows, owners), coarse=self.coarse)
        ]
        return mean_by_owner(np.concatenate(values), np.concatenate(owners), len(rows))

    def presence(self) -> NDArray[np.bool_]:
        """(N, C) which classes each row holds."""
        if self.reveal:
            return self._reference_presence()
        from alnb.models.infer import mean_probs

        learner = self._fitted()
        found = np.zeros((len(self.pool), self.classes), dtype=bool)
        owners: list[Rows] = []
        means = mean_probs(learner, self._noted(np.arange(len(self.pool)), owners))
        for place, mean in enumerate(means):
            labels = mean.argmax(1).flatten(1).cpu().numpy()
            for row, seen in zip(owners[place], labels, strict=True):
                found[row, np.unique(seen)] = True
        return found

    def _reference_presence(self) -> NDArray[np.bool_]:
        found = np.zeros((len(self.pool), self.classes), dtype=bool)
        for row, slices in enumerate(self.pool.slices):
            for slice_id in slices:
                mask = self.cohort.reference(slice_id)
                if mask is None:
                    raise ColdStart(
                        f"{slice_id} has no reference mask, so which classes it holds is "
                        "unknown. Fit a model first, or wrap the strategy in WarmStart."
                    )
                known = np.unique(mask)
                found[row, known[known < self.classes]] = True
        return found

    def _fitted(self) -> Learner:
        self.wanted.append(self.learner is not None)
        if self.doubt:
            self.refused.append(self.doubt)
            raise ColdStart(self.doubt)
        if self.learner is None:
            raise ColdStart(
                "No model is trained yet, so nothing can be predicted. Label some slices and "
                "train, or wrap the strategy: WarmStart(Strided(), ...)."
            )
        return self.learner

    def _batches(self, rows: Rows) -> Iterator[tuple[Rows, Tensor]]:
        """Positions within `rows` and their stacked slices, equal sizes together."""
        import torch

        held: list[tuple[int, NDArray[Any]]] = []

        def stacked() -> tuple[Rows, Tensor]:
            batch = torch.from_numpy(np.stack([image for _, image in held])[:, None])
            owners = np.array([position for position, _ in held], dtype=np.int64)
            held.clear()
            return owners, batch

        for position, slice_id in self._slices(rows):
            image = self.cohort.slice_image(slice_id)
            if held and (len(held) == _BATCH or held[0][1].shape != image.shape):
                yield stacked()
            held.append((position, np.asarray(image, dtype=np.float32)))
        if held:
            yield stacked()

    def _noted(self, rows: Rows, owners: list[Rows]) -> Iterator[Tensor]:
        """The batches of `rows`, each of whose owners is noted in `owners` when it is drawn."""
        for owner, batch in self._batches(rows):
            owners.append(owner)
            yield batch

    def _slices(self, rows: Rows) -> Iterator[tuple[int, SliceId]]:
        for position, row in enumerate(rows.tolist()):
            for slice_id in self.pool.slices[row]:
                yield position, slice_id


def _scores(
    learner: Learner, score: Callable[[Tensor], Tensor], images: Iterable[Tensor], *, coarse: bool
) -> Iterator[Tensor]:
    """`score` of each batch, from the members' sums if that is all it needs."""
    from alnb.models.infer import member_log_probs, stacked_probs

    needs = needs_of(score)
    if needs is None:
        yield from map(score, stacked_probs(learner, images, coarse=coarse))
        return
    streamed = cast("Callable[[Sums], Tensor]", score)
    for members in member_log_probs(learner, images, coarse=coarse):
        yield streamed(Running.over(members, needs))
