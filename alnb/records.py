"""The frozen nouns of alnb: ids, pool, strokes, annotations, selections, rounds, reports.

Letters used everywhere: N pool rows, K candidates, n asked, B batch, M members, C classes
(background included), D features, H and W the height and width of a slice, Z slices per volume.
A *row* is a position in `Pool.ids`; strategies speak rows, people and disk speak ids.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alnb.errors import UnknownItem

IGNORE = 255
"""Code of an unlabelled pixel in a label map: nobody said. Background is class 0, a real label."""

Rows = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
LabelMap = NDArray[np.uint8]
Unit = Literal["slice", "volume"]


@dataclass(frozen=True, slots=True, order=True)
class SliceId:
    """One 2D slice: the name of its volume and its index 0..Z-1 along the acquisition axis."""

    volume: str
    index: int

    def __str__(self) -> str:
        return f"{self.volume}:{self.index}"


@dataclass(frozen=True, slots=True, order=True)
class VolumeId:
    """One whole volume, by name."""

    volume: str

    def __str__(self) -> str:
        return self.volume


ItemId = SliceId | VolumeId


@dataclass(frozen=True)
class Pool:
    """What may be asked: row i is `ids[i]`, fixed for the life of a session.

    Attributes
    ----------
    ids : the items, one unit per pool.
    slices : per row, the slices a person works through (one in a slice pool).
    patient, volume : (N,) integer group codes, for group losses, caps and the split.
    position : (N,) place along the axis, 0 first slice to 1 last; 0.5 for a whole volume.
    """

    ids: tuple[ItemId, ...]
    slices: tuple[tuple[SliceId, ...], ...]
    patient: Rows
    volume: Rows
    position: Floats

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.ids):
            twice = next(item for item, count in Counter(self.ids).items() if count > 1)
            raise ValueError(f"Item {twice} occurs twice in the pool; every id must be unique.")
        lengths = {len(self.ids), len(self.slices), len(self.patient), len(self.volume)}
        if lengths != {len(self.position)}:
            raise ValueError(f"The columns of a pool differ in length: {sorted(lengths)}.")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _row(self) -> dict[ItemId, int]:
        return {item: row for row, item in enumerate(self.ids)}

    def rows(self, ids: Iterable[ItemId]) -> Rows:
        """The rows of `ids`, in order; UnknownItem names the first that is not in the pool."""
        try:
            return np.array([self._row[item] for item in ids], dtype=np.int64)
        except KeyError as error:
            raise UnknownItem(
                f"{error.args[0]} is not in the pool of {len(self)} items. "
                "It may belong to the validation or test split, or to another cohort."
            ) from None

    def __contains__(self, item: object) -> bool:
        return item in self._row


@dataclass(frozen=True, slots=True)
class Stroke:
    """One pull of the pen.

    Attributes
    ----------
    points : (row, col) in slice pixels, continuous; pixel (r, c) covers [r, r+1) x [c, c+1), so
        its centre lies at (r + 0.5, c + 0.5).
    label : class code, or IGNORE to erase.
    radius : pen radius in slice pixels; a pixel is covered when its centre lies within it.
    tool : "brush" follows the points, "lasso" fills the closed polygon through them.
    keep : classes that this stroke does not paint over.
    id : chosen by whoever drew it; a second stroke with the same id on the same slice is the same
        stroke sent again.
    """

    points: tuple[tuple[float, float], ...]
    label: int
    radius: float = 2.0
    tool: Literal["brush", "lasso"] = "brush"
    keep: tuple[int, ...] = ()
    id: str = ""

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("A stroke needs at least one point.")
        if not all(math.isfinite(value) for point in self.points for value in point):
            raise ValueError("A stroke has a point that is not a finite number.")
        if not 0 <= self.label <= IGNORE:
            raise ValueError(f"Label {self.label} is outside 0..{IGNORE}.")
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise ValueError(f"Radius {self.radius} must be a positive number of pixels.")


@dataclass(frozen=True, slots=True)
class Scribble:
    """Strokes in drawing order; untouched pixels are IGNORE."""

    strokes: tuple[Stroke, ...]


@dataclass(frozen=True, slots=True)
class Mask:
    """A label map given as a whole: SHA-256 of an (H, W) uint8 blob, which may hold IGNORE.

    `strokes` are corrections drawn on top of it.
    """

    blob: str
    strokes: tuple[Stroke, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """A proposal that a person took over: its label map, with corrections drawn on top of it.

    Attributes
    ----------
    blob : SHA-256 of an (H, W) uint8 label map.
    checkpoint : the model that proposed it; None where it was made from the strokes alone, or
        between two slices.
    strokes : corrections on top of the label map.
    beneath : the strokes that a live proposal was made from, already in the label map; taking the
        acceptance back brings them back.
    between : the indices of the two labelled slices that it was interpolated from; empty for any
        other proposal. Taking the acceptance back leaves the slice unanswered.
    """

    blob: str
    checkpoint: str | None
    strokes: tuple[Stroke, ...] = ()
    beneath: tuple[Stroke, ...] = ()
    between: tuple[int, ...] = ()


Content = Scribble | Mask | Accepted


def pulls(content: Content) -> int:
    """How many pulls of the pen an answer took, those a proposal was made from included."""
    beneath = content.beneath if isinstance(content, Accepted) else ()
    return len(beneath) + len(content.strokes)


def interpolated_from(content: Content) -> tuple[int, ...]:
    """The indices of the slices that an answer was interpolated from; empty for any other."""
    return content.between if isinstance(content, Accepted) else ()


@dataclass(frozen=True, slots=True)
class Annotation:
    """A finished answer for one slice.

    `seconds` is pause-aware active time, None only for imports and simulated answers.
    """

    slice_id: SliceId
    content: Content
    annotator: str
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Selection:
    """What a strategy chose: `rows` in picking order, a score for each, and where it came from.

    `origin` is empty or holds one word per row: "control", "again", "person", "class 2" (asked
    for the sake of that class) or "".
    """

    rows: Rows
    scores: Floats
    origin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metrics:
    """Result of one evaluation.

    Attributes
    ----------
    split : "val", "test", or "new" (freshly answered slices, before they were trained on).
    dice : per foreground class, the mean over volumes of the 3D Dice (None where undefined).
    volumes : how many volumes were measured (slices for "new").
    labelled : unique slices labelled when the model was trained.
    seconds : annotation seconds spent until then.
    empties : the policy for empty classes.
    """

    split: str
    dice: tuple[float | None, ...]
    volumes: int
    labelled: int = 0
    seconds: float = 0.0
    empties: str = "one"

    @property
    def mean(self) -> float | None:
        """Mean over the foreground classes that are defined."""
        known = [value for value in self.dice if value is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True, slots=True)
class Round:
    """One query and what became of it. `note` says why another strategy than asked for chose."""

    number: int
    query: tuple[ItemId, ...]
    scores: tuple[float | None, ...]
    origin: tuple[str, ...]
    strategy: str
    closed: bool = False
    note: str = ""
    metrics: tuple[Metrics, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainSet:
    """What a learner learns from; picklable and frozen.

    images : per item an (H, W) or (Z, H, W) array; sizes may differ.
    targets : uint8 label maps of the same shapes, IGNORE where nobody said.
    weight : (len,) how often each item was chosen; 2 counts as the item twice.
    classes : C, background included.
    """

    images: tuple[Floats, ...]
    targets: tuple[LabelMap, ...]
    weight: Rows
    classes: int
    names: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of a fit: `step` of `total` done, the loss then, and the seconds that are left."""

    step: int
    total: int
    loss: float
    seconds_left: float = float("nan")


@dataclass(frozen=True, slots=True)
class FitReport:
    """Outcome of a fit. `notes` are sentences that a person should read."""

    steps: int
    loss: float
    seconds: float
    stopped: bool = False
    notes: tuple[str, ...] = ()
