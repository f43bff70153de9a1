from __future__ import annotations

import numpy as np
import pytest

from alnb.records import IGNORE, Stroke
from alnb.session.ink import Inks


@pytest.fixture
def session(project):
    return project()


def random_stroke(rng):
    points = tuple((float(r), float(c)) for r, c in rng.uniform(0, 32, (4, 2)))
    label = int(rng.choice([0, 1, 2, 3, IGNORE]))
    return Stroke(points, label, float(rng.uniform(0.75, 4)), keep=(2,) if label == 1 else ())


def test_the_cached_ink_equals_the_sessions_raster_after_any_acts(session):
    session.ask(2)
    inks, rng = Inks(session), np.random.default_rng(5)
    for _ in range(120):
        where = session.queue[int(rng.integers(2))]
        act = rng.choice(
            ["draw", "draw", "undo", "redo", "clear", "mask"], p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.05]
        )
        if act == "draw":
            session.draw(where, random_stroke(rng))
        elif act == "mask":
            session.submit(where, "mask")
        else:
            getattr(session, act)(where)
        if rng.random() < 0.7:  # not asked after every act
            assert (inks.raster(where) == session.raster(where)).all()


def test_one_more_stroke_paints_only_itself(session, monkeypatch):
    session.ask(1)
    (where,) = session.queue
    inks = Inks(session)
    rng = np.random.default_rng(1)
    session.draw(where, random_stroke(rng))
    inks.raster(where)
    painted = []
    monkeypatch.setattr("alnb.session.ink.paint", lambda stroke, onto: painted.append(stroke))
    monkeypatch.setattr(session, "raster", lambda _: 1 / 0)
    for _ in range(5):
        session.draw(where, random_stroke(rng))
        inks.raster(where)
    assert len(painted) == 5
    session.undo(where)
    inks.raster(where)
    assert len(painted) == 5
