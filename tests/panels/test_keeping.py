from __future__ import annotations

import re

import numpy as np
import pytest

from alnb.panels.keeping import keeping, keeping_sheet, sentence
from alnb.records import Selection
from alnb.session.oracle import SimulatedOracle


class Asks:
    """Asks for the rows it is told to."""

    def __init__(self, *rows):
        self.rows = rows

    def select(self, snapshot, n, *, rng):
        return Selection(np.array(self.rows), np.zeros(n))


def drawn(session, *queries):
    oracle = SimulatedOracle(session.cohort, "mask", name="me")
    for rows in queries:
        session.ask(len(rows), strategy=Asks(*rows))
        for slice_id in session.pending:
            session.annotate(*oracle.annotate(slice_id))
    return session


@pytest.fixture
def kept(project):
    return drawn(project(keep_labelled=True), (0, 1), (1, 2), (1, 3), (3, 4))


def test_draws_labels_and_repeats_are_different_numbers(kept):
    found = keeping(kept, "keep")
    assert (found.rounds, found.draws, found.items, found.repeats) == (4, 8, 5, 3)
    ids = kept.pool.ids
    assert list(found.times.items())[:2] == [(ids[1], 3), (ids[3], 2)]
    assert sum(found.times.values()) == found.draws


def test_both_shares_stand_with_their_denominators(kept):
    found, pool = keeping(kept), len(kept.pool)
    assert found.share == 5 / pool
    assert found.asked_share == 3 / (pool - 2)
    said = sentence(found)
    assert f"5 of {pool} items" in said
    assert f"{found.asked_share:.1%}" in said


def test_what_leaves_the_pool_is_never_drawn_twice(project):
    found = keeping(drawn(project(), (0, 1), (2, 3)))
    assert (found.draws, found.items, found.repeats) == (4, 4, 0)


def test_the_sheet_has_a_square_for_each_draw(kept, project):
    other = drawn(project(folder=kept.folder / "other"), (0, 1))
    markup = keeping_sheet({"delete": other, "<b>keep": kept}).markup
    assert len(re.findall("<rect", markup)) == 2 + 8
    assert f"{kept.pool.ids[1]}: drawn 3 times" in markup
    assert "<b>keep" not in markup


def test_a_session_before_its_first_query_has_drawn_nothing(project):
    found = keeping(project())
    assert (found.rounds, found.draws, found.items) == (0, 0, 0)
    assert found.share == 0
