"""Several networks of one shape trained in step, as one network with wider or stacked weights.

A `Joint` computes what its members compute one by one, up to rounding, in fewer and larger
operations. Whether that is faster depends on the machine, so `choose` measures it. On a CPU a loop
over the members usually wins: their activations stay in the caches.

Batch norm: statistics are per channel and each member has its own channels, in `Grouped` literally,
in `Vmapped` as an axis that `vmap` folds into them. So running means and variances are those of the
members trained apart, and are written back with the weights.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from alnb.errors import BadInput
from alnb.models.fit import Recipe, fit
from alnb.models.hardware import channels_last, laid_out
from alnb.models.unet import CONVOLUTIONS
from alnb.protocols import ignore, never
from alnb.records import FitReport, Step

if TYPE_CHECKING:
    from alnb.models.course import Course

Engine = Literal["loop", "grouped", "vmap", "auto"]
"""How members are trained: in turns, in step with grouped convolutions, in step with `torch.vmap`,
or whichever of these is fastest here."""

_TIMED = 3
"""Steps per engine that `choose` takes; the first pays for kernel selection and is not counted."""
_PATIENCE = 3.0
"""An engine whose first step takes this many times the loop's is not timed any further."""

_known: dict[tuple[object, ...], tuple[Engine, str]] = {}


class Joint(nn.Module):
    """M networks as one: (M, B, 1, *S) -> (M, B, C, *S).

    The first axis of every parameter divides into M equal parts, one for each member.
    """

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = members

    def states(self) -> list[dict[str, Tensor]]:
        """Each member's own state dict, as a network of its own would load it."""
        raise NotImplementedError

    def clip(self, largest: float) -> None:
        """From now on, cut each member's gradient down to the norm `largest`, as it arrives."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        arrived: set[int] = set()

        def arrive(parameter: Tensor) -> None:
            # a pass that failed may have left some behind; the next one reports them again
            arrived.add(id(parameter))
            if len(arrived) == len(parameters):
                arrived.clear()
                self._cut([p.grad for p in parameters if p.grad is not None], largest)

        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(arrive)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _cut(self, grads: Sequence[Tensor], largest: float) -> None:
        parts = [grad.unflatten(0, (self.members, -1)) for grad in grads]  # type: ignore[no-untyped-call]
        norms = torch.stack([part.flatten(1).norm(dim=1) for part in parts]).norm(dim=0)
        # a gradient that is short enough is not multiplied by 1
        if bool((norms > largest).any()):
            share = torch.where(norms > largest, largest / (norms + 1e-6), 1.0)
            for part in parts:
                part.mul_(share.view(-1, *[1] * (part.dim() - 1)))


class Grouped(Joint):
    """Members side by side as groups of channels, so that a convolution serves all of them.

    For networks of convolutions, transposed ones, batch norm, concatenating skip connections and
    whatever acts on each value alone. TypeError for a module of another kind that has weights.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__(len(nets))
        self.net = _widened(copy.deepcopy(nets[0]), len(nets))
        wide = self.net.state_dict()
        apart = [net.state_dict() for net in nets]
        for name, value in wide.items():
            parts = [state[name] for state in apart]
            value.copy_(torch.cat(parts) if value.dim() else parts[0])

    def forward(self, images: Tensor) -> Tensor:
        """(M, B, 1, *S) -> (M, B, C, *S), a view."""
        # a convolution in this memory order makes an output in this memory order
        wide = channels_last(images.movedim(0, 1).flatten(1, 2))
        logits: Tensor = self.net(wide)
        apart: Tensor = logits.unflatten(1, (self.members, -1))  # type: ignore[no-untyped-call]
        return apart.movedim(1, 0)

    def states(self) -> list[dict[str, Tensor]]:
        """See `Joint.states`."""
        whole = self.net.state_dict()
        return [
            {
                name: value.chunk(self.members)[number] if value.dim() else value
                for name, value in whole.items()
            }
            for number in range(self.members)
        ]


