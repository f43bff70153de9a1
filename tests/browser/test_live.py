"""Live proposals in a real JupyterLab: draw in round 0, see what the strokes suggest, take it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

SETUP = """
import pathlib
from alnb.data.phantom import phantom
from alnb.records import IGNORE
from alnb.session.session import Session
from alnb.widgets.labeller import Labeller

def reopen():
    global session, view
    session = Session.open(
        pathlib.Path(FOLDER), phantom(6, size=96, slices=(6, 7)), strategy="strided",
        learner=globals().get("Thresholds", lambda: None)())
    if session.round is None:
        session.ask(3)
    view = Labeller(session)
    return view
"""
THRESHOLDS = """
import torch
from alnb.records import FitReport

class Thresholds:
    # A learner that knows grey values only.
    unit = "slice"
    def __init__(self): self.weight = torch.zeros(1)
    def fit(self, train, *, rng, on_step=lambda s: None, stopped=lambda: False):
        self.weight += 1
        return FitReport(1, 1.0, 0.1)
    def probs(self, images):
        for x in images:
            level = (x - x.amin()) / (x.amax() - x.amin())
            label = (level > 0.35).long() + (level > 0.75).long() * 2
            sure = torch.nn.functional.one_hot(label[:, 0], 4).permute(0, 3, 1, 2)[None].float()
            yield 0.7 * sure + 0.075
    def features(self, images):
        for x in images: yield x.flatten(1)[:, :8]
    def state_dict(self): return {"weight": self.weight.clone()}
    def load_state_dict(self, state): self.weight = state["weight"].clone()
"""
# One careful scribble of each class, as short as a person begins with.
SCRIBBLES = """
import json
from alnb.data.scribbles import scribble_from_mask
from alnb.rng import stream
_strokes = scribble_from_mask(
    session.cohort.reference(view.here), rng=stream(0, "live"), classes=len(session.classes))
print(json.dumps([[s.label, [list(p) for p in s.points]] for s in _strokes]))
"""
# Page times in ms: when the pen went up, and when a live proposal was painted and on the screen.
WATCH = """() => {
  window.ups = []; window.grown = [];
  document.querySelector('.alnb-stage canvas')
      .addEventListener('pointerup', () => window.ups.push(performance.now()), true);
  const badge = document.querySelector('.alnb-badge');
  new MutationObserver(() => badge.dataset.grown &&
      requestAnimationFrame(() => window.grown.push(performance.now())))
      .observe(badge, {attributes: true, attributeFilter: ['data-grown']});
}"""
TIMES = "() => [window.ups, window.grown]"
SEEN = """() => { const c = document.querySelector('.alnb-stage canvas');
    return [c.height, c.width, Array.from(c.getContext('2d')
        .getImageData(0, 0, c.width, c.height).data)]; }"""
MAPS = """
import json
_p = session.live.latest(view.here)
print(json.dumps([session.raster(view.here).tolist(), None if _p is None else _p.labels.tolist()]))
"""


@pytest.fixture(scope="module")
def browser(launch):
    """Without emulated WebGL, so that frames take their natural time."""
    return launch(webgl=False)


def ask(notebook, code):
    return json.loads(notebook.kernel(code))


def project(notebook, tmp_path, before=""):
    notebook.page.set_default_timeout(120_000)
    notebook.open([f"FOLDER = {str(tmp_path / 'project')!r}\n" + before + SETUP, "reopen()"])
    notebook.run_all()
    notebook.wait_for_view()


def scribble(notebook, only=None):
    """Draw one scribble per class with the mouse; returns how many."""
    strokes = ask(notebook, SCRIBBLES)
    notebook.canvas.focus()
    count = 0
    for label, points in strokes:
        if only is not None and label not in only:
            continue
        notebook.page.keyboard.press(str(label))
        stride = max(1, len(points) // 8)
        notebook.stroke([*(tuple(p) for p in points[::stride]), tuple(points[-1])])
        count += 1
    notebook.saved(120)
    return count


def wait_kernel(notebook, expression, seconds=120):
    for _ in range(seconds * 4):
        if notebook.kernel(f"print(bool({expression}))").strip() == "True":
            return
        notebook.page.wait_for_timeout(250)
    pytest.fail(f"not true within {seconds} s: {expression}\n" + notebook.text(".alnb-line"))


def seen(notebook):
    """The visible canvas, (H, W, 4), once it has stopped changing."""
    before = None
    for _ in range(120):
        height, width, pixels = notebook.page.evaluate(SEEN)
        now = np.array(pixels, dtype=np.uint8).reshape(height, width, 4)
        if before is not None and (now == before).all():
            return now
        before = now
        notebook.page.wait_for_timeout(150)
    pytest.fail("the canvas never came to rest")


def grown(notebook, other_than=""):
    """Wait for a live proposal in the page, newer than the one named; returns its id."""
    notebook.page.wait_for_function(
        "known => ![known, ''].includes(document.querySelector('.alnb-badge').dataset.grown)",
        arg=other_than,
        timeout=120_000,
    )
    return notebook.page.locator(".alnb-badge").get_attribute("data-grown")


@pytest.mark.timeout(900)
def test_strokes_of_round_0_grow_into_a_proposal_that_is_accepted_and_found_again(
    notebook, tmp_path
):
    project(notebook, tmp_path)
    page = notebook.page
    blank = seen(notebook)
    page.evaluate(WATCH)
    strokes = scribble(notebook)
    first = grown(notebook)
    wait_kernel(notebook, "session.live.settle() and session.live.latest(view.here)")
    assert notebook.text(".alnb-badge") == "from your strokes"

    # what is painted is the ink and, beneath it, the proposal's structures; background stays clear
    picture = seen(notebook)
    ink, labels = (np.array(each, dtype=np.uint8) for each in ask(notebook, MAPS))
    changed = (picture != blank).any(axis=2)
    region = (labels != 0) & (ink == 255)
    assert region.sum() > 50
    assert changed[region].mean() > 0.9
    assert not changed[(labels == 0) & (ink == 255)].any()
    notebook.screenshot("live-1-light")

    # the switch takes the layer away and nothing else, and brings it back
    page.keyboard.press("v")
    page.wait_for_selector(".alnb-badge", state="hidden")
    without = (seen(notebook) != blank).any(axis=2)
    assert not without[ink == 255].any()
    page.keyboard.press("v")
    second = grown(notebook)
    assert second != first
    assert (seen(notebook) == picture).all()

    # undo takes the proposal along; redo brings the last one back, pixel by pixel
    page.keyboard.press("Control+z")
    third = grown(notebook, second)
    page.keyboard.press("Control+Shift+z")
    grown(notebook, third)
    wait_kernel(notebook, f"len(session.draft(view.here).strokes) == {strokes}")
    assert (seen(notebook) == picture).all()

    here = notebook.kernel("print(view.here)").strip()
    page.keyboard.press("Control+Shift+Enter")
    wait_kernel(notebook, "len(session.labelled) == 1")
    expected = np.where(ink == 255, labels, ink)

    # the project opened again holds the answer, and says what it is
    notebook.restart()
    notebook.run_all()
    notebook.wait_for_view()
    answer = """
