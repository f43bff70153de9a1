"""BestOf: several networks from scratch, of which the one that validates best answers."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alnb.errors import BadInput, ColdStart
from alnb.models.checkpoint import from_bytes, to_bytes
from alnb.protocols import Learner, ignore, never
from alnb.records import FitReport, Step, TrainSet, Unit
from alnb.rng import stream


@dataclass
class BestOf:
    """`networks` copies of `network`, each fitted with a randomness of its own.

    After its fit each copy is scored by `validate`; the first of the best is `chosen`. This is the
    protocol of Vepa et al. (arXiv 2411.15763). The chosen network is a maximum over chance, so the
    mean over all of them belongs beside it: `committee` and `scores` hold them.

    Attributes
    ----------
    network : a learner not fitted yet; it is copied, never fitted itself.
    validate : scores a learner on held-out volumes; higher is better.
    networks : how many.
    answers : "best" answers with the chosen network (M = 1), "all" with every network's
        probabilities (M = networks), as scores of a committee need.
    seed : where given, network k draws from this seed, k and the training set alone, and not from
        the `rng` of the fit; so a fit that was cut off and begun again gives the same networks.
    shelf : where finished networks of an unfinished fit wait; needs `seed`. A fit that was cut off
        goes on with the next network.
    """

    network: Learner
    validate: Callable[[Learner], float] = field(compare=False, repr=False)
    networks: int = 5
    answers: Literal["best", "all"] = "best"
    seed: int | None = None
    shelf: MutableMapping[str, bytes] | None = field(default=None, compare=False, repr=False)
    _fitted: tuple[tuple[Learner, ...], tuple[float, ...]] | None = field(
        default=None, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.networks < 1:
            raise ValueError(f"BestOf needs at least 1 network, not {self.networks}.")
        if self.answers not in ("best", "all"):
            raise ValueError(f"answers is {self.answers!r}; it can be 'best' or 'all'.")
        if self.shelf is not None and self.seed is None:
            raise ValueError("A shelf needs a seed, or no two fits could share a network.")

    @property
    def unit(self) -> Unit:
        return self.network.unit

    @property
    def committee(self) -> tuple[Learner, ...]:
        """Every network of the last fit. ColdStart before it."""
        return self._published()[0]

    @property
    def scores(self) -> tuple[float, ...]:
        """Validation score of every network."""
        return self._published()[1]

    @property
    def chosen(self) -> int:
        """Place of the best score, the first in a tie."""
        return int(np.argmax(self.scores))

    def fit(
        self,
        train: TrainSet,
        *,
        rng: np.random.Generator,
        on_step: Callable[[Step], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> FitReport:
        """Fit and score every network; `stopped` is honoured within one step of the network's fit.

        A fit that was stopped is published only if there is no model yet.
        """
        taught = _digest(train)
        settings = hashlib.sha256(f"{taught} {self.seed} {self.network!r}".encode()).hexdigest()
        self._tidy(settings[:16])
        learners, scores, reports = [], [], []
        for number in range(self.networks):
            key = f"{settings[:16]}-{number}"
            found = self._kept(key)
            if found is None:
                own = self._stream(rng, number, taught)
                told = _scaled(on_step, number, self.networks)
                found = self._train(train, own, told, stopped)
                self._keep(key, *found)
            learner, score, report = found
            if report.steps:
                learners.append(learner)
                scores.append(score)
            reports.append(report)
            if report.stopped:
                break
        return self._publish(tuple(learners), tuple(scores), reports)

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (M, B, C, H, W); M is 1 or `networks`, see `answers`."""
        networks, scores = self._published()
        if self.answers == "best":
            return networks[int(np.argmax(scores))].probs(images)
        return (
            torch.cat([next(iter(network.probs([batch]))) for network in networks])
            for batch in images
        )

    def features(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (B, D): those of the chosen network."""
        return self.committee[self.chosen].features(images)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of network k as ``k.*``, and every validation score as ``scores``."""
        networks, scores = self._published()
        state = {
            f"{number}.{name}": value
            for number, network in enumerate(networks)
            for name, value in network.state_dict().items()
        }
        return state | {"scores": torch.tensor(scores, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Publish stored networks, however many. BadInput if they are of another learner."""
        if "scores" not in state:
            raise BadInput("This checkpoint holds no BestOf: it has no entry 'scores'.")
        scores = tuple(float(value) for value in state["scores"])
        networks = []
        for number in range(len(scores)):
            mine = f"{number}."
            network = copy.deepcopy(self.network)
            network.load_state_dict(
                {name[len(mine) :]: v for name, v in state.items() if name.startswith(mine)}
            )
            networks.append(network)
        self._fitted = tuple(networks), scores

    def _stream(self, rng: np.random.Generator, number: int, taught: str) -> np.random.Generator:
        if self.seed is None:
            return np.random.default_rng(rng.integers(2**63))
        return stream(self.seed, "network", number, taught)

    def _train(
        self,
        train: TrainSet,
        rng: np.random.Generator,
        on_step: Callable[[Step], None],
        stopped: Callable[[], bool],
    ) -> tuple[Learner, float, FitReport]:
        learner = copy.deepcopy(self.network)
        report = learner.fit(train, rng=rng, on_step=on_step, stopped=stopped)
        return learner, self.validate(learner) if report.steps else math.nan, report

    def _keep(self, key: str, learner: Learner, score: float, report: FitReport) -> None:
        if self.shelf is not None and not report.stopped:
            numbers = [score, report.steps, report.loss, report.seconds]
            facts = torch.tensor(numbers, dtype=torch.float64)
            self.shelf[key] = to_bytes(learner.state_dict() | {"shelf": facts})

    def _kept(self, key: str) -> tuple[Learner, float, FitReport] | None:
        """A network that an unfinished fit left on the shelf; None where there is none."""
        if self.shelf is None or key not in self.shelf:
            return None
        try:
            state = from_bytes(self.shelf[key])
            score, steps, loss, seconds = state.pop("shelf").tolist()
            learner = copy.deepcopy(self.network)
            learner.load_state_dict(state)
        except (BadInput, KeyError):
            return None  # damaged: it is trained again
        return learner, score, FitReport(int(steps), loss, seconds)

    def _tidy(self, digest: str) -> None:
        """Take what belongs to an earlier training set off the shelf."""
        for key in [] if self.shelf is None else list(self.shelf):
            if self.shelf is not None and not key.startswith(f"{digest}-"):
                del self.shelf[key]

    def _publish(
        self, networks: tuple[Learner, ...], scores: tuple[float, ...], reports: list[FitReport]
    ) -> FitReport:
        halted = reports[-1].stopped
        notes = [note for report in reports for note in report.notes]
        total = FitReport(
            steps=sum(report.steps for report in reports),
            loss=math.nan,
            seconds=sum(report.seconds for report in reports),
            stopped=halted,
            notes=tuple(notes),
        )
        if not networks or (halted and self._fitted is not None):
            return total
        self._fitted = networks, scores
        told = ", ".join(f"{score:.3f}" for score in scores)
        words = f"Network {self.chosen + 1} of {len(scores)} answers; validation scores {told}."
        return replace(total, loss=reports[self.chosen].loss, notes=(words, *notes))

    def _published(self) -> tuple[tuple[Learner, ...], tuple[float, ...]]:
        if self._fitted is None:
            raise ColdStart("BestOf has learnt nothing yet. Label a few slices, then fit.")
        return self._fitted


def _scaled(on_step: Callable[[Step], None], number: int, networks: int) -> Callable[[Step], None]:
    """Progress of one network as that of them all."""

    def told(step: Step) -> None:
        pace = step.seconds_left / max(1, step.total - step.step)
        total = step.total * networks
        done = step.total * number + step.step
        left = 0.0 if done == total else pace * (total - done)
        on_step(Step(done, total, step.loss, left))

    return told


def _digest(train: TrainSet) -> str:
    """Names a training set by all that it holds."""
    facts = hashlib.sha256(repr((train.classes, train.weight.tolist())).encode())
    for image, target in zip(train.images, train.targets, strict=True):
        for array in (image, target):
            facts.update(repr((array.shape, array.dtype.str)).encode())
            facts.update(np.ascontiguousarray(array).tobytes())
    return facts.hexdigest()
