from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from alnb.panels.colouring import colouring
from alnb.panels.embedding import EmbeddingPanel, embedding_figure
from alnb.panels.places import NEVER, embedding_data, no_map, shown_rows
from alnb.records import Pool, SliceId, VolumeId

ALL_COLOURINGS = ("patient", "volume", "position", "labelled", "covered", "round")


def grid(session) -> np.ndarray:
    return np.arange(2.0 * len(session.pool)).reshape(-1, 2)


def click(panel, point: int) -> None:
    """What the front end sends when somebody clicks on a point of the first trace."""
    points = {"trace_indexes": [0], "point_indexes": [point], "xs": [0.0], "ys": [0.0]}
    panel.figure._js2py_pointsCallback = {
        "event_type": "plotly_click",
        "points": points,
        "device_state": None,
        "selector": None,
    }


def test_each_point_knows_its_slice_its_group_and_how_it_stands(fake):
    session = fake(patients=2, slices=3)
    session.ask([4, 1])
    session.label(4)
    data = embedding_data(session, grid(session))
    assert data.opens == session.pool.ids
    assert data.patient.tolist() == ["p0"] * 6 + ["p1"] * 6
    assert data.volume[3] == "p0/ES"
    assert data.asked.tolist() == [0, 2, 0, 0, 1] + [0] * 7
    assert np.flatnonzero(data.labelled).tolist() == [4]
    assert np.flatnonzero(data.waiting).tolist() == [1]
    assert data.round.tolist() == [NEVER, 0, NEVER, NEVER, 0] + [NEVER] * 7
    np.testing.assert_array_equal(data.xy, grid(session))


def test_a_later_round_takes_the_rings_and_an_asked_row_keeps_its_latest_round(fake):
    from alnb.store.events import RoundClosed

    session = fake()
    session.ask([0, 1])
    session.commit(RoundClosed(0))
    closed = embedding_data(session, grid(session))
    assert not closed.asked.any()
    session.ask([1, 2])
    data = embedding_data(session, grid(session))
    assert data.asked[:3].tolist() == [0, 1, 2]
    assert data.round[:3].tolist() == [0, 1, 1]


def test_a_sub_sample_keeps_what_matters_and_the_same_share_of_every_volume():
    n = 1000
    ids = tuple(VolumeId(str(row)) for row in range(n))
    volume = np.repeat([0, 1, 2], [100, 300, 600])
    slices = tuple((SliceId(item.volume, 0),) for item in ids)
    pool = Pool(ids, slices, volume, volume, np.zeros(n))
    nothing = np.zeros(n, dtype=bool)
    rows = shown_rows(pool, nothing, limit=100)
    assert np.bincount(volume[rows]).tolist() == [10, 30, 60]
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, shown_rows(pool, nothing, limit=100))

    keep = nothing.copy()
    keep[[3, 500, 999]] = True
    kept = shown_rows(pool, keep, limit=100)
    assert len(kept) == 100
    assert {3, 500, 999} <= set(kept.tolist())
    assert len(np.setdiff1d(rows, kept)) <= 3
    assert len(shown_rows(pool, ~nothing, limit=100)) == n


def test_a_sub_sample_says_that_it_is_one(fake):
    session = fake()
    data = embedding_data(session, grid(session), limit=10)
    assert len(data.rows) == 10
    assert "10 of 40" in embedding_figure(data).layout.xaxis.title.text
    assert "all 40" in embedding_figure(embedding_data(session)).layout.xaxis.title.text


@pytest.mark.parametrize("by", ALL_COLOURINGS)
def test_every_colour_lies_within_the_scale(fake, by):
    session = fake(patients=9)
    session.ask([0, 1, 2])
    session.label(0)
    colours = colouring(embedding_data(session, grid(session)), by)
    low, high = colours.span
    assert low <= colours.values.min()
    assert colours.values.max() <= high
    stops = [stop for stop, _ in colours.scale]
    assert (stops[0], stops[-1]) == (0.0, 1.0)
    assert stops == sorted(stops)


