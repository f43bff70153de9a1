"""The plugs of alnb: what a strategy sees and what strategy, learner, encoder and oracle give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from alnb.records import (
    Annotation,
    FitReport,
    Floats,
    Pool,
    Rows,
    Selection,
    SliceId,
    Step,
    TrainSet,
    Unit,
)

if TYPE_CHECKING:
    from torch import Tensor


def ignore(_: Any) -> None:
    """Take a progress report and do nothing with it."""


def never() -> bool:
    """Answer that nobody asked to stop."""
    return False


class Snapshot(Protocol):
    """The pool as it stood when the query began; nothing is computed until asked for.

    Attributes
    ----------
    pool : the whole pool.
    candidates : (K,) rows that may be chosen, ascending.
    labelled : rows with a finished answer, ascending.
    counts : (N,) how often each row has been chosen so far.
    rounds : how many queries were made before this one.
    classes : C, background included.
    """

    @property
    def pool(self) -> Pool: ...
    @property
    def candidates(self) -> Rows: ...
    @property
    def labelled(self) -> Rows: ...
    @property
    def counts(self) -> Rows: ...
    @property
    def rounds(self) -> int: ...
    @property
    def classes(self) -> int: ...

    def features(self) -> Floats:
        """(N, D) embedding of the whole pool, as the session's encoder gives it."""
        ...

    def learned(self, rows: Rows) -> Floats:
        """(len(rows), D) pooled bottleneck features of the fitted learner, of `rows`.

        They change with every training. ColdStart if nothing is fitted.
        """
        ...

    def gradients(self, rows: Rows) -> Floats:
        """(len(rows), G) gradients of the fitted learner's loss in its last layer, of `rows`.

        The loss is the cross-entropy to the learner's own labels. ColdStart if nothing is fitted,
        BadInput if the learner is no `GradientLearner`.
        """
        ...

    def images(self, rows: Rows) -> Iterator[Tensor]:
        """Batches (B, 1, H, W) float32 of `rows`, in order."""
        ...

    def reduce(self, score: Callable[[Tensor], Tensor], rows: Rows) -> Floats:
        """(len(rows), ...) of `score` over probabilities, streamed so that maps never pile up.

        `score` maps (M, B, C, H, W), summing to 1 over C, to (B,) or (B, ...); of a volume, B are
        its slices, also where a learner of volumes predicts them, and its score is the mean over
        them. ColdStart if nothing is fitted.
        """
        ...

    def presence(self) -> NDArray[np.bool_]:
        """(N, C) which classes each row holds.

        From the reference in a simulated experiment, else from the model's predictions.
        ColdStart if there is neither.
        """
        ...


@runtime_checkable
class Strategy(Protocol):
    """Chooses what to ask next. Contract: `alnb.testing.check_strategy`."""

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n distinct rows out of `snapshot.candidates`; the same rng state gives the same rows."""
        ...


@runtime_checkable
class Learner(Protocol):
    """One net, an ensemble or a committee. Contract: `alnb.testing.check_learner`."""

    @property
    def unit(self) -> Unit:
        """What one image is: "slice" gets (B, 1, H, W), "volume" (B, 1, Z, H, W)."""
        ...

    def fit(
        self,
        train: TrainSet,
        *,
        rng: np.random.Generator,
        on_step: Callable[[Step], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> FitReport:
        """Learn from `train`; `stopped` is honoured within one step."""
        ...

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (M, B, C, H, W), summing to 1 over C. ColdStart before the first fit.

        A learner of volumes maps (B, 1, Z, H, W) to (M, B, C, Z, H, W).
        """
        ...

    def features(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (B, D) pooled bottleneck features. ColdStart before the first fit.

        A learner of volumes takes (B, 1, Z, H, W).
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that `probs` depends on, as plain tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Become the learner whose `state_dict` this was."""
        ...


@runtime_checkable
class GradientLearner(Protocol):
    """What a learner may offer besides: an embedding of slices that says what it would learn."""

    def gradients(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (B, G), see `Snapshot.gradients`. ColdStart before the first fit."""
        ...


class Encoder(Protocol):
    """Turns slices into feature rows without labels."""

    @property
    def name(self) -> str:
        """Names the encoder and its settings; part of the key of cached features."""
        ...

    def __call__(self, images: Iterable[Floats]) -> Floats:
        """(H, W) arrays of any sizes -> (N, D) float32."""
        ...


@runtime_checkable
class Oracle(Protocol):
    """Answers a query. Contract: `alnb.testing.check_oracle`."""

    def annotate(self, slice_id: SliceId) -> tuple[Annotation, dict[str, NDArray[np.uint8]]]:
        """The answer, and the label maps (by SHA-256) that its content names."""
        ...
