from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from alnb.panels.metric import KINDS, batch_of, neighbours, settle
from alnb.panels.sheet import CHART, Dot, Sheet, curves, dial, legend, matrix, mosaic
from alnb.panels.sheets import (
    acts_sheet,
    batch_sheet,
    circles_sheet,
    neighbours_sheet,
    queue_sheet,
    radius_sheet,
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
    assert one.shape == turned.shape == (38 * -(-len(pool) // 5), 190)
    last = len(pool) - 1
    np.testing.assert_array_equal(
        one[:38, :38], turned[last // 5 * 38 :, last % 5 * 38 : last % 5 * 38 + 38]
    )


def picture(markup):
    data = re.search(r"base64,([^\"]+)", markup).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_curves_rise_and_fall_with_their_values(session):
    sheet = radius_sheet({"a": np.array([4.0, 1.0]), "b": np.array([2.0, 2.0])})
    lines = [attrs["points"] for tag, attrs in read(sheet) if tag == "polyline"]
    drawn = [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]
    wide, high = CHART
    assert drawn == [
        [(wide / 2, -high), (wide, -high / 4)],
        [(wide / 2, -high / 2), (wide, -high / 2)],
    ]
    assert len({attrs["stroke"] for tag, attrs in read(sheet) if tag == "polyline"}) == 2


@pytest.mark.parametrize("top", [0.003, 0.9, 1.0, 5.0, 7.3, 120.0, 316.0])
def test_ticks_are_round_and_fill_the_axis(top):
    marks = re.findall(
        r'text-anchor="end">([^<]+)<', curves({"a": np.array([top])}, across="n", up="r")
    )
    values = np.array(marks, dtype=float)
    assert 3 <= len(values) <= 11
    assert values[0] == 0
    assert values[-1] <= top * (1 + 1e-9) < values[-1] + values[1] * (1 + 1e-6)
    assert f"{values[1]:.0e}"[0] in "125"


def test_names_that_look_like_markup_are_shown_as_text(session):
    evil = '<img src=x onerror="alert(1)">'
    sheets = (
        slices_sheet(session, {evil: [0]}),
        Sheet(legend({evil: "#000000"})),
        Sheet(curves({evil: np.ones(2)}, across=evil, up=evil)),
        Sheet(dial([], title=evil)),
        Sheet(matrix(np.zeros((1, 1), int), ("#000000",), title=evil, edges=["#000000"])),
        Sheet(mosaic(session.cohort, [session.pool.ids[0]], columns=1, title=evil)),
    )
    for sheet in sheets:
        assert not any("onerror" in attrs for _, attrs in read(sheet))
        assert "&lt;img" in sheet.markup
