"""The training loop of the published experiments: SGD, polynomial decay, best checkpoint kept.

It stands apart from `alnb.models.fit`, whose averaged weights, clipped gradients and shrinking
batches help a person who waits, and would each change what an experiment measures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alnb.models.hardware import threads
from alnb.protocols import ignore, never
from alnb.records import FitReport, Step


@dataclass(frozen=True)
class Poly:
    """SGD with momentum at ``rate · (1 - done / steps) ** power``.

    Attributes
    ----------
    batch : slices per step.
    warmup : steps over which the rate rises linearly to its schedule; 0 as published.
    every : steps between two validations.
    threads : CPU threads; None leaves one core for drawing.
    """

    rate: float = 0.01
    momentum: float = 0.9
    decay: float = 1e-4
    power: float = 0.9
    batch: int = 6
    warmup: int = 0
    every: int = 200
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.every < 1 or self.warmup < 0 or not self.rate > 0:
            raise ValueError(
                f"batch={self.batch}, every={self.every}, warmup={self.warmup}, rate={self.rate}: "
                "batch and every must be at least 1, warmup at least 0, the rate positive."
            )

    def rate_at(self, done: int, steps: int) -> float:
        """Learning rate of the step after `done` of `steps`."""
        rise = min(1.0, (done + 1) / (self.warmup + 1))
        return self.rate * rise * math.pow(1 - done / steps, self.power)


def fit_poly(
    net: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    recipe: Poly,
    validate: Callable[[], float] | None = None,
    on_step: Callable[[Step], None] = ignore,
    stopped: Callable[[], bool] = never,
) -> FitReport:
    """Train `net` in place for `steps` steps of ``loss(recipe.batch)``.

    With `validate`, which sees the network in evaluation mode, every `recipe.every` steps and after
    the last: the network ends with the weights that scored best, the earlier ones in a tie.
    `stopped` is asked before each step. A loss that is not finite ends the fit, with a note. The
    network ends in evaluation mode.
    """
    with threads(recipe.threads), torch.enable_grad():
        return _Run(net, loss, steps, recipe, validate)(on_step, stopped)


class _Run:
    """State of one fit."""

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[int], Tensor],
        steps: int,
        recipe: Poly,
        validate: Callable[[], float] | None,
    ) -> None:
        self.net, self.loss, self.steps, self.recipe = net.train(), loss, steps, recipe
        self.validate = validate
        self.best = -math.inf
        self.best_step = 0
        self.kept: dict[str, Tensor] = {}
        self.optimiser = torch.optim.SGD(
            net.parameters(),
            lr=recipe.rate,
            momentum=recipe.momentum,
            weight_decay=recipe.decay,
        )

    def __call__(self, on_step: Callable[[Step], None], stopped: Callable[[], bool]) -> FitReport:
        started, done, last, notes = time.monotonic(), 0, math.nan, []
        halted = False
        while done < self.steps and not (halted := stopped()):
            value = self._step(done)
            if not math.isfinite(value):
                notes.append(f"Training diverged: loss {value:.3g} at step {done + 1}.")
                break
            done, last = done + 1, value
            if self.validate and (done % self.recipe.every == 0 or done == self.steps):
                self._check(done)
            pace = (time.monotonic() - started) / done
            on_step(Step(done, self.steps, last, pace * (self.steps - done)))
        if self.kept:
            self.net.load_state_dict(self.kept)
            notes.append(f"Best validation Dice {self.best:.3f} after step {self.best_step}.")
        self.net.eval()
        seconds = time.monotonic() - started
        return FitReport(done, last, seconds, stopped=halted, notes=tuple(notes))

    def _step(self, done: int) -> float:
        """Loss of one step; if it is not finite, nothing moved."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate_at(done, self.steps)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(self.recipe.batch)
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
        return value

    def _check(self, done: int) -> None:
        assert self.validate is not None, "asked for only where there is a validation"
        self.net.eval()
        score = self.validate()
        self.net.train()
        if score > self.best:
            self.best, self.best_step = score, done
            self.kept = {name: value.clone() for name, value in self.net.state_dict().items()}