@pytest.mark.parametrize("patients", [3, 40])
def test_patients_have_different_colours_however_many_there_are(fake, patients):
    session = fake(patients=patients, slices=2)
    data = embedding_data(session, grid(session))
    colours = colouring(data, "patient")
    assert len({code for _, code in colours.scale}) == patients
    by_patient = {name: set(colours.values[data.patient == name]) for name in data.patient}
    assert all(len(values) == 1 for values in by_patient.values())
    assert len(set.union(*by_patient.values())) == patients
    assert bool(colours.ticks) == (patients == 3)


@pytest.mark.parametrize("by", ALL_COLOURINGS)
def test_the_figure_renders_with_and_without_points(fake, by):
    session = fake()
    session.ask([3, 7])
    session.label(3)
    for data in (embedding_data(session, grid(session)), no_map(40)):
        text = embedding_figure(data, by).to_json()
        assert "NaN" not in text
        json.loads(text)


@pytest.mark.parametrize(("patients", "kind"), [(4, "scatter"), (201, "scattergl")])
def test_marks_are_of_the_same_kind_as_the_points_they_must_lie_over(fake, patients, kind):
    session = fake(patients=patients)
    session.ask([3, 7])
    figure = embedding_figure(embedding_data(session, grid(session)))
    assert {trace.type for trace in figure.data} == {kind}
    assert {trace.type for trace in embedding_figure(no_map(len(session.pool))).data} == {kind}


def test_names_cannot_become_markup(fake):
    session = fake(patients=1, slices=2)
    evil = tuple(SliceId("<b>x & y", index) for index in range(4))
    session.pool = Pool(
        evil,
        tuple((item,) for item in evil),
        session.pool.patient,
        session.pool.volume,
        session.pool.position,
    )
    session.cohort.volumes = {"<b>x & y": SimpleNamespace(patient="<i>z")}
    figure = embedding_figure(embedding_data(session, grid(session)), "patient")
    assert "&lt;b&gt;x &amp; y:0" in figure.data[0].text[0]
    assert "<i>" not in figure.data[0].text[0]
    assert figure.layout.coloraxis.colorbar.ticktext == ("&lt;i&gt;z",)


def test_arrays_stay_arrays(fake):
    figure = embedding_figure(embedding_data(fake()))
    assert isinstance(figure.data[0].x, np.ndarray)
    assert isinstance(figure.data[0].marker.color, np.ndarray)


@pytest.mark.parametrize("limit", [1000, 12])
def test_a_click_opens_the_slice_of_the_point(fake, limit):
    session, picked = fake(), []
    panel = EmbeddingPanel(session, picked.append, limit=limit)
    session.ask([39, 5])
    session.label(39)
    points = panel.figure.data[0]
    for point in (0, 3, len(points.x) - 1):
        click(panel, point)
        assert str(picked[-1]) in points.text[point]
    assert picked[-1] == session.pool.ids[39]
    assert len(points.x) == min(limit, 40)


def test_a_click_on_a_volume_opens_its_middle_slice(fake):
    session = fake(patients=2, slices=5)
    names = list(session.cohort.volumes)
    session.pool = Pool(
        tuple(VolumeId(name) for name in names),
        tuple(tuple(SliceId(name, index) for index in range(5)) for name in names),
        np.array([0, 0, 1, 1]),
        np.arange(4),
        np.full(4, 0.5),
    )
    picked = []
    click(EmbeddingPanel(session, picked.append), 2)
    assert picked == [SliceId("p1/ED", 2)]


def test_a_slice_that_cannot_be_opened_is_said_below_the_map(fake):
    def refuse(slice_id: SliceId) -> None:
        raise ValueError("it is locked")

    panel = EmbeddingPanel(fake(), refuse)
    click(panel, 1)
    assert panel.line.value == "p0/ED:1 could not be opened: it is locked"


def test_the_features_are_projected_once_for_each_embedding(fake, monkeypatch):
    from alnb.embed import project

    projected = []
    pca_map = project.pca_map
    monkeypatch.setattr(
        project, "pca_map", lambda x, dims: (projected.append(len(x)), pca_map(x, dims))[1]
    )
    session = fake()
    panel = EmbeddingPanel(session)
    session.ask([0, 1])
    session.label(0)
    session.label(1)
    panel.refresh()
    assert len(projected) == 1
    assert len(panel.figure.data[1].x) == 2
    before = panel.figure.data[0].x.copy()
    session.learnt("acdc")
    assert len(projected) == 2
    assert not np.array_equal(panel.figure.data[0].x, before)
    session.learnt("acdc")  # the same name, other features
    assert len(projected) == 3


