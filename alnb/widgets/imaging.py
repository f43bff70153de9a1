"""Turns volumes into views: 16-bit pixels, the volume's range and a sensible grey window."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from alnb.data.cohort import Cohort
from alnb.records import SliceId
from alnb.widgets.messages import View

_KEPT = 8
_SAMPLE = 200_000
Greys = tuple[tuple[float, float], tuple[float, float]]


class Imaging:
    """Views of a cohort's slices; the ranges of the last few volumes are kept."""

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._greys: OrderedDict[str, Greys] = OrderedDict()

    def view(self, slice_id: SliceId) -> View:
        """The slice as it travels to the browser."""
        (low, high), window = self._grey(slice_id.volume)
        image = self._cohort.slice_image(slice_id)
        scaled = (image - low) * (65535 / (high - low))
        pixels = np.clip(np.rint(scaled), 0, 65535).astype("<u2")
        return View(slice_id, (image.shape[0], image.shape[1]), (low, high), window, pixels)

    def _grey(self, name: str) -> Greys:
        if name not in self._greys:
            values = self._cohort.volumes[name].image().ravel()
            low, high = float(values.min()), float(values.max())
            sample = values[:: max(1, values.size // _SAMPLE)]
            dark, bright = (float(v) for v in np.percentile(sample, [0.5, 99.5]))
            if not high > low:
                high = low + 1.0
            if not bright > dark:
                dark, bright = low, high
            self._greys[name] = ((low, high), (dark, bright))
            if len(self._greys) > _KEPT:
                self._greys.popitem(last=False)
        return self._greys[name]
