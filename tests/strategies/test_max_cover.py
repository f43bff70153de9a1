from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
import torch

from alnb.errors import ColdStart
from alnb.records import Selection
from alnb.rng import stream
from alnb.strategies.common import Narrowed
from alnb.strategies.max_cover import (
    SuggestiveAnnotation,
    directions,
    max_cover,
    member_deviation,
)
from alnb.strategies.strided import Strided
from alnb.strategies.uncertainty import TopScore, entropy
from alnb.strategies.wrappers import PerVolume, WarmStart, WithControl
from alnb.testing import check_strategy
from alnb.testing.toy import toy_snapshot


def covered(similar, chosen):
    """F(S), by the definition; an empty S covers nothing."""
    return sum(max([0.0, *(row[y] for y in chosen)]) for row in similar.tolist())


@pytest.mark.parametrize("seed", range(6))
def test_greedy_reaches_63_percent_of_the_best_cover(seed):
    unit = directions(stream(seed).normal(size=(12, 3)))
    similar = unit @ unit.T
    for n in (1, 2, 3, 5):
        picks, gains = max_cover(similar, np.zeros(12), n)
        best = max(covered(similar, chosen) for chosen in combinations(range(12), n))
        reached = covered(similar, picks.tolist())
        assert reached == pytest.approx(gains.sum())
        assert (1 - 1 / np.e) * best - 1e-9 <= reached <= best + 1e-9
    assert max_cover(similar, np.zeros(12), 1)[1][0] == pytest.approx(
        max(covered(similar, [y]) for y in range(12))
    )


@pytest.mark.parametrize("seed", range(4))
def test_each_pick_has_the_largest_gain_and_gains_never_rise(seed):
    unit, other = directions(stream(seed).normal(size=(30, 4))), stream(seed, "other").random(30)
    similar = unit @ unit[:15].T
    picks, gains = max_cover(similar, other, 15)
    assert sorted(picks.tolist()) == list(range(15))
    assert (np.diff(gains) <= 0).all()
    best = other.copy()
    for turn, pick in enumerate(picks):
        gain = [np.maximum(similar[:, y] - best, 0).sum() for y in range(15)]
        left = [gain[y] for y in range(15) if y not in picks[:turn]]
        assert gain[pick] == pytest.approx(max(left))
        assert gains[turn] == pytest.approx(gain[pick])
        best = np.maximum(best, similar[:, pick])


def test_a_duplicate_gains_nothing_and_comes_last():
    unit = directions(np.array([[1.0, 0], [1, 0], [0, 1], [1, 1]]))
    picks, gains = max_cover(unit @ unit.T, np.zeros(4), 4)
    assert picks[0] == 3
    assert gains[-1] == 0
    assert set(picks[1:3].tolist()) == {0, 2}
    assert picks[3] == 1


def test_rows_of_zeros_are_like_nothing():
    unit = directions(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0]])


def test_deviation_of_the_members_equals_its_definition():
    probs = torch.from_numpy(stream(0).random((4, 2, 3, 5, 6)))
    got = member_deviation(probs)
    for b, h, w in np.ndindex(2, 5, 6):
        expected = np.mean([np.std(probs[:, b, c, h, w].numpy()) for c in range(3)])
        assert got[b, h, w].item() == pytest.approx(expected)
    assert (member_deviation(probs[:1]) == 0).all()
    opposite = torch.zeros(2, 1, 2, 1, 1)
    opposite[0, :, 0] = opposite[1, :, 1] = 1
    assert member_deviation(opposite).item() == 0.5


def slow_selection(toy, n, factor=2):
    """Shortlist and greedy cover by sets of rows and plain cosines."""
    plain = TopScore(member_deviation).select(toy, len(toy.candidates), rng=stream(0))
    left = plain.rows.tolist()[: factor * n]
    vector = {row: toy.learned(np.array([row]))[0] for row in range(len(toy.pool))}

    def cosine(a, b):
        a, b = vector[a], vector[b]
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    chosen: list[int] = []
    unlabelled = [row for row in toy.candidates.tolist() if row not in toy.labelled]

    def worth(rows):
        return sum(max(cosine(x, y) for y in rows) for x in unlabelled)

    while len(chosen) < n:
        chosen.append(max((y for y in left if y not in chosen), key=lambda y: worth([*chosen, y])))
    return chosen, worth(chosen)


