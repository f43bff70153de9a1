"""Small pictures of every slice of a volume, for the track beneath the canvas."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alnb.records import LabelMap, SliceId
from alnb.session.ink import Inks
from alnb.session.offers import Offer
from alnb.session.session import Session
from alnb.widgets.canvas import ScribbleCanvas
from alnb.widgets.imaging import Imaging
from alnb.widgets.walk import Cell

LONGEST = 60
"""Volumes of more slices get a track without pictures."""
SIDE = 72


class Film:
    """Sends the pictures of a volume once, and the label maps on them as they change."""

    def __init__(
        self, session: Session, canvas: ScribbleCanvas, imaging: Imaging, inks: Inks
    ) -> None:
        self._session = session
        self._inks = inks
        self._canvas = canvas
        self._imaging = imaging
        self._lock = threading.Lock()
        self._volume: str | None = None
        self._sent: dict[int, Any] = {}

    def forget(self) -> None:
        """Send everything again: a page came up blank."""
        with self._lock:
            self._volume = None

    def show(self, name: str, cells: tuple[Cell, ...], offers: Mapping[SliceId, Offer]) -> None:
        """Bring the pictures of a volume up to date."""
        if len(cells) > LONGEST:
            return
        with self._lock:
            size = self._size(name)
            if self._volume != name:
                self._volume, self._sent = name, {}
                header = {"volume": name, "size": list(size), "depth": len(cells)}
                self._canvas.film(header, self._imaging.film(name, size))
            changed: dict[int, LabelMap | None] = {}
            for index, cell in enumerate(cells):
                slice_id = SliceId(name, index)
                offer = offers.get(slice_id) if cell == "offered" else None
                key = self._key(slice_id, cell, offer)
                if self._sent.get(index) != key:
                    self._sent[index] = key
                    changed[index] = self._labels(slice_id, cell, offer)
            if changed:
                self._canvas.film_labels(name, {i: _small(m, size) for i, m in changed.items()})

    def _size(self, name: str) -> tuple[int, int]:
        _, height, width = self._session.cohort.volumes[name].shape
        share = min(1.0, SIDE / max(height, width))
        return max(1, round(height * share)), max(1, round(width * share))

    def _key(self, slice_id: SliceId, cell: Cell, offer: Offer | None) -> Any:
        if offer is not None:
            return offer.id
        draft = self._session.draft(slice_id)
        blob = draft.base.blob if draft.base is not None else None
        last = draft.strokes[-1].id if draft.strokes else ""
        return (cell, blob, len(draft.strokes), last) if blob or draft.strokes else None

    def _labels(self, slice_id: SliceId, cell: Cell, offer: Offer | None) -> LabelMap | None:
        if offer is not None:
            return offer.labels
        draft = self._session.draft(slice_id)
        held = bool(draft.strokes or draft.base)
        return self._inks.raster(slice_id) if held and cell != "skipped" else None


def _small(labels: LabelMap | None, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Every so many pixels of a label map: a mean of class codes would be another class."""
    if labels is None:
        return None
    rows, cols = (
        ((np.arange(short) + 0.5) * long / short).astype(np.int64)
        for short, long in zip(size, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, cols)]
