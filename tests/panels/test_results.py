from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alnb.panels.results import (
    ResultPanel,
    result_data,
    result_view,
    results_figure,
    summary_html,
    volume_html,
)
from alnb.records import SliceId
from alnb.session.oracle import SimulatedOracle
from alnb.session.scores import ClassScore, VolumeScores
from alnb.widgets.labeller import Labeller

CLASSES = ("background", "RV", "LV")


def score(volume, label, dice=0.8, hd95=4.0, nsd=0.6, *, missed=False, worst=2, unit="mm"):
    patient = volume.split("/")[0]
    name = CLASSES[label]
    return ClassScore(volume, patient, "val", label, name, dice, hd95, nsd, unit, missed, worst)


def table(*scores):
    return VolumeScores("val", CLASSES, scores, "model of round 1 · 6 slices", "ab", 2.0, False)


@pytest.fixture
def scores():
    return table(
        score("p1/ED", 1, 0.9, 3.0, 0.7),
        score("p1/ED", 2, 0.5, 9.0, 0.2, worst=4),
        score("p2/ED", 1, 0.0, 200.0, 0.0, missed=True),
        score("p2/ED", 2, 1.0, None, None),
        score("p3/ED", 1, 0.7, 5.0, 0.5),
        score("p3/ED", 2, 0.6, 7.0, 0.4),
    )


def test_a_volume_is_a_point_of_each_class_at_the_same_place(scores):
    data = result_data(scores)
    assert data.axis == "3D Dice"
    assert [[(p.volume, p.y) for p in points] for points in data.points] == [
        [("p1/ED", 0.9), ("p2/ED", 0.0), ("p3/ED", 0.7)],
        [("p1/ED", 0.5), ("p2/ED", 1.0), ("p3/ED", 0.6)],
    ]
    first, second = (np.array([p.x for p in points]) for points in data.points)
    np.testing.assert_allclose(second - first, 1)
    assert len(set(first)) == 3
    assert np.abs(first).max() < 0.5
    assert data.points[1][0].opens == SliceId("p1/ED", 4)


def test_a_missed_class_has_no_distance_and_stands_above_all(scores):
    data = result_data(scores, "hd95")
    assert data.axis == "HD95 (mm)"
    rv, lv = data.points
    assert [p.y for p in rv if not p.missed] == [3.0, 5.0]
    (missed,) = [p for p in rv if p.missed]
    assert 9.0 < missed.y < 12.0
    assert "missed" in missed.words
    assert "200" not in missed.words
    assert [p.volume for p in lv] == ["p1/ED", "p3/ED"]
    view = result_view(data)
    assert view.traces[0]["y"] == [3.0, 5.0]  # the box knows distances alone
    assert view.traces[2]["marker"]["symbol"] == ["circle", "x", "circle"]


def test_pixels_are_never_called_millimetres(scores):
    px = table(*(replace(s, unit="px") for s in scores.scores))
    assert result_data(px, "hd95").axis == "HD95 (px)"
    assert result_data(px, "nsd").axis == "surface Dice at 2 px"
    shown = summary_html(px) + volume_html(px, "p1/ED") + results_figure(px).to_json()
    assert "mm" not in shown.replace("not millimetres", "")


def test_the_number_of_traces_is_the_same_with_and_without_results(scores):
    full, empty = result_view(result_data(scores)), result_view(None, 2, note="Measuring …")
    assert len(full.traces) == len(empty.traces) == 4
    assert [set(t) for t in full.traces] == [set(t) for t in empty.traces]
    assert empty.note == "Measuring …"
    assert not full.note


def test_the_picked_volume_is_ringed_in_every_class(scores):
    view = result_view(result_data(scores), picked="p3/ED")
    for trace in view.traces[2:]:
        widths = trace["marker"]["line"]["width"]
        assert np.argmax(widths) == len(widths) - 1
        assert trace["marker"]["opacity"][0] < 1 == trace["marker"]["opacity"][-1]


def test_names_of_files_and_classes_are_text_and_never_markup():
    wild = "<img src=x>"
    scores = VolumeScores(
        *("val", ("background", wild)),
        (replace(score("p", 1), volume=wild, name=wild),),
        *("model", "ab", 2.0, False),
    )
    assert wild not in summary_html(scores) + volume_html(scores, wild)
    text = results_figure(scores).to_json()
    assert "<img" not in text
    assert "u003cimg" not in text


def answered(session, n=6):
    session.ask(n)
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in session.pending:
        session.annotate(*oracle.annotate(slice_id))
    session.fit()


def plotted(panel):
    """Per trace of points, in the order of plots and classes: the heights."""
    return [list(t.y) for t in panel.figure.data if t.type == "scatter"]


def test_the_panel_shows_the_last_model_and_measures_each_once(project, monkeypatch):
    session = project()
    panel = ResultPanel(session)
    assert not any(plotted(panel))
    assert "after the first training" in panel.figure.layout.annotations[0].text
    answered(session)
    scores = session.score_volumes("val")
    expected = [
        [p.y for p in points]
        for measure in ("hd95", "dice")
        for points in result_data(scores, measure).points
    ]
    assert plotted(panel) == expected
    monkeypatch.setattr(type(session), "score_volumes", None)
    panel.refresh()
    assert plotted(panel) == expected
    panel.close()


def test_the_other_split_and_the_other_measure_are_one_click_away(project):
    session = project()
    answered(session)
    panel = ResultPanel(session)
    left, right = (part.controls for part in panel._parts)
    left.value = "test"
    right.value = "nsd"
    scores = session.score_volumes("test")
    assert plotted(panel)[:3] == [[p.y for p in of] for of in result_data(scores, "nsd").points]
    assert plotted(panel)[3:] == [[p.y for p in of] for of in result_data(scores).points]
    assert "test" in panel._parts[0].foot.value
    panel.close()


def test_a_project_without_references_says_why_nothing_is_shown(project):
    from alnb.data.cohort import Split

    session = project()
    session.split = Split(session.split.train)
    answered(session)
    panel = ResultPanel(session)
    assert "nothing to measure on" in panel.figure.layout.annotations[0].text
    panel.close()


def test_a_click_opens_the_worst_slice_in_the_labeller(project):
    session = project()
    answered(session)
    labeller = Labeller(session)
    panel = ResultPanel(session, labeller)
    place = next(
        i for i, t in enumerate(panel.figure.data) if t.type == "scatter" and t.yaxis == "y"
    )
    panel.figure._js2py_pointsCallback = {
        "event_type": "plotly_click",
        "points": {"trace_indexes": [place], "point_indexes": [1], "xs": [0.0], "ys": [0.0]},
        "device_state": None,
        "selector": None,
    }
    labeller.settle()
    worst = [s for s in session.score_volumes("val").scores if s.label == 1][1]
    assert labeller.here == SliceId(worst.volume, worst.worst)
    assert worst.volume in panel.line.value
    assert worst.volume in panel._parts[1].foot.value
    labeller.close()
    panel.close()
