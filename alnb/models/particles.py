"""Networks as particles: one matrix of weights, and the step that all of them take together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from alnb.models.course import Course
from alnb.models.dropout import dropping
from alnb.models.hardware import channels_last, laid_out
from alnb.models.members import Joint
from alnb.models.svgd import Forces, Stein, svgd_descent, svgd_direction

Over = Literal["global", "per_layer", "function_space"]
"""What a kernel compares: all weights, those of each layer, or predictions of a few slices."""


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


class Particles(nn.Module):
    """M networks whose weights are rows of one float32 matrix, and the step that all take together.

    ``forward(batches)`` gives the mean loss and leaves -Φ where an optimiser looks for a gradient.
    Members run forward and backward one after another, so that one at a time holds activations; or,
    with a `Joint`, all at once, as one network to which weights are copied and gradients from it.

    Attributes
    ----------
    moments : what was seen so far.
    collapsed : steps taken when two particles were first seen in one place; None if never.
    """

    def __init__(
        self, nets: Sequence[nn.Module], rule: Rule, engine: Callable[..., Joint] | None = None
    ) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.rule = rule
        # in a tuple: its weights are copies, which no optimiser is to see
        self.joint = () if engine is None else (engine(nets).train(),)
        self.rows = _Rows.under(nets)
        self.taken = 0
        self.moments: list[Moment] = []
        self.collapsed: int | None = None

    @classmethod
    def of(cls, rule: Rule, engine: Callable[..., Joint] | None = None) -> Self:
        """The networks of the rule's courses, moved to their device in place."""
        device = rule.courses[0].samples.kind.device
        nets = [laid_out(course.model.net.to(device)) for course in rule.courses]
        return cls(nets, rule, engine)

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
        if self.joint:
            losses = self._slopes(self.joint[0], batches, slope)
        else:
            members = enumerate(zip(batches, slope.views, strict=True))
            losses = torch.stack([self._slope(number, *each) for number, each in members])
        if rule.decay:
            slope.matrix.add_(rows.matrix, alpha=rule.decay)
        looked = self.taken % rule.every == 0
        forces = self._act(slope, looked=looked)
        loss = losses.mean()
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
        self.joint = ()

    def _slopes(self, joint: Joint, batches: Sequence[Sequence[Tensor]], into: _Rows) -> Tensor:
        """(M,) losses of all members at once; their clipped gradients go `into` the rows."""
        inside = [p.data.view(joint.members, -1, *p.shape[1:]) for p in joint.parameters()]
        for part, views in zip(inside, zip(*self.rows.views, strict=True), strict=True):
            torch._foreach_copy_(list(part), [view.reshape(part.shape[1:]) for view in views])
        images, *rest = (torch.stack(each) for each in zip(*batches, strict=True))
        logits = joint(images)
        with torch.autocast(images.device.type, enabled=False):
            values = [self.rule.loss(*each) for each in zip(logits, *rest, strict=True)]
            torch.stack(values).sum().backward()  # type: ignore[no-untyped-call]
        for parameter, part, views in zip(
            joint.parameters(), inside, zip(*into.views, strict=True), strict=True
        ):
            grad = torch.zeros_like(part) if parameter.grad is None else parameter.grad
            given = grad.reshape(part.shape).unbind()
            torch._foreach_copy_(
                list(views), [each.reshape(v.shape) for each, v in zip(given, views, strict=True)]
            )
            parameter.grad = None
        norms = into.matrix.norm(dim=1, keepdim=True)
        # a gradient that is short enough is not multiplied by 1
        long = norms.isfinite() & (norms > self.rule.clip)
        if bool(long.any()):
            into.matrix.mul_(torch.where(long, self.rule.clip / (norms + 1e-6), 1.0))
        for net, state in zip(self.nets, joint.states(), strict=True):
            for name, buffer in net.named_buffers():
                buffer.copy_(state[name])
        return torch.stack(values).detach()

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


class Rule:
    """How particles take a step. Copies are the rule itself, as the averaged twin takes none.

    stein, kernel : see `SVGDCommittee`.
    alone : leave out all that acts between the particles.
    same : all members see the first one's batches.
    probe : images on which predictions are compared.
    every : steps from one record to the next.
    """

    def __init__(
        self,
        courses: Sequence[Course],
        *,
        stein: Stein,
        kernel: Over,
        alone: bool,
        same: bool,
        probe: Tensor,
        every: int,
    ) -> None:
        pupil = courses[0].learner
        self.courses = courses
        self.loss = pupil._loss()
        self.clip, self.decay = pupil.recipe.clip, pupil.recipe.decay
        self.drops = [course.drops for course in courses]
        self.stein, self.kernel = stein, kernel
        self.alone, self.same = alone, same
        self.probe, self.every = channels_last(probe), every

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


def to_tensor(moments: Sequence[Moment]) -> Tensor:
    """Records as bytes, for a checkpoint, in which a number that is not finite means damage."""
    told = [
        {
            "step": moment.step,
            "loss": moment.loss,
            "disagreement": moment.disagreement,
            "kernel": moment.forces.kernel.tolist(),
            "bandwidth": moment.forces.bandwidth.tolist(),
            "distances": moment.forces.distances.tolist(),
            "rep_ratio": moment.forces.rep_ratio,
            "collapsed": moment.forces.collapsed,
        }
        for moment in moments
    ]
    return torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)


def from_tensor(data: Tensor) -> tuple[Moment, ...]:
    """The records that `to_tensor` wrote."""
    return tuple(
        Moment(
            step=told["step"],
            loss=told["loss"],
            forces=Forces(
                kernel=np.array(told["kernel"]),
                bandwidth=np.array(told["bandwidth"]),
                distances=np.array(told["distances"]),
                rep_ratio=told["rep_ratio"],
                collapsed=told["collapsed"],
            ),
            disagreement=told["disagreement"],
        )
        for told in json.loads(bytes(data.tolist()))
    )
