from __future__ import annotations

import numpy as np

from alnb.data.phantom import phantom
from alnb.panels.dashboard import Panels
from alnb.records import SliceId, Stroke
from alnb.session.session import Session


def test_the_panels_follow_a_real_session(tmp_path):
    opened: list[SliceId] = []

    class Labeller:
        drawing = False

        def open(self, slice_id: SliceId) -> None:
            opened.append(slice_id)

    cohort = phantom(6, size=48, slices=(3, 4))
    with Session.open(tmp_path / "project", cohort, strategy="strided") as session:
        panel = Panels(session, Labeller())
        pool, labelled, query = panel.figure.data[:3]
        assert len(pool.x) == len(session.pool)
        assert np.isfinite(pool.x).all()
        assert np.isfinite(pool.y).all()
        session.ask(3)
        assert query.text == ("1", "2", "3")
        first = session.queue[0]
        session.draw(first, Stroke(points=((5.0, 5.0), (9.0, 9.0)), label=1, id="one"))
        session.submit(first, "scribble", seconds=4.0)
        assert len(labelled.x) == 1
        row = session.pool.ids.index(first)
        assert (pool.x[row], pool.y[row]) == (labelled.x[0], labelled.y[0])
        panel._parts[1]._clicked(pool, type("Points", (), {"point_inds": [row]}), None)
        assert opened == [first]
        panel.close()
