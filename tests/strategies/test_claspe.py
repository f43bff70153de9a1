from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from alnb.errors import BadSelection, ColdStart
from alnb.rng import stream
from alnb.strategies.claspe import (
    ClaspPE,
    beta_at,
    class_scores,
    mixed,
    quotas,
    stratified_picks,
)
from alnb.strategies.common import Narrowed
from alnb.strategies.foreground import ForegroundRandom
from alnb.strategies.streaming import Running, needs_of
from alnb.strategies.strided import Strided
from alnb.strategies.wrappers import PerVolume, WarmStart, WithControl
from alnb.testing import check_strategy
from alnb.testing.toy import toy_snapshot

NOISELESS = {"first_beta": math.inf, "last_beta": math.inf}


def slow_scores(probs):
    """(M, C, H, W) -> C numbers, pixel by pixel."""
    members, classes, height, width = probs.shape
    sums = [0.0] * classes
    for h, w in np.ndindex(height, width):
        p = [
            sum(float(probs[m, c, h, w]) for m in range(members)) / members for c in range(classes)
        ]
        unsure = -sum(v * math.log(v) for v in p if v > 0)
        sums[0] += unsure
        for c in range(1, classes):
            sums[c] += p[c] * unsure
    return [value / height / width for value in sums]


def test_class_scores_equal_their_definition():
    logits = torch.from_numpy(stream(0).normal(size=(3, 4, 5, 6, 3)) * 3)
    probs = logits.softmax(dim=2)
    got = class_scores(probs)
    for b in range(4):
        np.testing.assert_allclose(got[b], slow_scores(probs[:, b].numpy()), rtol=1e-10)
    assert class_scores(probs.to(torch.bfloat16)).dtype == torch.float32


def test_members_one_at_a_time_give_the_same_scores():
    logs = torch.from_numpy(stream(0).normal(size=(5, 2, 4, 6, 3))).log_softmax(dim=2)
    streamed = class_scores(Running.over(logs, needs_of(class_scores)))
    torch.testing.assert_close(streamed, class_scores(logs.exp()))


def test_shares_of_all_classes_and_background_sum_to_the_entropy():
    probs = torch.from_numpy(stream(1).normal(size=(2, 3, 4, 5, 5))).softmax(dim=2)
    unsure = -(probs.mean(0) * probs.mean(0).log()).sum(1)
    background = (probs.mean(0)[:, 0] * unsure).flatten(1).mean(1)
    scores = class_scores(probs)
    torch.testing.assert_close(scores[:, 1:].sum(1) + background, scores[:, 0])


def test_the_schedule_of_five_trainings_is_the_papers():
    got = [beta_at(t, 5) for t in range(4)]
    np.testing.assert_allclose(got, [1, 10**0.5, 10, 10**1.5])
    # 100 belongs to the fifth training, after which the plan makes no query.
    assert beta_at(4, 5) == pytest.approx(100)
    assert beta_at(9, 5) == pytest.approx(100)
    assert beta_at(0, 1) == beta_at(7, 1) == 1


@pytest.mark.parametrize("trainings", [2, 3, 5, 9])
def test_schedules_share_their_ends_and_never_fall(trainings):
    for schedule in ("exp", "sigmoid"):
        values = [beta_at(t, trainings, schedule) for t in range(trainings)]
        assert values[0] == pytest.approx(1)
        assert values[-1] == pytest.approx(100)
        assert (np.diff(values) > 0).all()
    assert {beta_at(t, trainings, "constant") for t in range(trainings)} == {1.0}
    # Late in the first half the sigmoid is still noisier, and it catches up in the middle.
    assert beta_at(1, 5, "sigmoid") < beta_at(1, 5)
    assert beta_at(2, 5, "sigmoid") == pytest.approx(beta_at(2, 5))


def test_the_round_gives_the_place_in_the_schedule():
    strategy = ClaspPE(trainings=5)
    got = [strategy.beta(rounds) for rounds in range(6)]
    np.testing.assert_allclose(got, [1, 1, 10**0.5, 10, 10**1.5, 100])
    assert ClaspPE(start_rounds=0).beta(1) == pytest.approx(10**0.5)


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(0, 60),
    classes=st.integers(1, 9),
    percent=st.integers(0, 100),
    seed=st.integers(0, 9),
)
def test_quotas_sum_to_n_and_classes_differ_by_one_at_most(n, classes, percent, seed):
    quota = quotas(n, classes, percent / 100, rng=stream(seed))
    assert quota.shape == (classes,)
    assert quota.sum() == n
    assert quota.min() >= 0
    if classes > 1:
        assert quota[1:].sum() == percent * n // 100
        assert quota[1:].max() - quota[1:].min() <= 1


