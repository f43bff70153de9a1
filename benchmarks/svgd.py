# ruff: noqa: T201 - a command line prints
"""A step of an SVGD committee against as many plain steps of its members, on the same path.

    OMP_NUM_THREADS=1 python benchmarks/svgd.py [--members 5] [--size 128] [--batch 8] [--small]

"plain" is the committee's control, in which nothing acts between the particles; "single" the step
of one `SingleNet` times the number of members. "direction" is what acts alone, on a matrix of that
size in memory. Turns go round all of them, so that what else the machine does slows each alike; the
number is the least of all turns. Seconds are those that the calling thread was given by the CPU.

    python benchmarks/svgd.py --gaussian

lets particles settle as a Gaussian in two dimensions instead, and says how far their mean is from
the target's, in standard deviations, and what share of its variance they have.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import pairwise, product

import numpy as np
import torch

from alnb.models.fit import Recipe
from alnb.models.hardware import fast_dtype
from alnb.models.members import seconds_per_step
from alnb.models.svgd import Stein, svgd_descent, svgd_direction
from alnb.models.svgd_committee import SVGDCommittee, from_scratch
from alnb.models.unet import CHANNELS
from alnb.records import TrainSet


def main() -> None:
    """Print seconds per step of all members, and the ratio to plain training."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="networks of a quarter of the width")
    parser.add_argument("--gaussian", action="store_true", help="a target that is known")
    args = parser.parse_args()
    if args.gaussian:
        gaussian()
        return
    width = 4 if args.small else 1
    train = noise(args.size, args.batch)
    recipe = Recipe(batch=args.batch, rate=1e-6, average=0.0, schedule="constant", optimiser="adam")
    base = from_scratch(
        size=args.size,
        steps=4,
        recipe=recipe,
        channels=tuple(channels // width for channels in CHANNELS),
        device="cpu",
    )
    course = base.course(train, rng=np.random.default_rng(0))
    columns = sum(weight.numel() for weight in course.model.net.parameters())
    kinds = {
        "svgd": lambda: seconds(SVGDCommittee(args.members, base), train),
        "plain": lambda: seconds(SVGDCommittee(args.members, base, control="ensemble"), train),
        "single": lambda: args.members * seconds_per_step("loop", [course, course]) / 2,
        "direction": lambda: direction(args.members, columns),
    }
    least = dict.fromkeys(kinds, math.inf)
    for _ in range(args.turns):
        for kind, measure in kinds.items():
            least[kind] = min(least[kind], measure())
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {args.members} U-Nets of "
        f"{columns / 1e6:.2f} M parameters, {args.size} x {args.size}, batch {args.batch}, "
        f"{fast_dtype(torch.device('cpu')) or torch.float32}"
    )
    for kind, value in least.items():
        print(f"  {kind:10} {1e3 * value:8.1f} ms, {value / least['plain']:5.3f} x plain")


def gaussian() -> None:
    """Print what 500 steps make of particles that begin close together, away from the target."""
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
    precision = torch.linalg.inv(covariance)
    for members, bandwidth in product((20, 50, 100), ("median", 3.0, 6.0)):
        generator = torch.Generator().manual_seed(1)
        theta = torch.randn(members, 2, generator=generator, dtype=torch.float64) * 0.3
        for _ in range(500):
            theta += svgd_direction(theta, -(theta - mean) @ precision, Stein(bandwidth))[0]
        away = (theta.mean(0) - mean).abs() / covariance.diagonal().sqrt()
        ratio = (theta.var(0) / covariance.diagonal()).tolist()
        print(
            f"M {members:3}, h {bandwidth}: mean off by {float(away.max()):.4f}, variance "
            f"{ratio[0]:.3f} and {ratio[1]:.3f} of the target's"
        )


def noise(side: int, items: int) -> TrainSet:
    """Slices without any structure, which train as fast as others."""
    rng = np.random.default_rng(0)
    images = tuple(rng.random((side, side), dtype=np.float32) for _ in range(items))
    targets = tuple(rng.integers(4, size=(side, side)).astype(np.uint8) for _ in range(items))
    return TrainSet(images, targets, np.ones(items, np.int64), 4)


def seconds(committee: SVGDCommittee, train: TrainSet) -> float:
    """Least CPU seconds between two steps; the first one also looks at the particles."""
    taken: list[float] = []
    committee.fit(
        train, rng=np.random.default_rng(0), on_step=lambda _: taken.append(time.thread_time())
    )
    return min(later - earlier for earlier, later in pairwise(taken))


def direction(members: int, columns: int) -> float:
    """CPU seconds of what acts between the particles."""
    generator = torch.Generator().manual_seed(0)
    theta = 0.05 * torch.randn(members, columns, generator=generator)
    slope = torch.randn(members, columns, generator=generator)
    found = []
    for _ in range(4):
        begun = time.thread_time()
        svgd_descent(theta, slope)
        found.append(time.thread_time() - begun)
    return min(found)


if __name__ == "__main__":
    main()
