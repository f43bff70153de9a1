"""A person's first hour, in a real JupyterLab, on the phantom and on real hearts.

Opens the quick-start notebook, draws on queried slices with the mouse, undoes, redoes, submits,
trains while drawing on, sees overlay and curve and next query; then the kernel is killed in the
middle of a stroke, and everything is still there.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from alnb.cli.lab import QUICKSTART, working_copy

RUN_TO_VIEW = """async () => {
  const app = window.jupyterapp, content = app.shell.currentWidget.content;
  const last = content.widgets.findIndex(
    (cell) => (cell.model.getMetadata('tags') ?? []).includes('alnb-view'));
  for (let index = 0; index <= last; index += 1) {
    content.activeCellIndex = index;
    await app.commands.execute('notebook:run-cell');
  }
}"""

# The strokes a careful person would draw on the slice in view, as [label, [[row, col], ...]].
STROKES = """
import json
from alnb.data.scribbles import scribble_from_mask
from alnb.rng import stream
_here = desk.labeller.here
_strokes = scribble_from_mask(
    session.cohort.reference(_here), rng=stream(0, str(_here)), classes=len(session.classes))
print(json.dumps([[s.label, [list(p) for p in s.points]] for s in _strokes]))
"""
# a model of three slices of real hearts is worse than strokes alone, and would stay unseen
TRUST = "session.live.least_dice = 0"
KNOWN = """
import json
_draft = session.draft(session.queue[{index}])
print(json.dumps([len(_draft.strokes), len(_draft.undone)]))
"""
MEMORY = """
import json
print(json.dumps({
    'queue': [str(s) for s in session.queue],
    'pending': [str(s) for s in session.pending],
    'ids': sorted(s.id for d in session.state.drafts.values() for s in d.strokes),
    'curve': [[m.split, m.mean] for r in session.state.rounds for m in r.metrics],
    'round': session.round.number,
}))
"""
CURVE = """
import json
_means = [t for t in desk.panels.figure.data if 'mean' in (t.name or '') and t.y is not None]
print(json.dumps(max((len(t.y) for t in _means), default=0)))
"""

AT = """index => [...document.querySelectorAll(".alnb-chip")]
    .findIndex(chip => chip.hasAttribute("aria-current")) === index"""


def ask(notebook: Any, code: str) -> Any:
    return json.loads(notebook.kernel(code))


def draw_slice(notebook: Any, *, keep: int = 99) -> int:
    """Draw the slice in view by mouse, class by class; returns how many strokes were drawn."""
    strokes = ask(notebook, STROKES)[:keep]
    notebook.canvas.click(position={"x": 2, "y": 2}, button="middle")
    notebook.canvas.focus()
    for label, points in strokes:
        notebook.page.keyboard.press(str(label))
        stride = max(1, len(points) // 8)
        path = [*points[::stride], points[-1]]
        notebook.stroke([(row, col) for row, col in path])
    notebook.saved()
    return len(strokes)


def button(notebook: Any, text: str) -> Any:
    return notebook.page.locator(".alnb-desk button", has_text=text).first


def wait_kernel(notebook: Any, expression: str, seconds: float) -> None:
    for _ in range(int(seconds * 2)):
        if notebook.kernel(f"print(bool({expression}))").strip() == "True":
            return
        notebook.page.wait_for_timeout(500)
    pytest.fail(f"not true within {seconds} s: {expression}\n" + notebook.text(".alnb-line"))


@pytest.fixture(params=["phantom", pytest.param("acdc", marks=pytest.mark.data)])
def data(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    if request.param == "phantom":
        return "phantom", None
    root = request.getfixturevalue("acdc_root")
    return "acdc", str(root)


@pytest.mark.timeout(600)
def test_draw_undo_submit_train_ask_and_survive_a_kill(
    notebook: Any, data: tuple[str, str | None]
) -> None:
    name, source = data
    page = notebook.page
    working_copy(notebook.lab.root / name, source)
    notebook.name = f"{name}/{QUICKSTART}"
    page.goto(f"{notebook.lab.base}/lab/tree/{notebook.name}?reset&token={notebook.lab.token}")
    notebook.wait_idle()
    page.evaluate(RUN_TO_VIEW)
    notebook.wait_for_view()
    notebook.kernel("import torch; torch.set_num_threads(1)")
    assert ask(notebook, MEMORY)["round"] == 0
    notebook.kernel(TRUST)

    # three slices, two classes at least, one stroke taken back and put there again
    labels: set[int] = set()
    for index in range(3):
        labels |= {label for label, _ in ask(notebook, STROKES)}
        drawn = draw_slice(notebook)
        if index == 0:
            page.keyboard.press("Control+z")
            wait_kernel(
                notebook, f"len(session.draft(session.queue[0]).strokes) == {drawn - 1}", 10
            )
            page.keyboard.press("Control+Shift+z")
            wait_kernel(notebook, f"len(session.draft(session.queue[0]).strokes) == {drawn}", 10)
            assert ask(notebook, KNOWN.format(index=0)) == [drawn, 0]
            notebook.screenshot(f"{name}-1-drawn")
        page.keyboard.press("Control+Enter")
        wait_kernel(notebook, f"session.status(session.queue[{index}]) == 'submitted'", 10)
    assert len(labels) >= 2
    for index in range(3, 6):
        # a key pressed before the next slice is in view would pass over the last one again
        page.wait_for_function(AT, arg=index)
        page.keyboard.press("Control+Space")
        wait_kernel(notebook, f"session.status(session.queue[{index}]) == 'skipped'", 10)

    # train, and go on drawing meanwhile
    button(notebook, "Train").click()
    wait_kernel(notebook, "session.job is not None and session.job.progress", 60)
    notebook.screenshot(f"{name}-2-training")
    notebook.page.locator(".alnb-chips button").first.click()
    before = ask(notebook, KNOWN.format(index=0))[0]
    flowed = 0
    while notebook.kernel("print(session.job.running)").strip() == "True" and flowed < 5:
        notebook.stroke([(20, 20 + flowed), (24, 26 + flowed)])
        flowed += 1
    assert flowed > 0, "the training was over before a stroke could be drawn"
    notebook.saved()
    assert ask(notebook, KNOWN.format(index=0))[0] == before + flowed
    wait_kernel(notebook, "not session.job.running and session.round.metrics", 240)
    assert notebook.kernel("print(session.job.error)").strip() == "None"

    # the overlay and the curve
    notebook.wait_text(".alnb-badge", "round 1", 30)
    wait_kernel(notebook, "session.prediction(session.queue[0]) is not None", 20)
    for _ in range(40):
        if ask(notebook, CURVE) == 1:
            break
        page.wait_for_timeout(250)
    assert ask(notebook, CURVE) == 1
    notebook.screenshot(f"{name}-3-overlay")
    page.locator(".js-plotly-plot").first.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    notebook.screenshot(f"{name}-3-panels")

    # a click on a point of the map opens its slice; Home leads back to the query
    here = notebook.kernel("print(desk.labeller.here)")
    points = page.locator(".js-plotly-plot .subplot.x2y2 .scatterlayer path.point")
    box = points.nth(points.count() // 3).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 3, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.wait_for_timeout(300)
    page.mouse.down()
    page.mouse.up()
    wait_kernel(notebook, f"str(desk.labeller.here) != {here.strip()!r}", 10)
    assert ask(notebook, "print('true' if desk.labeller.here in session.pool else 'false')")
    notebook.canvas.scroll_into_view_if_needed()
    notebook.canvas.focus()
    page.keyboard.press("Home")
    wait_kernel(notebook, f"str(desk.labeller.here) == {here.strip()!r}", 10)

    # what was drawn during the training is submitted again, then the next query comes
    page.keyboard.press("Control+Enter")
    wait_kernel(notebook, "not session.pending", 10)
    button(notebook, "Next query").click()
    wait_kernel(notebook, "session.round.number == 1 and len(session.pending) == 6", 30)
    notebook.wait_text(".alnb-badge", "round 1", 30)
    notebook.screenshot(f"{name}-4-next-query")

    # killed in the middle of a stroke
    draw_slice(notebook, keep=2)
    before = ask(notebook, MEMORY)
    pid = notebook.pid()
    page.mouse.move(*notebook.at(10, 10))
    page.mouse.down()
    page.mouse.move(*notebook.at(14, 18))
    notebook.kill(pid)
    page.mouse.move(*notebook.at(18, 24))
    page.mouse.up()
    notebook.wait_text(".alnb-banner", "not saved", 10)
    notebook.screenshot(f"{name}-5-killed")
    notebook.wait_idle()
    page.evaluate(RUN_TO_VIEW)
    notebook.wait_for_view()
    notebook.saved(30)
    after = ask(notebook, MEMORY)
    assert set(before["ids"]) <= set(after["ids"])
    # the stroke under the pen when the kernel died was finished in the browser and sent again
    assert len(after["ids"]) == len(before["ids"]) + 1
    for kept in ("queue", "pending", "curve", "round"):
        assert after[kept] == before[kept], kept
    notebook.kernel(f"{TRUST}; session.live.switch(False); session.live.switch(True)")
    notebook.wait_text(".alnb-badge", "round 1", 60)
    notebook.screenshot(f"{name}-6-resumed")
