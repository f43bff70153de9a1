from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest

from alnb.data.raster import cover
from alnb.records import Stroke
from alnb.widgets.canvas import FRONT

SETUP = """
import pathlib, time
import numpy as np, torch
from alnb.data.phantom import phantom
from alnb.data.raster import rasterize
from alnb.records import FitReport, IGNORE, Step
from alnb.session.session import Session
from alnb.widgets.labeller import Labeller

class Thresholds:
    '''A learner that knows grey values only; slow enough to watch.'''
    unit = "slice"
    def __init__(self): self.weight = torch.zeros(1)
    def fit(self, train, *, rng, on_step=lambda s: None, stopped=lambda: False):
        start = time.time()
        for i in range(1, 31):
            if stopped(): break
            time.sleep(0.06)
            on_step(Step(i, 30, 1.0 / i, 0.06 * (30 - i)))
        self.weight += 1
        return FitReport(i, 1.0 / i, time.time() - start, stopped())
    def probs(self, images):
        for x in images:
            level = (x - x.amin()) / (x.amax() - x.amin())
            label = (level > 0.35).long() + (level > 0.75).long() * 2
            yield torch.nn.functional.one_hot(label[:, 0], 4).permute(0, 3, 1, 2)[None].float()
    def features(self, images):
        for x in images: yield x.flatten(1)[:, :8]
    def state_dict(self): return {"weight": self.weight.clone()}
    def load_state_dict(self, state): self.weight = state["weight"].clone()

session = Session.open(
    pathlib.Path(FOLDER), phantom(6, size=96, slices=(6, 7)), strategy="random",
    learner=Thresholds())
if session.round is None:
    session.ask(3)
"""
VIEW = "view = Labeller(session, live=False)  # what is on the screen is the ink alone\nview"
ZIGZAG = [(30, 20), (50, 35), (30, 50), (50, 65)]
CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets.map(
    cell => cell.model.type + ':' + cell.model.sharedModel.source)"""
SEEN = """() => { const c = document.querySelector('.alnb-stage canvas');
    return [c.height, c.width, Array.from(c.getContext('2d')
        .getImageData(0, 0, c.width, c.height).data)]; }"""
REAL_TRAINING = """
from alnb.models.learners import SingleNet
session.trainer._learner = SingleNet(steps=5000)
session.submit(view.here)
job = session.fit_in_background()
"""
TIMER = """() => {
    window.delays = []; window.arrived = [];
    const record = list => e => {
        if (e.buttons) window[list].push(performance.now() - e.timeStamp);
    };
    const type = 'onpointerrawupdate' in window ? 'pointerrawupdate' : 'pointermove';
    window.addEventListener(type, record('arrived'), true);
    document.querySelector('.alnb-stage canvas').addEventListener(type, record('delays'));
}"""


@pytest.fixture(scope="module")
def browser(launch):
    """Without emulated WebGL, so that frames take their natural time."""
    return launch(webgl=False)


def project(notebook, tmp_path, view=VIEW):
    folder = f"FOLDER = {str(tmp_path / 'project')!r}\n"
    notebook.open([folder + SETUP, view])
    notebook.run_all()
    notebook.wait_for_view()


def strokes(notebook, where="view.here"):
    """The points and labels on disk, as the kernel tells them."""
    code = f"""
import json
print(json.dumps([[s.label, s.radius, s.points] for s in session.draft({where}).strokes]))"""
    return json.loads(notebook.kernel(code))


def seen(notebook):
    """The visible canvas, (H, W, 4)."""
    height, width, pixels = notebook.page.evaluate(SEEN)
    return np.array(pixels, dtype=np.uint8).reshape(height, width, 4)


def still(notebook):
    """The visible canvas once it has stopped changing."""
    before = seen(notebook)
    for _ in range(40):
        notebook.page.wait_for_timeout(150)
        now = seen(notebook)
        if (now == before).all():
            return now
        before = now
    pytest.fail("the canvas never came to rest")


def shows(notebook, picture):
    """Whether the visible canvas becomes exactly `picture`; a view repaints in its own time."""
    for _ in range(40):
        if np.array_equal(seen(notebook), picture):
            return True
        notebook.page.wait_for_timeout(150)
    return False


def inked(notebook):
    """The kernel's raster of the slice in view, True where something is drawn."""
    rows = notebook.kernel("print((session.raster(view.here) != IGNORE).astype(int).tolist())")
    return np.array(json.loads(rows), dtype=bool)


