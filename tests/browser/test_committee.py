"""Committee, particles, matrices and score bars, in a real JupyterLab.

Waiting asserts here: what is not as wanted within its time fails the test.
"""

from __future__ import annotations

import json

import pytest

SETUP = """
import alnb
from alnb.data.phantom import phantom
from alnb.models.svgd_committee import SVGDCommittee, from_scratch
from alnb.session.oracle import SimulatedOracle
from alnb.strategies.nath import EntropyMinusMI

learner = SVGDCommittee(3, from_scratch(steps=4, size=32, channels=(4, 8)))
session = alnb.open_session(
    FOLDER, phantom(6, size=48, slices=(3, 4)), learner=learner, gate=None,
    strategy=EntropyMinusMI())
session.ask(4, strategy=alnb.strategies.resolve("strided"))
oracle = SimulatedOracle(session.cohort, "mask", name="me")
for slice_id in session.pending:
    session.annotate(*oracle.annotate(slice_id))
report = session.fit()
"""
SWARM = "from alnb.panels.swarm import SwarmPanel\nswarm = SwarmPanel()\nswarm"
COMMITTEE = """
from alnb.panels.committee import CommitteePanel
committee = CommitteePanel(session)
committee
"""
MATRIX = """
from alnb.panels.redundant import InformationPanel
matrix = InformationPanel(session, most=12)
matrix
"""
BARS = """
import ipywidgets
from alnb.panels.scoring import ScorePanel
desk = alnb.show(session, panels=False, live=False)
bars = ScorePanel(session, desk.labeller)
ipywidgets.VBox([bars.widget, desk.widget])
"""
TRACES = """() => ([...document.querySelectorAll('.js-plotly-plot')].at(-1)?.data ?? [])
    .map(t => (t.z ?? t.x ?? []).length)"""
BAR = ".alnb-panel .barlayer .point path"


@pytest.fixture(scope="module")
def browser(launch):
    """Without emulated WebGL, which these pictures do not use."""
    return launch(webgl=False)


def show(notebook, *cells):
    """Run cells, the last of which shows a panel."""
    notebook.open(list(cells))
    notebook.run_all(timeout=300)


def wait_drawn(notebook, condition, timeout=60):
    """Until the traces of the last figure on the page are as wanted; `n` are their lengths."""
    notebook.page.wait_for_function(
        f"() => {{ const n = ({TRACES})(); return {condition}; }}", timeout=1000 * timeout
    )


def wait_words(notebook, part, timeout=60):
    """Until a sentence stands beside a plot."""
    notebook.page.wait_for_function(
        "t => [...document.querySelectorAll('.alnb-aside')].some(e => e.textContent.includes(t))",
        arg=part,
        timeout=1000 * timeout,
    )


MANY = """
import asyncio, ipywidgets
from alnb.panels.figure import Screen, View

def at(y):
    return View(traces=({"type": "scatter", "y": [y, y + 1]},), xaxis={}, yaxis={})

async def later(screen, seconds):
    await asyncio.sleep(seconds)
    screen.show(at(3))
    screen.renew()

screens = [Screen(at(1)) for _ in range(8)]
for place, screen in enumerate(screens):
    asyncio.get_running_loop().create_task(later(screen, 0.3 * place))
ipywidgets.VBox([screen.widget for screen in screens])
"""


@pytest.mark.timeout(900)
def test_figures_that_change_while_a_page_still_draws_them_show_the_change(notebook):
    show(notebook, MANY)
    notebook.page.wait_for_function(
        """() => {
          const plots = [...document.querySelectorAll('.js-plotly-plot')];
          return plots.length === 8 && plots.every(p => p.data?.[0]?.y?.[0] === 3);
        }""",
        timeout=90_000,
    )


@pytest.mark.timeout(900)
def test_particles_walk_when_the_slider_moves_and_gather_without_the_push(notebook):
    show(notebook, SWARM)
    wait_drawn(notebook, "n.length === 7 && n[6] === 25")
    where = """() => [...document.querySelectorAll('.js-plotly-plot')].at(-1).data[6].x
        .reduce((sum, x) => sum + Math.abs(Math.abs(x) - 1.4), 0) / 25"""
    before = notebook.page.evaluate(where)
    notebook.kernel("swarm.swarm.slider.value = 89")
    notebook.page.wait_for_function(f"b => ({where})() < b / 1.3", arg=before, timeout=30_000)
    spread = notebook.page.evaluate(where)
    notebook.page.get_by_role("button", name="without push").click()
    wait_words(notebook, "Step 0, without push")
    notebook.kernel("swarm.swarm.slider.value = 89")
    notebook.page.wait_for_function(f"b => ({where})() < b / 1.3", arg=spread, timeout=30_000)
    notebook.screenshot("committee-swarm")


@pytest.mark.timeout(900)
def test_forces_and_matrices_of_a_trained_committee_are_drawn(notebook, tmp_path):
    show(notebook, f"FOLDER = {str(tmp_path / 'p')!r}", SETUP, COMMITTEE)
    wait_drawn(notebook, "n[0] === 3")  # K, three by three
    notebook.page.wait_for_function(
        "() => document.querySelectorAll('.alnb-panel .heatmaplayer image, "
        ".alnb-panel .heatmap-label').length > 0",
        timeout=30_000,
    )
    wait_words(notebook, "push is all but lost")
    wait_words(notebook, "SVGD: the push was")
    notebook.screenshot("committee-forces")


@pytest.mark.timeout(900)
def test_the_matrix_has_a_cell_for_each_pair_and_states_its_caveat(notebook, tmp_path):
    show(notebook, f"FOLDER = {str(tmp_path / 'p')!r}", SETUP, MATRIX)
    wait_drawn(notebook, "n[0] === 12 && n[2] === 12")
    wait_words(notebook, "not registered")
    wait_words(notebook, "independent images")
    notebook.screenshot("committee-matrix")


@pytest.mark.timeout(900)
def test_a_click_on_a_bar_opens_its_slice(notebook, tmp_path):
    show(notebook, f"FOLDER = {str(tmp_path / 'p')!r}", SETUP, BARS)
    notebook.wait_for_view()
    count = int(notebook.kernel("print(len(bars.part.data.first))"))
    notebook.page.wait_for_function(
        f"() => document.querySelectorAll('{BAR}').length === {2 * count}", timeout=60_000
    )
    bar = notebook.page.locator(BAR).nth(2)
    bar.scroll_into_view_if_needed()
    bar.click(force=True)
    notebook.wait_text(".alnb-panel", "is shown.", 30)
    third, here = json.loads(
        notebook.kernel(
            "import json; data = bars.part.data\n"
            "print(json.dumps([str(data.opens[data.first[2]]), str(desk.labeller.here)]))"
        )
    )
    assert here == third
    volume, index = third.rsplit(":", 1)
    notebook.wait_text(".alnb-where", f"slice {int(index) + 1} of", 20)
    assert notebook.text(".alnb-title") == volume
    wait_words(notebook, "MI =")
    notebook.screenshot("committee-bars")