def test_two_thirds_of_fifty_over_three_classes():
    quota = quotas(50, 4, rng=stream(0))
    assert quota.tolist() == [17, 11, 11, 11]


def test_a_remainder_is_drawn_evenly_among_the_classes():
    rng = stream(0)
    given_to = sum(quotas(4, 6, rng=rng)[1:] for _ in range(1500))  # 2 of 5 classes get one
    assert given_to.sum() == 3000
    assert chisquare(given_to).pvalue > 1e-3


def test_without_noise_each_class_takes_its_top_scores():
    rng = stream(2)
    scores = rng.random((30, 4))
    quota = np.array([3, 2, 4, 1])
    picks, columns = stratified_picks(scores, quota, math.inf, rng=stream(0))
    assert len(set(picks.tolist())) == 10
    order = list(dict.fromkeys(columns.tolist()))
    assert order[-1] == 0
    taken: set[int] = set()
    for column in order:
        ranked = sorted(range(30), key=lambda row: -scores[row, column])
        expected = [row for row in ranked if row not in taken][: quota[column]]
        assert picks[columns == column].tolist() == expected
        taken |= set(expected)


def test_classes_come_in_a_random_order():
    quota = np.array([0, 1, 1, 1])
    rng = stream(0)
    firsts = [stratified_picks(np.ones((5, 4)), quota, 1.0, rng=rng)[1][0] for _ in range(900)]
    assert chisquare(np.bincount(firsts, minlength=4)[1:]).pvalue > 1e-3


def test_noise_is_independent_per_class_and_drawn_in_proportion():
    scores = np.array([[0, 1.0, 3.0], [0, 2.0, 2.0], [0, 4.0, 1.0]])
    rng, beta, draws = stream(0), 2.0, 2500
    by_class = {1: np.zeros(3), 2: np.zeros(3)}
    for _ in range(draws):
        for column in (1, 2):
            quota = np.zeros(3, dtype=np.int64)
            quota[column] = 1
            by_class[column][stratified_picks(scores, quota, beta, rng=rng)[0][0]] += 1
    for column, seen in by_class.items():
        weight = scores[:, column] ** beta
        assert chisquare(seen, draws * weight / weight.sum()).pvalue > 1e-3
    # Equal scores in two classes: with noise of their own they agree as chance has it.
    same, agree = np.ones((40, 3)), 0
    for _ in range(200):
        picks, _ = stratified_picks(same, np.array([0, 1, 0]), 1.0, rng=rng)
        other, _ = stratified_picks(same, np.array([0, 0, 1]), 1.0, rng=rng)
        agree += picks[0] == other[0]
    assert agree < 20


def planted():
    """Rows certain of class 1 or background, but one that wavers between class 2 and background."""
    toy = toy_snapshot(depths=(12, 12), skipped=2, labelled=2)
    maps = [np.zeros_like(part) for part in toy.probabilities]
    rng = stream(4)
    for part in maps:
        unsure = 0.2 + 0.05 * rng.random()
        part[:, :, 1], part[:, :, 0] = 1 - unsure, unsure
    row = int(toy.candidates[5])
    maps[row][:] = 0
    maps[row][:, :, 0, :1], maps[row][:, :, 2, :1] = 0.5, 0.5  # one line of pixels out of eight
    maps[row][:, :, 0, 1:] = 1
    return replace(toy, probabilities=tuple(maps)), row


def test_a_lone_uncertain_slice_of_a_class_enters_through_its_quota():
    toy, row = planted()
    for seed in range(5):
        chosen = ClaspPE(**NOISELESS).select(toy, 6, rng=stream(seed))
        place = chosen.rows.tolist().index(row)
        assert chosen.origin[place] == "class 2"
        assert chosen.scores[place] == pytest.approx(0.5 * math.log(2) / 8, rel=1e-5)
        without = ClaspPE(share=0, **NOISELESS).select(toy, 6, rng=stream(seed))
        assert row not in without.rows.tolist()


