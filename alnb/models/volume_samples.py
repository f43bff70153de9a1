"""A training set of volumes as a network draws it: whole ones on one grid, or patches of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from alnb.models.augment import apply
from alnb.models.samples import Shuffle, drawn, spread
from alnb.records import IGNORE, Floats, LabelMap, Rows, TrainSet

if TYPE_CHECKING:
    from torch import Generator

    from alnb.models.augment3d import VolumeAugment

Shape = tuple[int, int, int]

FOREGROUND = 0.5
"""Share of patches that are centred on a labelled voxel of foreground, if the volume has any."""
_SPOTS = 20_000


@dataclass(frozen=True)
class VolumeKind:
    """What decides how volumes are prepared; fits of one kind can share the outcome.

    Attributes
    ----------
    size : grid that whole volumes are stretched to; None for patches.
    patch : of voxels as they come, drawn at random; None for whole volumes.
    device : where the volumes are kept.
    """

    size: Shape | None
    patch: Shape | None
    device: torch.device


@dataclass(frozen=True)
class VolumeSamples:
    """The training set on the device.

    Attributes
    ----------
    images, targets : per volume (1, *S) and (*S); S is the grid, or at least a patch.
    whole : (N,) bool, which volumes were labelled everywhere.
    shuffle : of rows that name each volume as often as it was chosen.
    spots : per volume, voxels that patches are centred on, (n, 3) with foreground and (m, 3) with
        any label; empty for whole volumes.
    """

    kind: VolumeKind
    images: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    whole: Tensor
    shuffle: Shuffle
    spots: tuple[tuple[Rows, Rows], ...] = ()

    @property
    def rows(self) -> Rows:
        """Those of `shuffle`."""
        return self.shuffle.rows

    @classmethod
    def prepare(cls, train: TrainSet, kind: VolumeKind) -> Self:
        """Bring the volumes that have any label to the grid. ColdStart if none has."""
        rows = drawn(train)
        images, targets, whole = [], [], []
        spots: list[tuple[Rows, Rows]] = []
        for row in rows:
            image, target = clean(train.images[row]), train.targets[row]
            whole.append(bool((target != IGNORE).all()))
            if kind.size is not None:
                image = stretched(image, kind.size)
                target = nearest(target, kind.size)
            else:
                assert kind.patch is not None, "a kind has one of the two"
                spots.append(_spots(target, len(spots)))
                image, target = _padded(image, target, kind.patch)
            images.append(image[0].to(kind.device))
            targets.append(torch.from_numpy(target).to(kind.device))
        shuffle = Shuffle(np.repeat(np.arange(len(rows)), train.weight[rows]))
        return cls(kind, tuple(images), tuple(targets), torch.tensor(whole), shuffle, tuple(spots))

    def again(self) -> Self:
        """The same samples with a shuffle of their own."""
        return replace(self, shuffle=Shuffle(self.rows))

    def first(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """`batch` items, unchanged, patches from the middle; no shuffle and no stream moves."""
        return self._stacked((torch.arange(batch) % len(self.whole)).tolist(), None)

    def probe(self, count: int) -> Tensor:
        """Up to `count` items from first to last, patches from the middle."""
        return self._stacked(spread(self.rows, count).tolist(), None)[0]

    def draw(
        self, batch: int, augment: VolumeAugment, rng: np.random.Generator, generator: Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next items of an endless shuffle, augmented: images, targets and whole."""
        images, targets, whole = self._stacked(self.shuffle.next(batch, rng).tolist(), rng)
        if not augment.share:
            return images, targets, whole
        change = augment.draw(tuple(images.shape), generator)
        return *apply(images, targets, change), whole

    def _stacked(
        self, rows: list[int], rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        images, targets = [], []
        for row in rows:
            image, target = self.images[row], self.targets[row]
            if self.kind.patch is not None:
                box = self._box(row, self.kind.patch, rng)
                image, target = image[(slice(None), *box)], target[box]
            images.append(image)
            targets.append(target)
        whole = self.whole[torch.tensor(rows)].to(self.kind.device)
        return torch.stack(images), torch.stack(targets), whole

    def _box(
        self, row: int, patch: Shape, rng: np.random.Generator | None
    ) -> tuple[slice, slice, slice]:
        """Where a patch lies: around a random spot, or in the middle without `rng`."""
        shape = self.targets[row].shape
        middle = np.array(shape) // 2
        if rng is not None:
            inside, labelled = self.spots[row]
            wanted = inside if rng.random() < FOREGROUND and len(inside) else labelled
            middle = wanted[rng.integers(len(wanted))]
        starts = [
            int(np.clip(place - side // 2, 0, length - side))
            for place, side, length in zip(middle, patch, shape, strict=True)
        ]
        first, second, third = (
            slice(start, start + side) for start, side in zip(starts, patch, strict=True)
        )
        return first, second, third


def clean(image: Floats) -> Tensor:
    """(Z, H, W) -> (1, 1, Z, H, W) float32 in which every number is one."""
    values = torch.from_numpy(np.array(image, dtype=np.float32))[None, None]
    return torch.nan_to_num(values, posinf=0.0, neginf=0.0)


def stretched(volumes: Tensor, size: Shape) -> Tensor:
    """(B, C, Z, H, W) -> (B, C, *size), linearly interpolated; coarser axes are averaged first."""
    if tuple(volumes.shape[2:]) == size:
        return volumes
    if any(2 * new <= old for new, old in zip(size, volumes.shape[2:], strict=True)):
        z, h, w = (min(new, old) for new, old in zip(size, volumes.shape[2:], strict=True))
        volumes = functional.adaptive_avg_pool3d(volumes, (z, h, w))
    return functional.interpolate(volumes, size, mode="trilinear")


def nearest(target: LabelMap, size: Shape) -> LabelMap:
    """(Z, H, W) -> `size`, each voxel the label at its centre."""
    places = [
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for new, old in zip(size, target.shape, strict=True)
    ]
    return np.ascontiguousarray(target[np.ix_(*places)])


def _padded(image: Tensor, target: LabelMap, patch: Shape) -> tuple[Tensor, LabelMap]:
    """At least as large as a patch: images continue with 0, labels with IGNORE."""
    more = [max(0, side - length) for side, length in zip(patch, target.shape, strict=True)]
    if not any(more):
        return image, np.array(target)
    padded = functional.pad(image, [value for extra in more[::-1] for value in (0, extra)])
    return padded, np.pad(target, [(0, extra) for extra in more], constant_values=IGNORE)


def _spots(target: LabelMap, number: int) -> tuple[Rows, Rows]:
    """Voxels of foreground and voxels with any label, (n, 3) each, a fixed sample where many."""
    some = np.random.default_rng(number)
    found = []
    for mask in ((target != IGNORE) & (target > 0), target != IGNORE):
        places = np.argwhere(mask)
        if len(places) > _SPOTS:
            places = places[some.choice(len(places), _SPOTS, replace=False)]
        found.append(places)
    return found[0], found[1]
