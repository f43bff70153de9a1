from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alnb.errors import ColdStart
from alnb.rng import stream
from alnb.strategies.common import Narrowed
from alnb.strategies.strided import Strided
from alnb.strategies.uncertainty import TopScore, bald
from alnb.strategies.usim import UsimLike, min_max
from alnb.strategies.wrappers import PerVolume, WarmStart, WithControl
from alnb.testing import check_strategy
from alnb.testing.toy import toy_snapshot

FORMS = ["additive", "multiplicative"]


def slow_picks(toy, n, form, weight=1.0, cap=False):
    """Greedy by plain cosines, everything recomputed at each pick."""
    plain = TopScore().select(toy, len(toy.candidates), rng=stream(0))
    score = dict(zip(plain.rows.tolist(), plain.scores.tolist(), strict=True))
    low, high = min(score.values()), max(score.values())
    unsure = {row: (value - low) / (high - low) for row, value in score.items()}
    vector = {row: toy.learned(np.array([row]))[0] for row in range(len(toy.pool))}

    def likeness(row, known):
        pairs = [
            float(vector[row] @ vector[k]) / np.linalg.norm(vector[row]) / np.linalg.norm(vector[k])
            for k in known
        ]
        return max(pairs, default=0.0)

    least = min(likeness(row, toy.labelled) for row in unsure)
    chosen = []

    def worth(row):
        s = likeness(row, [*toy.labelled, *chosen])
        if form == "multiplicative":
            return unsure[row] * (1 - s)
        return unsure[row] - weight * (s - least) / (1 - least)

    for _ in range(n):
        full = set(toy.pool.volume[chosen]) if cap else set()
        left = [r for r in unsure if r not in chosen and toy.pool.volume[r] not in full]
        chosen.append(max(left, key=worth))
    return chosen


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("unit", ["slice", "volume"])
@pytest.mark.parametrize("keep_labelled", [False, True])
def test_each_pick_is_the_greedy_one(form, unit, keep_labelled):
    toy = toy_snapshot(unit=unit, depths=(3, 2) * 6, keep_labelled=keep_labelled)
    chosen = UsimLike(form=form).select(toy, 5, rng=stream(0))
    assert chosen.rows.tolist() == slow_picks(toy, 5, form)
    assert (np.diff(chosen.scores) <= 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_under_a_cap_the_answer_is_the_greedy_one_under_the_cap(form):
    toy = toy_snapshot(depths=(6, 4, 7, 5), labelled=2)
    capped = PerVolume(UsimLike(form=form), 1).select(toy, 4, rng=stream(0))
    assert capped.rows.tolist() == slow_picks(toy, 4, form, cap=True)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_labelled_begins_with_the_most_uncertain(form):
    toy = toy_snapshot(labelled=0)
    chosen = UsimLike(form=form).select(toy, 4, rng=stream(0))
    assert chosen.rows[0] == TopScore().select(toy, 1, rng=stream(0)).rows[0]
    assert chosen.rows.tolist() == slow_picks(toy, 4, form)
    assert chosen.scores[0] == pytest.approx(1)


def test_without_weight_it_is_top_score():
    toy = toy_snapshot()
    n = len(toy.candidates)
    plain = TopScore().select(toy, n, rng=stream(0))
    chosen = UsimLike(weight=0).select(toy, n, rng=stream(3))
    assert chosen.rows.tolist() == plain.rows.tolist()
    np.testing.assert_allclose(chosen.scores, min_max(plain.scores), atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_twin_of_what_is_labelled_is_passed_over(form):
    toy = toy_snapshot(labelled=1)
    best = int(TopScore().select(toy, 1, rng=stream(0)).rows[0])
    maps = list(toy.probabilities)
    maps[int(toy.labelled[0])] = maps[best]
    toy = replace(toy, probabilities=tuple(maps))
    chosen = UsimLike(form=form).select(toy, 3, rng=stream(0))
    assert best not in chosen.rows.tolist()


def test_a_twin_of_what_is_chosen_is_passed_over():
    toy = toy_snapshot(labelled=0)
    first, second = TopScore().select(toy, 2, rng=stream(0)).rows.tolist()
    maps = list(toy.probabilities)
    maps[second] = maps[first]
    toy = replace(toy, probabilities=tuple(maps))
    rows = UsimLike(form="multiplicative").select(toy, 4, rng=stream(0)).rows.tolist()
    assert len({first, second} & set(rows)) == 1


def test_rows_already_in_the_batch_count_as_known_but_leave_the_scale():
    toy = toy_snapshot(labelled=2)
    whole = UsimLike().select(toy, 4, rng=stream(0))
    taken = whole.rows[:2]
    narrowed = Narrowed.of(toy).to(np.setdiff1d(toy.candidates, taken), taken=taken)
    rest = UsimLike().select(narrowed, 2, rng=stream(0))
    assert rest.rows.tolist() == whole.rows[2:].tolist()
    np.testing.assert_allclose(rest.scores, whole.scores[2:])


def test_the_model_sees_each_row_once_per_query():
    toy, seen = toy_snapshot(), []

    class Counting(type(toy)):
        def reduce(self, score, rows):
            seen.extend(rows.tolist())
            return super().reduce(score, rows)

    counting = Counting(**{name: getattr(toy, name) for name in toy.__dataclass_fields__})
    PerVolume(UsimLike(), 1).select(counting, 4, rng=stream(0))
    assert sorted(seen) == toy.candidates.tolist()


def test_equal_values_scale_to_zero():
    assert min_max(np.array([2.0, 2.0])).tolist() == [0, 0]
    assert min_max(np.array([1.0, 5.0, 3.0])).tolist() == [0, 1, 0.5]
    assert len(min_max(np.empty(0))) == 0


def test_equal_rows_are_told_apart_by_chance():
    toy = toy_snapshot(labelled=0, skipped=0, depths=(4,))
    same = tuple(np.full_like(maps, 1 / 3) for maps in toy.probabilities)
    toy, rng = replace(toy, probabilities=same), stream(0)
    firsts = [UsimLike().select(toy, 2, rng=rng).rows[0] for _ in range(400)]
    assert np.abs(np.bincount(firsts, minlength=4) - 100).max() < 4 * np.sqrt(75)


def test_no_model_and_bad_settings_are_refused():
    with pytest.raises(ColdStart):
        UsimLike().select(toy_snapshot(fitted=False), 2, rng=stream(0))
    with pytest.raises(ValueError, match="form is 'other'"):
        UsimLike(form="other")
    with pytest.raises(ValueError, match="weight is -1"):
        UsimLike(weight=-1)


@pytest.mark.parametrize(
    "strategy",
    [
        UsimLike(),
        UsimLike(TopScore(bald), "multiplicative"),
        PerVolume(UsimLike()),
        WithControl(PerVolume(UsimLike()), share=0.5),
        WarmStart(Strided(), UsimLike()),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])
