from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import pytest

from alnb.errors import ColdStart
from alnb.records import Selection
from alnb.rng import stream
from alnb.strategies.common import Narrowed
from alnb.strategies.coreset import CoreSet, k_center
from alnb.strategies.random_sampling import RandomSampling
from alnb.strategies.wrappers import PerVolume, Subsample, WarmStart, WithControl, smallest_cap
from alnb.testing.toy import toy_snapshot


@dataclass(frozen=True)
class LargestFirst:
    """The candidates with the largest row, scored by it."""

    def select(self, snapshot, n, *, rng):
        rows = snapshot.candidates[::-1][:n].copy()
        return Selection(rows=rows, scores=rows.astype(float))


@dataclass(frozen=True)
class Scored:
    """The candidates with the largest mean of the first class, through the model."""

    def first_class(self, probs):
        return probs[:, :, 0].mean(dim=0).flatten(1).mean(dim=1)

    def select(self, snapshot, n, *, rng):
        scores = snapshot.reduce(self.first_class, snapshot.candidates)
        order = np.argsort(-scores)[:n]
        return Selection(rows=snapshot.candidates[order], scores=scores[order])


@dataclass(frozen=True)
class Cold:
    def select(self, snapshot, n, *, rng):
        raise ColdStart("not fitted")


def chosen(strategy, snapshot, n, seed=0):
    return strategy.select(snapshot, n, rng=stream(seed))


# --- WarmStart --------------------------------------------------------------------------------


def test_warm_start_uses_the_first_while_nothing_is_labelled():
    strategy = WarmStart(LargestFirst(), CoreSet())
    cold, warm = toy_snapshot(labelled=0), toy_snapshot(labelled=2)
    assert chosen(strategy, cold, 3).rows.tolist() == chosen(LargestFirst(), cold, 3).rows.tolist()
    assert chosen(strategy, warm, 3).rows.tolist() == chosen(CoreSet(), warm, 3).rows.tolist()


def test_warm_start_uses_the_first_when_the_other_has_nothing_to_go_by():
    toy = toy_snapshot(labelled=3, fitted=False)
    for then in (Cold(), Scored()):
        rows = chosen(WarmStart(LargestFirst(), then), toy, 3).rows
        assert rows.tolist() == chosen(LargestFirst(), toy, 3).rows.tolist()


def test_warm_start_lets_other_errors_through():
    @dataclass(frozen=True)
    class Broken:
        def select(self, snapshot, n, *, rng):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        chosen(WarmStart(LargestFirst(), Broken()), toy_snapshot(), 3)


# --- PerVolume --------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_no_volume_gives_more_than_the_cap_and_the_batch_is_full(cap):
    toy = toy_snapshot()
    for inner in (LargestFirst(), RandomSampling(), CoreSet(), Scored()):
        n = 4 * cap
        batch = chosen(PerVolume(inner, cap), toy, n)
        assert len(set(batch.rows.tolist())) == n
        assert np.bincount(toy.pool.volume[batch.rows]).max() == cap


def test_a_ranking_is_walked_down_past_the_full_volumes():
    toy = toy_snapshot()
    expected, used = [], dict.fromkeys(range(4), 0)
    for row in chosen(Scored(), toy, len(toy.candidates)).rows.tolist():
        if used[toy.pool.volume[row]] < 2 and len(expected) < 7:
            used[toy.pool.volume[row]] += 1
            expected.append(row)
    batch = chosen(PerVolume(Scored(), 2), toy, 7)
    assert batch.rows.tolist() == expected
    everything = chosen(Scored(), toy, len(toy.candidates))
    score = dict(zip(everything.rows.tolist(), everything.scores, strict=True))
    assert batch.scores.tolist() == [score[row] for row in expected]


