"""Comparing and choosing strategies, in a real JupyterLab, through the notebook that teaches it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "03_compare_strategies.ipynb"

# One cell; a failed one is looked at by the test.
RUN_CELL = """async (wanted) => {
  const app = window.jupyterapp, content = app.shell.currentWidget.content;
  const index = content.widgets.findIndex(
    (cell) => cell.model.type === 'code' && cell.model.sharedModel.source.includes(wanted));
  content.activeCellIndex = index;
  await app.commands.execute('notebook:run-cell');
  return index;
}"""


class Book:
    """The notebook, run cell by cell."""

    def __init__(self, notebook):
        self.notebook = notebook
        self.page = notebook.page
        self.page.set_default_timeout(180_000)
        notebook.open(NOTEBOOK)
        notebook.kernel("import torch; torch.set_num_threads(1)")

    def run(self, *wanted):
        for part in wanted:
            index = self.page.evaluate(RUN_CELL, part)
            assert index >= 0, part
            self.notebook.wait_idle(180)
            self.cell = self.page.locator(".jp-Notebook .jp-Cell").nth(index)
            # what is off the screen is not drawn
            self.cell.evaluate("cell => cell.scrollIntoView({block: 'start'})")
        return self.cell

    def board(self, *wanted):
        """Run cells, the last of which shows a comparison, and wait for it."""
        found = self.run(*wanted).locator(".alnb-board")
        found.locator("[role=group]").first.wait_for()
        assert self.cell.locator(".alnb-board[data-busy=no]").count() == 1
        found.scroll_into_view_if_needed()
        return found


def heat(board):
    rows = board.locator(".alnb-heat tbody tr").all()
    return [[int(cell.inner_text()) for cell in row.locator("td").all()] for row in rows]


def theme(notebook, name):
    notebook.page.evaluate(
        "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", name
    )
    notebook.page.wait_for_timeout(1500)


def chosen(notebook):
    return notebook.kernel("print(session.strategy_name)").strip()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_workshop_from_a_comparison_to_a_strategy_of_ones_own(notebook):
    book, page = Book(notebook), notebook.page

    # before the first label: four rows of six pictures, and the twin of strided is no secret
    board = book.board("import tempfile", '"coreset", "entropy"], n=6')
    assert board.locator(".alnb-wish").count() == 4
    pictures = board.locator(".alnb-pick img")
    assert pictures.count() == 24
    widths = pictures.evaluate_all("images => images.map((i) => i.complete && i.naturalWidth)")
    assert min(widths) > 0
    numbers = heat(board)
    assert [row[i] for i, row in enumerate(numbers)] == [6] * 4
    assert numbers[1][3] == 6
    assert "nothing is labelled" in board.locator(".alnb-wish-note").inner_text()
    notebook.screenshot("compare-1-cold")

    # trained: the queries of the model, in light and dark
    board = book.board("for _ in range(2)", "compared = ")
    assert board.locator(".alnb-wish").count() == 6
    shared = board.locator(".alnb-pick[data-shared=yes]")
    shared.first.hover()
    same = board.locator(".alnb-pick[data-same=yes]").count()
    assert (
        f"×{same}"
        == board.locator(".alnb-pick[data-same=yes] .alnb-pick-wanted").first.inner_text()
    )
    notebook.screenshot("compare-2-model")
    theme(notebook, "JupyterLab Dark")
    notebook.screenshot("compare-2-dark")
    theme(notebook, "JupyterLab Light")

    # a strategy in ten lines; a broken one gets a report and nothing else
    book.run("def unseen_middle")
    cell = book.run("def broken")
    report = cell.locator(".jp-OutputArea-output").last.inner_text()
    assert report.startswith("ContractBroken: Own(broken) breaks a rule")
    assert "return snapshot.candidates[positions]" in report
    assert "Traceback" not in report
    cell.scroll_into_view_if_needed()
    notebook.screenshot("compare-3-report")
    book.run("def mended")

    # the drop-down holds both, by mouse and by keyboard
    book.run("desk = alnb.show")
    notebook.wait_for_view()
    select = page.locator(".alnb-select")
    select.scroll_into_view_if_needed()
    own = select.locator("optgroup[label=Yours] option").all_inner_texts()
    assert own == ["unseen_middle", "mended"]
    assert select.input_value() == "strided"
    select.select_option("mended")
    notebook.wait_text(".alnb-line", "mended chooses the next query", 20)
    assert chosen(notebook) == "mended"
    select.focus()
    before = notebook.kernel("print(desk.labeller.here)")
    page.keyboard.press("ArrowUp")
    notebook.wait_text(".alnb-line", "unseen_middle chooses", 20)
    assert chosen(notebook) == "unseen_middle"
    assert select.evaluate("element => element === document.activeElement")
    assert notebook.kernel("print(desk.labeller.here)") == before, "an arrow left the list"
    notebook.screenshot("compare-4-list")
    page.locator(".alnb-desk button[data-act=ask]").click()
    notebook.wait_text(".alnb-count", "0 of 6 done", 60)
    assert "unseen_middle" in notebook.kernel("print(session.round.strategy)")

    # a click on a picture brings its slice into view
    board = book.board("mine = ")
    picture = board.locator(".alnb-pick").nth(3)
    title = picture.get_attribute("title")
    picture.click()
    volume, number = re.match(r"\d+\. (.*), slice (\d+) of", title).groups()
    notebook.wait_text(".alnb-where", f"slice {number} of", 20)
    assert notebook.text(".alnb-title") == volume
    notebook.screenshot("compare-5-own")

    # the gate: said when the round opens, and kept as a mark
    book.run("Gate(dice=0.99)")
    notebook.wait_text(".alnb-line", "The cold start chose instead", 30)
    board.get_by_text("The session has moved on since").wait_for()
    mark = page.locator(".alnb-fallback")
    assert "below 0.99" in mark.get_attribute("title")
    mark.scroll_into_view_if_needed()
    notebook.screenshot("compare-6-gate")
    theme(notebook, "JupyterLab Dark")
    notebook.screenshot("compare-6-dark")
    board.locator(".alnb-again").click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.alnb-board')].at(-1).dataset.busy === 'no'"
    )
    assert "cold start would be asked" in board.locator(".alnb-wish-note").inner_text()