import json
(_slice,) = session.labelled
_seen = session.state.seen[(_slice, session.annotator)]
_content = session.state.answers[_slice][0].content
print(json.dumps([str(_slice), session.target(_slice).tolist(), type(_content).__name__,
    _content.checkpoint, len(_content.beneath), _seen.live, _seen.became]))
"""
    name, target, kind, checkpoint, beneath, live, became = ask(notebook, answer)
    assert name == here
    assert (np.array(target) == expected).all()
    assert (kind, checkpoint, beneath, live) == ("Accepted", None, strokes, True)
    assert became == "corrected"


@pytest.mark.timeout(900)
def test_the_time_from_the_end_of_a_stroke_to_its_proposal_on_the_screen(
    notebook, tmp_path, capsys
):
    project(notebook, tmp_path)
    page = notebook.page
    page.evaluate(WATCH)
    strokes = ask(notebook, SCRIBBLES)
    notebook.canvas.focus()
    waits, last = [], ""
    for turn in range(3):
        for label, points in strokes:
            page.keyboard.press(str(label))
            notebook.stroke([(r + turn, c) for r, c in points[:: max(1, len(points) // 8)]])
            ups, painted = page.evaluate(TIMES)
            if not painted and (turn, label) == (0, strokes[0][0]):
                notebook.saved(120)  # one class alone may grow into nothing
                page.wait_for_timeout(1000)
            else:
                last = grown(notebook, last)
            ups, painted = page.evaluate(TIMES)
            if painted and painted[-1] > ups[-1]:
                waits.append(painted[-1] - ups[-1])
    assert len(waits) >= 3
    words = " ".join(f"{wait:.0f}" for wait in waits)
    with capsys.disabled():
        sys.stdout.write(f"\nms from stroke end to the proposal on the screen: {words}\n")


@pytest.mark.timeout(900)
def test_with_a_model_its_proposal_gives_way_to_the_one_from_the_strokes(notebook, tmp_path):
    project(notebook, tmp_path, THRESHOLDS)
    page = notebook.page
    scribble(notebook)
    grown(notebook)
    page.keyboard.press("Control+Enter")
    wait_kernel(notebook, "len(session.labelled) == 1")
    became = notebook.kernel("print([seen.became for seen in session.state.seen.values()])")
    assert became.strip() == "['ignored']"
    # the model of one slice need not be good to be looked at
    notebook.kernel("session.live.least_dice = 0; session.fit(); view.settle()")
    notebook.wait_text(".alnb-badge", "model of round 1", 120)
    model = seen(notebook)
    notebook.screenshot("live-2-model")
    notebook.canvas.focus()
    notebook.stroke([(48, 44), (52, 50)])
    notebook.saved(120)
    grown(notebook)
    notebook.wait_text(".alnb-badge", "strokes + round 1 model", 120)
    both = seen(notebook)
    page.keyboard.press("Control+z")
    notebook.wait_text(".alnb-badge", "model of round 1", 120)
    assert (seen(notebook) == model).all()
    page.keyboard.press("Control+Shift+z")
    notebook.wait_text(".alnb-badge", "strokes + round 1 model", 120)
    assert (seen(notebook) == both).all()

    # in both themes the switch says how it stands
    for theme, light in (("Dark", "false"), ("Light", "true")):
        page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})",
            f"JupyterLab {theme}",
        )
        page.wait_for_selector(f"body[data-jp-theme-light={light}]", state="attached")
        notebook.screenshot(f"live-3-{theme.lower()}")
    switch = page.locator(".alnb-toggle", has_text="Live proposal")
    assert switch.get_attribute("aria-pressed") == "true"
    switch.click()
    notebook.wait_text(".alnb-badge", "model of round 1", 120)
    assert switch.get_attribute("aria-pressed") == "false"
    switch.click()
    notebook.wait_text(".alnb-badge", "strokes + round 1 model", 120)
    page.locator(".alnb-acts button", has_text="Accept proposal").click()
    wait_kernel(notebook, "len(session.labelled) == 2")
    answer = notebook.kernel(
        "_s = list(session.state.seen.values())[-1]\n"
        "print(_s.live, _s.checkpoint == session.state.checkpoint)"
    )
    assert answer.strip() == "True True"