class Vmapped(Joint):
    """Members' weights stacked along a new first axis, over which `torch.vmap` runs one network."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__(len(nets))
        parameters, buffers = torch.func.stack_module_state(list(nets))
        # flat, because five axes have no channels-last order, which `fit` asks for
        flat = [nn.Parameter(weight.detach().flatten(1)) for weight in parameters.values()]
        self.weights = nn.ParameterList(flat)
        self.shapes = {name: weight.shape for name, weight in parameters.items()}
        self.others = list(buffers)
        for number, value in enumerate(buffers.values()):
            self.register_buffer(f"other{number}", value.clone())
        # in a tuple, so that its weights, which are nowhere, do not count as this module's
        self.plan = (copy.deepcopy(nets[0]).to("meta"),)

    def forward(self, images: Tensor) -> Tensor:
        """(M, B, 1, *S) -> (M, B, C, *S)."""
        net = self.plan[0].train(self.training)

        def one(weights: dict[str, Tensor], others: dict[str, Tensor], batch: Tensor) -> Any:
            return torch.func.functional_call(net, (weights, others), (batch,))

        weights, others = self._state()
        logits: Tensor = torch.func.vmap(one, randomness="different")(weights, others, images)
        return logits

    def states(self) -> list[dict[str, Tensor]]:
        """See `Joint.states`."""
        weights, others = self._state()
        whole = {name: value.detach() for name, value in (weights | others).items()}
        return [{name: v[number] for name, v in whole.items()} for number in range(self.members)]

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        shapes = self.shapes.items()
        weights = {n: p.view(s) for (n, s), p in zip(shapes, self.weights, strict=True)}
        buffers = [self.get_buffer(f"other{number}") for number in range(len(self.others))]
        return weights, dict(zip(self.others, buffers, strict=True))


KINDS: dict[Engine, Callable[[Sequence[nn.Module]], Joint]] = {
    "grouped": Grouped,
    "vmap": Vmapped,
}


def fit_together(
    courses: Sequence[Course],
    engine: Engine,
    *,
    on_step: Callable[[Step], None] = ignore,
    stopped: Callable[[], bool] = never,
) -> FitReport:
    """Take all steps of all `courses` in step, with `engine` "grouped" or "vmap".

    Each member draws its own batches from its own stream, as when trained alone, and its gradient
    is clipped alone. The courses are then over and may be ended. `on_step` hears of the steps of
    all members together. Steps of the report are those of one member, its loss is the mean. A
    member that diverges ends the fit for all of them, with the weights from before that step; a
    batch that is halved is so for all. Scouts are trained before, one after another: they are
    small, and nothing is won by training them in step.
    """
    first, members = courses[0], len(courses)
    recipe, before = first.learner.recipe, first.total - first.steps
    for number, course in enumerate(courses):
        if course.scout is not None:
            tell = _further(on_step, number * before, members)
            course.advance(course.scout.total, on_step=tell, stopped=stopped)
        if course.over:
            return course.report
    joint = KINDS[engine]([course.model.net.to(first.samples.kind.device) for course in courses])
    joint.clip(recipe.clip)

    def batches(batch: int) -> tuple[Tensor, ...]:
        drawn = [_draw(course, batch) for course in courses]
        return tuple(torch.stack(each) for each in zip(*drawn, strict=True))

    report = fit(
        joint,
        batches,
        _summed(first),
        steps=first.steps,
        recipe=replace(recipe, clip=math.inf),
        on_step=lambda taken: on_step(
            Step(
                members * (before + taken.step),
                members * first.total,
                taken.loss / members,
                taken.seconds_left,
            )
        ),
        stopped=stopped,
    )
    report = replace(report, loss=report.loss / members)
    for course, state in zip(courses, joint.states(), strict=True):
        course.model.net.load_state_dict(state)
        laid_out(course.model.net).eval()
        course.done, course.over = before + report.steps, True
        course.report = replace(report, notes=(*course.report.notes, *report.notes))
    return report


def choose(engine: Engine, courses: Sequence[Course]) -> tuple[Engine, str]:
    """The engine to use, never "auto", and a sentence about the choice; "" where there was none.

    "auto" times a few steps of each engine on copies of the networks and a batch as they will see
    it, once per kind of committee and process; no stream of random numbers moves. On a CPU only the
    loop and grouped convolutions are tried: `vmap` makes the same convolutions there, in another
    memory order, several times slower and with gigabytes of copies.

    BadInput if another engine than "loop" is asked for and the members cannot be trained in step.
    """
    if engine == "loop" or len(courses) < 2:
        return "loop", ""
    reason = _apart(courses)
    if reason and engine != "auto":
        raise BadInput(f"Members cannot be trained with engine {engine!r}: {reason} Take 'loop'.")
    if reason or engine != "auto":
        return ("loop", "") if reason else (engine, "")
    first = courses[0]
    kind = first.learner
    shape = (first.model.config, kind.recipe.batch, len(courses), str(first.samples.kind.device))
    key = (*shape, torch.get_num_threads(), kind.recipe.threads)
    if key not in _known:
        _known[key] = _fastest(courses)
    return _known[key]


def _fastest(courses: Sequence[Course]) -> tuple[Engine, str]:
    device = courses[0].samples.kind.device
    loop = seconds_per_step("loop", courses)
    found: dict[Engine, float] = {"loop": loop}
    others: tuple[Engine, ...] = ("grouped",) if device.type == "cpu" else ("grouped", "vmap")
    for engine in others:
        try:
            found[engine] = seconds_per_step(engine, courses, limit=_PATIENCE * loop)
        except (RuntimeError, MemoryError, TypeError):  # no room, or a network it cannot widen
            found[engine] = math.inf
    best = min(found, key=lambda engine: found[engine])
    words = {"loop": "in turns", "grouped": "in step, grouped", "vmap": "in step, by vmap"}
    times = ", ".join(
        f"{words[engine]} {value:.2g} s" if math.isfinite(value) else f"{words[engine]} not at all"
        for engine, value in found.items()
    )
    return best, f"Members were trained {words[best]}; a step of all took {times}."


def seconds_per_step(
    engine: Engine, courses: Sequence[Course], *, limit: float = math.inf
) -> float:
    """Least seconds of a training step of all members, augmentation aside.

    On a CPU those of the calling thread, which what else the machine does leaves as they are.
    On copies; networks and random streams stay as they are. A first step longer than `limit` is the
    last. For the loop one member stands for all.
    """
    first = courses[0]
    device, alone = first.samples.kind.device, engine == "loop"
    nets = [
        copy.deepcopy(course.model.net).to(device) for course in courses[: 1 if alone else None]
    ]
    net = nets[0] if alone else KINDS[engine](nets)
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    taken = [clock()]

    def batches(batch: int) -> tuple[Tensor, ...]:
        given = first.samples.first(batch)
        return given if alone else tuple(torch.stack([each] * len(nets)) for each in given)

    fit(
        net,
        batches,
        first.learner._loss() if alone else _summed(first),
        steps=_TIMED,
        recipe=_still(first.learner.recipe),
        on_step=lambda _: taken.append(clock()),
        stopped=lambda: len(taken) > 1 and taken[1] - taken[0] > limit,
    )
    lengths = [later - earlier for earlier, later in pairwise(taken)]
    if not lengths:
        return math.inf  # it diverged at once, which says nothing about speed
    return min(lengths[1:] or lengths) * (len(courses) if alone else 1)


def _apart(courses: Sequence[Course]) -> str:
    """Why these members cannot be trained in step; empty if they can."""
    first = courses[0]
    if any(course.drops is not None for course in courses):
        return "they drop out, each from its own stream."
    alike = {(c.samples.kind, c.total, c.model.config, c.model.classes) for c in courses}
    if len(alike) > 1 or any(c.learner != first.learner for c in courses):
        return "they differ in shape or settings."
    return ""


def _further(on_step: Callable[[Step], None], done: int, members: int) -> Callable[[Step], None]:
    """Tells of one member's step as of one of all, after `done` others."""
    return lambda taken: on_step(Step(done + taken.step, members * taken.total, taken.loss))


