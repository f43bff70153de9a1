"""A committee of networks that are particles of one posterior: they learn together by SVGD."""

from __future__ import annotations

import math
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from torch import Tensor

from alnb.errors import ColdStart
from alnb.models.augment import Augment
from alnb.models.augment3d import VolumeAugment
from alnb.models.committee import DeepEnsemble
from alnb.models.course import Course, Loss
from alnb.models.fit import Recipe, fit
from alnb.models.learners import SingleNet
from alnb.models.members import KINDS, Engine, choose
from alnb.models.particles import Moment, Over, Particles, Rule, from_tensor, to_tensor
from alnb.models.svgd import Stein
from alnb.models.volume_net import VolumeNet
from alnb.protocols import ignore, never
from alnb.records import FitReport, Step, TrainSet, Unit
from alnb.rng import stream

if TYPE_CHECKING:
    from alnb.models.network import Member

__all__ = ["Moment", "SVGDCommittee", "from_scratch", "volumes_from_scratch"]

Base = SingleNet | VolumeNet

PLAIN = Recipe(rate=1e-3, decay=0.0, average=0.0, schedule="constant", optimiser="adam")
"""1500 steps of this are what is known of the published training."""

INERT = 0.1
"""A push below this share of the climb is reported."""
FEWEST = 20
"""Least steps between two records, so that records of a small training set cost little."""


def from_scratch(**settings: Any) -> SingleNet:
    """The network of the published committee, as far as it is known, in 2D.

    1500 steps of Adam at 1e-3 with batches of 8, each fit from new weights, without augmentation,
    prior, average of weights or assumption on what nobody labelled. `settings` replace these.
    """
    known = SingleNet(
        steps=1500,
        start="scratch",
        window=False,
        far_background=False,
        near_background=0.0,
        augment=Augment(share=0.0),
        recipe=PLAIN,
    )
    return replace(known, **settings)


def volumes_from_scratch(**settings: Any) -> VolumeNet:
    """As `from_scratch`, in 3D: whole volumes on a grid of 64³."""
    known = VolumeNet(
        size=(64, 64, 64),
        steps=1500,
        start="scratch",
        augment=VolumeAugment(share=0.0),
        recipe=PLAIN,
    )
    return replace(known, **settings)


