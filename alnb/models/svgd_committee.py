"""A committee of networks that are particles of one posterior: they learn together by SVGD."""

from __future__ import annotations

import math
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, combinations
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from alnb.errors import ColdStart
from alnb.models.augment import Augment
from alnb.models.committee import DeepEnsemble
from alnb.models.course import Course
from alnb.models.dropout import dropping
from alnb.models.fit import Recipe, fit
from alnb.models.learners import Loss, SingleNet
from alnb.models.svgd import Forces, Stein, svgd_descent, svgd_direction
from alnb.protocols import ignore, never
from alnb.records import FitReport, Step, TrainSet, Unit
from alnb.rng import stream

if TYPE_CHECKING:
    from alnb.models.network import Network
    from alnb.models.samples import Samples

Over = Literal["global", "per_layer", "function_space"]
"""What a kernel compares: all weights, those of each layer, or predictions of a few slices."""

FEWEST = 20
"""Least steps between two records, so that records of a small training set cost little."""
INERT = 0.1
"""A push below this share of the climb is reported."""


@dataclass(frozen=True, eq=False)
class Moment:
    """A look at the particles once per epoch, and before the first step.

    Attributes
    ----------
    step : steps taken before.
    loss : mean of -ln p over the particles, each on its own batch.
    forces : what acted; of the control, what would have acted.
    disagreement : share of the probe's pixels on which two members differ, mean over the pairs.
    """

    step: int
    loss: float
    forces: Forces
    disagreement: float


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
        recipe=Recipe(rate=1e-3, decay=0.0, average=0.0, schedule="constant", optimiser="adam"),
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
    base : the network of each and how it is trained; not yet fitted. Its weight decay, in either
        kind of Adam, is a Gaussian prior inside the gradient.
    likelihood : see `alnb.losses.log_dice`; None takes -`base.loss` for ln p.
    stein : bandwidth, hybrid drive and scale of the push.
    kernel : `Over`. In function space members push each other's predictions apart, each by its own
        Jacobian, which takes another, small pass per step.
    control : "ensemble" leaves out all that acts between the particles: a deep ensemble with the
        same beginnings and batches.
    same_batches : all members see the first one's batches.
    probe : training slices on which predictions are compared.
    diagnostics : a `Moment` per epoch of the published fit; empty after `load_state_dict`.

    Source: Nath et al., IEEE TMI 2021, arXiv 2101.02323; Liu and Wang, NeurIPS 2016. See
    `alnb.models.svgd` for what to expect of the push between networks.
    """

    members: int = 5
    base: SingleNet = field(default_factory=from_scratch)
    likelihood: str | None = "neg_log_dice_loss"
    stein: Stein = field(default_factory=Stein)
    kernel: Over = "global"
    control: Literal["ensemble"] | None = None
    same_batches: bool = False
    probe: int = 4
    diagnostics: tuple[Moment, ...] = field(default=(), init=False, repr=False, compare=False)
    _fitted: tuple[SingleNet, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.members < 1 or self.probe < 1:
            raise ValueError(
                f"A committee of {self.members} particles and a probe of {self.probe} slices; "
                "both numbers must be at least 1."
            )
        if self.kernel not in get_args(Over):
            known = ", ".join(f"'{name}'" for name in get_args(Over))
            raise ValueError(f"kernel is {self.kernel!r}; it can be {known}.")
        if self.control not in (None, "ensemble"):
            raise ValueError(f"control is {self.control!r}; it can be None or 'ensemble'.")
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
        for number, learner in enumerate(self._copies()):
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
        self._fitted, self.diagnostics = tuple(course.learner for course in courses), seen
        return report

    def networks(self) -> tuple[Network, ...]:
        """The published networks, one per member. ColdStart if there are none."""
        return tuple(network for learner in self._published() for network in learner.networks())

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (M, B, C, H, W) float32, summing to 1 over C.

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
        """(B, 1, H, W) -> (B, M G), side by side."""
        return self._ensemble().gradients(images)

    def state_dict(self) -> dict[str, Tensor]:
        """The states of the members, as ``0.*``, ``1.*`` and so on, as of a `DeepEnsemble`."""
        return self._ensemble().state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Publish a stored committee. BadInput if it has another number of members."""
        ensemble = DeepEnsemble(self.members, self._net())
        ensemble.load_state_dict(state)
        self._fitted = tuple(net for net in ensemble._fitted if isinstance(net, SingleNet))
        self.diagnostics = ()

    def _net(self) -> SingleNet:
        """`base`, unfitted, with the loss that the likelihood says."""
        loss = self.base.loss if self.likelihood is None else _minus_log(self.likelihood)
        return replace(self.base, loss=loss)

    def _copies(self) -> list[SingleNet]:
        """Learners of a fit, with the models that a warm one goes on from."""
        copies = [self._net() for _ in range(self.members)]
        for learner, before in zip(copies, self._fitted, strict=False):
            learner._model = before._model
        return copies

    def _published(self) -> tuple[SingleNet, ...]:
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
        particles = self._particles(courses)
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
        return replace(report, notes=(*notes, *report.notes, *self._remarks(particles))), tuple(
            particles.moments
        )

    def _particles(self, courses: Sequence[Course]) -> Particles:
        first = courses[0]
        samples, recipe = first.samples, first.learner.recipe
        return Particles.of(
            courses,
            self,
            probe=_spread(samples, self.probe),
            every=max(FEWEST, math.ceil(len(samples.rows) / recipe.batch)),
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


class Particles(nn.Module):
    """M networks whose weights are rows of one float32 matrix, and the step that all take together.

    ``forward(batches)`` gives the mean loss and leaves -Φ where an optimiser looks for a gradient.
    Members run forward and backward one after another, so that one at a time holds activations.

    Attributes
    ----------
    moments : what was seen so far.
    collapsed : steps taken when two particles were first seen in one place; None if never.
    """

    def __init__(self, nets: Sequence[nn.Module], rule: _Rule) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.rule = rule
        self.rows = _Rows.under(nets)
        self.taken = 0
        self.moments: list[Moment] = []
        self.collapsed: int | None = None

    @classmethod
    def of(
        cls, courses: Sequence[Course], committee: SVGDCommittee, *, probe: Tensor, every: int
    ) -> Self:
        """The networks of `courses`, moved to their device in place."""
        device = courses[0].samples.kind.device
        nets = [
            course.model.net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for course in courses
        ]
        return cls(nets, _Rule(courses, committee, probe, every))

    def to(self, *_: Any, **__: Any) -> Self:
        """Stay: the weights are where they belong, in the order that convolutions want.

        Moving them would part them from the matrix.
        """
        return self

    def batches(self, batch: int) -> tuple[Any]:
        """Each member's next batch, for `forward`."""
        return (self.rule.draw(batch),)

    def forward(self, batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """Mean loss of the members, each on its batch; every weight's `grad` is set."""
        rule, rows = self.rule, self.rows
        slope = rows.twin()
        losses = []
        for number, batch in enumerate(batches):
            losses.append(self._slope(number, batch, slope.views[number]))
        if rule.decay:
            slope.matrix.add_(rows.matrix, alpha=rule.decay)
        looked = self.taken % rule.every == 0
        forces = self._act(slope, looked=looked)
        loss = torch.stack(losses).mean()
        if forces is not None:
            if forces.collapsed and self.collapsed is None:
                self.collapsed = self.taken
            if looked:
                moment = Moment(self.taken, float(loss), forces, self._disagreement())
                self.moments.append(moment)
        for parameters, views in zip(rows.parameters, slope.views, strict=True):
            for parameter, view in zip(parameters, views, strict=True):
                parameter.grad = view
        self.taken += 1
        # a leaf: its own backward pass changes nothing that the optimiser sees
        return loss.requires_grad_()

    def let_go(self) -> None:
        """Free what only training needs."""
        for parameters in self.rows.parameters:
            for parameter in parameters:
                parameter.grad = None
        self.rows.spare = None

    def _slope(self, number: int, batch: Sequence[Tensor], into: Sequence[Tensor]) -> Tensor:
        """A member's loss; its clipped gradient is copied `into` its row."""
        images, *rest = batch
        parameters = self.rows.parameters[number]
        with dropping(self.rule.drops[number]):
            logits = self.nets[number](images)
        with torch.autocast(images.device.type, enabled=False):
            value = self.rule.loss(logits, *rest)
            value.backward()  # type: ignore[no-untyped-call]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        norm = nn.utils.get_total_norm(grads)
        # a gradient that is short enough is not multiplied by 1
        if math.isfinite(float(norm)) and float(norm) > self.rule.clip:
            nn.utils.clip_grads_with_norm_(parameters, self.rule.clip, norm)
        torch._foreach_copy_(list(into), grads)
        for parameter in parameters:
            parameter.grad = None
        return value.detach()

    def _act(self, slope: _Rows, *, looked: bool) -> Forces | None:
        """Turn the members' gradients into -Φ; of the control, only say what would have acted."""
        theta, rule = self.rows.matrix, self.rule
        if rule.alone and not looked:
            return None
        groups = rule.groups(self.rows)
        at, pull = (None, None)
        if rule.kernel == "function_space":
            with torch.enable_grad():
                given = [self._predicted(net).flatten() for net in self.nets]
            at, pull = torch.stack(given).detach(), self._puller(given)
        if rule.alone:
            would = -slope.matrix
            return svgd_direction(theta, would, rule.stein, groups=groups, at=at, pull=pull)[1]
        return svgd_descent(theta, slope.matrix, rule.stein, groups=groups, at=at, pull=pull)

    def _predicted(self, net: nn.Module) -> Tensor:
        """(P, C, S, S) probabilities on the probe, as a prediction makes them."""
        net.eval()
        try:
            logits: Tensor = net(self.rule.probe)
        finally:
            net.train()
        return logits.float().softmax(1)

    def _puller(self, given: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        def pull(rows: Tensor) -> Tensor:
            found = self.rows.empty()
            members = zip(given, rows, self.rows.parameters, found.views, strict=True)
            for outputs, row, parameters, views in members:
                grads = torch.autograd.grad(outputs, parameters, row)
                torch._foreach_copy_(views, list(grads))
            return found.matrix

        return pull

    @torch.no_grad()
    def _disagreement(self) -> float:
        labels = [self._predicted(net).argmax(1) for net in self.nets]
        pairs = [float((a != b).float().mean()) for a, b in combinations(labels, 2)]
        return sum(pairs) / len(pairs) if pairs else 0.0


class _Rule:
    """How particles take a step. Copies are the rule itself, as the averaged twin takes none."""

    def __init__(
        self, courses: Sequence[Course], committee: SVGDCommittee, probe: Tensor, every: int
    ) -> None:
        learner = courses[0].learner
        self.courses = courses
        self.loss = learner._loss()
        self.clip, self.decay = learner.recipe.clip, learner.recipe.decay
        self.drops = [course.drops for course in courses]
        self.stein, self.kernel = committee.stein, committee.kernel
        self.alone, self.same = committee.control == "ensemble", committee.same_batches
        self.probe, self.every = probe, every

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def draw(self, batch: int) -> list[tuple[Tensor, ...]]:
        """The next batch of each member."""
        drawing = self.courses[:1] if self.same else self.courses
        drawn: list[tuple[Tensor, ...]] = [
            course.samples.draw(batch, course.learner.augment, course.rng, course.generator)
            for course in drawing
        ]
        return drawn * len(self.courses) if self.same else drawn

    def groups(self, rows: _Rows) -> list[int] | None:
        """Widths of the layers: a weight, and the biases and norms that follow it."""
        if self.kernel != "per_layer":
            return None
        widths: list[int] = []
        for parameter in rows.parameters[0]:
            # norms begin alike in all members; on their own they would be one particle for ever
            if parameter.dim() > 1 or not widths:
                widths.append(0)
            widths[-1] += parameter.numel()
        return widths


class _Rows:
    """An (M, d) float32 matrix, seen as the weights of M networks, in their own memory orders.

    Attributes
    ----------
    spare : a second one for the gradients; made when asked for.
    """

    def __init__(self, parameters: list[list[nn.Parameter]]) -> None:
        self.parameters = parameters
        sizes = [parameter.numel() for parameter in parameters[0]]
        width, starts = sum(sizes), [0, *accumulate(sizes)]
        self.matrix = torch.empty(len(parameters), width, device=parameters[0][0].device)
        self.views = [
            [
                self.matrix.as_strided(p.shape, p.stride(), row * width + start)
                for p, start in zip(own, starts, strict=False)
            ]
            for row, own in enumerate(parameters)
        ]
        self.spare: _Rows | None = None

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    @classmethod
    def under(cls, nets: Iterable[nn.Module]) -> Self:
        """Put the weights of `nets` into a matrix; they become views of it."""
        rows = cls([[p for p in net.parameters() if p.requires_grad] for net in nets])
        for own, views in zip(rows.parameters, rows.views, strict=True):
            for parameter, view in zip(own, views, strict=True):
                parameter.data = view.copy_(parameter.detach())
        return rows

    def empty(self) -> _Rows:
        """Another of the same shape, with any values."""
        return _Rows(self.parameters)

    def twin(self) -> _Rows:
        """The same other one each time."""
        self.spare = self.spare or self.empty()
        return self.spare


def _minus_log(likelihood: str) -> Loss:
    """The loss of that name; by reference, as networks stand beside losses, not on them."""
    found: Loss = pkgutil.resolve_name("alnb.losses.log_dice:MinusLog")(likelihood)
    return found


def _spread(samples: Samples, count: int) -> Tensor:
    """Up to `count` training slices from first to last, as the network sees them."""
    # of the rows, in which weight 2 is the item twice
    places = np.linspace(0, len(samples.rows) - 1, min(count, len(samples.rows)))
    rows = torch.from_numpy(samples.rows[places.round().astype(int)])
    index = rows.to(samples.images.device)
    centres = None if samples.centres is None else samples.centres[index]
    few = replace(
        samples,
        images=samples.images[index],
        targets=samples.targets[index],
        whole=samples.whole[rows],
        centres=centres,
    )
    return few.first(len(rows))[0].contiguous(memory_format=torch.channels_last)


def _further(on_step: Callable[[Step], None], done: int, total: int) -> Callable[[Step], None]:
    """Tells of steps that come after `done` others."""
    return lambda taken: on_step(replace(taken, step=done + taken.step, total=total))
