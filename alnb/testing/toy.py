"""A small made-up pool for tests of strategies: every part of a Snapshot, in memory and seeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alnb.errors import ColdStart
from alnb.records import Floats, ItemId, Pool, Rows, SliceId, Unit, VolumeId
from alnb.strategies.common import mean_by_owner

if TYPE_CHECKING:
    from torch import Tensor

_SIDE = 8
_BATCH = 3


@dataclass(frozen=True, eq=False)
class ToySnapshot:
    """A Snapshot whose every answer is an array that a test can set and compare.

    Attributes
    ----------
    embedding : (N, D) what `features` gives.
    pixels : per row the (Z, H, W) slices it stands for; Z is 1 in a slice pool.
    probabilities : per row (M, Z, C, H, W), summing to 1 over C; None before the first fit, so
        that `reduce` raises ColdStart.
    holds : (N, C) what `presence` gives, or None, so that it raises ColdStart.
    """

    pool: Pool
    candidates: Rows
    labelled: Rows
    counts: Rows
    classes: int
    embedding: Floats
    pixels: tuple[Floats, ...]
    probabilities: tuple[Floats, ...] | None
    holds: NDArray[np.bool_] | None
    rounds: int = 0

    def features(self) -> Floats:
        """(N, D) the embedding itself, not a copy: a strategy that writes into it is found out."""
        return self.embedding

    def learned(self, rows: Rows) -> Floats:
        """(len(rows), M C) mean probabilities of the members, as if they were the bottleneck."""
        if self.probabilities is None:
            raise ColdStart("This toy was made with fitted=False; there is nothing learnt.")
        parts = [self.probabilities[row].mean(axis=(1, 3, 4)).ravel() for row in rows]
        return np.stack(parts) if parts else np.empty((0, 0))

    def gradients(self, rows: Rows) -> Floats:
        """(len(rows), 2 C) for a last layer on each pixel's 1 and intensity, members averaged."""
        if self.probabilities is None:
            raise ColdStart("This toy was made with fitted=False; there is nothing learnt.")
        found = np.empty((len(rows), 2 * self.classes))
        for place, row in enumerate(rows.tolist()):
            p = self.probabilities[row].mean(axis=0).transpose(1, 0, 2, 3).reshape(self.classes, -1)
            wrong = p - (np.arange(self.classes)[:, None] == p.argmax(axis=0))
            z = np.stack([np.ones(p.shape[1]), self.pixels[row].ravel()])
            found[place] = (wrong @ z.T / p.shape[1]).ravel()
        return found

    def images(self, rows: Rows) -> Iterator[Tensor]:
        """Batches (B, 1, H, W); a row of a volume pool gives all of its slices."""
        import torch

        for row in rows:
            yield torch.from_numpy(self.pixels[row])[:, None]

    def reduce(self, score: Callable[[Tensor], Tensor], rows: Rows) -> Floats:
        """(len(rows), ...) of `score`; a volume's score is the mean over its slices."""
        if self.probabilities is None:
            raise ColdStart("This toy was made with fitted=False; there is nothing to score.")
        import torch

        parts = [self.probabilities[row] for row in rows]
        owner = np.repeat(np.arange(len(rows)), [part.shape[1] for part in parts])
        values = [
            score(torch.from_numpy(np.concatenate(parts[start : start + _BATCH], axis=1)))
            for start in range(0, len(parts), _BATCH)
        ]
        flat = np.concatenate([value.double().numpy() for value in values] or [np.empty(0)])
        return mean_by_owner(flat, owner, len(rows))

    def presence(self) -> NDArray[np.bool_]:
        """(N, C) the array itself; ColdStart if there is none."""
        if self.holds is None:
            raise ColdStart("This toy was made with fitted=False; no row's classes are known.")
        return self.holds

    def permuted(self, order: Rows) -> ToySnapshot:
        """The same pool written down in another order: its row i is row order[i] of this one."""
        back = np.argsort(order)
        pool = Pool(
            ids=tuple(self.pool.ids[row] for row in order),
            slices=tuple(self.pool.slices[row] for row in order),
            patient=self.pool.patient[order],
            volume=self.pool.volume[order],
            position=self.pool.position[order],
        )
        known = self.probabilities
        return replace(
            self,
            pool=pool,
            candidates=np.sort(back[self.candidates]),
            labelled=np.sort(back[self.labelled]),
            counts=self.counts[order],
            embedding=self.embedding[order],
            pixels=tuple(self.pixels[row] for row in order),
            probabilities=None if known is None else tuple(known[row] for row in order),
            holds=None if self.holds is None else self.holds[order],
        )

    def arrays(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Every array a strategy can reach, with its name."""
        yield from [("pool.patient", self.pool.patient), ("pool.volume", self.pool.volume)]
        yield from [("pool.position", self.pool.position), ("candidates", self.candidates)]
        yield from [("labelled", self.labelled), ("counts", self.counts)]
        yield "features()", self.embedding
        yield from (("images()", image) for image in self.pixels)
        if self.holds is not None:
            yield "presence()", self.holds


def toy_snapshot(
    seed: int = 0,
    *,
    unit: Unit = "slice",
    depths: Sequence[int] = (6, 4, 7, 5),
    labelled: int = 3,
    skipped: int = 2,
    keep_labelled: bool = False,
    fitted: bool = True,
    classes: int = 3,
    members: int = 3,
    features: int = 5,
) -> ToySnapshot:
    """A pool of one volume per depth, two volumes per patient; ties have probability zero.

    labelled, skipped : rows drawn to be finished, and rows that are neither finished nor
    candidates. The first row is among the skipped, so that candidates are never 0..K-1, which is
    how a mix-up of rows and positions shows. keep_labelled : labelled rows stay candidates.
    Foreground lies in the middle slices of each volume, and every image is 8 x 8.
    """
    rng = np.random.default_rng(seed)
    pool = toy_pool(unit, depths)
    n = len(pool)
    away = rng.permutation(n)
    if skipped:
        away = np.concatenate([[0], away[away != 0]])
    done = np.sort(away[skipped : skipped + labelled])
    out = away[:skipped] if keep_labelled else away[: skipped + labelled]
    counts = np.zeros(n, dtype=np.int64)
    counts[done] = 1
    holds = np.zeros((n, classes), dtype=np.bool_)
    holds[:, 0] = True
    middle = np.abs(pool.position - 0.5) <= 0.35
    holds[:, 1:] = middle[:, None] & (rng.random((n, classes - 1)) < 0.7)
    heights = [len(slices) for slices in pool.slices]
    cuts, shape = np.cumsum(heights)[:-1], (_SIDE, _SIDE)
    # A sharpness of its own per row spreads the uncertainties out.
    sharpness = np.repeat(2 * rng.exponential(size=n), heights)[:, None, None, None]
    maps = _softmax(sharpness * rng.normal(size=(members, sum(heights), classes, *shape)))
    pixels = rng.normal(size=(sum(heights), *shape)).astype(np.float32)
    return ToySnapshot(
        pool=pool,
        candidates=np.setdiff1d(np.arange(n), out),
        labelled=done,
        counts=counts,
        classes=classes,
        embedding=rng.normal(size=(n, features)).astype(np.float32),
        pixels=tuple(np.split(pixels, cuts)),
        probabilities=tuple(np.split(maps, cuts, axis=1)) if fitted else None,
        holds=holds if fitted else None,
        rounds=1 if labelled else 0,
    )


def toy_pool(unit: Unit, depths: Sequence[int]) -> Pool:
    """One volume per depth, two per patient (ED and ES), in order."""
    names = [f"patient{v // 2:03d}/{'ES' if v % 2 else 'ED'}" for v in range(len(depths))]
    slices = [[SliceId(name, z) for z in range(depths[v])] for v, name in enumerate(names)]
    ids: tuple[ItemId, ...]
    if unit == "volume":
        ids = tuple(VolumeId(name) for name in names)
        volume = np.arange(len(depths))
        worked = tuple(tuple(part) for part in slices)
        position = np.full(len(depths), 0.5)
    else:
        ids = tuple(item for part in slices for item in part)
        volume = np.repeat(np.arange(len(depths)), depths)
        worked = tuple((item,) for part in slices for item in part)
        position = np.concatenate([(np.arange(z) / max(z - 1, 1)) for z in depths])
    return Pool(ids=ids, slices=worked, patient=volume // 2, volume=volume, position=position)


def _softmax(logits: Floats) -> Floats:
    weight = np.exp(logits - logits.max(axis=-3, keepdims=True))
    share: Floats = (weight / weight.sum(axis=-3, keepdims=True)).astype(np.float32)
    return share
