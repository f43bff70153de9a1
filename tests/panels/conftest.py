from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from alnb.errors import UnknownItem
from alnb.records import (
    Annotation,
    FitReport,
    Metrics,
    Pool,
    Round,
    Scribble,
    SliceId,
    Step,
    Stroke,
)
from alnb.session.state import SessionState, apply
from alnb.store.events import (
    Embedded,
    EmbeddingChosen,
    Entry,
    Evaluated,
    FitStarted,
    RoundOpened,
    SessionCreated,
    SliceSubmitted,
)

CLASSES = ("background", "RV", "myocardium", "LV")


class FakeJob:
    """A job that ends when a test says so."""

    def __init__(self) -> None:
        self.running, self.stopping = True, False
        self.progress: Step | None = None
        self.error: str | None = None
        self.report: FitReport | None = None

    def stop(self) -> None:
        self.stopping = True

    def end(self, report: FitReport) -> None:
        self.running, self.report = False, report

    def result(self, timeout: float) -> FitReport:
        return self.report


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
        volumes = {
            name: SimpleNamespace(patient=name.split("/")[0], shape=(slices, 48, 48))
            for name in names
        }
        self.cohort = SimpleNamespace(volumes=volumes)
        self.state = SessionState()
        self.embedded = 0
        self.embedding_job = None
        self._held: dict[str, np.ndarray] = {}
        self._listeners: list = []
        self._watchers: list = []
        self.commit(
            SessionCreated("cohort", "split", (), (), (), "slice", CLASSES, 0, False, "0.1.0")
        )

    @property
    def pending(self) -> tuple[SliceId, ...]:
        if not self.state.rounds:
            return ()
        done = self.state.labelled | {slice_id for slice_id, _ in self.state.skipped}
        return tuple(item for item in self.state.rounds[-1].query if item not in done)

    @property
    def round(self) -> Round | None:
        return self.state.rounds[-1] if self.state.rounds else None

    @property
    def embeddings(self) -> tuple[str, ...]:
        return ("pixels", *self.state.embeddings)

    @property
    def embedding(self) -> str:
        return self.state.embedding or "pixels"

    def use_embedding(self, name: str) -> None:
        if name not in self.embeddings:
            raise UnknownItem(f"There are no features called {name!r}.")
        self.commit(EmbeddingChosen(name))

    def features(self, name: str | None = None) -> np.ndarray:
        name = name or self.embedding
        if name not in self._held:
            self.embedded += 1
            self._held[name] = self.make_features(len(name))
        return self._held[name]

    def make_features(self, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(int(self.pool.patient.max()) + 1, 6)) * 2
        place = self.pool.position[:, None] * np.linspace(-3, 3, 6)
        return centres[self.pool.patient] + place + rng.normal(size=(len(self.pool), 6)) * 0.3

    def learn_embedding_in_background(self, recipe: str) -> FakeJob:
        self.embedding_job = FakeJob()
        self.embedding_job.recipe = recipe
        return self.embedding_job

    def learnt(self, name: str) -> None:
        """What a session says once an encoder is trained."""
        self._held.pop(name, None)
        number = len(self.state.embeddings)
        self.commit(Embedded(name, "weights", f"features-{number}-{self.state.seq}", None))

    def watch(self, watcher):
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

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
