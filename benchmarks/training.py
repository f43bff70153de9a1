# ruff: noqa: T201 - a command line prints
"""Slices per second of training, beside a plain MONAI loop that augments one sample at a time.

    OMP_NUM_THREADS=1 python benchmarks/training.py [--size 128] [--steps 12] [--cpu-time] [--dice]

Both train the same U-Net on the same framed slices of the phantom with the same loss, batch and
optimiser, in turns, in one run, in float32 and in bfloat16 each:

alnb     `SingleNet`'s own loop: slices on the device, a batch augmented at once, channels last,
         averaged weights, clipped gradients.
monai    how such a training is usually written: `CacheDataset`, Rand*d transforms with the same
         kinds and ranges of change, a `DataLoader` with no worker or with one. In float32 in the
         usual memory order; in bfloat16 channels last under autocast.

So the numbers of one format compare the loops, and those of one loop the formats. Warm-up steps do
not count. On a machine that others use too, ``--cpu-time`` counts this process's CPU seconds
instead of the clock's, without the worker process.

``--dice`` instead trains SingleNet in both formats with the same seeds and prints the Dice on
patients that it has not seen: whether the faster format costs anything.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from alnb.data.cohort import Cohort
from alnb.data.phantom import phantom
from alnb.losses.mixed import mixed_loss
from alnb.models.augment import Augment
from alnb.models.fit import Recipe
from alnb.models.hardware import best_device, fast_dtype, threads
from alnb.models.infer import predict_volume
from alnb.models.learners import SingleNet
from alnb.models.metrics import volume_dice
from alnb.models.unet import unet
from alnb.records import IGNORE, SliceId, TrainSet
from alnb.rng import stream

WARM = 2
CLASSES = 4


@contextlib.contextmanager
def number_format(fast: bool) -> Iterator[None]:
    """Whether alnb uses what `fast_dtype` finds, or float32."""
    if fast:
        yield
        return
    with (
        patch("alnb.models.fit.fast_dtype", lambda device: None),
        patch("alnb.models.network.fast_dtype", lambda device: None),
    ):
        yield


def scribbled(cohort: Cohort, patients: tuple[str, ...], every: int) -> TrainSet:
    """Every so-manieth slice of some patients, with its scribble."""
    ids = [
        SliceId(name, index)
        for name, volume in cohort.volumes.items()
        if volume.patient in patients
        for index in range(0, len(volume), every)
    ]
    pairs = [(cohort.slice_image(s), cohort.scribble(s)) for s in ids]
    drawn = [(i, t) for i, t in pairs if t is not None and (t != IGNORE).any()]
    images, targets = zip(*drawn, strict=True)
    return TrainSet(images, targets, np.ones(len(images), np.int64), CLASSES)


@dataclass
class Ours:
    """A training of `SingleNet`; each call takes further steps."""

    train: TrainSet
    size: int
    batch: int
    fast: bool

    def __post_init__(self) -> None:
        recipe = Recipe(batch=self.batch, threads=torch.get_num_threads())
        learner = SingleNet(size=self.size, steps=10**6, recipe=recipe)
        self.course = learner.course(self.train, rng=stream(0, "training"))

    def __call__(self, steps: int, clock: Callable[[], float]) -> float:
        """Seconds of `steps` steps after the warm-up."""
        times: list[float] = []
        with number_format(self.fast):
            self.course.advance(steps + WARM, on_step=lambda _: times.append(clock()))
        return times[-1] - times[WARM - 1]


@dataclass
class Usual:
    """The same with MONAI's transforms, one sample after another."""

    samples: Any
    size: int
    batch: int
    fast: bool
    workers: int

    def __post_init__(self) -> None:
        self.device = best_device()
        net = unet(CLASSES, generator=torch.Generator().manual_seed(0)).to(self.device).train()
        dtype = fast_dtype(self.device) if self.fast else None
        if dtype is not None:
            net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net, self.dtype = net, dtype
        self.optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4)
        self.batches = self._endless()

    def _endless(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        from monai.data.dataset import CacheDataset

        items = [
            {"image": image, "label": label[None].float()}
            for image, label in zip(self.samples.images, self.samples.targets, strict=True)
        ]
        data = CacheDataset(
            items, usual_transforms(Augment(), self.size), progress=False, num_workers=1
        )
        loader: DataLoader[Any] = DataLoader(
            data,
            self.batch,
            shuffle=True,
            drop_last=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )
        while True:
            for item in loader:
                yield item["image"].to(self.device), item["label"][:, 0].long().to(self.device)

    def __call__(self, steps: int, clock: Callable[[], float]) -> float:
        """Seconds of `steps` steps after the warm-up."""
        times: list[float] = []
        for images, labels in itertools.islice(self.batches, steps + WARM):
            if self.dtype is not None:
                given = images.contiguous(memory_format=torch.channels_last)
            else:
                given = images
            self.optimiser.zero_grad(set_to_none=True)
            with torch.autocast(given.device.type, self.dtype, enabled=self.dtype is not None):
                logits = self.net(given)
            loss = mixed_loss(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimiser.step()
            loss.item()
            times.append(clock())
        return times[-1] - times[WARM - 1]


def usual_transforms(ranges: Augment, size: int) -> Any:
    """Rand*d transforms of the kinds and ranges of `Augment`."""
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.dictionary import (
        RandAdjustContrastd,
        RandGaussianNoised,
        RandScaleIntensityd,
        RandShiftIntensityd,
    )
    from monai.transforms.spatial.dictionary import RandAffined
    from monai.transforms.utility.dictionary import EnsureTyped

    zoom = ranges.scale - 1
    chain = Compose(
        [
            EnsureTyped(["image", "label"], track_meta=False),
            RandAffined(
                ["image", "label"],
                prob=ranges.share,
                rotate_range=[np.radians(ranges.rotate)],
                scale_range=[(-zoom, zoom)] * 2,
                translate_range=[ranges.move * size] * 2,
                mode=["bilinear", "nearest"],
                padding_mode="border",
            ),
            RandAdjustContrastd("image", prob=ranges.share, gamma=(1 / ranges.gamma, ranges.gamma)),
            RandScaleIntensityd("image", factors=ranges.gain - 1, prob=ranges.share),
            RandShiftIntensityd("image", offsets=ranges.shift, prob=ranges.share),
            RandGaussianNoised("image", prob=ranges.share, std=ranges.noise),
        ]
    )
    return chain.set_random_state(0)


def speeds(args: argparse.Namespace) -> None:
    """Print slices per second of every pair of loop and format."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    cohort = phantom(args.patients)
    train = scribbled(cohort, cohort.patients, every=4)
    formats = [False, True] if fast_dtype(best_device()) is not None else [False]
    runs: dict[tuple[str, bool], Callable[[int, Callable[[], float]], float]] = {}
    for fast in formats:
        ours = runs["alnb", fast] = Ours(train, args.size, args.batch, fast)
        for workers in (0,) if args.cpu_time else (0, 1):
            name = f"monai, {workers} workers"
            runs[name, fast] = Usual(ours.course.samples, args.size, args.batch, fast, workers)
    found: dict[tuple[str, bool], list[float]] = {key: [] for key in runs}
    with threads(torch.get_num_threads()):
        for _ in range(args.turns):
            for key, run in runs.items():
                found[key].append(args.batch * args.steps / run(args.steps, clock))
    best = {key: max(values) for key, values in found.items()}
    print(
        f"torch {torch.__version__}, {best_device()}, {torch.get_num_threads()} threads, "
        f"{'CPU' if args.cpu_time else 'clock'} seconds; {len(train.images)} slices at "
        f"{args.size} x {args.size}, batch {args.batch}, best of {args.turns} x {args.steps} steps"
    )
    for (name, fast), value in best.items():
        text = "bf16" if fast else "fp32"
        over = value / best["monai, 0 workers", fast]
        plain = value / best["monai, 0 workers", False]
        print(
            f"  {name:16} {text}  {value:7.1f} slices/s   {over:5.2f} x monai in {text}   "
            f"{plain:5.2f} x monai in fp32"
        )


def dices(args: argparse.Namespace) -> None:
    """Print the test Dice of both formats, seed by seed."""
    cohort = phantom(args.patients)
    half = len(cohort.patients) // 2
    train = scribbled(cohort, cohort.patients[:half], every=3)
    test = [v for v in cohort.volumes.values() if v.patient in cohort.patients[half:]]
    print(f"{len(train.images)} scribbled slices, {args.steps} steps, {len(test)} test volumes")
    found: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(args.seeds):
        for fast, values in found.items():
            recipe = Recipe(batch=args.batch)
            learner = SingleNet(size=args.size, steps=args.steps, recipe=recipe)
            with number_format(fast):
                learner.fit(train, rng=stream(seed, "dice"))
                values.append(statistics.fmean(_dice(learner, volume) for volume in test))
            print(f"  seed {seed}  {'bf16' if fast else 'fp32'}  Dice {values[-1]:.3f}")
    gaps = [fast - plain for plain, fast in zip(found[False], found[True], strict=True)]
    spread = statistics.stdev(found[False]) if args.seeds > 1 else float("nan")
    print(
        f"  bf16 - fp32: {statistics.fmean(gaps):+.3f} on average, {min(gaps):+.3f} to "
        f"{max(gaps):+.3f}; fp32 varies by {spread:.3f} (std) from seed to seed"
    )


def _dice(learner: SingleNet, volume: Any) -> float:
    scores = volume_dice(predict_volume(learner, volume.image()), volume.reference(), CLASSES)
    return float(np.nanmean(scores))


def main() -> None:
    """Measure speed, or Dice."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--dice", action="store_true")
    args = parser.parse_args()
    if args.dice:
        dices(args)
    else:
        speeds(args)


if __name__ == "__main__":
    main()
