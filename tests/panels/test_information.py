from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from alnb.panels.information import (
    Information,
    information,
    information_figure,
    information_views,
    matrix_rows,
    sentences,
)
from alnb.panels.redundant import InformationPanel
from alnb.records import SliceId
from alnb.session.oracle import SimulatedOracle
from alnb.strategies.mutual_information import Quantiser, between, shared_field
from alnb.strategies.redundancy import Redundancy

SMALL = Redundancy(Quantiser(bins=8, side=24, depth=8))


def made(nats, patient, field=None, labelled=()):
    n = len(nats)
    nats = np.asarray(nats, dtype=float)
    return Information(
        np.arange(n),
        tuple(SliceId(f"{p}/ED", i) for i, p in enumerate(patient)),
        np.array(patient),
        np.isin(np.arange(n), labelled),
        nats,
        nats / 2 if field is None else np.asarray(field, dtype=float),
        0.01,
        *(32, 16384),
        masked=False,
        pool=2 * n,
    )


@pytest.fixture
def pairs():
    """Items 0 and 2 share much, and so do 1 and 3."""
    nats = np.full((4, 4), 0.1)
    nats[0, 2] = nats[2, 0] = nats[1, 3] = nats[3, 1] = 0.9
    np.fill_diagonal(nats, 2.0)
    return made(nats, ["a", "a", "b", "b"], labelled=[1])


@pytest.mark.parametrize("unit", ["slice", "volume"])
def test_the_matrices_are_those_of_the_images(project, unit):
    session = project(unit=unit)
    found = information(session, np.array([5, 0, 3]), SMALL)
    assert found.rows.tolist() == [0, 3, 5]
    solid = unit == "volume"
    images = [
        np.stack([session.cohort.slice_image(s) for s in session.pool.slices[row]])
        for row in found.rows
    ]
    codes = np.array([SMALL.quantiser(image, solid=solid) for image in images])
    bodies = np.array([SMALL.quantiser.body(image, solid=solid) for image in images])
    np.testing.assert_allclose(found.nats, between(codes, codes, SMALL.quantiser), atol=1e-9)
    np.testing.assert_allclose(found.field, shared_field(bodies, bodies), atol=1e-9)
    assert found.voxels == (8**3 if solid else 24**2)
    assert found.bias == pytest.approx(7**2 / (2 * found.voxels))


def test_what_is_labelled_or_asked_is_always_among_the_rows(project):
    session = project()
    session.ask(5)
    oracle = SimulatedOracle(session.cohort, "mask", name="me")
    for slice_id in session.pending[:3]:
        session.annotate(*oracle.annotate(slice_id))
    rows = matrix_rows(session, most=8)
    assert len(rows) == 8
    assert set(session.pool.rows(session.queue)) <= set(rows.tolist())
    assert information(session, rows, SMALL).labelled.sum() == 3


def test_likeness_puts_those_together_that_share_much(pairs):
    assert pairs.order("patient").tolist() == [0, 1, 2, 3]
    order = pairs.order("likeness").tolist()
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset((0, 2)), frozenset((1, 3))}


def test_the_share_of_outlines_is_over_pairs_of_two_patients():
    nats = [[2.0, 1.0, 0.4], [1.0, 2.0, 0.6], [0.4, 0.6, 2.0]]
    field = [[0.5, 0.9, 0.1], [0.9, 0.5, 0.2], [0.1, 0.2, 0.5]]
    assert made(nats, ["a", "a", "b"], field).share == pytest.approx((0.1 + 0.2) / (0.4 + 0.6))
    assert np.isnan(made(nats, ["a", "a", "a"], field).share)


def test_the_caveat_and_the_bias_are_said_with_their_numbers(pairs):
    caveat, small = sentences(pairs)
    assert "not registered" in caveat
    assert "share as much as 50%" in caveat
    assert "0.010 nats" in small
    assert "Q = 32 and V = 16,384" in small
    alone = made(pairs.nats, ["a"] * 4)
    assert "nan" not in " ".join(sentences(alone))


def test_both_matrices_have_one_order_and_one_scale_that_leaves_the_diagonal_out(pairs):
    nats, field = information_views(pairs, "likeness")
    order = pairs.order("likeness")
    np.testing.assert_array_equal(nats.traces[0]["z"], pairs.nats[np.ix_(order, order)])
    np.testing.assert_array_equal(field.traces[0]["z"], pairs.field[np.ix_(order, order)])
    assert nats.colours["cmax"] == field.colours["cmax"] == 0.9
    assert nats.traces[1]["x"].tolist() == [order.tolist().index(1)]
    assert not nats.xaxis["ticktext"]
    assert information_views(pairs)[0].yaxis["ticktext"] == ["a", "b"]


def test_names_are_text_and_the_figure_is_drawn(pairs):
    wild = made(pairs.nats, ["<b>x", "<b>x", "y", "y"])
    figure = information_figure(wild)
    assert "<b>x" not in figure.data[-2].text[0][1].replace("<b>&lt;b&gt;x", "")
    assert len(information_figure(pairs).data) == 4
    assert information_views(None, note="Comparing …")[0].note == "Comparing …"


def test_the_panel_compares_once_and_a_click_opens_the_image_of_a_row(project):
    session = project()
    opened = []
    labeller = SimpleNamespace(show=opened.append, drawing=False)
    panel = InformationPanel(session, labeller, rows=np.arange(6))
    source = panel._parts[0]._source
    found = source.found
    assert found.rows.tolist() == list(range(6))
    point = SimpleNamespace(xs=[4], ys=[2], point_inds=[0])
    panel._parts[0]._clicked(None, point, None)
    assert opened == [session.pool.ids[2]]
    assert panel.line.value.startswith(f"{session.pool.ids[2]} and {session.pool.ids[4]} share")
    source.order.value = "likeness"
    assert source.found is found
    source.mask.value = True
    assert source.found.masked
    assert "left out" in panel._parts[1].words.value
    panel.close()
