"""What a training will take, said before it begins: seconds and memory."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from alnb.models.committee import DeepEnsemble
from alnb.models.hardware import best_device
from alnb.models.learners import SingleNet, interactive_steps
from alnb.models.memory import free_bytes, peak_bytes
from alnb.models.scratch import ScratchNet
from alnb.models.svgd_committee import SVGDCommittee
from alnb.models.volume_net import VolumeNet
from alnb.models.window import extent
from alnb.protocols import Learner, never
from alnb.records import IGNORE, FitReport, Step, TrainSet

TRIAL_STEPS = 3
"""Steps of a trial; the first also pays for kernel selection and is not counted."""
TRIAL_SECONDS = 5.0
"""No further step is tried after so long."""
MARGIN = 1.25
"""Scratch space of kernels and gaps between allocations, on top of the tensors themselves."""
_FEW = 4


@dataclass(frozen=True)
class Estimate:
    """What a training will take.

    Attributes
    ----------
    steps : training steps, of all members together.
    seconds : until the last step; measuring the model afterwards comes on top.
    bytes : of memory, beyond what is taken already; None if unknown.
    how : where the numbers are from.
    place : "1 CPU core", "2 CPU cores" or "the GPU".
    free : bytes that are still free there; None if unknown.
    """

    steps: int
    seconds: float
    bytes: int | None
    how: str
    place: str
    free: int | None = None

    def __str__(self) -> str:
        """For a person who may wait or not."""
        memory = "" if self.bytes is None else f", {_gigabytes(self.bytes)}"
        return f"{_about(self.seconds)} on {self.place}{memory}; labels are safe if you stop."

    @property
    def shortage(self) -> str:
        """A warning if there is less memory than needed; empty if there is enough."""
        if self.bytes is None or self.free is None or self.bytes <= self.free:
            return ""
        return (
            f"This training needs about {_gigabytes(self.bytes)} of memory, and "
            f"{_gigabytes(self.free)} are free. Close other notebooks, or choose a smaller size or "
            "batch for the learner. Labels are safe."
        )


@dataclass(frozen=True)
class _Pace:
    """What is known of the trainings of one learner: the times of a step and of preparing a slice.

    `per_search` is the time of a step of the scout, of which the last training that was asked about
    took `searched`. `bytes` is the memory of a training with `slices` slices.
    """

    per_step: float
    per_search: float
    searched: int
    per_slice: float
    total: int
    bytes: int | None
    slices: int
    cores: int
    how: str


_known: dict[str, _Pace] = {}


def estimate(
    learner: Learner, train: TrainSet, *, stopped: Callable[[], bool] = never
) -> Estimate | None:
    """Seconds and memory of ``learner.fit(train)``; None if stopped before anything is known.

    The first time, copies of the learner take a few real steps: two with batches of one and two
    items, from which memory is extrapolated before any of it is needed, and three as they will be.
    No memory to take those leaves seconds unknown. Later, for the same settings in this process,
    nothing is run: the pace is that of the trial, or of the training before, see `remember`.

    What the learner's own fit raises.
    """
    device = _device(learner)
    free = free_bytes(device)
    searched = search_steps(learner, train)
    key = _key(learner, train)
    if key not in _known:
        needed = _memory(learner, train, device)
        short = needed is not None and free is not None and needed > free
        pace = (
            _unknown(learner, train, needed) if short else _trial(learner, train, needed, stopped)
        )
        if pace is None:
            return None
        known = not short
    else:
        pace, known = _known[key], True
    if known:
        _known[key] = replace(pace, searched=searched)
    slices = len(train.images)
    steps = planned_steps(learner, slices) or pace.total
    seconds = pace.per_slice * slices + pace.per_step * steps
    if searched:
        steps, seconds = steps + searched, seconds + pace.per_search * searched
    cores = "1 CPU core" if pace.cores == 1 else f"{pace.cores} CPU cores"
    place = "the GPU" if device.type == "cuda" else cores
    return Estimate(steps, seconds, pace.bytes, pace.how, place, free)


def remember(learner: Learner, train: TrainSet, report: FitReport) -> None:
    """Let the next estimate for `learner` go by the pace of a training that has ended."""
    key = _key(learner, train)
    before = _known.get(key)
    if before is not None and report.steps:
        others = before.per_slice * len(train.images) + before.per_search * before.searched
        pace = max(0.0, report.seconds - others) / report.steps
        total = before.total if report.stopped else report.steps
        how = "the pace of the training before"
        _known[key] = replace(before, per_step=pace, total=total, how=how)


def planned_steps(learner: object, slices: int) -> int | None:
    """Steps of a fit of `slices` slices, of all members; None if the learner does not say.

    Particles take their steps together, and each of these counts once. Those in which scouts look
    for the structures come on top, see `search_steps`.
    """
    times = 1
    for part in _nested(learner):
        if isinstance(part, DeepEnsemble):
            times *= part.members
        if isinstance(part, SingleNet):
            return times * (part.steps or interactive_steps(slices))
        if isinstance(part, ScratchNet):
            return times * (part.steps if isinstance(part.steps, int) else part.steps(slices))
        if isinstance(part, VolumeNet):
            return times * part.steps
    return None


def search_steps(learner: object, train: TrainSet) -> int:
    """Steps in which the scouts of all members look for the structures; 0 where none has one."""
    times = 1
    for part in _nested(learner):
        if isinstance(part, DeepEnsemble | SVGDCommittee):
            times *= part.members
        if isinstance(part, SingleNet):
            return times * part.searches(train)
    return 0


def _trial(
    learner: Learner, train: TrainSet, needed: int | None, stopped: Callable[[], bool]
) -> _Pace | None:
    tried = copy.deepcopy(learner)
    _search_briefly(tried, TRIAL_STEPS)
    # scouts come first, and their steps say nothing of those of the networks
    before = search_steps(tried, train)
    taken: list[tuple[float, Step]] = []
    cores = [1]

    def step(done: Step) -> None:
        taken.append((time.monotonic(), done))
        cores.append(torch.get_num_threads())

    def enough() -> bool:
        if stopped():
            return True
        late = bool(taken) and time.monotonic() - taken[0][0] > TRIAL_SECONDS
        own = len(taken) - before
        return own >= TRIAL_STEPS or (late and own > 1)

    begun = time.monotonic()
    tried.fit(train, rng=np.random.default_rng(0), on_step=step, stopped=enough)
    times = [at for at, _ in taken]
    if len(times) <= before:
        return None
    per_search, first = _least(times[:before], begun), times[before - 1] if before else begun
    pace = _least(times[before:], first)
    # of a single step, its own time is unknown: all of it is taken for the step
    alone = len(times) == 1
    preparing = 0.0 if alone else max(0.0, times[0] - begun - (per_search if before else pace))
    slices = len(train.images)
    per_slice = preparing / max(1, slices)
    total = taken[0][1].total - before
    how = f"{len(taken) - before} steps on trial"
    return _Pace(pace, per_search, 0, per_slice, total, needed, slices, cores[-1], how)


def _least(times: Sequence[float], begun: float) -> float:
    """Least time from one to the next of `times`; from `begun` to the only one; 0 of none."""
    later = [b - a for a, b in pairwise(times)]
    return min(later) if later else times[0] - begun if times else 0.0


def _search_briefly(learner: object, steps: int) -> None:
    """Let the scouts of `learner`, of all its members, take only so many steps."""
    for part in _nested(learner):
        if isinstance(part, DeepEnsemble):
            for member in part._fitted:
                _search_briefly(member, steps)
        if isinstance(part, SVGDCommittee):
            _search_briefly(part.base, steps)  # of which every fit makes new members
        if isinstance(part, SingleNet):
            part.scout_steps = (steps, steps)


def _unknown(learner: Learner, train: TrainSet, needed: int | None) -> _Pace:
    """Memory is short, so that not even a trial is safe."""
    slices = len(train.images)
    total = planned_steps(learner, slices) or 0
    threads, how = torch.get_num_threads(), "two small steps"
    return _Pace(math.nan, 0.0, 0, 0.0, total, needed, slices, threads, how)


def _memory(learner: Learner, train: TrainSet, device: torch.device) -> int | None:
    """Bytes at the worst moment, by the growth from a batch of one item to one of two."""
    rows = _widest(train)
    few = replace(
        train,
        images=tuple(train.images[row] for row in rows),
        targets=tuple(train.targets[row] for row in rows),
        weight=train.weight[rows],
        names=tuple(train.names[row] for row in rows if train.names),
    )
    found: list[int] = []
    for batch in (1, 2):
        small, wanted, members = _with_batch(learner, batch)
        if small is None:
            return None
        _search_briefly(small, 1)
        before = search_steps(small, few)
        # after scouts members take turns of two steps, and each is to take one
        enough = before + members * (2 if before and members > 1 else 1)
        steps: list[Step] = []
        with peak_bytes(device) as peak:
            small.fit(
                few,
                rng=np.random.default_rng(0),
                on_step=steps.append,
                stopped=lambda seen=steps, most=enough: len(seen) >= most,  # type: ignore[misc]
            )
            found.append(peak())
    grown = max(0, found[1] - found[0])
    # float32 image, uint8 labels
    others = sum(5 * image.size for row, image in enumerate(train.images) if row not in rows)
    return int(MARGIN * (found[0] + grown * (wanted - 1) + others))


def _widest(train: TrainSet) -> list[int]:
    """Rows of the few slices that show most, which are looked at in the window of all of them."""

    def shown(row: int) -> float:
        target = train.targets[row]
        if not train.weight[row] or not (target != IGNORE).any():
            return -1.0  # nothing is learnt from it
        if target.ndim == 3:
            return float(target.size)
        box = extent(target)
        return 0.0 if box is None else box[2]

    return sorted(range(len(train.images)), key=shown, reverse=True)[:_FEW]


def _with_batch(learner: Learner, batch: int) -> tuple[Learner | None, int, int]:
    """A copy that takes `batch` items per step, how many the learner takes, and its members."""
    mine = copy.deepcopy(learner)
    members = 1
    for part in _nested(mine):
        if isinstance(part, DeepEnsemble):
            members *= part.members
            # the most that "auto" may come to
            part.engine = "grouped" if part.engine == "auto" else part.engine
            members = 1 if part.engine != "loop" else members
            part._fitted = ()  # these would go on with their own batch
        if isinstance(part, SVGDCommittee):
            part._fitted = ()
        if isinstance(part, SingleNet | ScratchNet | VolumeNet):
            wanted = part.recipe.batch
            part.recipe = replace(part.recipe, batch=batch)
            return mine, wanted, members
    return None, 0, members


def _nested(learner: object) -> Iterator[Any]:
    """The learner, its base, the base of that, and so on; of a fitted ensemble, a member."""
    part = learner
    while part is not None:
        yield part
        fitted = part._fitted if isinstance(part, DeepEnsemble | SVGDCommittee) else ()
        part = fitted[0] if fitted else getattr(part, "base", None)


def _device(learner: Learner) -> torch.device:
    named = [
        part.device for part in _nested(learner) if isinstance(getattr(part, "device", 0), str)
    ]
    return torch.device(named[0]) if named else best_device()


def _key(learner: Learner, train: TrainSet) -> str:
    seen = "window" if search_steps(learner, train) else "whole"
    return f"{type(learner).__qualname__} {learner!r} {_device(learner)} {seen}"


def _about(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "An unknown time"
    if seconds < 90:
        return f"About {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"About {round(seconds / 60)} min"
    return f"About {seconds / 3600:.1f} h"


def _gigabytes(count: int) -> str:
    return f"{max(0.1, count / 1e9):.1f} GB"
