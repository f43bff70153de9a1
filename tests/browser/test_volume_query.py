"""A query of whole volumes in a real JupyterLab: label two slices, take what lies between them."""

from __future__ import annotations

import json

import numpy as np
import pytest

SETUP = """
import pathlib
from alnb.data.phantom import phantom
from alnb.records import IGNORE, SliceId
from alnb.session.session import Session
from alnb.widgets.labeller import Labeller

def reopen():
    global session, view
    session = Session.open(
        pathlib.Path(FOLDER), phantom(6, size=96, slices=(9, 9)), strategy="strided",
        cold_start="strided", unit="volume")
    if session.round is None:
        session.ask(3)
    view = Labeller(session)
    return view
"""
# The left ventricle's rim in a slice of the volume in view, as (row, col) places to lasso along.
RIM = """
import json
import numpy as np
from skimage.measure import find_contours
_whole = session.cohort.reference(SliceId(view.here.volume, {index}))
_rims = find_contours(np.pad(_whole == 3, 1).astype(float), 0.5)
_rim = max(_rims, key=len) - 0.5
print(json.dumps(_rim[::max(1, len(_rim) // 24)].tolist()))
"""
ANSWERS = """
import json
_names = [s.volume for s in session.queue]
print(json.dumps([[s.index, type(a[0].content).__name__, list(getattr(a[0].content, "between", ())),
    session.target(s).tolist(), a[0].seconds]
    for s, a in sorted(session.state.answers.items()) if s.volume == _names[0]]))
"""
OFFERED = """
import json
print(json.dumps({o.slice_id.index: o.labels.tolist()
    for o in session.interpolate(view.here.volume)}))
"""
TRUTH = """
import json
print(json.dumps(session.cohort.reference(SliceId(view.here.volume, {index})).tolist()))
"""


@pytest.fixture(scope="module")
def browser(launch):
    return launch(webgl=False)


def ask(notebook, code):
    return json.loads(notebook.kernel(code))


def wait_kernel(notebook, expression, seconds=60):
    for _ in range(seconds * 4):
        if notebook.kernel(f"print(bool({expression}))").strip() == "True":
            return
        notebook.page.wait_for_timeout(250)
    pytest.fail(f"not true within {seconds} s: {expression}\n" + notebook.text(".alnb-line"))


def lasso(notebook, index, label="3"):
    """Go to a slice by its picture in the track, lasso its left ventricle with the mouse."""
    page = notebook.page
    page.locator(".alnb-cell").nth(index).click()
    notebook.wait_text(".alnb-where", f"slice {index + 1} of 9")
    page.keyboard.press(label)
    page.keyboard.press("l")
    rim = ask(notebook, RIM.format(index=index))
    notebook.stroke([*(tuple(place) for place in rim), tuple(rim[0])])
    notebook.saved(60)


def answers(notebook):
    """Of the first volume: index, kind, what it was interpolated from, label map, seconds."""
    return ask(notebook, ANSWERS)


def wait_cells(notebook, expected):
    notebook.page.wait_for_function(
        """expected => JSON.stringify(expected) === JSON.stringify(
            [...document.querySelectorAll('.alnb-cell')].map(cell => cell.dataset.cell))""",
        arg=expected,
        timeout=60_000,
    )


def shots(notebook, name):
    page = notebook.page
    for theme, light in (("Dark", "false"), ("Light", "true")):
        page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})",
            f"JupyterLab {theme}",
        )
        page.wait_for_selector(f"body[data-jp-theme-light={light}]", state="attached")
        page.wait_for_timeout(400)
        notebook.screenshot(f"{name}-{theme.lower()}")


