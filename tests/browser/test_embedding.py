"""The map's circles and the card beside the canvas, in a real JupyterLab."""

from __future__ import annotations

import json
import re

import pytest

SETUP = """
import pathlib
import alnb
from alnb.data.phantom import phantom
from alnb.data.scribbles import scribble_from_mask
from alnb.rng import stream

def answer(slice_id):
    for stroke in scribble_from_mask(
            session.cohort.reference(slice_id), rng=stream(0, str(slice_id)),
            classes=len(session.classes)):
        session.draw(slice_id, stroke)
    session.submit(slice_id, "scribble", seconds=5.0)

session = alnb.open_session(FOLDER, DATA, strategy="coreset")
"""
SHOW = "desk = alnb.show(session)\ndesk"
CIRCLES = "document.querySelector('.js-plotly-plot .shapelayer path')?.getAttribute('d')"
COVERED = r"Covered: ([\d,]+) of ([\d,]+) within r = ([\d.]+)\. "


def open_desk(notebook, folder, data="phantom(8, size=96, slices=(6, 8))"):
    notebook.open([f"FOLDER, DATA = {str(folder)!r}, None", SETUP.replace("DATA", data), SHOW])
    notebook.run_all()
    notebook.wait_for_view()
    notebook.wait_text(".alnb-why-lead", "labelled", 60)


def sentence(notebook):
    found = re.search(COVERED, notebook.text(".alnb-covers"))
    assert found is not None, notebook.text(".alnb-covers")
    inside, of, radius = found.groups()
    return int(inside.replace(",", "")), int(of.replace(",", "")), float(radius)


def truth(notebook, radius):
    """How many rows lie within the radius of a labelled one, by the kernel's own loop."""
    return json.loads(
        notebook.kernel(f"""
import json, numpy as np
x = session.features().astype(float)
rows = session.pool.rows(session.labelled)
near = [min(np.linalg.norm(a - x[c]) for c in rows) for a in x]
print(json.dumps(sum(bool(d <= {radius} * (1 + 1e-6)) for d in near)))""")
    )


def drag_radius(notebook, share):
    """Drag the slider's handle to a share of its length, as a hand does."""
    slider = notebook.page.locator(".alnb-panel .slider-container .noUi-base").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    handle = notebook.page.locator(".alnb-panel .noUi-handle").first.bounding_box()
    y = box["y"] + box["height"] / 2
    notebook.page.mouse.move(handle["x"] + handle["width"] / 2, y)
    notebook.page.mouse.down()
    notebook.page.mouse.move(box["x"] + share * box["width"], y, steps=12)
    notebook.page.mouse.up()


def test_dragging_the_radius_redraws_circles_and_counts_true_distances(notebook, tmp_path):
    open_desk(notebook, tmp_path / "project")
    assert "Nothing is labelled" in notebook.text(".alnb-covers")
    notebook.kernel("for _s in session.queue[:4]: answer(_s)")
    notebook.wait_text(".alnb-covers", "Covered", 30)
    inside, of, _ = sentence(notebook)
    assert inside == of
    before = notebook.page.evaluate(f"() => {CIRCLES}")
    drag_radius(notebook, 0.4)
    notebook.page.wait_for_function(
        f"before => {CIRCLES} && {CIRCLES} !== before",
        arg=before,
        timeout=10_000,
    )
    notebook.page.wait_for_timeout(600)
    inside, of, shown = sentence(notebook)
    assert 0 < inside < of
    radius = float(notebook.kernel("print(desk.panels._parts[1].radius.value)"))
    assert shown == pytest.approx(radius, rel=0.01)
    assert inside == truth(notebook, radius)
    notebook.screenshot("views-circles")


def test_the_card_follows_the_slice_and_takes_no_width_from_the_canvas(notebook, tmp_path):
    open_desk(notebook, tmp_path / "project")
    stage = notebook.page.locator(".alnb-stage").first
    wide = stage.bounding_box()["width"]
    notebook.kernel("for _s in session.queue[:2]: answer(_s)")
    notebook.kernel("desk.labeller.show(session.queue[3])")
    notebook.wait_text(".alnb-why-lead", "nearest is", 30)
    notebook.wait_text(".alnb-why-ranks", "needs a model", 60)
    assert notebook.page.locator(".alnb-why img").count() == 2
    first = notebook.text(".alnb-why-facts")
    notebook.screenshot("views-card")
    notebook.canvas.focus()
    notebook.page.keyboard.press("ArrowUp")
    notebook.page.wait_for_function(
        "before => document.querySelector('.alnb-why-facts').innerText !== before",
        arg=first,
        timeout=15_000,
    )
    notebook.page.locator(".alnb-why-head").click()
    notebook.page.wait_for_function(
        "() => !document.querySelector('.alnb-why-body')?.offsetHeight", timeout=10_000
    )
    assert stage.bounding_box()["width"] == wide
    notebook.kernel(
        "desk.labeller.widget.children = [c for c in desk.labeller.widget.children"
        " if c is not desk.card.widget]"
    )
    notebook.page.wait_for_function("() => !document.querySelector('.alnb-why')", timeout=10_000)
    assert stage.bounding_box()["width"] == wide
