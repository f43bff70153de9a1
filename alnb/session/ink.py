"""The ink of a slice without painting every stroke anew: an ack must not slow down as ink grows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from alnb.data.raster import paint
from alnb.records import LabelMap, SliceId, Stroke
from alnb.session.reading import Reading

_KEPT_SLICES = 8
_KEPT_MAPS = 48


@dataclass(eq=False)
class _History:
    """Label maps of a slice after some of its strokes, for one base: {strokes painted: map}."""

    blob: str | None
    strokes: tuple[Stroke, ...]
    maps: OrderedDict[int, LabelMap] = field(default_factory=OrderedDict)


class Inks:
    """Equal to `Reading.raster`, which stays the truth, but incremental.

    The last few label maps of the slices in use are kept. A new stroke paints itself alone, and an
    undo finds the map from before. Whatever the cache does not know comes from the session.
    """

    def __init__(self, session: Reading) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._histories: OrderedDict[SliceId, _History] = OrderedDict()

    def raster(self, slice_id: SliceId) -> LabelMap:
        """(H, W) uint8, IGNORE where nothing is drawn; not to be written to."""
        with self._lock:
            draft = self._session.draft(slice_id)
            blob = draft.base.blob if draft.base is not None else None
            history = self._histories.pop(slice_id, None)
            if history is None or history.blob != blob:
                history = _History(blob, ())
            common = _common(history.strokes, draft.strokes)
            for count in [count for count in history.maps if count > common]:
                del history.maps[count]
            history.strokes = draft.strokes
            labels = self._newest(slice_id, history)
            self._histories[slice_id] = history
            while len(self._histories) > _KEPT_SLICES:
                self._histories.popitem(last=False)
            return labels

    def _newest(self, slice_id: SliceId, history: _History) -> LabelMap:
        wanted = len(history.strokes)
        painted = max(history.maps, default=None)
        if painted == wanted:
            return history.maps[wanted]
        if painted is None:
            labels = self._session.raster(slice_id)
            # a stroke may have come meanwhile, from another thread: then this map is not kept
            if self._session.draft(slice_id).strokes is not history.strokes:
                history.strokes = ()
                return labels
        else:
            labels = history.maps[painted].copy()
            for stroke in history.strokes[painted:]:
                paint(stroke, labels)
        labels.flags.writeable = False
        history.maps[wanted] = labels
        while len(history.maps) > _KEPT_MAPS:
            history.maps.popitem(last=False)
        return labels


def _common(before: tuple[Stroke, ...], now: tuple[Stroke, ...]) -> int:
    """How many strokes both begin with; the same objects, as events are never copied."""
    same = 0
    for old, new in zip(before, now, strict=False):
        if old is not new:
            break
        same += 1
    return same