def test_a_stroke_arrives_once_and_shows_exactly_the_voxels_that_are_stored(notebook, tmp_path):
    project(notebook, tmp_path)
    before = still(notebook)
    notebook.stroke(ZIGZAG)
    notebook.saved()
    notebook.stroke([(70, 20), (70, 60)])
    notebook.saved()
    stored = strokes(notebook)
    assert [label for label, _, _ in stored] == [1, 1]
    assert np.allclose(stored[0][2], ZIGZAG, atol=0.02)
    changed = (still(notebook) != before).any(axis=2)
    assert (changed == inked(notebook)).all()
    # the ids make a repetition harmless
    notebook.kernel("session.draw(view.here, session.draft(view.here).strokes[0])")
    assert len(strokes(notebook)) == 2


def test_undo_redo_erasing_and_aborting(notebook, tmp_path):
    project(notebook, tmp_path)
    blank = still(notebook)
    notebook.stroke(ZIGZAG)
    notebook.saved()
    drawn = still(notebook)
    notebook.page.keyboard.press("Control+z")
    notebook.page.wait_for_function(
        "() => document.querySelector('[title^=Redo]').disabled === false"
    )
    assert shows(notebook, blank)
    notebook.page.keyboard.press("Control+Shift+Z")
    notebook.page.wait_for_function("() => document.querySelector('[title^=Redo]').disabled")
    assert shows(notebook, drawn)
    notebook.stroke([(30, 20), (50, 35)], button="right")
    notebook.saved()
    assert strokes(notebook)[-1][0] == 255
    assert inked(notebook).sum() < (drawn != blank).any(axis=2).sum()
    count = len(strokes(notebook))
    notebook.page.mouse.move(*notebook.at(60, 60))
    notebook.page.mouse.down()
    notebook.page.mouse.move(*notebook.at(70, 70))
    notebook.page.keyboard.press("Escape")
    notebook.page.mouse.up()
    assert notebook.page.locator(".jp-Menu, .lm-Menu").count() == 0
    assert len(strokes(notebook)) == count


def test_keys_reach_the_view_and_never_the_notebook(notebook, tmp_path):
    project(notebook, tmp_path)
    before = notebook.page.evaluate(CELLS)
    notebook.canvas.click(position={"x": 5, "y": 5})
    notebook.saved()
    for key in ["b", "m", "a", "d", "x", "x", "2", "[", "]", "o", "s", "s", "dd", "y"]:
        for letter in key:
            notebook.page.keyboard.press(letter)
    assert notebook.page.evaluate(CELLS) == before
    assert notebook.page.locator("[data-label='2'][aria-checked=true]").count() == 1
    notebook.page.keyboard.press("?")
    notebook.wait_text(".alnb-help", "undo")
    notebook.screenshot("help")
    notebook.page.keyboard.press("Escape")
    assert not notebook.page.locator(".alnb-help").is_visible()
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("Tab")
    assert not notebook.page.evaluate(
        "() => document.activeElement === document.querySelector('.alnb-stage canvas')"
    )


def test_wheel_browses_and_zooms_only_while_the_canvas_has_the_focus(notebook, tmp_path):
    project(notebook, tmp_path)
    where = notebook.text(".alnb-where")
    notebook.page.mouse.move(*notebook.at(40, 40))
    notebook.page.mouse.wheel(0, 1)
    time.sleep(0.3)
    assert notebook.text(".alnb-where") == where
    notebook.canvas.focus()
    step = 1 if where.startswith("slice 1 ") else -1
    notebook.page.mouse.wheel(0, step)
    notebook.page.wait_for_function(
        "w => document.querySelector('.alnb-where').textContent !== w", arg=where
    )
    assert "Not in the query" in notebook.text(".alnb-peek") or notebook.text(".alnb-peek") == ""
    notebook.page.keyboard.press("Home")
    narrow = notebook.canvas.bounding_box()["width"]
    notebook.page.keyboard.press("+")
    assert notebook.canvas.bounding_box()["width"] == pytest.approx(1.25 * narrow, rel=0.01)
    notebook.page.mouse.move(*notebook.at(48, 48))
    notebook.stroke([(48, 48), (48, 55)])
    notebook.saved()
    assert np.allclose(strokes(notebook)[-1][2], [(48, 48), (48, 55)], atol=0.02)


