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
    from alnb.models.infer import Predictor
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

    A learner of volumes predicts each volume as a whole, once per call. What it says of a slice of
    a slice pool is that slice of its volume's prediction; its features and gradients are of the
    volume, the same for all slices of it.
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
        from alnb.models.infer import in_slices

        learner = self._fitted()
        return self._means(in_slices(learner).features, learner, rows)

    def gradients(self, rows: Rows) -> Floats:
        """(len(rows), G) of the learner's last layer; a volume's are the mean over its slices."""
        from alnb.models.infer import in_slices

        learner = self._fitted()
        if not isinstance(learner, GradientLearner):
            raise BadInput(
                f"{type(learner).__name__} gives no gradients, on which BADGE rests. Choose "
                "k-means-BALD, which needs features alone, or a learner with a method gradients."
            )
        sliced = cast("GradientLearner", in_slices(learner))
        return self._means(sliced.gradients, learner, rows)

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
        return self._means(
            lambda images: scored(learner, score, images, coarse=self.coarse), learner, rows
        )

    def presence(self) -> NDArray[np.bool_]:
        """(N, C) which classes each row holds."""
        if self.reveal:
            return self._reference_presence()
        from alnb.models.infer import mean_probs

        learner = self._fitted()
        found = np.zeros((len(self.pool), self.classes), dtype=bool)
        owners: list[Rows] = []
        means = mean_probs(learner, self._noted(learner, np.arange(len(self.pool)), owners))
        for place, mean in enumerate(means):
            labels = mean.argmax(1).flatten(1).cpu().numpy()
            for row, seen in zip(owners[place], labels, strict=True):
                if row >= 0:
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

    def _volumes(self, learner: Learner, rows: Rows) -> Iterator[tuple[Rows, Tensor]]:
        """As `_batches`, but each volume of which `rows` want a slice as a whole.

        Slices that no row wants belong to -1. The rows are distinct.
        """
        from alnb.models.infer import batches

        wanted: dict[str, dict[int, int]] = {}
        for position, slice_id in self._slices(rows):
            wanted.setdefault(slice_id.volume, {})[slice_id.index] = position
        for name, owner in wanted.items():
            image = self.cohort.volumes[name].image()
            owners = np.array([owner.get(index, -1) for index in range(len(image))], dtype=np.int64)
            for batch in batches(learner, image):
                yield owners, batch

    def _noted(self, learner: Learner, rows: Rows, owners: list[Rows]) -> Iterator[Tensor]:
        """What `learner` is shown for `rows`; each batch's owners are noted when it is drawn."""
        shown = self._batches(rows) if learner.unit == "slice" else self._volumes(learner, rows)
        for owner, batch in shown:
            owners.append(owner)
            yield batch

    def _means(
        self,
        give: Callable[[Iterable[Tensor]], Iterator[Tensor]],
        learner: Learner,
        rows: Rows,
    ) -> Floats:
        """(len(rows), ...) means over each row's slices of what `give` makes of batches."""
        once, place = np.unique(rows, return_inverse=True)
        if len(once) < len(rows):
            return self._means(give, learner, once)[place]
        owners: list[Rows] = []
        given = give(self._noted(learner, rows, owners))
        values = np.concatenate([value.double().cpu().numpy() for value in given])
        owner = np.concatenate(owners)
        if (owner < 0).any():
            values, owner = values[owner >= 0], owner[owner >= 0]
        return mean_by_owner(values, owner, len(rows))

    def _slices(self, rows: Rows) -> Iterator[tuple[int, SliceId]]:
        for position, row in enumerate(rows.tolist()):
            for slice_id in self.pool.slices[row]:
                yield position, slice_id


def scored(
    learner: Predictor,
    score: Callable[[Tensor], Tensor],
    images: Iterable[Tensor],
    *,
    coarse: bool = False,
) -> Iterator[Tensor]:
    """`score` of each batch, (B,) or (B, ...), from the members' sums if that is all it needs.

    images : slices, (B, 1, H, W); for a learner of volumes each batch is one volume, see
        `alnb.models.infer.batches`.
    """
    from alnb.models.infer import in_slices, member_log_probs, stacked_probs

    learner, needs = in_slices(learner), needs_of(score)
    if needs is None:
        yield from map(score, stacked_probs(learner, images, coarse=coarse))
        return
    streamed = cast("Callable[[Sums], Tensor]", score)
    for members in member_log_probs(learner, images, coarse=coarse):
        yield streamed(Running.over(members, needs))