@pytest.mark.parametrize("unit", ["slice", "volume"])
@pytest.mark.parametrize("keep_labelled", [False, True])
def test_the_most_uncertain_that_cover_the_pool_are_chosen(unit, keep_labelled):
    toy = toy_snapshot(unit=unit, depths=(3, 2) * 6, keep_labelled=keep_labelled)
    rows, worth = slow_selection(toy, 4)
    chosen = SuggestiveAnnotation().select(toy, 4, rng=stream(1))
    assert chosen.rows.tolist() == rows
    assert chosen.scores.sum() == pytest.approx(worth)


def test_under_a_cap_the_greedy_cover_goes_on():
    """One shortlist holds everybody, so that only what was taken tells the batches apart."""
    toy = toy_snapshot(depths=(5, 4, 5), labelled=2, skipped=0)
    strategy = SuggestiveAnnotation(factor=9)
    capped = PerVolume(strategy, 1).select(toy, 3, rng=stream(0)).rows.tolist()
    everyone = strategy.select(toy, len(toy.candidates), rng=stream(0)).rows
    unit = directions(toy.learned(toy.candidates))
    similar, best, expected = unit @ unit.T, np.zeros(len(unit)), []
    for _ in range(3):
        used = toy.pool.volume[expected]
        gain = np.maximum(similar - best[:, None], 0).sum(axis=0)
        gain[np.isin(toy.pool.volume[toy.candidates], used)] = -1
        place = int(gain.argmax())
        expected.append(int(toy.candidates[place]))
        best = np.maximum(best, similar[:, place])
    assert capped == expected
    assert capped != everyone[:3].tolist()  # the cap did bite


def test_features_are_computed_once_per_query():
    toy, seen = toy_snapshot(), []

    class Counting(type(toy)):
        def learned(self, rows):
            seen.extend(rows.tolist())
            return super().learned(rows)

    counting = Counting(**{name: getattr(toy, name) for name in toy.__dataclass_fields__})
    PerVolume(SuggestiveAnnotation(), 1).select(counting, 4, rng=stream(0))
    assert sorted(seen) == toy.candidates.tolist()


def test_remembered_features_are_those_of_the_rows_asked_for():
    toy = toy_snapshot()
    narrowed = Narrowed.of(toy)
    narrowed.learned(toy.candidates[::2])
    rows = toy.candidates[::-1]
    np.testing.assert_array_equal(narrowed.to(rows).learned(rows), toy.learned(rows))


def test_rows_already_in_the_batch_cover_the_pool():
    toy = toy_snapshot(labelled=1)
    first = SuggestiveAnnotation(factor=99).select(toy, 1, rng=stream(0)).rows
    narrowed = Narrowed.of(toy).to(np.setdiff1d(toy.candidates, first), taken=first)
    then = SuggestiveAnnotation(factor=99).select(narrowed, 2, rng=stream(0))
    whole = SuggestiveAnnotation(factor=99).select(toy, 3, rng=stream(0))
    assert then.rows.tolist() == whole.rows[1:].tolist()
    np.testing.assert_allclose(then.scores, whole.scores[1:])


def test_labelled_candidates_alone_are_still_answered():
    toy = toy_snapshot(keep_labelled=True, labelled=5)
    toy = replace(toy, candidates=toy.labelled)
    chosen = SuggestiveAnnotation().select(toy, 3, rng=stream(0))
    assert len(set(chosen.rows.tolist())) == 3
    assert chosen.scores.tolist() == [0, 0, 0]


def test_a_shortlist_as_long_as_the_batch_is_the_bases_choice():
    @dataclass(frozen=True)
    class Given:
        def select(self, snapshot, n, *, rng):
            rows = snapshot.candidates[::-1][:n]
            return Selection(rows=rows, scores=rows.astype(float))

    toy = toy_snapshot()
    chosen = SuggestiveAnnotation(Given(), factor=1).select(toy, 4, rng=stream(0))
    assert sorted(chosen.rows.tolist()) == toy.candidates[-4:].tolist()


def test_no_model_and_a_short_shortlist_are_refused():
    with pytest.raises(ColdStart):
        SuggestiveAnnotation().select(toy_snapshot(fitted=False), 2, rng=stream(0))
    with pytest.raises(ValueError, match=r"factor is 0\.5"):
        SuggestiveAnnotation(factor=0.5)


@pytest.mark.parametrize(
    "strategy",
    [
        SuggestiveAnnotation(),
        SuggestiveAnnotation(TopScore(entropy), factor=np.inf),
        PerVolume(SuggestiveAnnotation()),
        WithControl(PerVolume(SuggestiveAnnotation()), share=0.5),
        WarmStart(Strided(), SuggestiveAnnotation()),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])
