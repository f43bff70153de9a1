# ruff: noqa: T201 - a command line prints
"""Mutual information of image pairs: against numpy's own histogram, and over a whole pool.

    OMP_NUM_THREADS=1 python benchmarks/mutual_information.py [--slices 2000] [--labelled 200]
        [--side 256] [--depth 64] [--columns 6] [--bins 32] [--threads 2] [--turns 3]

The first part times one pair of volumes of depth³ voxels on one thread, the least of all turns:
"histogram2d" counts by numpy.histogram2d, "counted" is `between`, which counts integers and takes
two pairs at a time. Both must agree to 1e-9. The second part compares every slice of a made-up pool
with every labelled one. The third asks a `Redundancy` twice, the second time from its cache on
disk, and counts how many pairs each took.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.ndimage import gaussian_filter

import alnb.strategies.mutual_information as module
from alnb.store.shelf import Shelf
from alnb.strategies.mutual_information import (
    Codes,
    Counts,
    Matrix,
    Quantiser,
    between,
    information,
)
from alnb.strategies.redundancy import Redundancy
from alnb.testing.toy import toy_snapshot

Result = TypeVar("Result")


def main() -> None:
    """Print the three parts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", type=int, default=2000)
    parser.add_argument("--labelled", type=int, default=200)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--depth", type=int, default=64)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--bins", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    quantiser = Quantiser(bins=args.bins, side=args.side, depth=args.depth)
    one_pair(textures(1 + args.columns, (args.depth,) * 3, args.bins), quantiser, args.turns)
    whole_pool(args.slices, args.labelled, quantiser, args.threads)
    twice(quantiser)


def textures(count: int, shape: tuple[int, ...], bins: int) -> Codes:
    """Codes of smooth random images, a fifth of each of them dark, as around a body."""
    rng = np.random.default_rng(0)
    found = np.empty((count, math.prod(shape)), dtype=np.uint16)
    for place in range(count):
        image = gaussian_filter(rng.normal(size=shape), 3)
        low, high = np.percentile(image, [20, 99.5])
        found[place] = np.clip((image - low) / (high - low) * bins, 0, bins - 1).ravel()
    return found


def one_pair(codes: Codes, quantiser: Quantiser, turns: int) -> None:
    """Microseconds per pair, and the ratio, side by side in one run."""
    ways: dict[str, Callable[[], Matrix]] = {
        "histogram2d": lambda: by_histogram(codes[1:], codes[0], quantiser.bins),
        "counted": lambda: between(codes[1:], codes[:1], quantiser, threads=1)[:, 0],
    }
    least = dict.fromkeys(ways, math.inf)
    found = {}
    for _ in range(turns):
        for name, way in ways.items():
            found[name], seconds = timed(way)
            least[name] = min(least[name], seconds)
    assert np.abs(found["counted"] - found["histogram2d"]).max() <= 1e-9, found
    print(f"a pair of {codes.shape[1]:,} voxels, {quantiser.bins} bins, equal to 1e-9")
    for name, seconds in least.items():
        each = 1e6 * seconds / (len(codes) - 1)
        print(f"  {name:12} {each:9.0f} us  {least['histogram2d'] / seconds:6.1f} x")


def by_histogram(rows: Codes, column: Codes, bins: int) -> Matrix:
    """The same numbers from numpy's two-dimensional histogram of each pair."""
    span = [[0, bins], [0, bins]]
    counts = [np.histogram2d(column, row, bins=bins, range=span)[0] for row in rows]
    return information(np.array(counts).astype(np.int64))


def whole_pool(slices: int, labelled: int, quantiser: Quantiser, threads: int) -> None:
    """Seconds for all pairs of a pool with its labelled slices."""
    few = textures(40, (quantiser.side, quantiser.side), quantiser.bins)
    pool = np.stack([np.roll(few[place % len(few)], 37 * place) for place in range(slices)])
    start = time.perf_counter(), time.process_time()
    between(pool, pool[:labelled], quantiser, threads=threads)
    wall, spent = time.perf_counter() - start[0], time.process_time() - start[1]
    pairs = slices * labelled
    print(f"{slices:,} slices x {labelled} labelled at {quantiser.side}², {threads} threads")
    print(f"  {wall:.1f} s, {spent:.1f} s of processor, {1e6 * spent / pairs:.0f} us a pair")


def twice(quantiser: Quantiser) -> None:
    """Pairs that a first and a second query count; the second has the files of the first alone."""
    counted: list[int] = []
    real = module.joint_counts

    def noted(one: Codes, others: Codes | Sequence[Codes], levels: int) -> Counts:
        counted.append(len(others))
        return real(one, others, levels)

    toy = toy_snapshot(depths=(8,) * 6, labelled=10)
    module.joint_counts = noted
    with tempfile.TemporaryDirectory() as folder:
        for query in ("first", "second"):
            counted.clear()
            lazy = Redundancy(quantiser, cache=Shelf(Path(folder)))
            _, seconds = timed(partial(lazy.to_labelled, toy, toy.candidates))
            print(f"{query} query: {sum(counted)} pairs counted, {1e3 * seconds:.0f} ms")
    module.joint_counts = real
    assert not counted


def timed(way: Callable[[], Result]) -> tuple[Result, float]:
    """What it gives, and the seconds of the processor that it took."""
    start = time.process_time()
    return way(), time.process_time() - start


if __name__ == "__main__":
    main()
