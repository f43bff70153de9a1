"""The one training loop: averaged weights, schedule, bfloat16, all ways to end early and go on."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from alnb.models.hardware import fast_dtype, laid_out, threads
from alnb.protocols import ignore, never
from alnb.records import FitReport, Step

Batches = Callable[[int], tuple[Tensor, ...]]
"""(batch size) -> (input, *what the loss needs besides the output), on the network's device."""

KEEP_SECONDS = 20.0
"""Least time between two states handed out; longer where handing one out is slow, so that it takes
at most a fiftieth of the time."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    batch : items per step.
    rate : peak learning rate.
    decay : weight decay.
    average : weight of the past in the moving average of the weights, which is what is kept. Early
        on it is smaller, (1 + t) / (10 + t), so that a short fit is not an average of noise. 0
        keeps the last weights.
    clip : largest norm of the gradient; infinity leaves it.
    schedule : "cosine" warms up over 5 % of the steps, then a cosine falls to zero; "constant".
    optimiser : "adamw", or "adam" or "sgd" (without momentum) with the decay inside the gradient.
    threads : CPU threads; None leaves one core for drawing.
    """

    batch: int = 8
    rate: float = 3e-3
    decay: float = 1e-4
    average: float = 0.99
    clip: float = 1.0
    schedule: Literal["cosine", "constant"] = "cosine"
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    threads: int | None = None


DEFAULT = Recipe()


def fit(
    net: nn.Module,
    batches: Batches,
    loss: Callable[..., Tensor],
    *,
    steps: int,
    recipe: Recipe = DEFAULT,
    on_step: Callable[[Step], None] = ignore,
    stopped: Callable[[], bool] = never,
    resume: Mapping[str, Tensor] | None = None,
    keep: Callable[[dict[str, Tensor]], None] = ignore,
) -> FitReport:
    """Train `net` in place for `steps` steps of ``loss(net(input), *rest)``.

    It ends in evaluation mode with the averaged weights. `stopped` is asked before each step. A
    loss or gradient that is not finite ends the fit with the weights from before it, and a note.
    Out of memory halves the batch, with a note; MemoryError when a single item is too much.

    `keep` gets the state now and then and at the end, except after a divergence: tensors that are
    valid during the call. Given as `resume`, the fit goes on from there as if it had never ended,
    on the same device bit for bit, provided that `batches` goes on too. The report counts all its
    steps.
    """
    with threads(recipe.threads), torch.enable_grad():
        run = _Run(net, batches, loss, steps=steps, recipe=recipe)
        if resume is not None:
            run.restore(resume)
        return run(on_step, stopped, keep)


