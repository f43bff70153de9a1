from __future__ import annotations

import json

import numpy as np
import pytest

from alnb.embed.quality import quality
from alnb.panels.compare import (
    PERCENTS,
    Compared,
    EmbeddingComparison,
    compared,
    comparison_figure,
    comparison_rows,
)


def test_each_embedding_is_measured_on_its_own_features(fake):
    session = fake()
    session.learnt("acdc")
    found = compared(session, "acdc")
    x, pool = session.features("acdc"), session.pool
    assert found.quality == quality(x, pool.patient, pool.volume, percents=PERCENTS)
    assert found.xy.shape == (40, 2)
    missing = compared(session, "ntxent")
    assert (missing.xy, missing.quality) == (None, None)
    assert "not learnt yet" in missing.note


def test_the_table_has_a_cell_for_each_number_and_embedding(fake):
    session = fake()
    session.learnt("acdc")
    columns = [compared(session, "ntxent"), compared(session, "acdc")]
    rows = comparison_rows(columns)
    measured = columns[1].quality
    assert len(rows) == 3 + len(PERCENTS)
    assert all(cells[0] == "—" for _, _, cells in rows)
    share = f"{100 * measured.volume.recall:.0f} % ({100 * measured.volume.chance:.0f} %)"
    assert rows[0][2][1] == share
    assert [cells[1] for _, _, cells in rows[3:]] == [f"{r:.2f}" for r in measured.radii]
    assert rows[3][0] == f"cover radius at 2 % ({measured.budgets[0]} slices)"


def test_both_maps_have_the_same_colours_and_places_of_their_own(fake):
    session = fake()
    for name in ("ntxent", "acdc"):
        session.learnt(name)
    figure = comparison_figure(session, [compared(session, n) for n in ("ntxent", "acdc")])
    right, left = figure.data[0], figure.data[3]
    np.testing.assert_array_equal(left.marker.color, right.marker.color)
    assert left.marker.coloraxis == right.marker.coloraxis == "coloraxis"
    assert (left.xaxis, right.xaxis) == ("x", "x2")
    np.testing.assert_allclose(left.x, compared(session, "ntxent").xy[:, 0].astype(np.float32))
    assert "ntxent" in figure.layout.xaxis.title.text
    assert "acdc" in figure.layout.xaxis2.title.text
    json.loads(comparison_figure(session, [Compared("a"), Compared("b")]).to_json())


def test_an_embedding_appears_once_it_is_learnt_and_a_click_opens_its_slice(fake):
    session, shown = fake(), []
    labeller = type("L", (), {"drawing": False, "show": lambda self, s: shown.append(s)})()
    panel = EmbeddingComparison(session, labeller=labeller)
    assert [column.xy for column in panel.columns] == [None, None]
    session.learnt("ntxent")
    assert panel.columns[0].xy is not None
    assert panel.table.value.count("—") == 3 + len(PERCENTS)
    session.learnt("acdc")
    assert "—" not in panel.table.value
    panel.figure._js2py_pointsCallback = {
        "event_type": "plotly_click",
        "points": {"trace_indexes": [3], "point_indexes": [7], "xs": [0.0], "ys": [0.0]},
        "device_state": None,
        "selector": None,
    }
    assert shown == [session.pool.ids[7]]
    panel.colour.value = "position"
    assert panel.figure.data[0].marker.color[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    panel.close()
    assert session._listeners == session._watchers == []
