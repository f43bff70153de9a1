from __future__ import annotations

import numpy as np
import pytest

from alnb.data.phantom import phantom
from alnb.panels.dashboard import Panels
from alnb.records import Stroke
from alnb.session.session import Session
from alnb.widgets.labeller import Labeller


@pytest.fixture
def session(tmp_path):
    cohort = phantom(6, size=48, slices=(3, 4))
    with Session.open(tmp_path / "project", cohort, strategy="strided") as session:
        yield session


def test_the_panels_follow_a_real_session(session):
    panel = Panels(session)
    pool, labelled, query = panel.figure.data[:3]
    assert len(pool.x) == len(session.pool)
    assert np.isfinite(pool.x).all()
    assert np.isfinite(pool.y).all()
    session.ask(3)
    assert query.text == ("1", "2", "3")
    first = session.queue[0]
    session.draw(first, Stroke(points=((5.0, 5.0), (9.0, 9.0)), label=1, id="one"))
    session.submit(first, "scribble", seconds=4.0)
    row = session.pool.ids.index(first)
    assert (labelled.x.tolist(), labelled.y.tolist()) == ([pool.x[row]], [pool.y[row]])


def test_a_click_on_the_map_shows_the_slice_in_a_real_labeller(session):
    session.ask(3)
    labeller = Labeller(session)
    panel = Panels(session, labeller)
    row = next(row for row, slice_id in enumerate(session.pool.ids) if slice_id != labeller.here)
    panel.figure._js2py_pointsCallback = {
        "event_type": "plotly_click",
        "points": {"trace_indexes": [0], "point_indexes": [row], "xs": [0.0], "ys": [0.0]},
        "device_state": None,
        "selector": None,
    }
    assert labeller.here == session.pool.ids[row]
    labeller.close()