def measured(notebook, name):
    """Print event to pixel in ms, and the view's own share of it, for a drag of 120 moves."""
    notebook.page.evaluate("() => { window.delays = []; window.arrived = []; }")
    path = [(25 + 0.4 * i, 45 + 18 * np.sin(i / 9)) for i in range(120)]
    places = [notebook.at(*point) for point in path]
    before = seen(notebook)
    notebook.page.mouse.move(*places[0])
    notebook.page.mouse.down()
    for place in places:
        notebook.page.mouse.move(*place)
        time.sleep(0.012)
    delays, arrived = notebook.page.evaluate("() => [window.delays, window.arrived]")
    painted = (seen(notebook) != before).any(axis=2)
    notebook.page.mouse.up()
    assert all(painted[int(row), int(col)] for row, col in path), "the pen was not followed"
    assert len(delays) > 20
    own = np.array(delays) - np.array(arrived)
    assert np.percentile(own, 95) <= 16
    for what, times in (("event to pixel", delays), ("of that the view's own share", own)):
        p50, p95 = np.percentile(times, [50, 95])
        print(f"\n{name}, {what}: p50 {p50:.2f} ms, p95 {p95:.2f} ms, max {max(times):.2f} ms")  # noqa: T201


def test_ink_follows_the_pen_also_while_a_cell_blocks_the_kernel(notebook, tmp_path):
    project(notebook, tmp_path)
    notebook.page.evaluate(TIMER)
    measured(notebook, "idle")
    notebook.saved()
    notebook.page.keyboard.press("2")
    notebook.start("import time\nend = time.time() + 5\nwhile time.time() < end: pass")
    time.sleep(0.2)
    measured(notebook, "blocking cell")
    notebook.saved(30)
    notebook.page.keyboard.press("3")
    notebook.kernel(REAL_TRAINING)
    notebook.kernel("while job.running and job.progress is None: time.sleep(0.1)")
    measured(notebook, "training")
    notebook.saved(30)
    assert notebook.kernel("print(job.running, job.error)").strip() == "True None"
    notebook.kernel("job.stop(); job.result(60)")
    slices = "next(s for s in session.queue if session.draft(s).strokes)"
    assert len(strokes(notebook, slices)) == 3


def test_reload_redraws_everything_and_a_second_tab_agrees(notebook, tmp_path, lab):
    project(notebook, tmp_path)
    notebook.stroke(ZIGZAG)
    notebook.saved()
    drawn = still(notebook)
    notebook.reload()
    notebook.wait_for_view()
    assert shows(notebook, drawn)
    other = notebook.page.context.new_page()
    other.goto(f"{lab.base}/lab/workspaces/second/tree/{notebook.name}?token={lab.token}")
    other.wait_for_function(
        "() => document.querySelector('.alnb-saved')?.dataset.tone === 'good'", timeout=60000
    )
    first, notebook.page = notebook.page, other
    assert shows(notebook, drawn)
    notebook.stroke([(75, 20), (75, 60)])
    notebook.saved()
    both = still(notebook)
    notebook.page = first
    notebook.page.bring_to_front()
    assert shows(notebook, both)


def test_strokes_drawn_without_a_kernel_are_sent_when_it_is_back(notebook, tmp_path):
    project(notebook, tmp_path)
    here = "session.queue[0]"
    notebook.stroke(ZIGZAG)
    notebook.saved()
    pid = notebook.pid()
    killed = time.monotonic()
    notebook.kill(pid)
    notebook.page.wait_for_selector(".alnb-banner[data-tone=error]", timeout=10_000)
    shown = time.monotonic() - killed
    print(f"\nkilled kernel shown after {shown:.1f} s")  # noqa: T201
    assert shown < 3.5
    assert "strokes are not saved" in notebook.text(".alnb-banner")
    notebook.revived()  # the host's notice of it would take the mouse
    notebook.stroke([(70, 20), (70, 60)])
    notebook.wait_text(".alnb-saved", "1 stroke not saved yet")
    notebook.screenshot("no-kernel")
    notebook.run_all()
    notebook.wait_for_view()
    notebook.saved()
    assert len(strokes(notebook, here)) == 2
    # and across a reload of the page, with the kernel gone in between
    notebook.kill()
    notebook.revived()
    notebook.stroke([(20, 70), (60, 80)])
    notebook.wait_text(".alnb-saved", "1 stroke not saved yet")
    notebook.reload()
    notebook.run_all()
    notebook.wait_for_view()
    notebook.saved()
    assert len(strokes(notebook, here)) == 3


