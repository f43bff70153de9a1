from __future__ import annotations

import numpy as np
import pytest
import torch

from alnb.errors import ColdStart
from alnb.protocols import Snapshot
from alnb.testing import ToySnapshot, toy_snapshot


def as_snapshot(toy: ToySnapshot) -> Snapshot:
    return toy


@pytest.mark.parametrize("unit", ["slice", "volume"])
def test_a_toy_is_a_consistent_snapshot(unit):
    toy = as_snapshot(toy_snapshot(unit=unit, depths=(3, 5, 2, 4, 3, 3, 2, 2)))
    n = len(toy.pool)
    assert n == (24 if unit == "slice" else 8)
    assert 0 not in toy.candidates  # rows and positions never coincide
    assert (np.diff(toy.candidates) > 0).all()
    assert not np.isin(toy.candidates, toy.labelled).any()
    assert np.flatnonzero(toy.counts).tolist() == toy.labelled.tolist()
    assert toy.features().shape[0] == toy.presence().shape[0] == n
    shown = torch.cat(list(toy.images(np.arange(n))))
    assert shown.shape == (24, 1, 8, 8)


@pytest.mark.parametrize("unit", ["slice", "volume"])
def test_scores_come_in_the_order_of_the_rows_and_average_over_a_volume(unit):
    toy = toy_snapshot(unit=unit)
    rows = toy.candidates[::-1].copy()

    def first_member(probs):
        assert torch.allclose(probs.sum(dim=2), torch.ones(()))
        return probs[0, :, 1].mean(dim=(1, 2))

    slow = [toy.probabilities[row][0, :, 1].mean(axis=(1, 2)).mean() for row in rows]
    np.testing.assert_allclose(toy.reduce(first_member, rows), slow, rtol=1e-5)


def test_a_permuted_toy_is_the_same_pool_in_another_order():
    toy = toy_snapshot()
    order = np.random.default_rng(0).permutation(len(toy.pool))
    moved = toy.permuted(order)
    for name in ("candidates", "labelled"):
        ids = {toy.pool.ids[row] for row in getattr(toy, name)}
        assert {moved.pool.ids[row] for row in getattr(moved, name)} == ids
    back = moved.permuted(np.argsort(order))
    assert back.pool.ids == toy.pool.ids
    for (name, array), (_, again) in zip(toy.arrays(), back.arrays(), strict=True):
        np.testing.assert_array_equal(array, again, err_msg=name)


def test_the_same_seed_makes_the_same_toy_and_another_one_differs():
    one, same, other = toy_snapshot(1), toy_snapshot(1), toy_snapshot(2)
    for (name, array), (_, again) in zip(one.arrays(), same.arrays(), strict=True):
        np.testing.assert_array_equal(array, again, err_msg=name)
    assert not np.array_equal(one.features(), other.features())


def test_an_unfitted_toy_knows_nothing_about_classes():
    toy = toy_snapshot(fitted=False)
    with pytest.raises(ColdStart):
        toy.reduce(lambda probs: probs, toy.candidates)
    with pytest.raises(ColdStart):
        toy.presence()
