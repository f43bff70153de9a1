# ruff: noqa: T201 - a command line prints
"""What it costs to score a pool with a committee, against the bare forward passes of its networks.

    OMP_NUM_THREADS=1 python benchmarks/committee.py [--slices 2000] [--sizes 128 256]

Both sides run in turns on the same machine, a few batches each, so that what else the machine does
slows both. "Scored" is all of `PoolSnapshot.reduce` with mean BALD: stacking slices, framing them,
the networks, resampling to the slices' own size, log-softmax, the running means and the score.
"Bare" is the same networks under autocast, on batches that are framed already; "cast" the same
with the convolutions' weights converted beforehand, as scoring does on a CPU. A score is on the
grid of the slice, or, if the snapshot is `coarse`, on that of the network, where no map is
resampled. Memory is the largest sum of live tensors, weights and scratch space of the kernels
excluded; "stacked" is the same score as a plain function of all members' probabilities.
"""

from __future__ import annotations

import argparse
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alnb.models.committee import DeepEnsemble, MCDropout
from alnb.models.dropout import RATES
from alnb.models.frame import Frame
from alnb.models.hardware import fast_dtype
from alnb.models.learners import SingleNet
from alnb.records import Floats, Pool, Rows, SliceId, TrainSet
from alnb.session.snapshot import PoolSnapshot
from alnb.strategies import uncertainty

BATCH = 16
CHUNK = 4 * BATCH
CLASSES = 4
DIFFERENT = 64


@dataclass
class Cohort:
    """As many slices as asked for, of which a few are different: no reading is measured."""

    side: int
    classes: tuple[str, ...] = ("background", "a", "b", "c")
    images: list[Floats] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        shape = (DIFFERENT, self.side, self.side)
        self.images = list(rng.random(shape, dtype=np.float32))

    def slice_image(self, slice_id: SliceId) -> Floats:
        """(side, side) float32."""
        return self.images[slice_id.index % DIFFERENT]


class Live(TorchDispatchMode):
    """Adds up the bytes of the tensors that live, and remembers the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Run the operation, then count the storages that it made."""
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def peak(work: Callable[[], Any]) -> float:
    """MiB of live tensors at the worst moment of `work`."""
    with Live() as live:
        work()
    return live.peak / 2**20


def committee(size: int, members: int, passes: int) -> DeepEnsemble:
    """Networks of one training step: how sure they are changes no timing."""
    net = SingleNet(size=size, steps=1, dropout=RATES if passes else ())
    learner = DeepEnsemble(members, MCDropout(passes, net) if passes else net)
    rng = np.random.default_rng(1)
    image = rng.random((size, size), dtype=np.float32)
    target = rng.integers(CLASSES, size=(size, size)).astype(np.uint8)
    learner.fit(TrainSet((image,), (target,), np.ones(1, np.int64), CLASSES), rng=rng)
    return learner


def bare(learner: DeepEnsemble, framed: torch.Tensor, *, cast: bool = False) -> None:
    """One batch through each network, whose logits are thrown away."""
    device = framed.device
    dtype = fast_dtype(device)
    networks = [n for member in learner._fitted for n in member.networks()]  # type: ignore[attr-defined]
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        for network in networks:
            network.model.ready[0](framed) if cast else network.model.net(framed)
    if device.type == "cuda":
        torch.cuda.synchronize()


def chunks(rows: int) -> Iterator[Rows]:
    """Rows 0..rows-1, a few batches at a time."""
    for start in range(0, rows, CHUNK):
        yield np.arange(start, min(start + CHUNK, rows))


def measure(slices: int, side: int, size: int, members: int, passes: int) -> None:
    """One line of the table."""
    learner = committee(size, members, passes)
    cohort = Cohort(side)
    ids = tuple(SliceId("noise", number) for number in range(slices))
    codes = np.zeros(slices, np.int64)
    pool = Pool(ids, tuple((item,) for item in ids), codes, codes, np.zeros(slices))
    rows = np.arange(slices)
    snapshot = PoolSnapshot(
        pool,
        rows,
        rows[:0],
        codes,
        cohort,
        learner,
        lambda: np.zeros((slices, 1)),  # type: ignore[arg-type]
    )
    batch = torch.from_numpy(np.stack(cohort.images[:BATCH])[:, None])
    device = next(learner._fitted[0].networks()[0].model.net.parameters()).device  # type: ignore[attr-defined]
    framed = Frame(side, side, size).images(batch.to(device))
    framed = framed.contiguous(memory_format=torch.channels_last)
    score = uncertainty.TopScore(uncertainty.bald).per_slice
    ways = {"slice": snapshot, "network": replace(snapshot, coarse=True)}
    few = rows[:BATCH]
    memory = {
        way: (
            peak(lambda view=view: view.reduce(score, few)),  # type: ignore[misc]
            peak(lambda view=view: view.reduce(score.__call__, few)),  # type: ignore[misc]
        )
        for way, view in ways.items()
    }
    spent: dict[str, list[float]] = {"bare": [], "cast": [], "slice": [], "network": []}
    for some in chunks(slices):
        parts = [framed[: len(some) - start] for start in range(0, len(some), BATCH)]
        spent["bare"].append(seconds(lambda parts=parts: [bare(learner, p) for p in parts]))  # type: ignore[misc]
        spent["cast"].append(
            seconds(lambda parts=parts: [bare(learner, p, cast=True) for p in parts])
        )  # type: ignore[misc]
        for way, view in ways.items():
            spent[way].append(seconds(lambda view=view, some=some: view.reduce(score, some)))  # type: ignore[misc]
    base, cast = np.array(spent["bare"]), np.array(spent["cast"])
    for way in ways:
        mine = np.array(spent[way])
        print(
            f"| {size} | {members} x {max(1, passes)} | {way} | {slices / base.sum():.1f} "
            f"| {slices / mine.sum():.1f} | {mine.sum() / base.sum():.3f} "
            f"| {mine.sum() / cast.sum():.3f} | {peak(lambda: bare(learner, framed)):.0f} "
            f"| {memory[way][0]:.0f} | {memory[way][1]:.0f} |",
            flush=True,
        )


def seconds(work: Callable[[], Any]) -> float:
    """Processor time that `work` takes, which other programs disturb less; on a GPU, its time."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    begun = clock()
    work()
    return clock() - begun


def main() -> None:
    """Print a table, a line per size of the networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slices", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256, help="of the slices")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="of the networks")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--passes", type=int, default=0, help="with dropout, of each member")
    options = parser.parse_args()
    print(
        f"{options.slices} slices of {options.side}², batches of {BATCH}, {CLASSES} classes, "
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)\n\n"
        "| network | members | scored on the grid of the | bare, slices/s | scored, slices/s "
        "| scored / bare | scored / cast | bare, MiB | scored, MiB | stacked, MiB |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    for size in options.sizes:
        measure(options.slices, options.side, size, options.members, options.passes)


if __name__ == "__main__":
    main()
