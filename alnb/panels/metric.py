"""What metric learning sees and does, as records: neighbours, a batch, who pulls whom, a queue.

Sources: Vepa et al., NeurIPS 2024, arXiv 2411.15763 (sampler, group loss, k-center on what was
learnt); Chen et al., ICML 2020, arXiv 2002.05709 (NT-Xent). `alnb.panels.sheets` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput
from alnb.records import Floats, Pool, Rows

if TYPE_CHECKING:
    from alnb.losses.contrastive import Kind, Weights

KINDS: tuple[Kind, ...] = ("slice", "volume", "patient")
"""Relations from narrow to wide."""

APART, SAME_PATIENT, SAME_VOLUME = 0, 1, 2
"""How two slices are related: not at all, by the patient alone, by the volume as well."""

LEFT_OUT, PULL, PUSH = 0, 1, 2
"""What a loss does to the views of two slices."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Slices, and those that look most like them.

    Attributes
    ----------
    rows : (Q,) pool rows that were looked up.
    nearest : (Q, k) rows nearest to each, in order; never the row itself.
    kin : (Q, k) APART, SAME_PATIENT or SAME_VOLUME.
    """

    rows: Rows
    nearest: Rows
    kin: Rows


def neighbours(pool: Pool, features: Floats, rows: Sequence[int] | Rows, k: int = 6) -> Neighbours:
    """The k nearest other rows of each of `rows` by Euclidean distance; a lower row wins a tie.

    features : (N, D). BadInput if there are not k others, or a row is not in the pool.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    if not 1 <= k < len(pool):
        raise BadInput(f"k is {k}; it must be from 1 to {len(pool) - 1}, the other rows there are.")
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < len(pool)):
        raise BadInput(f"Rows are {chosen.tolist()}; each must be one of 0..{len(pool) - 1}.")
    points = features.astype(np.float64)
    away = np.stack([np.linalg.norm(points - points[row], axis=1) for row in chosen])
    away[np.arange(len(chosen)), chosen] = np.inf
    nearest: Rows = np.argsort(away, axis=1, kind="stable")[:, :k]
    same_patient = pool.patient[nearest] == pool.patient[chosen][:, None]
    same_volume = pool.volume[nearest] == pool.volume[chosen][:, None]
    kin = same_patient.astype(np.int64) + (same_patient & same_volume)
    return Neighbours(chosen, nearest, kin)


@dataclass(frozen=True, eq=False)
class Batch:
    """B slices drawn for one step: tuples of slices that belong together.

    Attributes
    ----------
    rows : (B,) pool rows.
    tuple_size : so many consecutive rows are a tuple.
    patient, volume, index : (B,) codes, and the place along the axis.
    """

    rows: Rows
    tuple_size: int
    patient: Rows
    volume: Rows
    index: Rows

    def related(self, kind: Kind) -> NDArray[np.bool_]:
        """(B, B) R of the relation, as the loss uses it."""
        from alnb.losses.contrastive import relation

        found: NDArray[np.bool_] = relation(kind, self.patient, self.volume, self.index).numpy()
        return found

    def acts(self, kind: Kind | None = None) -> Rows:
        """(B, B) what the group loss of `kind`, or NT-Xent, does: PULL, PUSH or LEFT_OUT.

        Of a slice with itself the entry speaks of its two views, which always attract.
        """
        if kind is None:
            return np.where(np.eye(len(self.rows), dtype=np.bool_), PULL, PUSH)
        other = self.patient[:, None] != self.patient
        return np.where(self.related(kind), PULL, np.where(other, PUSH, LEFT_OUT))


def batch_of(pool: Pool, rows: Rows, tuple_size: int) -> Batch:
    """What the loss is told of the slices that a sampler drew; for a pool of slices."""
    index = np.array([pool.slices[row][0].index for row in rows], dtype=np.int64)
    return Batch(rows, tuple_size, pool.patient[rows], pool.volume[rows], index)


