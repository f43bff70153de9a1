from __future__ import annotations

import json

import pytest

from alnb.panels.curves import CurvePanel, Point, curve_data, curve_figure
from alnb.records import Metrics, Round

CLASSES = ("background", "RV", "LV")


def a_round(number: int, *metrics: Metrics) -> Round:
    return Round(number, (), (), (), "Strided()", True, metrics=metrics)


def val(*dice: float | None, labelled: int = 4, seconds: float = 60.0) -> Metrics:
    return Metrics("val", dice, 8, labelled, seconds)


def test_every_round_is_a_point_of_each_class_and_of_the_mean():
    rounds = [a_round(0, val(0.2, 0.4)), a_round(1, val(0.6, 0.8, labelled=8, seconds=150.0))]
    data = curve_data(rounds, CLASSES)
    assert [(c.split, c.label, c.name) for c in data.curves] == [
        ("val", 1, "RV"),
        ("val", 2, "LV"),
        ("val", None, "mean"),
    ]
    assert data.curves[1].points == (Point(0, 4, 60.0, 8, 0.4), Point(1, 8, 150.0, 8, 0.8))
    assert [p.dice for p in data.curves[2].points] == pytest.approx([0.3, 0.7])


def test_each_split_that_was_measured_has_its_own_curves_in_a_fixed_order():
    new, test = Metrics("new", (0.1, 0.1), 4), Metrics("test", (0.2, 0.2), 10)
    data = curve_data([a_round(0, new), a_round(1, test, val(0.3, 0.3))], CLASSES)
    assert [c.split for c in data.curves if c.label is None] == ["val", "test", "new"]
    assert [p.round for p in data.curves[-1].points] == [0]


def test_measuring_the_same_labels_again_replaces_the_point_and_more_labels_add_one():
    again = a_round(0, val(0.1, 0.1), val(0.2, 0.2), val(0.3, 0.3, labelled=6))
    means = curve_data([again], CLASSES).curves[-1].points
    assert [(p.slices, p.dice) for p in means] == [(4, 0.2), (6, 0.3)]


def test_an_undefined_class_is_a_gap_and_not_a_zero():
    figure = curve_figure(curve_data([a_round(0, val(None, 0.5))], CLASSES))
    assert figure.data[0].y == (None,)
    assert "undefined" in figure.data[0].text[0]
    assert figure.data[2].y == (0.5,)
    assert "NaN" not in figure.to_json()


def test_the_time_axis_shows_seconds_in_a_unit_that_fits():
    rounds = [a_round(0, val(0.2, 0.4, seconds=30.0)), a_round(1, val(0.3, 0.5, seconds=600.0))]
    figure = curve_figure(curve_data(rounds, CLASSES, "seconds"))
    assert figure.layout.xaxis.title.text == "annotation time (min)"
    assert figure.data[0].x == (0.5, 10.0)
    assert "10 min 0 s" in figure.data[0].text[1]


def test_before_the_first_training_the_plot_says_what_will_bring_a_point():
    figure = curve_figure(curve_data([], CLASSES))
    assert figure.layout.annotations[0].text.startswith("The first point appears after")
    assert not figure.layout.xaxis.visible
    json.loads(figure.to_json())


def test_class_names_cannot_become_markup():
    figure = curve_figure(curve_data([a_round(0, val(0.5))], ("background", "<b>A & B</b>")))
    assert figure.data[0].name == "&lt;b&gt;A &amp; B&lt;/b&gt;"
    assert "<b>A" not in figure.data[0].text[0]


def test_a_class_is_named_once_in_the_legend_and_the_mean_once_per_split(fake):
    session = fake()
    session.ask([0])
    session.measure(0.1, 0.2, 0.3)
    session.measure(0.1, 0.2, 0.3, split="test")
    figure = curve_figure(curve_data(session.state.rounds, session.classes))
    named = [trace.name for trace in figure.data if trace.showlegend]
    assert named == ["RV", "myocardium", "LV", "mean, validation", "mean, test"]


def test_the_panel_gains_a_point_when_the_session_is_measured(fake):
    session = fake()
    panel = CurvePanel(session)
    assert panel.figure.data == ()
    session.ask([0, 1])
    session.label(0)
    session.measure(0.1, 0.2, 0.3)
    mean = panel.figure.data[3]
    assert mean.y == pytest.approx((0.2,))
    assert panel.figure.layout.annotations[0].text == ""
    session.label(1, seconds=20.0)
    session.measure(0.3, 0.4, 0.5)
    assert mean.x == (1, 2)
    panel._parts[0].controls.value = "seconds"
    assert mean.x == (10.0, 30.0)