def test_the_obvious_next_act_leads_through_a_round(notebook, tmp_path):
    project(notebook, tmp_path)
    page = notebook.page

    def primary():
        return page.locator(".alnb-primary")

    for number in range(3):
        assert page.locator("[data-act=submit]").is_disabled()
        notebook.stroke(ZIGZAG)
        notebook.saved()
        page.wait_for_selector("[data-act=submit].alnb-primary:enabled")
        if number == 0:
            notebook.screenshot("drawn")
        page.keyboard.press("Control+Enter")
        notebook.wait_text(".alnb-count", f"{number + 1} of 3 done")
    page.wait_for_selector("[data-act=train].alnb-primary")
    notebook.wait_text(".alnb-line", "Train")
    primary().click()
    notebook.wait_text(".alnb-bar-text", "step")
    notebook.screenshot("training")
    page.wait_for_selector("[data-act=ask].alnb-primary:enabled", timeout=30_000)
    notebook.wait_text(".alnb-line", "Dice")
    notebook.wait_text(".alnb-badge", "model")
    notebook.screenshot("trained")
    primary().click()
    notebook.wait_text(".alnb-count", "0 of 3 done")
    notebook.wait_text(".alnb-badge", "model")
    page.wait_for_selector("[data-act=accept]:enabled:not(.alnb-primary)")
    assert page.locator("[data-act=submit].alnb-primary").is_disabled()
    notebook.screenshot("proposal")
    page.evaluate(
        "() => window.jupyterapp.commands.execute('apputils:change-theme',"
        " {theme: 'JupyterLab Dark'})"
    )
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    notebook.canvas.wait_for(state="visible")
    notebook.stroke([(30, 20), (50, 35)])
    notebook.saved()
    notebook.screenshot("dark")
    page.evaluate(
        "() => window.jupyterapp.commands.execute('apputils:change-theme',"
        " {theme: 'JupyterLab Light'})"
    )
    kinds = notebook.kernel(
        "print([type(a.content).__name__ for a in session.state.annotations.values()])"
    )
    assert kinds.count("Scribble") == 3
    seconds = json.loads(
        notebook.kernel("print([a.seconds for a in session.state.annotations.values()])")
    )
    assert all(0 < each < 30 for each in seconds)


def test_names_from_files_are_text_and_never_run(notebook, tmp_path):
    nasty = "<img src=x onerror=window.ran=1>"
    view = f"""
import dataclasses
from alnb.data.cohort import Cohort
cohort = phantom(4, size=48, slices=(3, 4))
named = {{}}
for v in cohort.volumes.values():
    v = dataclasses.replace(v, name={nasty!r} + v.name, patient={nasty!r} + v.patient)
    named[v.name] = v
session = Session.open(pathlib.Path(FOLDER + "2"), Cohort("x", named, ("background", {nasty!r})),
    strategy="random")
session.ask(2)
view = Labeller(session)
view"""
    project(notebook, tmp_path, view)
    assert nasty in notebook.text(".alnb-title")
    notebook.stroke([(20, 20), (25, 25)])
    notebook.saved()
    notebook.page.keyboard.press("Control+Enter")
    notebook.wait_text(".alnb-count", "1 of 2 done")
    assert notebook.page.evaluate("() => window.ran") is None


def test_the_browser_covers_the_same_pixels_as_the_kernel(browser):
    page = browser.new_page()
    page.add_script_tag(content=(FRONT / "raster.js").read_text())
    dice = random.Random(3)
    for _ in range(60):
        height, width = dice.randint(3, 40), dice.randint(3, 40)
        points = [
            [float(np.float32(dice.uniform(-8, 48))), float(np.float32(dice.uniform(-8, 48)))]
            for _ in range(dice.randint(1, 9))
        ]
        if dice.random() < 0.2:
            points = [[float(round(2 * r) / 2), float(round(2 * c) / 2)] for r, c in points]
        tool = dice.choice(["brush", "lasso"])
        radius = dice.choice([0.75, 1.0, 2.5, 6.3])
        drawn = page.evaluate(
            """([h, w, s]) => { const out = new Set(); coverStroke(h, w, s, at => out.add(at));
                return Array.from(out); }""",
            [height, width, {"points": points, "radius": radius, "tool": tool}],
        )
        stroke = Stroke(tuple(map(tuple, points)), 1, radius, tool)
        window, ink = cover(stroke, (height, width))
        expected = np.zeros((height, width), bool)
        expected[window] = ink
        assert set(drawn) == set(np.flatnonzero(expected).tolist()), (points, radius, tool)
    page.close()


