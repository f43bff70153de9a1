"""Turns volumes into views: 16-bit pixels, the volume's range and a sensible grey window."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from alnb.data.cohort import Cohort
from alnb.data.greys import Range, greys
from alnb.records import SliceId
from alnb.widgets.messages import View

_KEPT = 8


class Imaging:
    """Views of a cohort's slices; the ranges of the last few volumes are kept."""

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._greys: OrderedDict[str, tuple[Range, Range]] = OrderedDict()

    def view(self, slice_id: SliceId) -> View:
        """The slice as it travels to the browser."""
        (low, high), window = self._grey(slice_id.volume)
        image = self._cohort.slice_image(slice_id)
        scaled = (image - low) * (65535 / (high - low))
        pixels = np.clip(np.rint(scaled), 0, 65535).astype("<u2")
        return View(slice_id, (image.shape[0], image.shape[1]), (low, high), window, pixels)

    def film(self, name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        """(Z, h, w) greys of a whole volume, each slice scaled to `size`, under its window."""
        from PIL import Image

        _, (low, high) = self._grey(name)
        greys = np.clip((self._cohort.volumes[name].image() - low) * (255 / (high - low)), 0, 255)
        height, width = size
        small = [
            Image.fromarray(each).resize((width, height), Image.Resampling.BOX)
            for each in np.rint(greys).astype(np.uint8)
        ]
        return np.stack([np.asarray(each) for each in small])

    def _grey(self, name: str) -> tuple[Range, Range]:
        if name not in self._greys:
            self._greys[name] = greys(self._cohort.volumes[name].image())
            if len(self._greys) > _KEPT:
                self._greys.popitem(last=False)
        return self._greys[name]
