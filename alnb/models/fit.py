"""The one training loop: averaged weights, cosine schedule, bfloat16, all ways to end early."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alnb.models.hardware import fast_dtype, threads
from alnb.protocols import ignore, never
from alnb.records import FitReport, Step

Batches = Callable[[int], tuple[Tensor, ...]]
"""(batch size) -> (input, *what the loss needs besides the output), on the network's device."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    batch : items per step.
    rate : peak learning rate of AdamW; 5 % of the steps warm up, then a cosine falls to zero.
    decay : weight decay.
    average : weight of the past in the moving average of the weights, which is what is kept. Early
        on it is smaller, (1 + t) / (10 + t), so that a short fit is not an average of noise.
    clip : largest norm of the gradient.
    threads : CPU threads; None leaves one core for drawing.
    """

    batch: int = 8
    rate: float = 3e-3
    decay: float = 1e-4
    average: float = 0.99
    clip: float = 1.0
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
) -> FitReport:
    """Train `net` in place for `steps` steps of ``loss(net(input), *rest)``.

    It ends in evaluation mode with the averaged weights. `stopped` is asked before each step. A
    loss or gradient that is not finite ends the fit with the weights from before it, and a note.
    Out of memory halves the batch, with a note; MemoryError when a single item is too much.
    """
    with threads(recipe.threads), torch.enable_grad():
        run = _Run(net, batches, loss, steps=steps, recipe=recipe)
        return run(on_step, stopped)


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
        self.net = net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.kept = copy.deepcopy(net).eval()
        self.batches, self.loss, self.steps, self.recipe = batches, loss, steps, recipe
        self.batch = recipe.batch
        self.device = self.parameters[0].device
        self.dtype = fast_dtype(self.device)
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=recipe.rate, weight_decay=recipe.decay, fused=True
        )

    def __call__(self, on_step: Callable[[Step], None], stopped: Callable[[], bool]) -> FitReport:
        started, first, done = time.monotonic(), 0.0, 0
        last, halted, notes = math.nan, False, []
        while done < self.steps:
            if halted := stopped():
                break
            try:
                value, finite = self._step(done)
            except (RuntimeError, MemoryError) as error:
                notes.append(self._halve(error))
                continue
            if not finite:
                notes.append(
                    f"Training diverged (loss {value:.3g} at step {done + 1}); "
                    f"the weights of step {done} are kept."
                )
                break
            self._average(done)
            done, last = done + 1, value
            # the first step also pays for kernel selection and says nothing about the others
            first = first or time.monotonic()
            pace = (time.monotonic() - first) / (done - 1) if done > 1 else math.nan
            on_step(Step(done, self.steps, last, pace * (self.steps - done)))
        self.net.load_state_dict(self.kept.state_dict())
        self.net.eval()
        seconds = time.monotonic() - started
        return FitReport(done, last, seconds, stopped=halted, notes=tuple(notes))

    def _step(self, done: int) -> tuple[float, bool]:
        """Loss of one step, and whether loss and gradient were finite; if not, nothing moved."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate * _schedule(done, self.steps)
        source, *rest = self.batches(self.batch)
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            output = self.net(source)
        loss = self.loss(output, *rest)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        value = float(loss.detach())
        finite = math.isfinite(value) and math.isfinite(float(norm))
        if finite:
            self.optimiser.step()
        return value, finite

    @torch.no_grad()
    def _average(self, done: int) -> None:
        weight = 1 - min(self.recipe.average, (1 + done) / (10 + done))
        mine = [*self.kept.parameters(), *_floats(self.kept)]
        theirs = [*self.net.parameters(), *_floats(self.net)]
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


def _floats(net: nn.Module) -> list[Tensor]:
    return [buffer for buffer in net.buffers() if buffer.is_floating_point()]


def _out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: CUDA has a class for it, the CPU allocator only words."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        word in str(error) for word in words
    )
