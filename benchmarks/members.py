# ruff: noqa: T201 - a command line prints
"""A training step of a committee, engine by engine, against as many steps of single networks.

    OMP_NUM_THREADS=1 python benchmarks/members.py [--members 5] [--size 128] [--device …] [--vmap]

"loop" is one member's step times the number of members, as the loop takes them; the others take all
members in one step. Turns go round the engines, so that what else the machine does slows all of
them; the number is the least of all turns. On a CPU seconds are those that the calling thread was
given, on a GPU those of the clock. Augmentation is left out: it is the same for all.
On a CPU ``--vmap`` is off by default, for it needs gigabytes there.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch

from alnb.models.course import Course
from alnb.models.fit import Recipe
from alnb.models.hardware import fast_dtype
from alnb.models.learners import SingleNet
from alnb.models.members import Engine, seconds_per_step
from alnb.records import TrainSet
from alnb.rng import stream


def main() -> None:
    """Print seconds per step of all members, and the ratios to the loop."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vmap", action=argparse.BooleanOptionalAction, default=None)
    args = parser.parse_args()
    engines: tuple[Engine, ...] = ("loop", "grouped")
    if args.vmap or (args.vmap is None and args.device != "cpu"):
        engines = (*engines, "vmap")
    courses = committee(args)
    least = dict.fromkeys(engines, math.inf)
    for _ in range(args.turns):
        for engine in engines:
            least[engine] = min(least[engine], seconds_per_step(engine, courses))
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"torch {torch.__version__}, {name}, {torch.get_num_threads()} threads")
    print(
        f"{args.members} U-Nets, {args.size} x {args.size}, batch {args.batch}, "
        f"{fast_dtype(device) or torch.float32}"
    )
    for engine, seconds in least.items():
        ratio = seconds / least["loop"]
        print(f"  {engine:8} {1e3 * seconds:8.1f} ms a step of all, {ratio:5.2f} x the loop")


def committee(args: argparse.Namespace) -> list[Course]:
    """One course per member, at its beginning."""
    rng = np.random.default_rng(0)
    side = args.size
    images = tuple(rng.random((side, side), dtype=np.float32) for _ in range(args.batch))
    targets = tuple(rng.integers(4, size=(side, side)).astype(np.uint8) for _ in range(args.batch))
    train = TrainSet(images, targets, np.ones(args.batch, np.int64), 4)
    recipe = Recipe(batch=args.batch, threads=torch.get_num_threads())
    courses: list[Course] = []
    for number in range(args.members):
        learner = SingleNet(size=side, recipe=recipe, device=args.device)
        like = courses[0] if courses else None
        courses.append(learner.course(train, rng=stream(0, "member", number), like=like))
    return courses


if __name__ == "__main__":
    main()
