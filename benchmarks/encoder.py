# ruff: noqa: T201 - a command line prints
"""Slices per second of encoder training, beside a pipeline that augments one sample at a time.

    python benchmarks/encoder.py [--device cpu] [--size 256] [--width 1] [--batch 9] [--threads 2]

All three train the same network on the same slices with the same loss, in turns, in one run:

ours        `train_encoder`: the whole pool on the device, views of a batch at once, bfloat16 and
            channels last where the hardware has them.
reference   a Dataset that makes the two views of one slice with torch on the CPU (crop and resize,
            mirror, affine map, blur and erasing, one after the other), a DataLoader with worker
            processes, the network in float32: how such a training is usually written.
fast net    the same Dataset and DataLoader, the network as ours: so the first ratio divides into
            what the network gains and what the views gain.

On a machine that others use too, ``--cpu-time`` counts this process's CPU seconds instead of the
clock's, on one thread and without worker processes.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from alnb.data.phantom import phantom
from alnb.embed.batches import GroupBatches
from alnb.embed.encoders import squares
from alnb.embed.train import EncoderRecipe, train_encoder
from alnb.losses.contrastive import Weights, contrastive_loss
from alnb.models.hardware import best_device, fast_dtype
from alnb.models.resnet import backbone, features, projection
from alnb.models.views import Views

CLOCK = time.process_time if "--cpu-time" in sys.argv else time.perf_counter


class OneByOne(Dataset[tuple[Tensor, ...]]):
    """Two views of one slice and its codes, augmented step by step on the CPU."""

    def __init__(self, cache: Tensor, codes: Tensor, views: Views) -> None:
        self.cache, self.codes, self.views = cache, codes, views

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, row: int) -> tuple[Tensor, ...]:
        image = self.cache[row][None]
        return self._view(image)[0], self._view(image)[0], self.codes[:, row]

    def _view(self, image: Tensor) -> Tensor:
        ranges, side = self.views, image.shape[3]

        def uniform(low: float, high: float) -> float:
            return float(torch.empty(1).uniform_(low, high))

        area, ratio = uniform(ranges.crop, 1), math.exp(uniform(math.log(3 / 4), math.log(4 / 3)))
        width = min(side, round(side * math.sqrt(area * ratio)))
        height = min(side, round(side * math.sqrt(area / ratio)))
        top = int(uniform(0, side - height + 1))
        left = int(uniform(0, side - width + 1))
        out = image[:, :, top : top + height, left : left + width]
        out = functional.interpolate(out, (side, side), mode="bilinear", antialias=True)
        if uniform(0, 1) < ranges.flip:
            out = out.flip(3)
        out = self._affine(out, uniform)
        sigma = uniform(*ranges.blur) * side / 256
        taps = torch.exp(-0.5 * ((torch.arange(5) - 2) / max(sigma, 1e-3)) ** 2)
        kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
        out = functional.conv2d(functional.pad(out, [2] * 4, mode="reflect"), kernel)
        if uniform(0, 1) < ranges.erase:
            height, width = (int(side * uniform(0.14, 0.57)) for _ in range(2))
            top, left = int(uniform(0, side - height)), int(uniform(0, side - width))
            out[:, :, top : top + height, left : left + width] = 0
        return out

    def _affine(self, image: Tensor, uniform: Callable[[float, float], float]) -> Tensor:
        ranges = self.views
        angle = math.radians(uniform(-ranges.rotate, ranges.rotate))
        slant = math.tan(math.radians(uniform(-ranges.shear, ranges.shear)))
        size = uniform(*ranges.scale)
        cos, sin = math.cos(angle) / size, math.sin(angle) / size
        move = [uniform(-2 * ranges.move, 2 * ranges.move) for _ in range(2)]
        rows = [[cos + slant * sin, sin - slant * cos, move[0]], [-sin, cos, move[1]]]
        grid = functional.affine_grid(torch.tensor([rows]), list(image.shape), align_corners=False)
        return functional.grid_sample(image, grid, align_corners=False)


class Epochs:
    """A batch sampler: the tuples of `GroupBatches`, epoch after epoch."""

    def __init__(self, groups: GroupBatches) -> None:
        self.groups = groups

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng(0)
        while True:
            for rows in self.groups.epoch(rng):
                yield rows.tolist()


class Usual:
    """A training as it is usually written; `step` returns when its loss is known."""

    def __init__(
        self,
        cache: Tensor,
        codes: np.ndarray,
        recipe: EncoderRecipe,
        device: torch.device,
        *,
        fast: bool,
        workers: int,
    ) -> None:
        self.weights = Weights.of(recipe.weights)
        groups = GroupBatches(*codes, self.weights.kinds, recipe.batch or 48)
        self.batch, self.device = groups.batch, device
        self.dtype = fast_dtype(device) if fast else None
        generator = torch.Generator()
        self.net = nn.Sequential(
            backbone(generator=generator, width=recipe.width),
            projection(features(recipe.width), generator=generator),
        ).to(device)
        if fast:
            self.net = self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=recipe.rate)
        self.loader = iter(
            DataLoader(
                OneByOne(cache, torch.from_numpy(codes), recipe.views),
                batch_sampler=Epochs(groups),
                num_workers=workers,
                pin_memory=device.type == "cuda",
            )
        )

    def step(self) -> None:
        first, second, codes = (part.to(self.device) for part in next(self.loader))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            z = self.net(torch.cat([first, second]))
        loss = contrastive_loss(z, *codes.T, self.weights)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        loss.item()

    def pace(self, seconds: float) -> float:
        """Slices per second over at least two steps and `seconds`, after one that is not timed."""
        self.step()
        begun, steps = CLOCK(), 0
        while steps < 2 or CLOCK() - begun < seconds:
            self.step()
            steps += 1
        return self.batch * steps / (CLOCK() - begun)


def ours(
    images: list[np.ndarray], codes: np.ndarray, recipe: EncoderRecipe, seconds: float
) -> float:
    """Slices per second of `train_encoder`, its first step and the filling of its cache apart."""
    ticks: list[float] = []

    def stopped() -> bool:
        return len(ticks) > 2 and ticks[-1] - ticks[0] > seconds

    train_encoder(
        images,
        *codes,
        recipe=replace(recipe, steps=10**6),
        rng=np.random.default_rng(0),
        on_step=lambda _: ticks.append(CLOCK()),
        stopped=stopped,
    )
    assert recipe.batch is not None
    return recipe.batch * (len(ticks) - 1) / (ticks[-1] - ticks[0])


def main() -> None:
    """Measure and print."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--device", default=best_device().type)
    ask.add_argument("--size", type=int, default=256)
    ask.add_argument("--width", type=float, default=1.0)
    ask.add_argument("--batch", type=int, default=9)
    ask.add_argument("--threads", type=int, default=cores)
    ask.add_argument("--workers", type=int, default=min(4, cores or 1))
    ask.add_argument("--seconds", type=float, default=6.0, help="per turn")
    ask.add_argument("--turns", type=int, default=3)
    ask.add_argument("--cpu-time", action="store_true", help="one thread, no workers")
    told = ask.parse_args()
    if told.cpu_time:
        told.threads, told.workers = 1, 0
    torch.set_num_threads(told.threads)
    device = torch.device(told.device)
    recipe = EncoderRecipe.paper(
        size=told.size,
        width=told.width,
        batch=told.batch,
        intensities="slice",
        device=told.device,
        threads=told.threads,
    )
    cohort = phantom(patients=16)
    pool = cohort.pool()
    slices = [slices[0] for slices in pool.slices]
    images = [np.asarray(cohort.slice_image(slice_id)) for slice_id in slices]
    codes = np.stack([pool.patient, pool.volume, np.array([s.index for s in slices])])
    cache = torch.cat(list(squares(images, told.size, "slice", torch.device("cpu"))))
    usual = {
        name: Usual(cache, codes, recipe, device, fast=fast, workers=told.workers)
        for name, fast in (("reference", False), ("fast net", True))
    }
    paces: dict[str, list[float]] = {"ours": [], **{name: [] for name in usual}}
    for _ in range(told.turns):
        paces["ours"].append(ours(images, codes, recipe, told.seconds))
        for name, training in usual.items():
            paces[name].append(training.pace(told.seconds))
    kind = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    print(
        f"{device.type} {kind}, {told.threads} threads, {told.workers} workers, "
        f"{'CPU seconds' if told.cpu_time else 'seconds of the clock'}, torch "
        f"{torch.__version__}, {fast_dtype(device) or torch.float32}\n"
        f"{len(images)} slices at {told.size}², width {told.width:g}, batches of {told.batch}"
    )
    middle = {name: statistics.median(values) for name, values in paces.items()}
    for name, values in paces.items():
        turns = ", ".join(f"{value:.1f}" for value in values)
        print(f"{name:10} {middle[name]:8.1f} slices/s   (turns: {turns})")
    print(
        f"ours / reference {middle['ours'] / middle['reference']:.2f}, of which the network "
        f"{middle['fast net'] / middle['reference']:.2f}, "
        f"the views {middle['ours'] / middle['fast net']:.2f}"
    )


if __name__ == "__main__":
    main()
