"""One 3D image with its geometry and label maps, read from disk when first looked at."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput, UnknownItem
from alnb.records import IGNORE, Floats, LabelMap

Array = NDArray[Any]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

CACHE_BYTES = 768 << 20


class ArrayCache:
    """The arrays used last, up to `limit` bytes; safe to share between threads.

    Two threads that ask for the same array wait for one read. The array asked for last is kept
    even where it alone exceeds the limit. A pickled cache arrives empty.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._reading: dict[object, threading.Lock] = {}
        self._arrays: OrderedDict[object, Array] = OrderedDict()
        self._held = 0

    def __reduce__(self) -> tuple[type[ArrayCache], tuple[int]]:
        return ArrayCache, (self.limit,)

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def get(self, key: object, read: Callable[[], Array]) -> Array:
        """The array of `key`, which `read` makes when it is not held; it is made read-only."""
        with self._lock:
            found = self._found(key)
            if found is not None:
                return found
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:
            with self._lock:
                found = self._found(key)
            if found is not None:
                return found
            try:
                array = np.ascontiguousarray(read())
                array.flags.writeable = False
                with self._lock:
                    self._hold(key, array)
                return array
            finally:
                with self._lock:
                    self._reading.pop(key, None)

    def _found(self, key: object) -> Array | None:
        if key in self._arrays:
            self._arrays.move_to_end(key)
            return self._arrays[key]
        return None

    def _hold(self, key: object, array: Array) -> None:
        self._arrays[key] = array
        self._held += array.nbytes
        while self._held > self.limit and len(self._arrays) > 1:
            _, dropped = self._arrays.popitem(last=False)
            self._held -= dropped.nbytes


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image: Z slices of H x W pixels, in a fixed storage orientation.

    Attributes
    ----------
    name : unique in its cohort, such as "patient001/ED"; never a path.
    patient, phase : who, and which of their images.
    shape : (Z, H, W).
    read_image, read_reference, read_scribble : make the array of that shape: floats, label map,
        label map with IGNORE. They are called at most once while their array is cached, and
        raise BadInput naming the file where it cannot be used. None: there is no such map.
    spacing_mm : voxel size along (z, y, x), None where the source does not say.
    affine : (4, 4) of the source file, voxel index (source axis order) to mm, or None.
    axes : the source axis of each storage axis: an (x, y, z) file with slices along z has
        (2, 1, 0), and a file stored as (Z, H, W) has (0, 1, 2).
    notes : lasting marks that a person should see, such as "does not say which side is left".
    metadata : facts of the source that nothing depends on.
    cache : where read arrays are held, usually one for the whole cohort.
    """

    name: str
    patient: str
    phase: str
    shape: Shape
    read_image: Callable[[], Floats] = field(repr=False)
    read_reference: Callable[[], LabelMap] | None = field(default=None, repr=False)
    read_scribble: Callable[[], LabelMap] | None = field(default=None, repr=False)
    spacing_mm: Spacing | None = None
    affine: NDArray[np.float64] | None = field(default=None, repr=False)
    axes: tuple[int, int, int] = (0, 1, 2)
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cache: ArrayCache = field(default_factory=ArrayCache, repr=False)

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise BadInput(
                f"{self.name} has the shape {self.shape}; a volume needs three axes of at least 1."
            )
        if sorted(self.axes) != [0, 1, 2]:
            raise BadInput(f"{self.name} has the axes {self.axes}; they must permute (0, 1, 2).")
        if self.spacing_mm is not None and not all(
            np.isfinite(step) and step > 0 for step in self.spacing_mm
        ):
            raise BadInput(f"{self.name} has the spacing {self.spacing_mm}; it must be positive.")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def has_reference(self) -> bool:
        """Whether a reference label map exists; reads no pixel."""
        return self.read_reference is not None

    @property
    def has_scribble(self) -> bool:
        """Whether scribbles came with the image; reads no pixel."""
        return self.read_scribble is not None

    def image(self) -> Floats:
        """(Z, H, W) float32, finite, read-only."""
        return self._read("image", self.read_image, np.float32)

    def reference(self) -> LabelMap | None:
        """(Z, H, W) uint8 class codes (IGNORE where nobody said), read-only; or None."""
        if self.read_reference is None:
            return None
        return self._read("reference", self.read_reference, np.uint8)

    def scribble(self) -> LabelMap | None:
        """(Z, H, W) uint8, IGNORE where nothing was drawn, read-only; or None."""
        if self.read_scribble is None:
            return None
        return self._read("scribble", self.read_scribble, np.uint8)

    def slice_image(self, index: int) -> Floats:
        """(H, W) float32 copy of slice `index`, 0..Z-1."""
        pixels: Floats = self.image()[self.check(index)].copy()
        return pixels

    def check(self, index: int) -> int:
        """`index` itself where it is a slice of this volume, else UnknownItem."""
        if not 0 <= index < len(self):
            raise UnknownItem(
                f"{self.name} has no slice {index}; its slices are 0 to {len(self) - 1}."
            )
        return index

    def to_native(self, label_map: Array) -> Array:
        """A (Z, H, W) array in the axis order of the source file.

        Written with `affine`, it overlays the source voxel for voxel.
        """
        if label_map.shape != self.shape:
            raise BadInput(
                f"A label map of the shape {label_map.shape} does not fit {self.name}, "
                f"which has {self.shape}."
            )
        return label_map.transpose(np.argsort(self.axes))

    def from_native(self, label_map: Array) -> Array:
        """The inverse of `to_native`: source axis order to (Z, H, W)."""
        array = label_map.transpose(self.axes)
        if array.shape != self.shape:
            raise BadInput(
                f"An array of the shape {label_map.shape} does not fit the source of {self.name}, "
                f"which has {tuple(self.shape[axis] for axis in np.argsort(self.axes))}."
            )
        return array

    def _read(self, what: str, read: Callable[[], Array], dtype: type[np.generic]) -> Array:
        def checked() -> Array:
            array = np.asarray(read())
            if array.shape != self.shape:
                raise BadInput(
                    f"The {what} of {self.name} has the shape {array.shape}; "
                    f"its header promised {self.shape}."
                )
            return array.astype(dtype, copy=False)

        return self.cache.get((self.name, what), checked)


def unlabelled(shape: tuple[int, ...]) -> LabelMap:
    """A label map in which nobody said anything."""
    return np.full(shape, IGNORE, dtype=np.uint8)
