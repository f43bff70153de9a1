"""One fit of a network, taken in as many turns as one likes: bit for bit the same fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from alnb.models.dropout import Fresh, dropping
from alnb.models.fit import fit
from alnb.models.network import Model
from alnb.models.samples import Samples
from alnb.protocols import ignore, never
from alnb.records import FitReport, Step

if TYPE_CHECKING:
    from torch import Generator

    from alnb.models.learners import SingleNet


@dataclass(eq=False)
class Course:
    """Made by `SingleNet.course`. `done` of `total` steps are taken; `over` when no other will be.

    The steps of `scout`, the course of the network that finds the window, come first.
    """

    learner: SingleNet
    model: Model
    warm: bool
    samples: Samples
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