def test_features_that_fail_leave_a_sentence_and_no_traceback(fake):
    session = fake()
    session.features = lambda name: 1 / 0
    panel = EmbeddingPanel(session)
    assert panel.figure.layout.annotations[0].text == "There is no map: division by zero"
    assert len(panel.figure.data[0].x) == 0


def drawn(panel) -> tuple[int, int]:
    """How many discs and how many outlines there are."""
    discs, outlines = (
        shape.path.count("Z") * shape.visible for shape in panel.figure.layout.shapes
    )
    return discs, outlines


def test_a_dragged_radius_fades_what_is_covered_and_counts_it(fake):
    session = fake()
    panel = EmbeddingPanel(session)
    part = panel._parts[0]
    assert part.radius.disabled
    session.ask([4, 9, 20])
    session.label(4)
    session.label(20)
    x = session.features()
    gaps = np.minimum(np.linalg.norm(x - x[4], axis=1), np.linalg.norm(x - x[20], axis=1))
    assert part.radius.value == pytest.approx(gaps.max())
    assert "Covered: 40 of 40" in part.sentence.value

    part.radius.value = float(np.median(gaps))
    inside = gaps <= part.radius.value * (1 + 1e-6)
    assert f"Covered: {inside.sum()} of 40" in part.sentence.value
    opacity = panel.figure.data[0].marker.opacity
    assert (opacity[inside] < 0.5).all()
    assert (opacity[~inside] > 0.9).all()
    assert drawn(panel) == (2, 1)

    session.label(9)  # the radius is a person's now, and stays
    assert part.radius.value == pytest.approx(float(np.median(gaps)))
    assert drawn(panel) == (3, 0)
    session.learnt("acdc")  # other features, another scale
    assert part.radius.value == pytest.approx(part._due.value.covers.radius)
    part.drawn.value = False
    assert drawn(panel) == (0, 0)


def test_the_browser_that_rounds_the_slider_to_its_steps_is_no_person_dragging(fake):
    session = fake()
    session.ask([4, 9, 20])
    session.label(4)
    panel = EmbeddingPanel(session)
    part = panel._parts[0]
    radius = part._due.value.covers.radius
    part.radius.value = radius - 0.4 * part.radius.step
    panel.refresh()
    assert "Covered: 40 of 40" in part.sentence.value
    for row in (9, 20, 33, 27):
        session.label(row)
    now = part._due.value.covers.radius
    assert now < radius - 2 * part.radius.step
    assert abs(part.radius.value - now) <= part.radius.step
    assert "Covered: 40 of 40" in part.sentence.value


def test_circles_do_not_move_the_map(fake):
    session = fake()
    session.ask([4, 9])
    session.label(4)
    panel = EmbeddingPanel(session)
    before = panel.figure.layout.xaxis.range
    panel._parts[0].radius.value = panel._parts[0].radius.max
    assert panel.figure.layout.xaxis.range == before
    x = panel.figure.data[0].x
    assert before[0] < x.min() < x.max() < before[1]


def test_of_a_large_map_the_points_fade_once_the_hand_rests(fake, monkeypatch):
    from alnb.panels import embedding

    monkeypatch.setattr(embedding, "LIVE", 10)
    session = fake()
    session.ask([4, 9])
    session.label(4)
    panel = EmbeddingPanel(session)
    part = panel._parts[0]
    before = panel.figure.data[0].marker.opacity
    part.radius.value = 0.5 * part.radius.max
    assert "Covered: 40 of 40" not in part.sentence.value
    np.testing.assert_array_equal(panel.figure.data[0].marker.opacity, before)
    monkeypatch.setattr(part, "_resting", 0.0)
    panel.refresh()
    assert (panel.figure.data[0].marker.opacity > 0.9).any()
