"""k-center: the lazy greedy against one product per pick, side by side in one run.

``python benchmarks/kcenter.py`` prints Markdown; ``--full`` adds 1 000 000 x 512 (2 GB of data).
Every ratio is of times measured in the same run, alternating; each is the least over repeats. The
plain method reads all of the data for every pick: in float32, one matrix-vector product. Both
use as many threads as numpy's BLAS has (OPENBLAS_NUM_THREADS and its like limit them).
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from alnb.strategies.cloud import Cloud
from alnb.strategies.coreset import k_center
from alnb.strategies.frontier import Frontier

Matrix = NDArray[np.float32]
Picks = tuple[NDArray[np.int64], NDArray[np.float64]]

BLOCK = 10_000
SLICES = 10
PATIENT = 2 * SLICES


def slices(n: int, dim: int, rng: np.random.Generator) -> Matrix:
    """Volumes of ten slices, two around a patient's centre; each walks on from its neighbour."""
    x = np.empty((n, dim), dtype=np.float32)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        volumes = -(-size // SLICES)
        walk = rng.standard_normal((volumes, SLICES, dim), dtype=np.float32)
        walk *= np.float32(0.3)
        np.cumsum(walk, axis=1, out=walk)
        patients = rng.standard_normal((-(-size // PATIENT), 1, dim), dtype=np.float32)
        walk += np.repeat(patients, 2, axis=0)[:volumes]
        x[start : start + size] = walk.reshape(-1, dim)[:size]
    return x


def clusters(n: int, dim: int, rng: np.random.Generator) -> Matrix:
    """A hundred clusters of spread 1, their centres of spread 3."""
    centres = 3 * rng.standard_normal((100, dim), dtype=np.float32)
    x = iid(n, dim, rng)
    for start in range(0, n, BLOCK):
        part = x[start : start + BLOCK]
        part += centres[rng.integers(100, size=len(part))]
    return x


def iid(n: int, dim: int, rng: np.random.Generator) -> Matrix:
    """Standard normal: no structure to make use of."""
    return rng.standard_normal((n, dim), dtype=np.float32)


KINDS: dict[str, Callable[[int, int, np.random.Generator], Matrix]] = {
    "slices": slices,
    "clusters": clusters,
    "iid": iid,
}


def plain(x: Matrix, picks: int) -> Picks:
    """Greedy k-center from row 0 with one matrix-vector product per pick."""
    norms = np.einsum("nd,nd->n", x, x)
    nearest = np.full(len(x), np.inf, dtype=np.float32)
    rows, radii = np.zeros(picks, dtype=np.int64), np.empty(picks)
    row = 0
    for turn in range(picks):
        rows[turn] = row
        squared = x @ x[row]
        squared *= -2
        squared += norms
        squared += norms[row]
        np.minimum(nearest, squared, out=nearest)
        nearest[row] = 0
        row = int(nearest.argmax())
        radii[turn] = np.sqrt(nearest[row])
    return rows, radii


def by_sklearn(x: Matrix, picks: int) -> None:
    """The same with scikit-learn's distances."""
    from sklearn.metrics import pairwise_distances

    nearest = np.full(len(x), np.inf, dtype=np.float32)
    row = 0
    for _ in range(picks):
        np.minimum(nearest, pairwise_distances(x, x[row : row + 1])[:, 0], out=nearest)
        row = int(nearest.argmax())


def lazy(x: Matrix, picks: int) -> Picks:
    """What `alnb` does."""
    cover = k_center(x, centres=[], n=picks, first=0)
    return cover.rows, cover.radii


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def reads_and_memory(x: Matrix, picks: int) -> tuple[float, float, float]:
    """How often each row is read on average, the share of distances computed, extra memory.

    Memory is the most that numpy held beyond the data, as a share of it, buffers of the BLAS not
    counted.
    """
    rows, pairs = [], []
    near, bring = Cloud.near, Frontier._bring

    def counted(cloud, wanted, out):  # type: ignore[no-untyped-def]
        found = near(cloud, wanted, out)
        rows.append(len(found))
        return found

    def brought(frontier, points, reach, squared, missed, *room):  # type: ignore[no-untyped-def]
        pairs.append(len(points) * len(missed))
        bring(frontier, points, reach, squared, missed, *room)

    Cloud.near, Frontier._bring = counted, brought  # type: ignore[method-assign]
    tracemalloc.start()
    try:
        lazy(x, picks)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        Cloud.near, Frontier._bring = near, bring  # type: ignore[method-assign]
    return sum(rows) / len(x), sum(pairs) / (len(x) * picks), peak / x.nbytes


def compare(kind: str, n: int, dim: int, *, picks: int, repeats: int, few: int) -> str:
    """One row of the table. few : picks that the plain method is timed on."""
    x = KINDS[kind](n, dim, np.random.default_rng(0))
    best = dict.fromkeys(("lazy", "plain", "sklearn"), np.inf)
    lazy(x[:1000], 10)
    shorter = max(few // 50, 3)
    for _ in range(repeats):
        best["lazy"] = min(best["lazy"], *(seconds(lambda: lazy(x, picks)) for _ in range(3)))
        best["plain"] = min(best["plain"], seconds(lambda: plain(x, few)) * picks / few)
        taken = seconds(lambda: by_sklearn(x, shorter)) * picks / shorter
        best["sklearn"] = min(best["sklearn"], taken)
    rows, radii = lazy(x, picks)
    known_rows, known_radii = plain(x, few)
    same = int((rows[:few] == known_rows).sum())
    apart = float(np.abs(radii[:few] / known_radii - 1).max())
    reads, share, memory = reads_and_memory(x, picks)
    return (
        f"| {kind} | {n:,} × {dim} | {best['lazy']:.3f} s | {best['plain']:.2f} s | "
        f"{best['plain'] / best['lazy']:.1f} | {best['sklearn'] / best['lazy']:.0f} | "
        f"{same}/{few}, {apart:.0e} | {reads:.1f} | {share:.1%} | {memory:.1%} |"
    )


def growth(kind: str, sizes: list[int], dim: int, picks: int) -> str:
    """Times of one kind of data as n grows, and each time over the one before."""
    whole = KINDS[kind](sizes[-1], dim, np.random.default_rng(0))
    times = [min(seconds(lambda s=s: lazy(whole[:s], picks)) for _ in range(4)) for s in sizes]
    steps = [f"×{b / a:.1f}" for a, b in pairwise(times)]
    cells = [f"{t:.3f} s {step}" for t, step in zip(times, ["", *steps], strict=True)]
    return f"| {kind} | {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--picks", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--full", action="store_true", help="1 000 000 x 512 as well")
    parser.add_argument("--no-growth", action="store_true")
    asked = parser.parse_args()
    say, picks = sys.stdout.write, asked.picks

    pools = {(p["internal_api"], p["num_threads"]) for p in threadpool_info()}
    say(f"{picks} picks; numpy {np.__version__}; threads {sorted(pools)}\n\n")
    say(
        "| data | n × dim | lazy | one product per pick | ratio | ratio to scikit-learn (scaled "
        "from fewer picks) | same rows, radii apart | reads of the data | distances | "
        "extra memory |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
    )
    for kind in asked.kinds:
        say(compare(kind, asked.n, asked.dim, picks=picks, repeats=asked.repeats, few=picks) + "\n")
        sys.stdout.flush()
    if asked.full:
        for kind in asked.kinds:
            # The plain method takes as long for every pick.
            few = min(picks, 50)
            say(compare(kind, 1_000_000, 512, picks=picks, repeats=1, few=few) + "\n")
            sys.stdout.flush()
    if not asked.no_growth:
        sizes = [25_000, 50_000, 100_000, 200_000, 400_000, 1_000_000]
        say(f"\n| data, {asked.dim} features | " + " | ".join(f"{s:,}" for s in sizes) + " |\n")
        say("|---" * (len(sizes) + 1) + "|\n")
        for kind in asked.kinds:
            say(growth(kind, sizes, asked.dim, picks) + "\n")
            sys.stdout.flush()
    say("\n| full ordering | |\n|---|---|\n")
    for kind in asked.kinds:
        x = KINDS[kind](2000, 512, np.random.default_rng(0))
        taken = min(seconds(lambda x=x: lazy(x, 2000)) for _ in range(3))
        say(f"| {kind} 2,000 × 512 | {taken:.3f} s |\n")


if __name__ == "__main__":
    main()