def test_capped_coreset_is_the_greedy_answer_under_the_cap():
    toy = toy_snapshot(depths=(9, 9, 9, 9), labelled=2)
    picked, free = [], toy.candidates
    for _ in range(8):
        centres = np.concatenate([toy.labelled, picked]).astype(np.int64)
        pick = int(k_center(toy.embedding, centres=centres, candidates=free, n=1).rows[0])
        picked.append(pick)
        used = np.bincount(toy.pool.volume[picked], minlength=4)
        free = np.array([row for row in free if row != pick and used[toy.pool.volume[row]] < 2])
    assert chosen(PerVolume(CoreSet(), 2), toy, 8).rows.tolist() == picked


def test_a_cap_that_cannot_be_met_is_raised_by_the_least_that_fits_and_said(caplog):
    toy = toy_snapshot(labelled=0, skipped=0)  # 6, 4, 7, 5 slices
    with caplog.at_level(logging.WARNING):
        rows = chosen(PerVolume(LargestFirst(), 2), toy, 10).rows
    assert "10 slices do not fit with 2 per volume; up to 3 are taken" in caplog.text
    assert len(rows) == 10
    assert np.bincount(toy.pool.volume[rows]).max() == 3
    caplog.clear()
    chosen(PerVolume(LargestFirst(), 2), toy, 8)
    assert not caplog.text


def test_everything_can_be_asked_for_under_any_cap():
    toy = toy_snapshot()
    rows = chosen(PerVolume(RandomSampling(), 1), toy, len(toy.candidates)).rows
    assert sorted(rows.tolist()) == toy.candidates.tolist()


def test_smallest_cap_is_the_first_that_fits():
    volume = np.repeat([4, 7, 9], [1, 5, 3])
    for cap in (1, 2, 6):
        for n in range(10):
            fits = [c for c in range(cap, 20) if min(1, c) + min(5, c) + min(3, c) >= n]
            assert smallest_cap(volume, cap, n) == fits[0]


def test_a_cold_batch_under_a_cap_is_chosen_by_the_first_strategy_alone():
    toy = toy_snapshot(labelled=0)
    capped = chosen(PerVolume(WarmStart(LargestFirst(), CoreSet()), 1), toy, 4)
    assert capped.rows.tolist() == chosen(PerVolume(LargestFirst(), 1), toy, 4).rows.tolist()


def test_the_model_sees_each_slice_once_however_often_a_wrapper_asks():
    toy, seen = toy_snapshot(), []

    class Counting(type(toy)):
        def reduce(self, score, rows):
            seen.extend(rows.tolist())
            return super().reduce(score, rows)

    counting = Counting(**{name: getattr(toy, name) for name in toy.__dataclass_fields__})
    chosen(PerVolume(Scored(), 1), counting, 4)
    assert sorted(seen) == toy.candidates.tolist()


def test_remembered_scores_are_those_of_the_rows_asked_for():
    toy, strategy = toy_snapshot(), Scored()
    narrowed = Narrowed.of(toy)
    narrowed.reduce(strategy.first_class, toy.candidates[::2])
    rows = toy.candidates[::-1]
    again = narrowed.to(rows).reduce(strategy.first_class, rows)
    np.testing.assert_allclose(again, toy.reduce(strategy.first_class, rows), rtol=1e-6)


# --- Subsample --------------------------------------------------------------------------------


def test_subsample_shows_m_candidates_each_equally_often():
    toy = toy_snapshot()
    k, draws, rng = len(toy.candidates), 3000, stream(0)
    seen, sizes = np.zeros(len(toy.pool)), set()

    @dataclass(frozen=True)
    class Watching:
        def select(self, snapshot, n, *, rng):
            sizes.add(len(snapshot.candidates))
            assert (np.diff(snapshot.candidates) > 0).all()
            seen[snapshot.candidates] += 1
            return LargestFirst().select(snapshot, n, rng=rng)

    for _ in range(draws):
        Subsample(Watching(), m=6).select(toy, 2, rng=rng)
    assert sizes == {6}
    p = 6 / k
    assert np.abs(seen[toy.candidates] / draws - p).max() < 4 * np.sqrt(p * (1 - p) / draws)


