"""Committees: several networks, or one network thinned in several ways, that may disagree."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, get_args, runtime_checkable

import numpy as np
import torch

from alnb.errors import BadInput, ColdStart
from alnb.models.course import Course
from alnb.models.dropout import RATES, Fixed
from alnb.models.infer import member_log_probs
from alnb.models.learners import SingleNet
from alnb.models.members import Engine, choose, fit_together
from alnb.models.network import Network, log_probs, probs
from alnb.protocols import GradientLearner, Learner, ignore, never
from alnb.records import FitReport, Step, TrainSet, Unit
from alnb.rng import stream

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class _TakesTurns(Protocol):
    """A learner whose fit can be taken in turns."""

    def course(
        self, train: TrainSet, *, rng: np.random.Generator, like: Course | None = None
    ) -> Course: ...


@runtime_checkable
class _OfNetworks(Protocol):
    """A learner that predicts by networks which may share the preparation of a batch."""

    def networks(self) -> Sequence[Network]: ...


@dataclass
class DeepEnsemble:
    """Copies of one learner, each with its own initial weights, batches and augmentation.

    Member i of a fit is, bit for bit, `base` fitted with the i-th sub-stream of the fit's rng, so
    further members leave the others as they are. Members take turns of 1, 2, 4 and so on up to
    `turn` steps: stopped at any time, they have learnt nearly equally long. By the rules of
    `SingleNet`, what was stopped is published when it continued an earlier committee; or when there
    is none yet and every member has taken a step. A `base` without `course` is fitted member by
    member; stopped before the last one has learnt something, it leaves the committee as it was.

    A fit takes `members` times the time of `base`, which decides the steps of each member.

    Attributes
    ----------
    members : how many, M.
    base : the learner that members are copies of; not yet fitted, as they would begin alike.
    turn : largest number of steps in a turn.
    engine : "loop" trains in turns, as above. "grouped" and "vmap" train all members in step, as
        one wide network, with the same numbers up to rounding; "auto" takes what is fastest on this
        machine, and the report says what that was. See `alnb.models.members`.

    Source: Lakshminarayanan et al., NeurIPS 2017, arXiv 1612.01474 (without its adversarial
    examples); for queries: Beluch et al., CVPR 2018.
    """

    members: int = 5
    base: Learner = field(default_factory=SingleNet)
    turn: int = 20
    engine: Engine = "loop"
    _fitted: tuple[Learner, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.members < 1 or self.turn < 1:
            raise ValueError(
                f"An ensemble of {self.members} members in turns of {self.turn} steps; both "
                "numbers must be at least 1."
            )
        if self.engine not in get_args(Engine):
            known = ", ".join(f"'{name}'" for name in get_args(Engine))
            raise ValueError(f"engine is {self.engine!r}; it can be {known}.")

    @property
    def unit(self) -> Unit:
        """That of `base`."""
        return self.base.unit

    def fit(
        self,
        train: TrainSet,
        *,
        rng: np.random.Generator,
        on_step: Callable[[Step], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> FitReport:
        """Fit every member; progress and report count the steps of all of them together."""
        seed = int(rng.integers(2**63 - 1))
        streams = [stream(seed, "member", number) for number in range(self.members)]
        learners = copy.deepcopy(self._fitted) or self._copies()
        run = _Run(learners, train, streams, on_step, stopped)
        if all(isinstance(learner, _TakesTurns) for learner in learners):
            courses = run.courses()
            engine, note = choose(self.engine, courses)
            cold = not self._fitted
            if engine == "loop":
                reports, whole = run.in_turns(courses, self.turn, cold=cold)
            else:
                reports, whole = run.in_step(courses, engine, cold=cold)
            run.notes += [note] if note else []
        elif self.engine not in ("loop", "auto"):
            raise BadInput(
                f"Members cannot be trained with engine {self.engine!r}: "
                f"{type(self.base).__name__} has no method course. Take 'loop'."
            )
        else:
            reports, whole = run.one_by_one()
        return self._publish(learners, run.report(reports), whole=whole)

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (M, B, C, H, W), the members of `base`'s members one after another.

        For more than a few slices prefer `log_probs`, which holds one member at a time.
        """
        fitted = self._published()
        networks = _networks(fitted)
        if networks is not None:
            return probs(networks, images)
        return (
            torch.cat([next(iter(learner.probs([batch]))) for learner in fitted])
            for batch in images
        )

    def log_probs(
        self, images: Iterable[Tensor], *, coarse: bool = False
    ) -> Iterator[Iterator[Tensor]]:
        """See `alnb.models.infer.member_log_probs`."""
        fitted = self._published()
        networks = _networks(fitted)
        if networks is not None:
            return log_probs(networks, images, coarse=coarse)
        return (
            itertools.chain.from_iterable(
                members
                for learner in fitted
                for members in member_log_probs(learner, [batch], coarse=coarse)
            )
            for batch in images
        )

    def features(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (B, M D): side by side, since members' features have no common axes."""
        fitted = self._published()
        return (
            torch.cat([next(iter(learner.features([batch]))) for learner in fitted], 1)
            for batch in images
        )

    def gradients(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (B, M G), side by side. BadInput if `base` has none."""
        fitted = self._published()
        able = [learner for learner in fitted if isinstance(learner, GradientLearner)]
        if len(able) < len(fitted):
            raise BadInput(
                f"The members are {type(self.base).__name__} and give no gradients. Choose a "
                "strategy that needs none, or a base with a method gradients."
            )
        return (
            torch.cat([next(iter(learner.gradients([batch]))) for learner in able], 1)
            for batch in images
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The states of the members, as ``0.*``, ``1.*`` and so on."""
        return {
            f"{number}.{name}": value
            for number, learner in enumerate(self._published())
            for name, value in learner.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Publish a stored committee. BadInput if it has another number of members."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            number, _, rest = name.partition(".")
            parts.setdefault(number, {})[rest] = value
        numbers = [str(number) for number in range(self.members)]
        if set(parts) != set(numbers):
            found = sum(number.isdigit() for number in parts)
            raise BadInput(
                f"This checkpoint holds {found or 'no'} members, this learner has "
                f"members={self.members}. Build the learner with the checkpoint's value."
            )
        learners = self._copies()
        for number, learner in zip(numbers, learners, strict=True):
            learner.load_state_dict(parts[number])
        self._fitted = learners

    def _copies(self) -> tuple[Learner, ...]:
        return tuple(copy.deepcopy(self.base) for _ in range(self.members))

    def _published(self) -> tuple[Learner, ...]:
        if not self._fitted:
            raise ColdStart("DeepEnsemble has learnt nothing yet. Label a few slices, then fit.")
        return self._fitted

    def _publish(
        self, learners: tuple[Learner, ...], report: FitReport, *, whole: bool
    ) -> FitReport:
        if whole:
            self._fitted = learners
            return report
        kept = "the committee before it is kept" if self._fitted else "there is no committee yet"
        note = f"Stopped after {report.steps} steps of all members together: {kept}."
        # steps that nothing is left of are none
        steps = report.steps if self._fitted else 0
        return replace(report, steps=steps, notes=(*report.notes, note))


@dataclass
class MCDropout:
    """One network that is thinned in `passes` ways, each of which counts as a member.

    Only dropout is on during a pass, batch norm stays as it predicts. A pass drops the same values
    in every slice, so it is a fixed function of the image: a slice scored twice has one score.

    Attributes
    ----------
    passes : how many, M.
    base : a network with dropout rates.

    Source: Gal and Ghahramani, ICML 2016, arXiv 1506.02142.
    """

    passes: int = 10
    base: SingleNet = field(default_factory=lambda: SingleNet(dropout=RATES))

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"{self.passes} passes; at least 1 is needed.")
        if not any(self.base.dropout):
            raise ValueError(
                "This network drops nothing, so all passes would be equal. "
                "Build it with rates: SingleNet(dropout=alnb.models.dropout.RATES)."
            )

    @property
    def unit(self) -> Unit:
        """That of `base`."""
        return self.base.unit

    def fit(
        self,
        train: TrainSet,
        *,
        rng: np.random.Generator,
        on_step: Callable[[Step], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> FitReport:
        """As `SingleNet.fit`, with dropout; the passes' masks are drawn from `rng` as well."""
        return self.base.fit(train, rng=rng, on_step=on_step, stopped=stopped)

    def course(
        self, train: TrainSet, *, rng: np.random.Generator, like: Course | None = None
    ) -> Course:
        """As `SingleNet.course`."""
        return self.base.course(train, rng=rng, like=like)

    def networks(self) -> tuple[Network, ...]:
        """The published network, thinned in `passes` ways. ColdStart if there is none."""
        return tuple(
            replace(network, drops=Fixed(network.model.masks, number))
            for network in self.base.networks()
            for number in range(self.passes)
        )

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (M, B, C, H, W) float32 at the images' own size, summing to 1 over C.

        For more than a few slices prefer `log_probs`, which holds one pass at a time.
        """
        return probs(self.networks(), images)

    def log_probs(
        self, images: Iterable[Tensor], *, coarse: bool = False
    ) -> Iterator[Iterator[Tensor]]:
        """See `alnb.models.infer.member_log_probs`."""
        return log_probs(self.networks(), images, coarse=coarse)

    def features(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """Those of `base`, which drops nothing."""
        return self.base.features(images)

    def gradients(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """Those of `base`, which drops nothing."""
        return self.base.gradients(images)

    def state_dict(self) -> dict[str, Tensor]:
        """That of `base`, the seed of the masks included."""
        return self.base.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Publish a stored model, see `SingleNet`."""
        self.base.load_state_dict(state)


def _networks(learners: Sequence[Learner]) -> list[Network] | None:
    """The networks of all learners in order; None if one of them predicts by other means."""
    if not all(isinstance(learner, _OfNetworks) for learner in learners):
        return None
    able = [learner for learner in learners if isinstance(learner, _OfNetworks)]
    return [network for learner in able for network in learner.networks()]


class _Run:
    """State of one fit of an ensemble: who is at it, how far all are, and whether to stop."""

    def __init__(
        self,
        learners: Sequence[Learner],
        train: TrainSet,
        streams: Sequence[np.random.Generator],
        on_step: Callable[[Step], None],
        stopped: Callable[[], bool],
    ) -> None:
        self.learners, self.train, self.streams = learners, train, streams
        self.on_step, self.stopped = on_step, stopped
        self.halted = False
        self.notes: list[str] = []
        self.started, self.first = time.monotonic(), 0.0
        self.steps = [0] * len(learners)
        self.losses = [float("nan")] * len(learners)

    def courses(self) -> list[Course]:
        """A course of each member, over the same training set."""
        courses: list[Course] = []
        for learner, rng in zip(self.learners, self.streams, strict=True):
            assert isinstance(learner, _TakesTurns), "fit has looked"
            like = courses[0] if courses else None
            courses.append(learner.course(self.train, rng=rng, like=like))
        return courses

    def in_turns(
        self, courses: Sequence[Course], turn: int, *, cold: bool
    ) -> tuple[list[FitReport], bool]:
        """Reports of the members, and whether they make a committee. `cold`: there is none yet."""
        for steps in _doubling(turn):
            for number, course in enumerate(courses):
                if not course.over and not self.halted:
                    course.advance(steps, on_step=self.tell(number), stopped=self.asked)
            if self.halted or all(course.over for course in courses):
                break
        if not self._useful(courses, cold=cold):
            return [course.report for course in courses], False
        # whose turn never came keeps the weights that it went on from
        begun = [course for course in courses if course.report.steps or not self.halted]
        return [course.end() for course in begun], True

    def in_step(
        self, courses: Sequence[Course], engine: Engine, *, cold: bool
    ) -> tuple[list[FitReport], bool]:
        """The same with all members at once."""

        def step(taken: Step) -> None:
            self.steps, self.losses = [taken.step] * len(courses), [taken.loss] * len(courses)
            self.on_step(taken)

        report = fit_together(courses, engine, on_step=step, stopped=self.asked)
        self.notes += report.notes
        if not self._useful(courses, cold=cold):
            return [course.report for course in courses], False
        return [course.end() for course in courses], True

    def _useful(self, courses: Sequence[Course], *, cold: bool) -> bool:
        """Whether what was learnt makes a committee."""
        if not self.halted:
            return True
        learnt = [course.report.steps > 0 for course in courses]
        return all(learnt) if cold else any(learnt) and all(course.warm for course in courses)

    def one_by_one(self) -> tuple[list[FitReport], bool]:
        """The same for learners that cannot take turns."""
        reports = []
        for number, (learner, rng) in enumerate(zip(self.learners, self.streams, strict=True)):
            tell = self.tell(number)
            reports.append(learner.fit(self.train, rng=rng, on_step=tell, stopped=self.asked))
            if self.halted:
                break
        whole = len(reports) == len(self.learners) and all(r.steps for r in reports)
        return reports, whole

    def asked(self) -> bool:
        """Whether to stop; once asked, so it stays."""
        self.halted = self.halted or self.stopped()
        return self.halted

    def tell(self, number: int) -> Callable[[Step], None]:
        """Turns a member's progress into that of all."""

        def step(taken: Step) -> None:
            self.steps[number], self.losses[number] = taken.step, taken.loss
            done, total = sum(self.steps), taken.total * len(self.learners)
            # the first step also pays for kernel selection and says nothing about the others
            now = time.monotonic()
            self.first = self.first or now
            pace = (now - self.first) / (done - 1) if done > 1 else float("nan")
            self.on_step(Step(done, total, self.loss, pace * (total - done)))

        return step

    @property
    def loss(self) -> float:
        """Mean of the last losses of those members that have begun."""
        known = [loss for loss, steps in zip(self.losses, self.steps, strict=True) if steps]
        return sum(known) / len(known) if known else float("nan")

    def report(self, reports: Sequence[FitReport]) -> FitReport:
        """That of the whole fit."""
        notes = [
            f"Member {number}: {note}"
            for number, report in enumerate(reports, start=1)
            for note in report.notes
        ]
        seconds = time.monotonic() - self.started
        steps = sum(report.steps for report in reports)
        return FitReport(steps, self.loss, seconds, self.halted, (*self.notes, *notes))


def _doubling(largest: int) -> Iterator[int]:
    """1, 2, 4 and so on up to `largest`, then `largest` for ever."""
    size = 1
    while size < largest:
        yield size
        size *= 2
    yield from itertools.repeat(largest)
