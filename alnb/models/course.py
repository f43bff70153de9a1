"""One fit of a network, taken in as many turns as one likes: bit for bit the same fit."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from alnb.models.dropout import Fresh, dropping
from alnb.models.fit import Recipe, fit
from alnb.models.network import Model
from alnb.models.volume_network import VolumeModel
from alnb.protocols import ignore, never
from alnb.records import FitReport, Step

if TYPE_CHECKING:
    from torch import Generator

    from alnb.records import Rows

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (B, C, *S), target (B, *S), whole (B,) bool) -> scalar."""


class Device(Protocol):
    """What samples of slices and of volumes have in common about where they are."""

    @property
    def device(self) -> torch.device: ...


class Source(Protocol):
    """A training set as a network draws it: `alnb.models.samples`, `alnb.models.volume_samples`."""

    @property
    def kind(self) -> Device: ...
    @property
    def rows(self) -> Rows: ...
    def first(self, batch: int) -> tuple[Tensor, Tensor, Tensor]: ...
    def probe(self, count: int) -> Tensor: ...
    def draw(
        self, batch: int, augment: Any, rng: np.random.Generator, generator: Generator
    ) -> tuple[Tensor, Tensor, Tensor]: ...


class Pupil(Protocol):
    """The learner of a course."""

    augment: Any
    recipe: Recipe

    def _loss(self) -> Loss: ...
    def _publish(self, model: Any, report: FitReport, *, warm: bool) -> FitReport: ...


@dataclass(eq=False)
class Course:
    """Made by `SingleNet.course` and its like.

    `done` of `total` steps are taken; `over` when no other will be.

    The steps of `scout`, the course of the network that finds the window, come first.
    """

    learner: Pupil
    model: Model | VolumeModel
    warm: bool
    samples: Source
    rng: np.random.Generator
    generator: Generator
    drops: Fresh | None
    steps: int
    scout: Course | None = None
    done: int = field(default=0, init=False)
    over: bool = field(default=False, init=False)
    report: FitReport = field(default_factory=lambda: FitReport(0, float("nan"), 0.0), init=False)
    _state: dict[str, Tensor] | None = field(default=None, init=False, repr=False)

    @property
    def total(self) -> int:
        """Steps of the whole course, the scout's with them."""
        return self.steps + self._before

    @property
    def _before(self) -> int:
        return 0 if self.scout is None else self.scout.total

    def advance(
        self,
        steps: int,
        *,
        on_step: Callable[[Step], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> None:
        """Take up to `steps` further steps; asked to stop, the course is over."""
        goal = min(self.total, self.done + steps)
        if self.scout is not None and not self.scout.over:
            self._search(self.scout, goal, on_step, stopped)
        if self.done < goal and not self.over:
            self._learn(goal, on_step, stopped)

    def end(self) -> FitReport:
        """Publish what was learnt, by the rules of `SingleNet.fit`."""
        return self.learner._publish(self.model, self.report, warm=self.warm)

    def _search(
        self,
        scout: Course,
        goal: int,
        on_step: Callable[[Step], None],
        stopped: Callable[[], bool],
    ) -> None:
        def step(taken: Step) -> None:
            # its pace says nothing about that of the larger network
            on_step(Step(taken.step, self.total, taken.loss))

        scout.advance(goal - self.done, on_step=step, stopped=stopped)
        self.done = scout.done
        if not scout.over:
            return
        notes = tuple(f"While looking for the structures: {n}" for n in scout.report.notes)
        if scout.report.stopped or not scout.report.steps:
            # nothing of the course itself is learnt, so there is nothing to publish
            self.over = True
            self.report = replace(scout.report, steps=0, notes=notes)
        else:
            # one that diverged later on has the weights from before that, which do
            self.done = scout.total
            assert isinstance(self.model, Model), "volumes have no scout"
            assert isinstance(scout.model, Model), "a scout sees slices"
            self.model = replace(self.model, scout=scout.model)
            self.report = replace(self.report, notes=notes)

    def _learn(
        self, goal: int, on_step: Callable[[Step], None], stopped: Callable[[], bool]
    ) -> None:
        before, asked = self._before, False

        def step(taken: Step) -> None:
            self.done = before + taken.step
            on_step(replace(taken, step=self.done, total=self.total))

        def paused() -> bool:
            nonlocal asked
            if self.done < goal:
                asked = stopped()
            return asked or self.done >= goal

        with dropping(self.drops):
            report = fit(
                self.model.net.to(self.samples.kind.device),
                lambda batch: self.samples.draw(
                    batch, self.learner.augment, self.rng, self.generator
                ),
                self.learner._loss(),
                steps=self.steps,
                recipe=self.learner.recipe,
                on_step=step,
                stopped=paused,
                resume=self._state,
                keep=ignore if goal == self.total else self._keep,
            )
        notes = (*self.report.notes, *report.notes)
        searched = 0.0 if self.scout is None else self.scout.report.seconds
        self.report = replace(report, stopped=asked, notes=notes, seconds=report.seconds + searched)
        self.over = asked or self.done < goal or self.done == self.total
        if self.over:
            self._state = None

    def _keep(self, state: dict[str, Tensor]) -> None:
        self._state = {name: value.clone() for name, value in state.items()}


def found_loss(loss: str | Loss) -> Loss:
    """`loss`, or what "package.module:function" names."""
    found: Loss = pkgutil.resolve_name(loss) if isinstance(loss, str) else loss
    return found


def outcome(name: str, report: FitReport, *, warm: bool, before: bool) -> tuple[bool, FitReport]:
    """Whether what a fit learnt is to be published, and what to report of it.

    It is if the fit ran to its end, continued an earlier model (`warm`), or there is none `before`
    it. FloatingPointError if it diverged before its first step. `name` is that of what was learnt.
    """
    if report.steps and (warm or not before or not report.stopped):
        return True, report
    if not report.steps and not report.stopped:
        raise FloatingPointError(
            f"{' '.join(report.notes)} Nothing was learnt. Check the images and the loss."
        )
    kept = f"the {name} before it is kept" if before else f"there is no {name} yet"
    note = f"Stopped after {report.steps} steps: {kept}."
    return False, replace(report, notes=(*report.notes, note))