def test_each_row_tells_for_which_class_it_came_and_by_what_score():
    toy = toy_snapshot(depths=(9, 9, 9), labelled=2)
    chosen = ClaspPE().select(toy, 9, rng=stream(0))
    # floor(.66 x 9) = 5 over two classes, and the fifth to one of them
    assert sorted(chosen.origin.count(word) for word in ("class 1", "class 2")) == [2, 3]
    assert chosen.origin.count("") == 4
    for row, score, word in zip(chosen.rows, chosen.scores, chosen.origin, strict=True):
        column = int(word.split()[1]) if word else 0
        assert slow_scores(toy.probabilities[row][:, 0])[column] == pytest.approx(score, rel=1e-4)


def test_columns_are_mixed_evenly_and_each_keeps_its_order():
    columns = np.array([2, 2, 2, 2, 1, 1, 0, 0])
    rng, places = stream(0), np.zeros(8)
    for _ in range(1000):
        order = mixed(columns, rng=rng)
        assert sorted(order.tolist()) == list(range(8))
        for column in range(3):
            assert (np.diff(order[columns[order] == column]) > 0).all()
        places += columns[order] == 2
    assert chisquare(places).pvalue > 1e-3


def test_a_cap_per_volume_starves_no_share():
    toy = toy_snapshot(depths=(4,) * 12, labelled=2)
    strategy, runs = PerVolume(ClaspPE(share=0.5), 1), 120
    origins = [strategy.select(toy, 8, rng=stream(seed)).origin for seed in range(runs)]
    words = [word for origin in origins for word in origin]
    assert abs(words.count("") / runs - 4) < 0.8
    assert abs(words.count("class 1") - words.count("class 2")) / runs < 0.5


def test_later_rounds_are_stricter():
    toy = toy_snapshot(depths=(20, 20))
    strict = ClaspPE(**NOISELESS)

    def shared(rounds):
        later, both = replace(toy, rounds=rounds), 0
        for seed in range(60):
            best = set(strict.select(later, 6, rng=stream(seed)).rows.tolist())
            both += len(best & set(ClaspPE().select(later, 6, rng=stream(seed)).rows.tolist()))
        return both

    agreement = [shared(rounds) for rounds in (1, 3, 5)]
    assert agreement == sorted(agreement)
    assert agreement[2] > agreement[0] + 60


def test_a_session_counts_its_queries_and_wrappers_let_the_count_through(project):
    session = project()
    for rounds in range(3):
        assert session.snapshot().rounds == rounds
        assert Narrowed.of(Narrowed.of(session.snapshot())).rounds == rounds
        session.ask(2)


def test_small_batches_leave_some_classes_out():
    toy = toy_snapshot(classes=9)
    seen = set()
    for seed in range(60):
        chosen = ClaspPE().select(toy, 3, rng=stream(seed))
        assert len(set(chosen.rows.tolist())) == 3
        assert chosen.origin.count("") == 2
        seen |= set(chosen.origin)
    assert seen == {"", *(f"class {c}" for c in range(1, 9))}


def test_no_model_a_broken_model_and_bad_settings_are_refused():
    with pytest.raises(ColdStart):
        ClaspPE().select(toy_snapshot(fitted=False), 2, rng=stream(0))
    toy = toy_snapshot()
    toy.probabilities[int(toy.candidates[1])][0, 0, 1, 2, 2] = np.nan
    with pytest.raises(BadSelection, match=r"scores of 1 of 17 candidates"):
        ClaspPE().select(toy, 2, rng=stream(0))
    for wrong, message in (
        ({"trainings": 0}, "trainings is 0"),
        ({"schedule": "cosine"}, "'cosine'"),
        ({"share": 1.5}, r"share is 1\.5"),
        ({"first_beta": 5, "last_beta": 1}, "never fall"),
        ({"start_rounds": -1}, "start_rounds is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            ClaspPE(**wrong)


@pytest.mark.parametrize(
    "strategy",
    [
        ClaspPE(),
        ClaspPE(schedule="sigmoid", share=1),
        ClaspPE(**NOISELESS),
        PerVolume(ClaspPE()),
        WithControl(ClaspPE(), share=0.5),
        WarmStart(Strided(), ClaspPE()),
        WarmStart(ForegroundRandom(), ClaspPE()),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])
