from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alnb.rng import stream
from alnb.strategies.strided import Strided, slice_order, strided_rank, van_der_corput_order
from alnb.testing.toy import toy_snapshot


def mirrored(i: int) -> float:
    """The binary digits of i, read behind the point: 6 = 110 becomes 0.011 = 3/8."""
    return sum(int(bit) / 2 ** (k + 1) for k, bit in enumerate(reversed(f"{i:b}")))


@pytest.mark.parametrize("m", range(1, 40))
def test_the_order_follows_the_sequence_of_van_der_corput(m):
    expected: list[int] = []
    for i in range(1, 200):
        place = int(mirrored(i) * m)
        if place not in expected:
            expected.append(place)
    expected += [k for k in range(m) if k not in expected]
    assert van_der_corput_order(m).tolist() == expected


@given(slices=st.integers(1, 60), per_volume=st.none() | st.integers(1, 70))
def test_every_slice_comes_once(slices, per_volume):
    assert sorted(slice_order(slices, per_volume).tolist()) == list(range(slices))


@given(slices=st.integers(2, 200), taken=st.integers(1, 200))
def test_every_prefix_is_spread_evenly(slices, taken):
    taken = min(taken, slices)
    chosen = np.sort(slice_order(slices)[:taken])
    gaps = np.diff(np.concatenate([[-1], chosen, [slices]]))
    # In a prefix of length k no gap is more than twice the 1/2^floor(log2 k) of a dyadic grid.
    assert gaps.max() <= slices / 2 ** (int(taken).bit_length() - 1) + 2


@given(slices=st.integers(1, 60), m=st.integers(1, 60))
def test_a_budget_gives_the_even_grid_first(slices, m):
    m = min(m, slices)
    grid = [int((k + 0.5) * slices / m) for k in range(m)]
    assert sorted(slice_order(slices, m)[:m].tolist()) == grid


def test_a_single_slice_is_the_middle_one():
    assert [slice_order(z)[0] for z in (1, 2, 3, 9, 10)] == [0, 1, 1, 4, 5]


def test_ranks_follow_position_in_whatever_order_the_rows_are():
    rng = np.random.default_rng(0)
    toy = toy_snapshot(depths=(9, 4, 1))
    order = rng.permutation(14)
    rank = strided_rank(toy.pool.volume, toy.pool.position)
    assert rank[:9].tolist() == np.argsort(slice_order(9)).tolist()
    shuffled = strided_rank(toy.pool.volume[order], toy.pool.position[order])
    assert shuffled.tolist() == rank[order].tolist()


def test_every_volume_is_covered_before_one_repeats_and_its_slices_come_in_order():
    toy = toy_snapshot(depths=(9, 4, 7, 5), labelled=0, skipped=0)
    for seed in range(10):
        rows = Strided().select(toy, 16, rng=stream(seed)).rows
        volumes = toy.pool.volume[rows]
        for turn in range(4):
            assert volumes[4 * turn : 4 * turn + 4].tolist() == volumes[:4].tolist()
        first = np.cumsum([0, 9, 4, 7])
        for v, depth in enumerate((9, 4, 7, 5)):
            assert (rows[volumes == v] - first[v]).tolist() == slice_order(depth)[:4].tolist()


def test_volumes_come_in_every_order():
    toy = toy_snapshot(depths=(3, 3, 3), labelled=0, skipped=0)
    orders = {tuple(Strided().select(toy, 3, rng=stream(seed)).rows) for seed in range(60)}
    assert len(orders) == 6


def test_a_second_round_goes_on_where_the_first_one_stopped():
    toy = toy_snapshot(depths=(8, 8), labelled=0, skipped=0)
    begun = Strided().select(toy, 3, rng=stream(0)).rows
    left = np.setdiff1d(range(16), begun)
    later = replace(toy, labelled=np.sort(begun), candidates=left)
    rows = Strided().select(later, 13, rng=stream(1)).rows
    behind = 1 - toy.pool.volume[begun[2]]
    assert toy.pool.volume[rows[0]] == behind  # it has one slice, the other has two
    both = np.concatenate([begun, rows])
    for v in (0, 1):
        assert (both[toy.pool.volume[both] == v] - 8 * v).tolist() == slice_order(8).tolist()


def test_a_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="per_volume is 0"):
        Strided(per_volume=0)
