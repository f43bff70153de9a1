"""Time, memory and worth of the strategies that choose by representation.

    python benchmarks/representation.py --rows 2000 20000 --ask 100

Prints a Markdown table. Rows are made up: volumes of ten slices, neighbours alike, volumes in
groups. What a model or encoder gives is given, so that the time is that of choosing alone. Every
measurement runs in a process of its own, so that its peak of memory is its own.

Where scikit-activeml can be imported, its TypiClust and ProbCover answer the same question in the
same run, and the last columns compare.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from alnb.records import Floats, Pool, Rows, SliceId
from alnb.rng import stream
from alnb.strategies.alps import ALPS, CALR
from alnb.strategies.badge import BADGE
from alnb.strategies.coregcn import CoreGCN
from alnb.strategies.kmeans_bald import KMeansBALD
from alnb.strategies.neighbours import Points
from alnb.strategies.probcover import ProbCover, pure_radius
from alnb.strategies.random_sampling import RandomSampling
from alnb.strategies.typiclust import TypiClust

DEPTH = 10
CLASSES = 4
LABELLED = 100


@dataclass(frozen=True, eq=False)
class Given:
    """A snapshot whose features, gradients and scores are arrays."""

    pool: Pool
    labelled: Rows
    x: Floats
    classes: int = CLASSES
    rounds: int = 1

    @property
    def candidates(self) -> Rows:
        return np.setdiff1d(np.arange(len(self.x)), self.labelled)

    @property
    def counts(self) -> Rows:
        return np.bincount(self.labelled, minlength=len(self.x))

    def features(self) -> Floats:
        return self.x

    def learned(self, rows: Rows) -> Floats:
        return self.x[rows]

    def gradients(self, rows: Rows) -> Floats:
        return self.x[rows] ** 3

    def reduce(self, score: object, rows: Rows) -> Floats:
        return np.abs(self.x[rows, 0])

    def images(self, rows: Rows) -> Iterator[Any]:
        raise NotImplementedError("No strategy measured here looks at images.")

    def presence(self) -> Any:
        raise NotImplementedError("No strategy measured here asks what rows hold.")


def made_up(rows: int, features: int, *, labelled: bool = True) -> Given:
    """`rows` slices in volumes of ten that walk through groups, large and small."""
    rng = np.random.default_rng(0)
    volumes = -(-rows // DEPTH)
    many = max(2, volumes // 4)
    group = rng.choice(many, size=volumes, p=1 / np.arange(1, many + 1) / harmonic(many))
    own = 2 * rng.normal(size=(many, features))[group] + 0.7 * rng.normal(size=(volumes, features))
    steps = 0.5 * rng.normal(size=(volumes, DEPTH, features))
    x = (own[:, None] + steps.cumsum(axis=1)).reshape(-1, features)[:rows].astype(np.float32)
    ids = tuple(SliceId(f"v{row // DEPTH:06d}", row % DEPTH) for row in range(rows))
    volume = np.arange(rows) // DEPTH
    position = (np.arange(rows) % DEPTH) / (DEPTH - 1)
    pool = Pool(ids, tuple((item,) for item in ids), volume, volume, position)
    known = rng.choice(rows, size=min(LABELLED, rows // 10), replace=False)
    return Given(pool, np.sort(known) if labelled else np.empty(0, np.int64), x)


def harmonic(many: int) -> float:
    """1 + 1/2 + … + 1/`many`, so that group sizes fall like 1/rank."""
    return float((1 / np.arange(1, many + 1)).sum())


def ours(name: str, toy: Given, n: int) -> Rows:
    """What the strategy called `name` chooses."""
    strategies: dict[str, Any] = {
        "random": RandomSampling(),
        "TypiClust": TypiClust(),
        "ProbCover": ProbCover(),
        "ProbCover, clusters": ProbCover(groups="clusters"),
        "BADGE": BADGE(),
        "k-means-BALD": KMeansBALD(),
        "CoreGCN": CoreGCN(),
        "ALPS": ALPS(),
        "CALR": CALR(),
    }
    chosen: Rows = strategies[name].select(toy, n, rng=stream(0)).rows
    return chosen


def theirs(name: str, toy: Given, n: int) -> Rows:
    """What scikit-activeml's form of it chooses; ProbCover is given the radius."""
    from skactiveml.pool import ProbCover as TheirCover
    from skactiveml.pool import TypiClust as TheirTypical

    warnings.simplefilter("ignore")  # one radius leaves nothing to search, and it says so
    y = np.full(len(toy.x), np.nan)
    y[toy.labelled] = 0
    if name == "TypiClust":
        query = TheirTypical(random_state=0, k=20)
    else:
        query = TheirCover(n_classes=CLASSES, deltas=[cover_radius_of(toy)], random_state=0)
    return np.asarray(query.query(toy.x, y, batch_size=n))


