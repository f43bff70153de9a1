"""Small pictures of slices, in the grey window and the proportions of the canvas."""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from alnb.data.greys import greys

if TYPE_CHECKING:
    from alnb.data.cohort import Cohort
    from alnb.records import SliceId

SIDE = 160
"""Pixels of the longer side."""
_KEPT = 64


class Thumbs:
    """PNG pictures of a cohort's slices; the last ones are kept. One thread at a time."""

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._kept: OrderedDict[SliceId, bytes] = OrderedDict()

    def png(self, slice_id: SliceId) -> bytes:
        """The slice as a grey PNG whose longer side is `SIDE`, pixels square in mm."""
        if slice_id not in self._kept:
            self._kept[slice_id] = self._draw(slice_id)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[slice_id]

    def data_url(self, slice_id: SliceId) -> str:
        """The same as the source of an image element."""
        return f"data:image/png;base64,{base64.b64encode(self.png(slice_id)).decode()}"

    def _draw(self, slice_id: SliceId) -> bytes:
        from PIL import Image

        cohort = self._cohort
        _, (dark, bright) = greys(cohort.volume(slice_id.volume).image())
        image = cohort.slice_image(slice_id)
        grey = np.clip((image - dark) * (255 / (bright - dark)), 0, 255).astype(np.uint8)
        row_mm, col_mm = cohort.pixel_mm(slice_id)
        tall, wide = grey.shape[0] * row_mm, grey.shape[1] * col_mm
        scale = SIDE / max(tall, wide)
        size = max(1, round(wide * scale)), max(1, round(tall * scale))
        out = io.BytesIO()
        picture = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR)
        picture.save(out, format="PNG", compress_level=1)
        return out.getvalue()
