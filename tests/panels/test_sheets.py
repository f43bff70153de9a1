from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from alnb.panels.metric import KINDS, batch_of, neighbours, settle
from alnb.panels.sheet import Dot, Sheet, dial, legend, matrix, mosaic
from alnb.panels.sheets import (
    acts_sheet,
    batch_sheet,
    circles_sheet,
    neighbours_sheet,
    queue_sheet,
    radius_figure,
    slices_sheet,
)
from alnb.rng import stream


class Reader(HTMLParser):
    """Elements that were opened, and those that were left open."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("img", "br", "meta"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(sheet):
    reader = Reader()
    reader.feed(sheet._repr_html_())
    assert not reader.open
    return [(tag, attrs) for tag, attrs in reader.seen]


def count(sheet, tag):
    return sum(seen == tag for seen, _ in read(sheet))


@pytest.fixture
def session(project):
    return project()


@pytest.fixture
def batch(session):
    rows = np.arange(len(session.pool))[:8]
    return batch_of(session.pool, rows, 2)


def test_lines_of_slices_stand_under_their_names(session):
    sheet = slices_sheet(session, {"first": [0, 1, 2], "second": [3]})
    assert count(sheet, "figure") == count(sheet, "img") == 4
    assert sheet._repr_html_().index("first") < sheet._repr_html_().index("second")


def test_a_neighbour_is_framed_by_how_it_is_related(session):
    pool = session.pool
    found = neighbours(pool, stream(1).normal(size=(len(pool), 2)), [0, 5], 3)
    sheet = neighbours_sheet(session, found)
    framed = [a["style"] for tag, a in read(sheet) if tag == "img" and "border" in a["style"]]
    assert len(framed) == found.nearest.size
    assert len({style[-7:] for style in framed}) == len(np.unique(found.kin))
    for other in found.nearest.ravel():
        assert str(pool.ids[other]) in sheet.markup


def test_a_batch_shows_its_tuples_and_a_matrix_for_each_relation(session, batch):
    sheet = batch_sheet(session, batch)
    assert count(sheet, "figure") == len(batch.rows)
    assert count(sheet, "svg") == len(KINDS)
    assert count(acts_sheet(batch), "svg") == 1 + len(KINDS)


def test_a_matrix_is_drawn_cell_by_cell():
    codes = stream(2).integers(0, 3, size=(6, 6))
    colours = ("#000001", "#000002", "#000003")
    drawn = matrix(codes, colours, title="R", edges=["#ffffff"] * 6, block=2)
    cells = np.full((6, 6), -1)
    for x, y, width, colour in re.findall(
        r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="1" fill="#00000(\d)"', drawn
    ):
        cells[int(y), int(x) : int(x) + int(width)] = int(colour) - 1
    np.testing.assert_array_equal(cells, codes)


def test_every_view_is_a_dot_at_its_angle(batch):
    ends = settle(batch, "ntxent", rng=stream(3), steps=2)
    sheet = circles_sheet(batch, {"start": ends.start, "end": ends})
    assert count(sheet, "circle") == 2 * (2 * len(batch.rows) + 1)
    assert f"loss {ends.loss:.2f}" in sheet.markup
    up = dial([Dot(90, "#123456", lane=0)], title="up")
    assert 'cx="0.0000" cy="-1.0000"' in up


def test_the_whole_queue_is_one_picture_in_its_order(session):
    pool = session.pool
    rows = stream(4).permutation(len(pool))
    sheet = queue_sheet(session, rows, np.r_[np.inf, np.ones(len(pool) - 1)], first=3)
    assert count(sheet, "figure") == 3
    assert "1. opens" in sheet.markup
    one, turned = (
        picture(mosaic(session.cohort, [pool.ids[row] for row in order], columns=5, title=""))
        for order in (rows, rows[::-1])
    )
    assert one.shape == turned.shape == (44 * -(-len(pool) // 5), 220)
    last = len(pool) - 1
    np.testing.assert_array_equal(
        one[:44, :44], turned[last // 5 * 44 :, last % 5 * 44 : last % 5 * 44 + 44]
    )


def picture(markup):
    data = re.search(r"base64,([^\"]+)", markup).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_curves_have_a_line_for_each_order():
    figure = radius_figure({"a": np.array([3.0, 1.0]), "<b>": np.array([2.0, 2.0])})
    assert [trace.name for trace in figure.data] == ["a", "&lt;b&gt;"]
    assert list(figure.data[0].x) == [1, 2]
    assert list(figure.data[0].y) == [3, 1]


def test_names_that_look_like_markup_are_shown_as_text(session):
    evil = '<img src=x onerror="alert(1)">'
    sheets = (
        slices_sheet(session, {evil: [0]}),
        Sheet(legend({evil: "#000000"})),
        Sheet(dial([], title=evil)),
        Sheet(matrix(np.zeros((1, 1), int), ("#000000",), title=evil, edges=["#000000"])),
        Sheet(mosaic(session.cohort, [session.pool.ids[0]], columns=1, title=evil)),
    )
    for sheet in sheets:
        assert not any("onerror" in attrs for _, attrs in read(sheet))
        assert "&lt;img" in sheet.markup