class _Run:
    """State of one fit, so that the loop reads as the story it is."""

    def __init__(
        self,
        net: nn.Module,
        batches: Batches,
        loss: Callable[..., Tensor],
        *,
        steps: int,
        recipe: Recipe,
    ) -> None:
        self.net = laid_out(net).train()
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.kept = copy.deepcopy(net).eval()
        if not recipe.average:
            # nothing to average: only what a diverging pass spoils, the buffers, is held twice
            for mine, theirs in zip(self.kept.parameters(), net.parameters(), strict=True):
                mine.data = theirs.data
        self.batches, self.loss, self.steps, self.recipe = batches, loss, steps, recipe
        self.batch = recipe.batch
        self.device = self.parameters[0].device
        self.dtype = fast_dtype(self.device)
        kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        self.optimiser = kinds[recipe.optimiser](
            self.parameters, lr=recipe.rate, weight_decay=recipe.decay, fused=True
        )
        self.done, self.last, self.seconds = 0, math.nan, 0.0

    def __call__(
        self,
        on_step: Callable[[Step], None],
        stopped: Callable[[], bool],
        keep: Callable[[dict[str, Tensor]], None],
    ) -> FitReport:
        started, first, begun = time.monotonic() - self.seconds, 0.0, self.done
        due = time.monotonic() + KEEP_SECONDS
        halted, notes = False, []
        while self.done < self.steps:
            if halted := stopped():
                break
            try:
                value, finite = self._step(self.done)
            except (RuntimeError, MemoryError) as error:
                notes.append(self._halve(error))
                continue
            if not finite:
                notes.append(
                    f"Training diverged (loss {value:.3g} at step {self.done + 1}); "
                    f"the weights of step {self.done} are kept."
                )
                break
            self._average(self.done)
            self.done, self.last = self.done + 1, value
            # the first step also pays for kernel selection and says nothing about the others
            now = time.monotonic()
            first = first or now
            taken = self.done - begun - 1
            pace = (now - first) / taken if taken else math.nan
            on_step(Step(self.done, self.steps, self.last, pace * (self.steps - self.done)))
            if now >= due:
                self.seconds = now - started
                keep(self.state())
                due = time.monotonic() + max(KEEP_SECONDS, 50 * (time.monotonic() - now))
        self.seconds = time.monotonic() - started
        if halted or self.done == self.steps:
            keep(self.state())
        self.net.load_state_dict(self.kept.state_dict())
        self.net.eval()
        return FitReport(self.done, self.last, self.seconds, stopped=halted, notes=tuple(notes))

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the fit depends on, besides the batches."""
        numbers = [self.done, self.batch, self.last, self.seconds]
        state = {"fit": torch.tensor(numbers, dtype=torch.float64)}
        state |= {f"net.{name}": value for name, value in self.net.state_dict().items()}
        kept = self.kept.state_dict() if self.recipe.average else dict(self.kept.named_buffers())
        state |= {f"kept.{name}": value for name, value in kept.items()}
        for place, parameter in enumerate(self.parameters):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                state[f"optimiser.{place}.{name}"] = value
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Become the run whose `state` this was."""
        done, batch, self.last, self.seconds = state["fit"].tolist()
        self.done, self.batch = int(done), int(batch)
        self.net.load_state_dict(_part(state, "net."))
        self.kept.load_state_dict(_part(state, "kept."), strict=False)
        for place, parameter in enumerate(self.parameters):
            moments = _part(state, f"optimiser.{place}.")
            for name, value in moments.items():
                # a copy in the parameter's own memory order, which the fused optimiser relies on
                own = torch.empty_like(parameter if value.dim() else value, device=self.device)
                self.optimiser.state[parameter][name] = own.copy_(value)

    def _step(self, done: int) -> tuple[float, bool]:
        """Loss of one step, and whether loss and gradient were finite; if not, nothing moved."""
        for group in self.optimiser.param_groups:
            if self.recipe.schedule == "cosine":
                group["lr"] = self.recipe.rate * _schedule(done, self.steps)
        source, *rest = self.batches(self.batch)
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            output = self.net(source)
        loss = self.loss(output, *rest)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        value = float(loss.detach())
        finite = math.isfinite(value) and math.isfinite(float(norm))
        if finite:
            # a gradient that is short enough is not multiplied by 1
            if float(norm) > self.recipe.clip:
                nn.utils.clip_grads_with_norm_(self.parameters, self.recipe.clip, norm)
            self.optimiser.step()
        return value, finite

    @torch.no_grad()
    def _average(self, done: int) -> None:
        weight = 1 - min(self.recipe.average, (1 + done) / (10 + done))
        mine, theirs = _floats(self.kept), _floats(self.net)
        if self.recipe.average:
            mine, theirs = [*self.kept.parameters(), *mine], [*self.net.parameters(), *theirs]
        if mine:
            torch._foreach_lerp_([p.data for p in mine], [p.data for p in theirs], weight)

    def _halve(self, error: RuntimeError | MemoryError) -> str:
        """Halve the batch after an allocation failed; anything else is raised again."""
        if not _out_of_memory(error):
            raise error
        self.optimiser.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch == 1:
            raise MemoryError(
                f"Training stopped: out of memory with one item per step ({error}). "
                "Choose a smaller size for the network. Labels are safe."
            ) from error
        self.batch //= 2
        return f"Out of memory with {2 * self.batch} items per step; went on with {self.batch}."


def _schedule(done: int, steps: int) -> float:
    """Share of the peak rate: linear warm-up over 5 % of the steps, then a cosine to zero."""
    warm = max(1, steps // 20)
    if done < warm:
        return (done + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (done - warm) / max(1, steps - warm)))


def _part(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}


def _floats(net: nn.Module) -> list[Tensor]:
    return [buffer for buffer in net.buffers() if buffer.is_floating_point()]


def _out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: CUDA has a class for it, the CPU allocator only words."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        word in str(error) for word in words
    )
