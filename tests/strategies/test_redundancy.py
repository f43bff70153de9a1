from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import alnb.strategies.mutual_information as module
from alnb.store.shelf import Shelf
from alnb.strategies.common import Narrowed, with_cache
from alnb.strategies.mutual_information import Quantiser, between
from alnb.strategies.nath import EntropyMinusMI
from alnb.strategies.redundancy import Redundancy, Running
from alnb.strategies.strided import Strided
from alnb.strategies.wrappers import PerVolume, WarmStart
from alnb.testing.toy import toy_snapshot

SMALL = Quantiser(bins=4, side=8, depth=8)


@pytest.fixture
def counted(monkeypatch):
    """How many pairs of images have been counted since the test began."""
    pairs = []
    real = module.joint_counts

    def noted(one, others, levels):
        pairs.append(len(others))
        return real(one, others, levels)

    monkeypatch.setattr(module, "joint_counts", noted)
    return lambda: sum(pairs)


def directly(toy, rows, columns, quantiser=SMALL):
    solid = any(len(slices) > 1 for slices in toy.pool.slices)
    every = np.array([quantiser(image, solid=solid) for image in toy.pixels])
    return between(every[rows], every[columns], quantiser)


@pytest.mark.parametrize("unit", ["slice", "volume"])
def test_pairs_are_those_of_the_images_themselves(unit):
    toy = toy_snapshot(unit=unit, depths=(3, 2, 4, 2, 3, 2))
    found = Redundancy(SMALL).pairs(toy, toy.candidates, toy.labelled)
    np.testing.assert_allclose(found, directly(toy, toy.candidates, toy.labelled), atol=1e-12)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_what_was_computed_once_is_never_computed_again(counted, tmp_path, where):
    toy = toy_snapshot()
    cache = {} if where == "memory" else Shelf(tmp_path / "information")
    first = Redundancy(SMALL, cache=cache).pairs(toy, toy.candidates, toy.labelled)
    spent = counted()
    assert spent == first.size
    cache = cache if where == "memory" else Shelf(tmp_path / "information")
    again = Redundancy(SMALL, cache=cache)
    np.testing.assert_array_equal(again.pairs(toy, toy.candidates, toy.labelled), first)
    part = again.pairs(toy, toy.candidates[3:7], toy.labelled[::-1])
    np.testing.assert_array_equal(part, first[3:7, ::-1])
    # the same images in another order of the pool are the same images
    order = np.random.default_rng(0).permutation(len(toy.pool))
    moved, back = toy.permuted(order), np.argsort(order)
    found = again.pairs(moved, back[toy.candidates], back[toy.labelled])
    np.testing.assert_array_equal(found, first)
    assert counted() == spent


def test_an_unordered_pair_is_computed_once(counted):
    toy = toy_snapshot()
    everything, n = np.arange(len(toy.pool)), len(toy.pool)
    lazy = Redundancy(SMALL)
    found = lazy.pairs(toy, everything, everything)
    assert counted() == n * (n + 1) // 2
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found, directly(toy, everything, everything), atol=1e-12)
    # a row that becomes a column later finds the pairs that it was a row of
    other = Redundancy(SMALL)
    spent = counted()
    other.pairs(toy, np.array([0, 1, 2, 3]), np.array([0]))
    other.pairs(toy, np.array([0, 1, 2, 3]), np.array([0, 1]))
    assert counted() - spent == 4 + 3


def test_a_new_label_costs_one_column(counted):
    toy = toy_snapshot()
    lazy = Redundancy(SMALL)
    lazy.to_labelled(toy, toy.candidates)
    spent = counted()
    later = Narrowed.of(toy).to(toy.candidates[1:], taken=toy.candidates[:1])
    lazy.to_labelled(later, later.candidates)
    assert counted() - spent == len(later.candidates)


