from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from alnb.records import Annotation, Metrics, Pool, Scribble, SliceId, Stroke
from alnb.session.state import SessionState, apply
from alnb.store.events import (
    Entry,
    Evaluated,
    FitStarted,
    RoundOpened,
    SessionCreated,
    SliceSubmitted,
)

CLASSES = ("background", "RV", "myocardium", "LV")


class FakeSession:
    """The part of a session that panels use: a real state behind a real fold, and no disk."""

    def __init__(self, patients: int = 4, slices: int = 5) -> None:
        names = [f"p{number}/{phase}" for number in range(patients) for phase in ("ED", "ES")]
        ids = tuple(SliceId(name, index) for name in names for index in range(slices))
        rows = np.arange(len(ids))
        self.pool = Pool(
            ids=ids,
            slices=tuple((slice_id,) for slice_id in ids),
            patient=rows // (2 * slices),
            volume=rows // slices,
            position=(rows % slices) / max(1, slices - 1),
        )
        self.classes = CLASSES
        volumes = {name: SimpleNamespace(patient=name.split("/")[0]) for name in names}
        self.cohort = SimpleNamespace(volumes=volumes)
        self.state = SessionState()
        self.embedded = 0
        self._listeners: list = []
        self.commit(
            SessionCreated("cohort", "split", (), (), (), "slice", CLASSES, 0, False, "0.1.0")
        )

    @property
    def pending(self) -> tuple[SliceId, ...]:
        if not self.state.rounds:
            return ()
        done = self.state.labelled | {slice_id for slice_id, _ in self.state.skipped}
        return tuple(item for item in self.state.rounds[-1].query if item not in done)

    def features(self) -> np.ndarray:
        self.embedded += 1
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(int(self.pool.patient.max()) + 1, 6)) * 2
        place = self.pool.position[:, None] * np.linspace(-3, 3, 6)
        return centres[self.pool.patient] + place + rng.normal(size=(len(self.pool), 6)) * 0.3

    def subscribe(self, listener):
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def commit(self, event: object) -> None:
        entry = Entry(self.state.seq + 1, "2026-01-01T00:00:00Z", "me", event)
        self.state = apply(self.state, entry)
        for listener in tuple(self._listeners):
            listener(entry)

    def ask(self, rows) -> None:
        query = tuple(self.pool.ids[row] for row in rows)
        number = len(self.state.rounds)
        self.commit(RoundOpened(number, query, (None,) * len(query), (), "Strided()", ""))

    def label(self, row: int, seconds: float = 10.0) -> None:
        stroke = Stroke(points=((1.0, 1.0),), label=1)
        answer = Annotation(self.pool.ids[row], Scribble((stroke,)), "me", seconds)
        self.commit(SliceSubmitted(answer))

    def measure(self, *dice: float | None, split: str = "val", labelled: int | None = None) -> None:
        fit = len(self.state.fits)
        self.commit(FitStarted(fit, "person", 1, ""))
        known = len(self.state.labelled) if labelled is None else labelled
        self.commit(Evaluated(fit, Metrics(split, dice, 8, known, self.state.seconds)))


@pytest.fixture
def fake():
    """A maker of sessions without a disk."""
    return FakeSession