def _draw(course: Course, batch: int) -> tuple[Tensor, ...]:
    return course.samples.draw(batch, course.learner.augment, course.rng, course.generator)


def _summed(course: Course) -> Callable[..., Tensor]:
    """The sum of the members' losses: each member's gradient is then that of its own loss."""
    loss = course.learner._loss()

    def total(logits: Tensor, *rest: Tensor) -> Tensor:
        return torch.stack([loss(*each) for each in zip(logits, *rest, strict=True)]).sum()

    return total


def _still(recipe: Recipe) -> Recipe:
    """As long a step, but one that hardly moves, so that a cold network does not diverge."""
    return replace(recipe, rate=1e-6, schedule="constant")


class _Joined(nn.Module):
    """A concatenating skip connection of which each group of channels gets its own two parts."""

    def __init__(self, submodule: nn.Module, members: int) -> None:
        super().__init__()
        self.submodule, self.members = submodule, members

    def forward(self, x: Tensor) -> Tensor:
        """(B, M * F, *S) -> (B, M * (F + G), *S)."""
        parts = [part.unflatten(1, (self.members, -1)) for part in (x, self.submodule(x))]
        return torch.cat(parts, 2).flatten(1, 2)


def _widened(net: nn.Module, members: int) -> nn.Module:
    """`net` with every channel `members` times, in place and with weights of any values."""
    from monai.networks.layers.simplelayers import SkipConnection

    for name, child in list(net.named_children()):
        if isinstance(child, SkipConnection):
            if child.mode != "cat" or child.dim != 1:
                raise TypeError("Only skip connections that concatenate channels can be grouped.")
            setattr(net, name, _Joined(_widened(child.submodule, members), members))
        else:
            _widened(child, members)
    if isinstance(net, CONVOLUTIONS):
        net.in_channels, net.out_channels = net.in_channels * members, net.out_channels * members
        net.groups *= members
    elif isinstance(net, nn.BatchNorm2d | nn.BatchNorm3d):
        net.num_features *= members
    elif next(net.parameters(recurse=False), None) is not None:
        raise TypeError(f"{type(net).__name__} cannot be grouped; use another engine.")
    for name, weight in list(net.named_parameters(recurse=False)):
        setattr(net, name, nn.Parameter(_repeated(weight.detach(), members)))
    for name, buffer in list(net.named_buffers(recurse=False)):
        setattr(net, name, _repeated(buffer, members))
    return net


def _repeated(value: Tensor, members: int) -> Tensor:
    return value.repeat(members, *[1] * (value.dim() - 1)) if value.dim() else value
