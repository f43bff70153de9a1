"""A training set as a network draws it: framed once, shuffled without end, changed at random."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from alnb.errors import ColdStart
from alnb.models.augment import Augment, Windows, apply
from alnb.models.frame import Frame, rescale
from alnb.models.prior import with_far_background, with_near_background
from alnb.models.window import Window
from alnb.records import IGNORE, LabelMap, Rows, TrainSet

if TYPE_CHECKING:
    from torch import Generator


@dataclass(frozen=True)
class Shuffle:
    """An endless shuffle: every pass names each of `rows` once, in a random order."""

    rows: Rows
    queue: list[int] = field(default_factory=list)

    def next(self, count: int, rng: np.random.Generator) -> Tensor:
        """The next `count` rows."""
        while len(self.queue) < count:
            self.queue.extend(rng.permutation(self.rows).tolist())
        rows = torch.tensor(self.queue[:count])
        del self.queue[:count]
        return rows


def drawn(train: TrainSet) -> list[int]:
    """Items that have any label and count. ColdStart if there are none."""
    found = [
        row
        for row, (target, weight) in enumerate(zip(train.targets, train.weight, strict=True))
        if weight > 0 and (target != IGNORE).any()
    ]
    if not found:
        raise ColdStart(f"None of the {len(train.targets)} training items has a label.")
    return found


def spread(rows: Rows, count: int) -> Rows:
    """Up to `count` of `rows` from first to last; where weight 2 is the item twice, it is here."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows)))
    chosen: Rows = rows[places.round().astype(int)]
    return chosen


@dataclass(frozen=True)
class Kind:
    """What decides how a training set is framed; fits of one kind can share the outcome.

    Attributes
    ----------
    size : side of the square that the network sees.
    device : where the slices are kept.
    far_background, near_background : what is assumed about pixels that nobody labelled.
    window : the part of the frame that is drawn; None is all of it.
    """

    size: int
    device: torch.device
    far_background: bool
    near_background: float
    window: Window | None = None

    def target(self, framed: LabelMap) -> LabelMap:
        """A framed target with what may be assumed filled in; a whole mask stays as it is."""
        if self.near_background:
            framed = with_near_background(framed, self.near_background)
        return with_far_background(framed) if self.far_background else framed


@dataclass(frozen=True)
class Samples:
    """The training set on the device: images, targets, and which of these are whole masks.

    Attributes
    ----------
    images, targets : (N, 1, S, S) and (N, S, S), whole slices in their frame.
    whole : (N,) bool.
    shuffle : of rows that name each item as often as it was chosen: weight 2 is the item twice.
    centres : (N, 2) of the windows, see `alnb.models.augment.Windows`; None without a window.
    """

    kind: Kind
    images: Tensor
    targets: Tensor
    whole: Tensor
    shuffle: Shuffle
    centres: Tensor | None = None

    @property
    def rows(self) -> Rows:
        """Those of `shuffle`."""
        return self.shuffle.rows

    @classmethod
    def prepare(cls, train: TrainSet, kind: Kind) -> Self:
        """Frame the slices that have any label. ColdStart if none has."""
        rows = drawn(train)
        images, targets, whole = [], [], []
        side = kind.size if kind.window is None else kind.window.reach
        for row in rows:
            image, target = train.images[row], train.targets[row]
            frame = Frame(target.shape[0], target.shape[1], side)
            known = bool((target != IGNORE).all())
            label = frame.target(target)
            images.append(frame.images(torch.as_tensor(image)[None, None])[0])
            targets.append(label if known else kind.target(label))
            whole.append(known)
        centres = None
        if kind.window is not None:
            centres = kind.window.centres(train.targets[row] for row in rows).to(kind.device)
        return cls(
            kind,
            torch.stack(images).to(kind.device),
            torch.from_numpy(np.stack(targets)).to(kind.device),
            torch.tensor(whole),
            Shuffle(np.repeat(np.arange(len(rows)), train.weight[rows])),
            centres,
        )

    def again(self) -> Self:
        """The same samples with a shuffle of their own."""
        return replace(self, shuffle=Shuffle(self.rows))

    def first(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """`batch` items as the network sees them, unchanged; no shuffle and no stream moves."""
        return self._seen(torch.arange(batch) % len(self.whole))

    def probe(self, count: int) -> Tensor:
        """Up to `count` items from first to last, as the network sees them."""
        return self._seen(torch.from_numpy(spread(self.rows, count)))[0]

    def _seen(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        index = rows.to(self.images.device)
        images, targets = self.images[index], self.targets[index]
        if self.kind.window is not None and self.centres is not None:
            corners = self.kind.window.at(self.centres[index])
            images = rescale(self.kind.window.cut(images, corners))
            targets = self.kind.window.cut(targets[:, None], corners)[:, 0]
        return images, targets, self.whole[rows].to(index.device)

    def draw(
        self, batch: int, augment: Augment, rng: np.random.Generator, generator: Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next items of an endless shuffle, augmented: images, targets and whole."""
        rows = self.shuffle.next(batch, rng)
        index = rows.to(self.images.device)
        images, targets = self.images[index], self.targets[index]
        window, size = self.kind.window, self.kind.size
        windows = None
        if window is not None and self.centres is not None:
            windows = Windows(self.centres[index], size / window.reach, size)
        change = augment.draw((len(images), 1, size, size), generator)
        return *apply(images, targets, change, windows), self.whole[rows].to(index.device)
