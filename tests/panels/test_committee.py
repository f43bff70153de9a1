from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from alnb.models.svgd import Forces
from alnb.models.svgd_committee import Moment
from alnb.panels.committee import CommitteePanel
from alnb.panels.forces import (
    HONEST,
    committee_data,
    committee_figure,
    diagnostics_of,
    disagreement_view,
    force_view,
    kernel_view,
    sentences,
)
from alnb.session.oracle import SimulatedOracle
from tests.toys import ClassMeans


def moment(step, near=0.2, *, push=0.05, members=3, layers=1, disagreement=0.1):
    one = np.full((members, members), near)
    np.fill_diagonal(one, 1.0)
    kernels = np.stack([np.where(one < 1, one * (1 + layer), one) for layer in range(layers)])
    forces = Forces(kernels, np.arange(1.0, layers + 1), one * 0, push, False)
    return Moment(step, 1.0, forces, disagreement)


@pytest.fixture
def two():
    return {
        "SVGD": (moment(0, 0.2), moment(20, 0.25, push=0.02, disagreement=0.3)),
        "ensemble": (moment(0, 0.2), moment(30, 0.26, push=0.03, disagreement=0.4)),
    }


def test_every_record_is_a_point_of_its_committee(two):
    data = committee_data(two)
    svgd, ensemble = data.lines
    assert svgd.step.tolist() == [0, 20]
    assert svgd.push.tolist() == [0.05, 0.02]
    assert ensemble.disagreement.tolist() == [0.1, 0.4]
    np.testing.assert_array_equal(svgd.kernel[1], moment(20, 0.25).forces.kernel[0])
    assert data.steps.tolist() == [0, 20, 30]
    assert not data.empty


def test_of_several_kernels_the_ends_are_over_all_and_the_picture_is_their_mean():
    (line,) = committee_data({"layers": [moment(0, 0.2, layers=3)]}).lines
    assert (line.least[0], line.most[0]) == pytest.approx((0.2, 0.6))
    assert line.kernel[0, 0, 1] == pytest.approx(0.4)
    assert line.bandwidth[0] == 2
    view = kernel_view(committee_data({"layers": [moment(0, 0.2, layers=3)]}), 0)
    assert "mean of 3 layers" in view.xaxis["title"]["text"]


def test_the_heat_map_shows_the_record_nearest_to_the_step(two):
    data = committee_data(two)
    assert kernel_view(data, 22).traces[0]["z"][0, 1] == 0.25
    assert kernel_view(data, 4).traces[0]["z"][0, 1] == 0.2
    assert kernel_view(data, 30, line=1).traces[0]["z"][0, 1] == 0.26
    sizes = disagreement_view(data, 22).traces[0]["marker"]["size"]
    assert sizes.argmax() == 1


def test_k_is_a_band_and_its_limit_a_line(two):
    view = force_view(committee_data(two), "kernel", 0)
    assert len(view.traces) == 4
    assert view.traces[1]["fill"] == "tonexty"
    (level,) = view.shapes
    assert level["y0"] == 1 / 4
    push = force_view(committee_data(two), "push", 0)
    assert len(push.traces) == 4
    assert push.yaxis["type"] == "log"
    assert push.shapes[0]["y0"] == 1


def test_the_words_say_what_was_measured_and_where_k_would_go(two):
    acted, differ = sentences(committee_data(two))
    assert "3.5% of the climb" in acted
    assert "0.25 to 0.25" in acted
    assert "1/(M + 1) = 0.25" in acted
    assert "SVGD 30.0%, ensemble 40.0%" in differ
    assert sentences(committee_data({"alone": [moment(0, members=1)]})) == ()


def test_a_learner_without_forces_is_told_so():
    moments, note = diagnostics_of(ClassMeans())
    assert moments == ()
    assert "ClassMeans is no committee" in note
    assert "no record" in diagnostics_of(SimpleNamespace(diagnostics=()))[1]
    assert committee_data({"x": ()}, note).note == note


def test_the_figure_is_drawn_with_and_without_records(two):
    for data in (committee_data(two), committee_data({"SVGD": ()})):
        for measure in ("push", "kernel", "bandwidth"):
            json.loads(committee_figure(data, measure).to_json())
    figure = committee_figure(committee_data({"<b>x": two["SVGD"]}))
    assert "<b>x" not in figure.data[-1].name


def test_a_panel_without_a_session_walks_through_the_steps(two):
    panel = CommitteePanel(None, two)
    kernel = panel._parts[2]
    assert kernel.slider.value == 30
    kernel.slider.value = 0
    assert panel.figure.data[0].z[0][1] == 0.2
    kernel.which.value = "ensemble"
    kernel.slider.value = 30
    assert panel.figure.data[0].z[0][1] == 0.26
    panel._parts[0].controls.value = "bandwidth"
    assert list(panel.figure.data[-1].y) == [1.0, 1.0]
    assert HONEST.split(":", maxsplit=1)[0] in panel._parts[0].foot.value
    panel.close()


class Voters(ClassMeans):
    """A learner that fits in milliseconds and says what acted."""

    def fit(self, *args, **kwargs):
        report = super().fit(*args, **kwargs)
        self.diagnostics = (moment(0), moment(20, 0.3))
        return report


def trained(session):
    session.ask(4)
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in session.pending:
        session.annotate(*oracle.annotate(slice_id))
    session.fit()


def shown(panel):
    """The sentence in the middle of the empty plot, and the words below."""
    return panel.figure.layout.annotations[-1].text, panel._parts[1].words.value


def test_the_panel_follows_the_trainings_of_a_session(project):
    session = project(learner=Voters())
    panel = CommitteePanel(session)
    assert "after the first training" in shown(panel)[0]
    trained(session)
    assert not shown(panel)[0]
    assert "SVGD: the push was 5.0%" in shown(panel)[1]
    assert panel._parts[2].slider.value == 20
    panel.close()


def test_the_panel_says_that_a_single_network_is_no_committee(project):
    session = project()
    alone, beside = CommitteePanel(session), CommitteePanel(session, {"other": (moment(0),)})
    trained(session)
    assert "ClassMeans is no committee" in shown(alone)[0]
    assert not shown(beside)[0]
    assert "ClassMeans is no committee" in shown(beside)[1]
    assert "other: the push" in shown(beside)[1]
    alone.close()
    beside.close()