@dataclass
class SVGDCommittee:
    """Networks that sample the posterior of their weights by Stein variational gradient descent.

    Member i starts and draws as member i of `DeepEnsemble` would with the same rng. In each step,
    every member finds the gradient of its own batch; these are clipped one by one, the Gaussian
    prior of `Recipe.decay` is added, and what the particles do to each other turns them into the
    directions that the optimiser takes. So a fit takes the time of M single ones and a little more.

    A fit that was stopped is published by the rules of `DeepEnsemble`. Out of memory halves the
    batch of all members. A step counts once, although all members take it.

    Attributes
    ----------
    members : how many particles, M. One is plain training.
    base : the network of each and how it is trained, of slices or of volumes; not yet fitted. Its
        weight decay, in either kind of Adam, is a Gaussian prior inside the gradient.
    likelihood : see `alnb.losses.log_dice`; None takes -`base.loss` for ln p.
    stein : bandwidth, hybrid drive and scale of the push.
    kernel : `Over`. In function space members push each other's predictions apart, each by its own
        Jacobian, which takes another, small pass per step.
    control : "ensemble" leaves out all that acts between the particles: a deep ensemble with the
        same beginnings and batches.
    same_batches : all members see the first one's batches.
    engine : how members run, see `alnb.models.members`: "loop" one after another, "grouped" and
        "vmap" all at once, with the same numbers up to rounding, "auto" whatever is fastest here.
        None is "auto" on a GPU and "loop" on a CPU, where activations of one member at a time stay
        in the caches.
    probe : training images on which predictions are compared.
    every : steps from one `Moment` to the next; None is an epoch, or `FEWEST` if that is more. 1
        looks at the particles before every step, at the cost of predicting the probe as often.
    diagnostics : the moments of the published fit; `state_dict` keeps them.

    Source: Nath et al., IEEE TMI 2021, arXiv 2101.02323; Liu and Wang, NeurIPS 2016. See
    `alnb.models.svgd` for what to expect of the push between networks.
    """

    members: int = 5
    base: Base = field(default_factory=from_scratch)
    likelihood: str | None = "neg_log_dice_loss"
    stein: Stein = field(default_factory=Stein)
    kernel: Over = "global"
    control: Literal["ensemble"] | None = None
    same_batches: bool = False
    engine: Engine | None = None
    probe: int = 4
    every: int | None = None
    diagnostics: tuple[Moment, ...] = field(default=(), init=False, repr=False, compare=False)
    _fitted: tuple[Base, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.members, self.probe, 1 if self.every is None else self.every) < 1:
            raise ValueError(
                f"A committee of {self.members} particles, a probe of {self.probe} images, a "
                f"record every {self.every} steps; each number must be at least 1."
            )
        if self.kernel not in get_args(Over):
            known = ", ".join(f"'{name}'" for name in get_args(Over))
            raise ValueError(f"kernel is {self.kernel!r}; it can be {known}.")
        if self.control not in (None, "ensemble"):
            raise ValueError(f"control is {self.control!r}; it can be None or 'ensemble'.")
        if self.engine is not None and self.engine not in get_args(Engine):
            known = ", ".join(f"'{name}'" for name in get_args(Engine))
            raise ValueError(f"engine is {self.engine!r}; it can be None, {known}.")
        if self.likelihood is not None:
            _minus_log(self.likelihood)  # refuses what it does not know

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
        """Learn from slices (H, W) of any sizes; `stopped` is honoured within one step.

        A step that is not finite for any member ends the fit for all, with the weights from before.
        ColdStart if no pixel is labelled. FloatingPointError if it diverges before its first step.
        """
        started, seed = time.monotonic(), int(rng.integers(2**63 - 1))
        courses: list[Course] = []
        learners = self._copies()
        for number, learner in enumerate(learners):
            like = courses[0] if courses else None
            own = stream(seed, "member", number)
            courses.append(learner.course(train, rng=own, like=like))
        report, seen = self._together(courses, on_step, stopped)
        report = replace(report, seconds=time.monotonic() - started)
        for course in courses:
            course.report, course.over = report, True
        warm = all(course.warm for course in courses)
        if report.stopped and not (report.steps and (warm or not self._fitted)):
            kept = "the committee before it is kept" if self._fitted else "there is none yet"
            note = f"Stopped after {report.steps} steps of all members: {kept}."
            steps = report.steps if self._fitted else 0
            return replace(report, steps=steps, notes=(*report.notes, note))
        for course in courses:
            course.end()
        self._fitted, self.diagnostics = learners, seen
        return report

    def networks(self) -> tuple[Member, ...]:
        """The published networks, one per member. ColdStart if there are none."""
        return tuple(network for learner in self._published() for network in learner.networks())

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, *S) -> (M, B, C, *S) float32, summing to 1 over C.

        For more than a few slices prefer `log_probs`, which holds one member at a time.
        """
        return self._ensemble().probs(images)

    def log_probs(
        self, images: Iterable[Tensor], *, coarse: bool = False
    ) -> Iterator[Iterator[Tensor]]:
        """See `alnb.models.infer.member_log_probs`."""
        return self._ensemble().log_probs(images, coarse=coarse)

    def features(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (B, M D): side by side, as of a `DeepEnsemble`."""
        return self._ensemble().features(images)

    def gradients(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (B, M G), side by side. BadInput if the members are of volumes."""
        return self._ensemble().gradients(images)

    def state_dict(self) -> dict[str, Tensor]:
        """The states of the members, ``0.*``, ``1.*`` and so on, and ``diagnostics``, if any."""
        state = self._ensemble().state_dict()
        return state | ({"diagnostics": to_tensor(self.diagnostics)} if self.diagnostics else {})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Publish a stored committee. BadInput if it has another number of members."""
        ensemble = DeepEnsemble(self.members, self._net())
        ensemble.load_state_dict({n: v for n, v in state.items() if n != "diagnostics"})
        self._fitted = tuple(net for net in ensemble._fitted if isinstance(net, Base))
        self.diagnostics = from_tensor(state["diagnostics"]) if "diagnostics" in state else ()

    def _net(self) -> Base:
        """`base`, unfitted, with the loss that the likelihood says."""
        loss = self.base.loss if self.likelihood is None else _minus_log(self.likelihood)
        return replace(self.base, loss=loss)

    def _copies(self) -> tuple[Base, ...]:
        """Learners of a fit, with the models that a warm one goes on from."""
        copies = tuple(self._net() for _ in range(self.members))
        for learner, before in zip(copies, self._fitted, strict=False):
            learner._model = before._model
        return copies

    def _published(self) -> tuple[Base, ...]:
        if not self._fitted:
            raise ColdStart("SVGDCommittee has learnt nothing yet. Label a few slices, then fit.")
        return self._fitted

    def _ensemble(self) -> DeepEnsemble:
        """The published members as the committee that they are once they have learnt."""
        fitted = self._published()
        ensemble = DeepEnsemble(len(fitted), self.base)
        ensemble._fitted = fitted
        return ensemble

    def _together(
        self,
        courses: Sequence[Course],
        on_step: Callable[[Step], None],
        stopped: Callable[[], bool],
    ) -> tuple[FitReport, tuple[Moment, ...]]:
        """Take all steps of all courses; nothing is published."""
        first = courses[0]
        before = sum(course.total - course.steps for course in courses)
        total, done = before + first.steps, 0
        for course in courses:
            if course.scout is not None:
                course.advance(
                    course.scout.total, on_step=_further(on_step, done, total), stopped=stopped
                )
                done += course.done
            if course.over:
                return course.report, ()
        asked = self.engine or ("loop" if first.samples.kind.device.type == "cpu" else "auto")
        engine, told = choose(asked, courses)
        particles = self._particles(courses, engine)
        recipe = first.learner.recipe
        report = fit(
            particles,
            particles.batches,
            lambda loss: loss,
            steps=first.steps,
            recipe=replace(recipe, clip=math.inf, decay=0.0),
            on_step=_further(on_step, before, total),
            stopped=stopped,
        )
        particles.let_go()
        notes = [f"Member {n}: {x}" for n, c in enumerate(courses, 1) for x in c.report.notes]
        notes += [told] if told else []
        report = replace(report, notes=(*notes, *report.notes, *self._remarks(particles)))
        return report, tuple(particles.moments)

    def _particles(self, courses: Sequence[Course], engine: Engine) -> Particles:
        first = courses[0]
        epoch = math.ceil(len(first.samples.rows) / first.learner.recipe.batch)
        return Particles.of(
            Rule(
                courses,
                stein=self.stein,
                kernel=self.kernel,
                alone=self.control == "ensemble",
                same=self.same_batches,
                probe=first.samples.probe(self.probe),
                every=self.every or max(FEWEST, epoch),
            ),
            KINDS.get(engine),
        )

    def _remarks(self, particles: Particles) -> Iterator[str]:
        """What a person should know of how the particles got on."""
        if particles.collapsed is not None:
            yield (
                f"Collapsed: before step {particles.collapsed + 1} two particles had the same "
                "weights. They stay one; train again, or use a DeepEnsemble."
            )
        ratios = [moment.forces.rep_ratio for moment in particles.moments]
        ratio = float(np.median(ratios)) if ratios else math.nan
        if self.members > 1 and self.control is None and ratio < INERT:
            yield (
                f"Particles hardly pushed each other ({ratio:.2g} of the climb). Members differ by "
                "where they began and what they drew, as those of a deep ensemble."
            )


def _minus_log(likelihood: str) -> Loss:
    """The loss of that name; by reference, as networks stand beside losses, not on them."""
    found: Loss = pkgutil.resolve_name("alnb.losses.log_dice:MinusLog")(likelihood)
    return found


def _further(on_step: Callable[[Step], None], done: int, total: int) -> Callable[[Step], None]:
    """Tells of steps that come after `done` others."""
    return lambda taken: on_step(replace(taken, step=done + taken.step, total=total))