def test_a_wrapper_that_asks_again_reads_no_image_twice():
    toy = toy_snapshot()
    read = []

    class Watched(type(toy)):
        def images(self, rows):
            read.extend(rows.tolist())
            return super().images(rows)

    narrowed = Narrowed.of(Watched(**vars(toy)))
    lazy = Redundancy(SMALL)
    lazy.to_labelled(narrowed, narrowed.candidates)
    everyone = len(toy.candidates) + len(toy.labelled)
    assert len(read) == 2 * everyone  # to know them, and to quantise them
    later = narrowed.to(narrowed.candidates[1:], taken=narrowed.candidates[:1])
    found = lazy.to_labelled(later, later.candidates)
    assert len(read) == 2 * everyone
    expected = directly(toy, later.candidates, later.labelled).mean(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_every_setting_and_every_pixel_has_an_entry_of_its_own(counted):
    toy = toy_snapshot()
    cache = {}
    settings = [
        {"quantiser": SMALL},
        {"quantiser": replace(SMALL, bins=8)},
        {"quantiser": replace(SMALL, side=4)},
        {"quantiser": replace(SMALL, mask="body")},
        {"quantiser": SMALL, "miller_madow": True},
    ]
    rows, columns = toy.candidates, toy.labelled
    for number, setting in enumerate(settings, 1):
        Redundancy(cache=cache, **setting).pairs(toy, rows, columns)
        assert counted() == number * len(rows) * len(columns)
    assert len(cache) == len(settings) * len(columns)
    spent = counted()
    touched = list(toy.pixels)
    touched[rows[2]] = touched[rows[2]] + np.eye(8, dtype=np.float32)
    changed = replace(toy, pixels=tuple(touched))
    found = Redundancy(SMALL, cache=cache).pairs(changed, rows, columns)
    assert counted() - spent == len(columns)
    np.testing.assert_allclose(found, directly(changed, rows, columns), atol=1e-12)


def test_a_damaged_entry_is_computed_again():
    toy = toy_snapshot()
    cache = {}
    lazy = Redundancy(SMALL, cache=cache)
    first = lazy.pairs(toy, toy.candidates, toy.labelled)
    for key in cache:
        cache[key] = cache[key][:-5]
    np.testing.assert_array_equal(lazy.pairs(toy, toy.candidates, toy.labelled), first)


def test_equal_images_under_two_names_do_not_confuse_the_square():
    toy = toy_snapshot()
    pixels = list(toy.pixels)
    pixels[7] = pixels[3].copy()
    pixels[11] = pixels[3].copy()
    toy = replace(toy, pixels=tuple(pixels))
    everything = np.arange(len(toy.pool))
    found = Redundancy(SMALL).pairs(toy, everything, everything)
    np.testing.assert_allclose(found, directly(toy, everything, everything), atol=1e-12)


def test_large_pools_are_taken_in_blocks(monkeypatch):
    monkeypatch.setattr("alnb.strategies.redundancy._BYTES", 3 * 64 * 2)
    toy = toy_snapshot()
    found = Redundancy(SMALL).pairs(toy, toy.candidates, toy.labelled)
    np.testing.assert_allclose(found, directly(toy, toy.candidates, toy.labelled), atol=1e-12)


@pytest.mark.parametrize("aggregate", ["mean", "max", "sum"])
def test_labelled_rows_count_as_often_as_they_were_chosen_or_once(aggregate):
    toy = toy_snapshot(keep_labelled=True)
    counts = toy.counts.copy()
    counts[toy.labelled] = [3, 1, 0]  # the last was answered without being asked
    toy = replace(toy, counts=counts)
    pairs = directly(toy, toy.candidates, toy.labelled)
    for repeats, times in (("count", [3, 1, 1]), ("once", [1, 1, 1])):
        every = np.repeat(pairs, times, axis=1)
        lazy = Redundancy(SMALL, aggregate=aggregate, repeats=repeats)
        expected = getattr(every, aggregate)(axis=1)
        np.testing.assert_allclose(lazy.to_labelled(toy, toy.candidates), expected, atol=1e-12)


def test_a_row_may_be_left_out_of_its_own_redundancy():
    toy = toy_snapshot(keep_labelled=True)
    rows = toy.candidates
    pairs = directly(toy, rows, toy.labelled)
    kept = Redundancy(SMALL, aggregate="max").to_labelled(toy, rows)
    itself = np.isin(rows, toy.labelled)
    whole = directly(toy, rows, rows).diagonal()
    np.testing.assert_allclose(kept[itself], whole[itself], atol=1e-12)
    without = Redundancy(SMALL, include_self=False).to_labelled(toy, rows)
    pairs[rows[:, None] == toy.labelled] = np.nan
    np.testing.assert_allclose(without, np.nanmean(pairs, axis=1), atol=1e-12)
    alone = replace(toy, labelled=rows[:1], candidates=rows[:1])
    assert Redundancy(SMALL, include_self=False).to_labelled(alone, rows[:1]).tolist() == [0.0]


def test_nothing_labelled_is_nothing_redundant():
    toy = toy_snapshot(labelled=0)
    assert not Redundancy(SMALL).to_labelled(toy, toy.candidates).any()
    assert Redundancy(SMALL).to_labelled(toy_snapshot(), np.empty(0, dtype=np.int64)).shape == (0,)


def test_rounds_add_up_to_what_all_columns_give_at_once():
    rng = np.random.default_rng(0)
    values, times = rng.random((5, 9)), rng.integers(1, 4, 9)
    values[1, 3] = np.nan
    whole, rounds = Running(5), Running(5)
    whole.add(values, times)
    for part in (slice(0, 2), slice(2, 2), slice(2, 9)):
        rounds.add(values[:, part], times[part])
    for name in ("mean", "max", "sum"):
        np.testing.assert_allclose(rounds.of(name), whole.of(name), atol=1e-12)
        every = getattr(np, f"nan{name}")(np.repeat(values, times, axis=1), axis=1)
        np.testing.assert_allclose(whole.of(name), every, atol=1e-12)


def test_shared_fields_are_those_of_the_bodies():
    toy = toy_snapshot()
    found = Redundancy(SMALL).shared_fields(toy, toy.candidates, toy.labelled)
    bodies = np.array([SMALL.body(image, solid=False) for image in toy.pixels])
    expected = module.shared_field(bodies[toy.candidates], bodies[toy.labelled])
    np.testing.assert_array_equal(found, expected)
    assert (found >= 0).all()
    assert found.any()


def test_settings_that_mean_nothing_are_refused():
    for wrong in ({"aggregate": "median"}, {"repeats": "twice"}):
        with pytest.raises(ValueError, match="must be one of"):
            Redundancy(**wrong)


def test_a_cache_reaches_redundancy_through_wrappers_and_spares_one_that_was_given():
    mine, theirs = {}, {}
    given, lacking = Redundancy(SMALL, cache=mine), Redundancy(SMALL)
    wrapped = PerVolume(WarmStart(Strided(), EntropyMinusMI(redundancy=lacking)), 2)
    reached = with_cache(wrapped, theirs)
    assert reached == wrapped
    assert repr(reached) == repr(wrapped)
    assert reached.strategy.then.redundancy.cache is theirs
    assert wrapped.strategy.then.redundancy.cache is None
    assert with_cache(given, theirs) is given
    for nothing in (wrapped.strategy.first, PerVolume(Strided(), 2), len, 3, None):
        assert with_cache(nothing, theirs) is nothing
    reached.strategy.then.redundancy.pairs(toy_snapshot(), np.array([1, 2]), np.array([3]))
    assert len(theirs) == 1
    assert mine == {}


def test_without_a_cache_pairs_are_kept_by_the_object_itself(counted):
    toy, lazy = toy_snapshot(), Redundancy(SMALL)
    first = lazy.pairs(toy, toy.candidates, toy.labelled)
    spent = counted()
    np.testing.assert_array_equal(lazy.pairs(toy, toy.candidates, toy.labelled), first)
    assert counted() == spent