def cover_radius_of(toy: Given) -> float:
    """The radius at which values are compared: that of balls that stay within their volume."""
    rows = stream(2).choice(len(toy.x), size=min(4000, len(toy.x)), replace=False)
    return pure_radius(toy.x, toy.pool.volume, rows=rows)


def worth(toy: Given, rows: Rows) -> tuple[float, float]:
    """Share of the pool within the radius of a labelled or chosen row, and mean typicality.

    Typicality here is by the 20 nearest of the whole pool: one yardstick for all clusterings.
    """
    points, everyone = Points.of(toy.x), np.arange(len(toy.x))
    covered = np.zeros(len(toy.x), dtype=bool)
    radius = cover_radius_of(toy)
    for _, inside in points.within(np.union1d(toy.labelled, rows), everyone, radius**2):
        covered |= inside
    near = np.partition(np.sqrt(points.squared(rows, everyone)), 20, axis=1)[:, 1:21]
    return float(covered.mean()), float((1 / (near.mean(axis=1) + 1e-5)).mean())


def measured(
    choose: Callable[[str, Given, int], Rows], name: str, rows: int, features: int, n: int
) -> tuple[float, float, float, float]:
    """Seconds, peak memory in MB above that of the data, cover, typicality; in a fresh process."""
    toy = made_up(rows, features)
    choose(name, made_up(200, features), 5)  # imports and thread pools, once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    chosen = choose(name, toy, n)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, (peak - before) / 1024, *worth(toy, chosen)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--ask", type=int, default=100)
    parser.add_argument("--largest-cover", type=int, default=50_000, help="rows for ProbCover")
    parser.add_argument("--largest-theirs", type=int, default=20_000, help="rows for the other")
    parser.add_argument("--only", nargs="+", help="names of strategies")
    options = parser.parse_args()
    say = sys.stdout.write
    other = importlib.util.find_spec("skactiveml") is not None
    if not other:
        say("scikit-activeml is not installed, so nothing is compared.\n\n")
    say(f"{options.ask} of N rows x {options.features}, {LABELLED} labelled.\n\n")
    say("| strategy | N | seconds | peak, MB | covered | typicality | scikit-activeml |\n")
    say("|---|---|---|---|---|---|---|\n")
    names = ["random", "TypiClust", "ProbCover", "ProbCover, clusters"]
    names += ["BADGE", "k-means-BALD", "CoreGCN", "ALPS", "CALR"]
    for name in options.only or names:
        for rows in options.rows:
            if "ProbCover" in name and rows > options.largest_cover:
                continue
            size = (rows, options.features, options.ask)
            seconds, peak, cover, typical = alone(ours, name, *size)
            line = f"| {name} | {rows} | {seconds:.2f} | {peak:.0f} | {cover:.3f} | {typical:.4f} |"
            beside = ""
            if other and name in ("TypiClust", "ProbCover") and rows <= options.largest_theirs:
                slower, more, less, their = alone(theirs, name, *size)
                beside = (
                    f"{slower / seconds:.1f} x the time, {more:.0f} MB, "
                    f"covered {less:.3f}, typicality {their:.4f}"
                )
            say(f"{line} {beside} |\n")
            sys.stdout.flush()


def alone(
    choose: Callable[[str, Given, int], Rows], *question: Any
) -> tuple[float, float, float, float]:
    """`measured` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measured, choose, *question).result()


if __name__ == "__main__":
    main()