def slice_index(pool: Pool) -> Rows:
    """(N,) place of each slice along its volume, which samplers and relations ask for."""
    return np.array([slices[0].index for slices in pool.slices], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Settled:
    """Where views that may move freely on a circle come to rest under a loss.

    Attributes
    ----------
    start, end : (2B,) angles in degrees, first views and then second views.
    loss : at the end.
    """

    start: Floats
    end: Floats
    loss: float


def settle(
    batch: Batch, weights: str | Weights, *, rng: np.random.Generator, steps: int = 300
) -> Settled:
    """Follow the gradient of a contrastive loss from random angles: no network, no images.

    Each slice has two views, which start near each other. weights : as in
    `alnb.losses.contrastive`. The circle is small, so that the rest found may be a local one.
    """
    import torch

    from alnb.losses.contrastive import Weights, contrastive_loss

    first = rng.uniform(0, 2 * np.pi, len(batch.rows))
    start = np.concatenate([first, first + rng.normal(0, 0.3, len(first))])
    angles = torch.tensor(start, requires_grad=True)
    follow = torch.optim.Adam([angles], lr=0.05)
    named = Weights.of(weights)
    loss = torch.zeros(())
    for _ in range(steps):
        views = torch.stack([angles.cos(), angles.sin()], dim=1)
        loss = contrastive_loss(views, batch.patient, batch.volume, batch.index, named)
        follow.zero_grad()
        loss.backward()
        follow.step()
    end = np.degrees(angles.detach().numpy())
    return Settled(np.degrees(start), end, float(loss.detach()))


def cover_radii(features: Floats, order: Rows | Sequence[int]) -> Floats:
    """(len(order),) cover radius after each row of `order` is labelled, whatever chose the order.

    The largest distance of any row to the nearest so far, in units of the features' root mean
    square distance to their mean, so that embeddings compare. O(len(order) N D).
    """
    points = features.astype(np.float64)
    points -= points.mean(axis=0)
    spread = float(np.sqrt(np.einsum("nd,nd->n", points, points).mean()))
    nearest = np.full(len(points), np.inf)
    radii = np.empty(len(order))
    for taken, row in enumerate(np.asarray(order, dtype=np.int64)):
        np.minimum(nearest, np.linalg.norm(points - points[row], axis=1), out=nearest)
        radii[taken] = nearest.max()
    return radii / (spread or 1.0)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two embeddings by one measure: does the nearest slice show the same patient?

    Attributes
    ----------
    one, other : share of slices for which it does.
    margin : twice the standard error of ``one - other`` over patients. Slices of a patient are no
        independent tries, so patients are what is counted; another training is not in it.
    patients : how many there are.
    """

    one: float
    other: float
    margin: float
    patients: int

    @property
    def clear(self) -> bool:
        """Whether the difference is larger than chance in the choice of patients explains."""
        return abs(self.one - self.other) > self.margin


def difference(pool: Pool, one: Floats, other: Floats) -> Difference:
    """Compare two embeddings (N, D1) and (N, D2) of a pool, patient by patient."""
    everything = np.arange(len(pool))
    hits = [neighbours(pool, x, everything, 1).kin[:, 0] >= SAME_PATIENT for x in (one, other)]
    codes = np.unique(pool.patient, return_inverse=True)[1]
    gain = hits[0].astype(np.float64) - hits[1]
    slices = np.bincount(codes)
    # of a mean over slices, with patients as the units that were sampled
    away = np.bincount(codes, gain) - slices * gain.mean()
    count = len(slices)
    spread = float(np.sqrt((away**2).sum() * count / max(count - 1, 1))) / len(pool)
    return Difference(float(hits[0].mean()), float(hits[1].mean()), 2 * spread, count)


def verdict(found: Difference, one: str, other: str) -> str:
    """What a difference says, in words, and what it does not say."""
    gap = 100 * (found.one - found.other)
    told = (
        f"The nearest slice shows the same patient for {100 * found.one:.0f} % of the slices by "
        f"{one} and for {100 * found.other:.0f} % by {other}: {gap:+.0f} points, give or take "
        f"{100 * found.margin:.0f} over {found.patients} patients. "
    )
    if not found.clear:
        return told + f"So {one} and {other} cannot be told apart here."
    better, worse = (one, other) if gap > 0 else (other, one)
    return told + f"So {better} finds patients more often than {worse} here, in this one training."
