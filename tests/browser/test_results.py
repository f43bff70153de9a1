"""Measured volumes and the sheet of one volume, in a real JupyterLab."""

from __future__ import annotations

import pytest

SETUP = """
import alnb
from alnb.data.phantom import phantom
from alnb.models.learners import SingleNet
from alnb.session.oracle import SimulatedOracle

session = alnb.open_session(
    FOLDER, phantom(6, size=64, slices=(4, 5)), learner=SingleNet(steps=4, size=32), gate=None)
session.ask(4)
oracle = SimulatedOracle(session.cohort, "mask")
for slice_id in session.pending:
    session.annotate(*oracle.annotate(slice_id))
"""
SHOW = """
from alnb.panels.results import ResultPanel
desk = alnb.show(session, panels=False)
results = ResultPanel(session, desk.labeller)
import ipywidgets
ipywidgets.VBox([desk.widget, results.widget])
"""
SHEET = """
from alnb.panels.volume_sheet import volume_sheet
volume_sheet(session, session.score_volumes("val").volumes[0])
"""
SHOWN = """
from alnb.panels.results import result_data
_scores = session.score_volumes("val")
print(sum(len(p) for m in ("dice", "hd95") for p in result_data(_scores, m).points))
"""
POINTS = "document.querySelectorAll('.alnb-panel .scatterlayer path.point').length"


@pytest.fixture(scope="module")
def browser(launch):
    """Without emulated WebGL, which these pictures do not use."""
    return launch(webgl=False)


@pytest.mark.timeout(900)
def test_a_click_on_a_measured_volume_opens_its_worst_slice(notebook, tmp_path):
    notebook.open([f"FOLDER = {str(tmp_path / 'p')!r}", SETUP, SHOW])
    notebook.run_all(timeout=240)
    notebook.wait_for_view()
    notebook.wait_text(".alnb-panel .annotation-text", "after the first training")
    notebook.kernel("report = session.fit()")
    count = int(notebook.kernel(SHOWN))
    notebook.page.wait_for_function(f"{POINTS} === {count}", timeout=120_000)
    notebook.wait_text(".alnb-results", "myocardium", 30)
    point = notebook.page.locator(".alnb-panel .scatterlayer path.point").first
    point.scroll_into_view_if_needed()
    point.click(force=True)
    notebook.wait_text(".alnb-panel", "most wrong pixels", 30)
    told = notebook.kernel("print(results.line.value, '|', desk.labeller.here)")
    slice_id = told.split("|")[1].strip()
    volume, index = slice_id.rsplit(":", 1)
    assert told.startswith(f"{volume}, slice {int(index) + 1}:")
    scores = notebook.kernel(
        "print([f'{s.volume}:{s.worst}' for s in session.score_volumes('val').scores])"
    )
    assert slice_id in scores
    notebook.screenshot("results-panel")


@pytest.mark.timeout(900)
def test_a_sheet_shows_outlines_and_heat_of_one_volume(notebook, tmp_path):
    notebook.open([f"FOLDER = {str(tmp_path / 'p')!r}", SETUP, "report = session.fit()", SHEET])
    notebook.run_all(timeout=240)
    drawn = "document.querySelectorAll('.alnb-volume figure').length"
    notebook.page.wait_for_function(f"{drawn} >= 4", timeout=60_000)
    assert notebook.page.evaluate(
        "[...document.querySelectorAll('.alnb-volume figure')].every(f =>"
        " f.querySelectorAll('svg').length === 2 && f.querySelectorAll('image').length === 3)"
    )
    assert notebook.page.evaluate("document.querySelectorAll('.alnb-volume path').length") > 0
    notebook.page.locator(".alnb-volume").scroll_into_view_if_needed()
    notebook.screenshot("volume-sheet")