@pytest.mark.timeout(900)
def test_what_lies_between_two_lassoed_slices_is_taken_undone_and_found_again(notebook, tmp_path):
    notebook.page.set_default_timeout(120_000)
    notebook.open([f"FOLDER = {str(tmp_path / 'project')!r}\n" + SETUP, "reopen()"])
    notebook.run_all()
    notebook.wait_for_view()
    page = notebook.page
    notebook.wait_text(".alnb-where", "slice 5 of 9")
    notebook.wait_text(".alnb-count", "0 of 3 volumes done")
    wait_cells(notebook, ["empty"] * 9)

    # two slices with the mouse: lasso, and the button
    for index in (2, 6):
        lasso(notebook, index)
        page.locator(".alnb-acts button", has_text="Submit as mask").click()
        wait_kernel(notebook, f"any(s.index == {index} for s in session.labelled)")
    around = ["empty", "empty", "labelled"], ["labelled", "empty", "empty"]
    wait_cells(notebook, [*around[0], *["offered"] * 3, *around[1]])
    drawn = answers(notebook)
    assert [(index, kind) for index, kind, *_ in drawn] == [(2, "Mask"), (6, "Mask")]
    assert all(seconds is not None for *_, seconds in drawn)

    # what is offered is an outline until somebody takes it: the journal holds nothing of it
    page.locator(".alnb-cell").nth(4).click()
    notebook.wait_text(".alnb-badge", "between slices 3 and 7")
    expected = ask(notebook, OFFERED)
    assert sorted(expected) == ["3", "4", "5"]
    assert len(answers(notebook)) == 2
    shots(notebook, "volume-1-offered")

    page.locator(".alnb-walk-acts button", has_text="Accept all 3").click()
    taken = [*around[0], *["taken"] * 3, *around[1]]
    wait_cells(notebook, taken)
    found = {
        index: (kind, between, labels) for index, kind, between, labels, _ in answers(notebook)
    }
    for index in (3, 4, 5):
        assert found[index] == ("Accepted", [2, 6], expected[str(index)])
        truth = np.array(ask(notebook, TRUTH.format(index=index))) == 3
        guess = np.array(expected[str(index)]) == 3
        assert 2 * (truth & guess).sum() / (truth.sum() + guess.sum()) > 0.8
    shots(notebook, "volume-2-taken")

    # one is taken back by itself; a reloaded page and a new kernel show the same
    notebook.canvas.focus()
    page.keyboard.press("Control+z")
    undone = [*around[0], "taken", "offered", "taken", *around[1]]
    wait_cells(notebook, undone)
    assert [index for index, *_ in answers(notebook)] == [2, 3, 5, 6]
    before = answers(notebook)
    notebook.reload()
    notebook.wait_for_view()
    wait_cells(notebook, undone)
    notebook.restart()
    notebook.run_all()
    notebook.wait_for_view()
    wait_cells(notebook, undone)
    assert answers(notebook) == before

    # corrected before it is accepted: the stroke lies on top
    page.locator(".alnb-cell").nth(4).click()
    notebook.wait_text(".alnb-badge", "between slices 4 and 6")
    page.keyboard.press("1")
    page.keyboard.press("p")
    notebook.stroke([(10, 10), (10, 20)])
    notebook.saved(60)
    page.keyboard.press("Control+Shift+Enter")
    wait_cells(notebook, [*around[0], "taken", "labelled", "taken", *around[1]])
    wait_kernel(notebook, "view.here.index in (0, 8)")
    (corrected,) = [a for a in answers(notebook) if a[0] == 4]
    assert corrected[1:3] == ["Accepted", [3, 5]]
    assert corrected[3][10][15] == 1
    seen = notebook.kernel("print([s.became for s in session.state.seen.values()][-1])")
    assert seen.strip() == "corrected"

    # done: the ends stay unlabelled, the next volume comes, and one can come back
    page.keyboard.press("Shift+D")
    notebook.wait_text(".alnb-count", "1 of 3 volumes done")
    wait_cells(notebook, ["empty"] * 9)
    shots(notebook, "volume-3-next")
    page.keyboard.press("Shift+ArrowLeft")
    done = ["skipped"] * 2, ["labelled", "taken", "labelled", "taken", "labelled"]
    wait_cells(notebook, [*done[0], *done[1], *done[0]])
    page.locator(".alnb-walk-acts button", has_text="Reopen volume").click()
    wait_cells(notebook, ["empty", "empty", *done[1], "empty", "empty"])
    page.keyboard.press("?")
    notebook.wait_text(".alnb-help", "next slice worth labelling")
    shots(notebook, "volume-4-keys")