def test_subsample_never_shows_fewer_than_are_asked_for():
    toy = toy_snapshot()
    rows = chosen(Subsample(LargestFirst(), m=2), toy, 9).rows
    assert len(set(rows.tolist())) == 9


def test_subsample_above_the_pool_changes_nothing():
    toy = toy_snapshot()
    assert (
        chosen(Subsample(CoreSet()), toy, 5).rows.tolist()
        == chosen(CoreSet(), toy, 5).rows.tolist()
    )


# --- WithControl ------------------------------------------------------------------------------


def test_control_rows_are_uniform_over_the_candidates_and_the_share_is_kept():
    toy = toy_snapshot()
    draws, n, rng = 3000, 5, stream(0)
    seen, places, total = np.zeros(len(toy.pool)), np.zeros(n), 0
    for _ in range(draws):
        batch = WithControl(LargestFirst(), share=0.3).select(toy, n, rng=rng)
        control = np.array(batch.origin) == "control"
        seen[batch.rows[control]] += 1
        places += control
        total += control.sum()
    assert abs(total / draws - 1.5) < 4 * 0.5 / np.sqrt(draws)
    p = 1.5 / len(toy.candidates)
    assert np.abs(seen[toy.candidates] / draws - p).max() < 4 * np.sqrt(p / draws)
    assert np.abs(places / draws - 0.3).max() < 4 * np.sqrt(0.3 * 0.7 / draws)


def test_the_rest_is_chosen_by_the_strategy_and_has_its_scores():
    toy = toy_snapshot()
    batch = chosen(WithControl(LargestFirst(), share=0.5), toy, 6)
    control = np.array(batch.origin) == "control"
    left = np.setdiff1d(toy.candidates, batch.rows[control])
    assert batch.rows[~control].tolist() == left[::-1][:3].tolist()
    assert batch.scores[~control].tolist() == batch.rows[~control].tolist()
    assert np.isnan(batch.scores[control]).all()
    assert control.sum() == 3


def test_control_rows_are_never_labelled_already():
    toy = toy_snapshot(keep_labelled=True, labelled=8)
    for seed in range(50):
        batch = chosen(WithControl(RandomSampling(), share=0.5), toy, 6, seed)
        control = np.array(batch.origin) == "control"
        assert not np.isin(batch.rows[control], toy.labelled).any()


def test_a_share_of_zero_or_one_is_all_of_one_kind():
    toy = toy_snapshot()
    none = chosen(WithControl(LargestFirst(), share=0), toy, 4)
    assert none.rows.tolist() == chosen(LargestFirst(), toy, 4).rows.tolist()
    assert "control" not in none.origin
    assert chosen(WithControl(Cold(), share=1), toy, 4).origin == ("control",) * 4


def test_control_rows_count_as_covered_for_the_rest():
    toy = toy_snapshot()
    batch = chosen(WithControl(CoreSet(), share=0.5), toy, 6)
    control = np.array(batch.origin) == "control"
    known = np.union1d(toy.labelled, batch.rows[control])
    left = np.setdiff1d(toy.candidates, known)
    expected = k_center(toy.embedding, centres=known, candidates=left, n=3).rows
    assert batch.rows[~control].tolist() == expected.tolist()


def test_wrappers_keep_the_origin_of_what_they_wrap():
    toy = toy_snapshot()
    batch = chosen(PerVolume(WithControl(LargestFirst(), share=1), 2), toy, 6)
    assert batch.origin == ("control",) * 6


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="cap is 0"):
        PerVolume(CoreSet(), 0)
    with pytest.raises(ValueError, match="m is 0"):
        Subsample(CoreSet(), 0)
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        WithControl(CoreSet(), 1.5)


def test_wrappers_pass_on_an_empty_batch():
    toy = replace(toy_snapshot(), candidates=np.empty(0, dtype=np.int64))
    for strategy in (PerVolume(CoreSet()), Subsample(CoreSet()), WithControl(CoreSet())):
        assert len(chosen(strategy, toy, 0).rows) == 0
