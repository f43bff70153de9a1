from __future__ import annotations

from alnb.records import IGNORE
from alnb.widgets.brush import MOST_POINTS, Brush


def test_down_moves_and_up_make_one_stroke_of_every_place():
    brush, stroke = Brush(label=2, radius=3).down((1, 1)).move((2, 2)).move((2, 2)).up()
    assert stroke.points == ((1, 1), (2, 2))
    assert (stroke.label, stroke.radius) == (2, 3)
    assert not brush.is_down


def test_a_move_without_a_down_and_an_up_without_a_down_draw_nothing():
    brush = Brush().move((1, 1))
    assert not brush.is_down
    assert brush.up()[1] is None


def test_a_lost_up_never_joins_two_strokes_by_a_line():
    brush = Brush().down((0, 0)).move((1, 1)).down((50, 50)).move((51, 51))
    assert brush.up()[1].points == ((50, 50), (51, 51))


def test_the_eraser_draws_nobody_said():
    assert Brush(label=2, erasing=True).down((1, 1)).up()[1].label == IGNORE


def test_cancel_forgets_the_stroke():
    assert Brush().down((1, 1)).cancel().up()[1] is None


def test_a_flood_of_moves_stays_bounded():
    brush = Brush(points=tuple((float(i), 0.0) for i in range(MOST_POINTS)))
    assert len(brush.move((5, 5)).points) == MOST_POINTS