POINTER = """([type, kind, id, x, y, buttons]) =>
    document.querySelector('.alnb-stage canvas').dispatchEvent(new PointerEvent(type, {
        pointerType: kind, pointerId: id, clientX: x, clientY: y, buttons, bubbles: true,
        cancelable: true, button: type === 'pointermove' ? -1 : buttons === 32 ? 5 : 0}))"""


def test_pen_draws_its_other_end_erases_and_the_palm_does_nothing(notebook, tmp_path):
    project(notebook, tmp_path)

    def pointer(kind, number, places, buttons=1, between=lambda: None):
        for i, place in enumerate(places):
            event = "pointermove" if i else "pointerdown"
            notebook.page.evaluate(POINTER, [event, kind, number, *notebook.at(*place), buttons])
            between()
        notebook.page.evaluate(POINTER, ["pointerup", kind, number, *notebook.at(*places[-1]), 0])

    def palm():
        notebook.page.evaluate(POINTER, ["pointerdown", "touch", 9, *notebook.at(70, 70), 1])
        notebook.page.evaluate(POINTER, ["pointermove", "touch", 9, *notebook.at(80, 80), 1])
        notebook.page.evaluate(POINTER, ["pointerup", "touch", 9, *notebook.at(80, 80), 0])

    pointer("pen", 5, ZIGZAG, between=palm)
    pointer("pen", 5, ZIGZAG[:2], buttons=32)
    notebook.saved()
    stored = strokes(notebook)
    assert [label for label, _, _ in stored] == [1, 255]
    assert np.allclose(stored[0][2], ZIGZAG, atol=0.02)
    time.sleep(1.3)  # the pen is away, so a finger may draw
    pointer("touch", 7, [(70, 20), (70, 60)])
    notebook.saved()
    assert len(strokes(notebook)) == 3
    # a second finger makes it a pinch, and the open stroke goes
    for event in (
        ["pointerdown", "touch", 11, *notebook.at(40, 40), 1],
        ["pointerdown", "touch", 12, *notebook.at(40, 60), 1],
        ["pointermove", "touch", 12, *notebook.at(40, 80), 1],
        ["pointerup", "touch", 12, *notebook.at(40, 80), 0],
        ["pointerup", "touch", 11, *notebook.at(40, 40), 0],
    ):
        notebook.page.evaluate(POINTER, event)
    assert notebook.canvas.bounding_box()["width"] > 900
    assert len(strokes(notebook)) == 3


def test_where_the_booster_does_not_come_up_the_kernel_draws(notebook, tmp_path):
    view = """
import alnb.widgets.canvas
alnb.widgets.canvas.Booster._esm = "export default { render() {} }"
view = Labeller(session, live=False)
view"""
    folder = f"FOLDER = {str(tmp_path / 'project')!r}\n"
    notebook.open([folder + SETUP, view])
    notebook.run_all()
    notebook.page.locator(".alnb-plain button").first.wait_for(state="visible")
    notebook.page.wait_for_function(
        """() => { const c = document.querySelector('.alnb-stage canvas');
            return c?.getContext('2d').getImageData(48, 48, 1, 1).data[3] === 255; }"""
    )
    notebook.canvas.scroll_into_view_if_needed()
    before = seen(notebook)
    notebook.stroke(ZIGZAG)
    notebook.page.wait_for_function(
        """() => { const c = document.querySelector('.alnb-stage canvas');
            const [r, , b] = c.getContext('2d').getImageData(30, 45, 1, 1).data;
            return b - r > 20; }"""
    )
    notebook.screenshot("plain")
    assert [label for label, _, _ in strokes(notebook)] == [1]
    assert ((seen(notebook) != before).any(axis=2) == inked(notebook)).mean() > 0.99
