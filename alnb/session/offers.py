"""What the labelled slices of a volume suggest for those between them, and how long it is held."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from alnb.data.interpolate import between
from alnb.records import Annotation, LabelMap, SliceId
from alnb.session.reading import Reading
from alnb.store.blobs import npy

_HELD_GAPS = 256

Answers = tuple[Annotation, ...]


@dataclass(frozen=True, eq=False)
class Offer:
    """A label map for a slice that nobody answered, interpolated from two that somebody did.

    Attributes
    ----------
    slice_id : whose it is.
    labels : (H, W) uint8, read-only; IGNORE where nothing can be said.
    between : indices of the labelled slices below and above.
    """

    slice_id: SliceId
    labels: LabelMap
    between: tuple[int, int]

    @cached_property
    def id(self) -> str:
        """SHA-256 of the label map, by which a view says what it shows and a blob is named."""
        return hashlib.sha256(npy(self.labels)).hexdigest()


class Offers:
    """Interpolations of a session's answers; each gap is computed once for the answers around it.

    Safe to call from any thread; takes no lock of the session.
    """

    def __init__(self, session: Reading) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._held: OrderedDict[
            tuple[str, int, int], tuple[tuple[Answers, Answers], tuple[Offer, ...]]
        ] = OrderedDict()

    def of_volume(self, name: str) -> tuple[Offer, ...]:
        """Every offer in a volume, by rising index."""
        answers = self._answers(name)
        gaps = pairwise(sorted(answers))
        return tuple(o for low, high in gaps for o in self._gap(name, low, high, answers))

    def around(self, slice_id: SliceId) -> tuple[Offer, ...]:
        """The offers of the gap in which a slice lies; none if it is answered itself."""
        answers = self._answers(slice_id.volume)
        low = max((i for i in answers if i <= slice_id.index), default=None)
        high = min((i for i in answers if i >= slice_id.index), default=None)
        if low is None or high is None:
            return ()
        return self._gap(slice_id.volume, low, high, answers)

    def _answers(self, name: str) -> dict[int, Answers]:
        return {s.index: a for s, a in self._session.state.answers.items() if s.volume == name}

    def _gap(
        self, name: str, low: int, high: int, answers: dict[int, Answers]
    ) -> tuple[Offer, ...]:
        if high - low < 2:
            return ()
        made = self._made((name, low, high), (answers[low], answers[high]))
        # what somebody passed over is not asked again, and so not answered for them
        return tuple(offer for offer in made if self._session.status(offer.slice_id) == "open")

    def _made(self, key: tuple[str, int, int], ends: tuple[Answers, Answers]) -> tuple[Offer, ...]:
        with self._lock:
            known = self._held.pop(key, None)
            if known is None or not _same(known[0], ends):
                known = ends, self._interpolated(*key, ends)
            self._held[key] = known
            while len(self._held) > _HELD_GAPS:
                self._held.popitem(last=False)
            return known[1]

    def _interpolated(
        self, name: str, low: int, high: int, ends: tuple[Answers, Answers]
    ) -> tuple[Offer, ...]:
        session = self._session
        maps = {i: session.merged(a) for i, a in zip((low, high), ends, strict=True)}
        made = between(maps, pixel_mm=session.cohort.pixel_mm(SliceId(name, low)))
        for labels in made.values():
            labels.flags.writeable = False
        return tuple(Offer(SliceId(name, i), each, (low, high)) for i, each in made.items())


def _same(before: Iterable[Answers], now: Iterable[Answers]) -> bool:
    """Whether these are the very same answers; events are never copied."""
    return all(
        len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))
        for old, new in zip(before, now, strict=True)
    )
