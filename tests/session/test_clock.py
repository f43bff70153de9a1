from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alnb.session.clock import active_seconds

TIMES = st.lists(st.floats(0, 1e5), max_size=30)


def test_a_pause_longer_than_the_gap_counts_nothing():
    assert active_seconds([0, 5, 15, 60, 62], gap=20) == 5 + 10 + 2


def test_a_silence_of_exactly_the_gap_still_counts():
    assert active_seconds([0, 20], gap=20) == 20


def test_one_tick_or_none_is_no_time():
    assert active_seconds([]) == 0
    assert active_seconds([7.0]) == 0


@given(TIMES)
def test_the_order_of_ticks_does_not_matter_and_time_never_exceeds_the_span(ticks):
    seconds = active_seconds(ticks)
    assert math.isclose(seconds, active_seconds(list(reversed(ticks))))
    assert 0 <= seconds <= (max(ticks) - min(ticks) if ticks else 0) + 1e-6


@given(TIMES, st.floats(0, 1e5))
def test_another_tick_never_shortens_the_time(ticks, another):
    assert active_seconds([*ticks, another]) >= active_seconds(ticks) - 1e-6


@pytest.mark.parametrize("gap", [0.0, -1.0, float("nan")])
def test_a_gap_that_is_not_positive_is_refused(gap):
    with pytest.raises(ValueError, match="positive"):
        active_seconds([0, 1], gap=gap)
