"""Strategies of one's own, what others would ask, and the gate before a weak model."""

from dataclasses import dataclass

import numpy as np
import pytest

from alnb.errors import BadInput, BadSelection, ColdStart, PoolExhausted
from alnb.records import Metrics
from alnb.session.gate import Gate, error_correlation, slice_score
from alnb.strategies.own import Own, as_strategy
from alnb.strategies.strided import Strided
from alnb.strategies.uncertainty import TopScore, entropy
from alnb.strategies.wrappers import PerVolume, Subsample, WarmStart
from alnb.testing import ContractBroken, check_strategy, toy_snapshot
from tests.session.test_fitting import answered


def brightest(snapshot):
    return snapshot.features()[snapshot.candidates, 0]


def by_chance(snapshot, n, rng):
    return rng.choice(snapshot.candidates, n, replace=False)


def test_a_function_of_scores_asks_the_largest_and_keeps_the_contract():
    toy = toy_snapshot()
    chosen = Own(brightest).select(toy, 4, rng=np.random.default_rng(0))
    best = sorted(toy.candidates, key=lambda row: -toy.embedding[row, 0])[:4]
    assert chosen.rows.tolist() == best
    np.testing.assert_array_equal(chosen.scores, toy.embedding[best, 0])
    check_strategy(as_strategy(brightest))
    check_strategy(as_strategy(by_chance))
    assert repr(as_strategy(brightest)) == "Own(brightest)"


def test_ties_are_broken_by_the_generator_alone():
    toy = toy_snapshot()
    flat = as_strategy(lambda snapshot: np.zeros(len(snapshot.candidates)))
    first, same, other = (flat.select(toy, 5, rng=np.random.default_rng(s)).rows for s in (0, 0, 1))
    assert first.tolist() == same.tolist() != other.tolist()


def test_what_is_no_strategy_is_told_what_is_missing():
    with pytest.raises(BadInput, match="select"):
        as_strategy(3)

    def f(pool):
        return pool

    with pytest.raises(BadInput, match=r"f\(pool\)"):
        as_strategy(f)

    @dataclass(frozen=True)
    class Needy:
        sigma: float

        def select(self, snapshot, n, *, rng):
            raise NotImplementedError

    with pytest.raises(BadInput, match="default"):
        as_strategy(Needy)
    assert as_strategy(Strided) == Strided()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda snapshot: np.zeros(len(snapshot.pool)), "one score for each"),
        (lambda snapshot: np.full(len(snapshot.candidates), np.nan), "not a number"),
        (lambda snapshot, n: np.linspace(0, 1, n), "whole numbers"),
    ],
)
def test_a_function_that_answers_wrongly_is_told_how(answer, words):
    with pytest.raises(BadSelection, match=words):
        as_strategy(answer).select(toy_snapshot(), 3, rng=np.random.default_rng(0))


def test_a_strategy_of_ones_own_is_checked_offered_chosen_and_asked(project):
    session = project()
    said = []
    session.watch(said.append)
    assert session.add_strategy(brightest) == "brightest"
    assert "brightest" in session.strategies
    session.choose_strategy("brightest")
    assert session.strategy_name == "brightest"
    assert said == ["strategies", "strategies"]
    asked = session.ask(3)
    assert asked.strategy == "Own(brightest)"
    best = np.argsort(-session.features()[:, 0])[:3]
    assert asked.query == tuple(session.pool.ids[row] for row in best)


def test_one_that_breaks_the_contract_is_not_offered_and_the_report_says_why(project):
    session = project()

    def twice(snapshot, n):
        return np.repeat(snapshot.candidates[:1], n)

    with pytest.raises(ContractBroken, match="distinct"):
        session.add_strategy(twice)
    assert "twice" not in session.strategies
    with pytest.raises(BadInput, match="twice"):
        session.choose_strategy("twice")


def test_the_cap_per_volume_holds_for_a_strategy_chosen_later(project):
    session = project(per_volume=1)
    session.add_strategy(brightest)
    session.choose_strategy("brightest")
    volumes = [item.volume for item in session.ask(3).query]
    assert len(set(volumes)) == 3


def test_comparing_asks_nothing_and_tells_what_each_would_ask(project):
    session = project()
    before = session.state
    compared = session.compare_strategies(["strided", "coreset", brightest, "random"], 3)
    assert session.state is before
    assert compared.names == ("strided", "coreset", "brightest", "random")
    overlap = compared.overlap()
    for a, one in enumerate(compared.names):
        for b, other in enumerate(compared.names):
            assert overlap[a, b] == len(set(compared.queries[one]) & set(compared.queries[other]))
    assert (np.diag(overlap) == 3).all()
    assert set(compared.wanted()) == {i for q in compared.queries.values() for i in q}
    for item, names in compared.wanted().items():
        assert names == tuple(n for n in compared.names if item in compared.queries[n])
    assert "| strided | 3 |" in compared.to_table()
    # the seed of the next query is the one that was compared by
    session.choose_strategy("random")
    assert session.ask(3).query == compared.queries["random"]


def test_one_that_cannot_choose_yet_says_why_and_does_not_hide_the_others(project):
    session = project()
    compared = session.compare_strategies([TopScore(), "strided"], 2)
    assert compared.names == ("strided",)
    assert "train" in compared.problems["TopScore"]
    assert "TopScore cannot choose" in compared.to_table()
    with pytest.raises(PoolExhausted):
        session.compare_strategies(["strided"], len(session.pool) + 1)


def test_random_queries_share_what_is_expected():
    rng = np.random.default_rng(0)
    shared = [
        len(np.intersect1d(rng.choice(40, 8, replace=False), rng.choice(40, 8, replace=False)))
        for _ in range(4000)
    ]
    assert abs(np.mean(shared) - 8 * 8 / 40) < 4 * np.std(shared) / np.sqrt(4000)


# ---------------------------------------------------------------------- the gate


def measured(session, dice, strategy):
    """The session after a training that was measured at this Dice, about to ask by `strategy`."""
    answered(session).fit()
    session.choose_strategy(strategy)
    metrics = Metrics("val", (dice,) * 3, 2, len(session.labelled))
    from alnb.store.events import Evaluated

    session._commit(Evaluated(0, metrics))
    return session


def test_a_weak_model_does_not_choose_and_the_round_says_so(project):
    session = measured(project(gate=Gate(dice=0.4)), 0.3, "entropy")
    asked = session.ask(3)
    assert "0.30" in asked.note
    assert "cold start" in asked.note
    again = project(gate=None, strategy="entropy")
    assert again.round.note == asked.note


def test_without_a_wrapper_the_sessions_own_cold_start_chooses(project):
    session = measured(project(gate=Gate(dice=0.4), cold_start="random"), 0.3, TopScore())
    asked = session.ask(3)
    assert asked.note
    assert asked.scores == (None, None, None)


def test_a_strategy_that_needs_no_model_is_not_bothered(project):
    session = measured(project(gate=Gate(dice=0.4)), 0.3, "strided")
    assert session.ask(3).note == ""


def test_a_score_that_does_not_follow_the_errors_does_not_choose(project):
    def blind(probs):
        return probs[0, :, 0] * 0.0

    gate = Gate(dice=0.0, correlation=0.1)
    session = measured(project(gate=gate), 0.9, TopScore(blind))
    assert "Spearman 0.00" in session.ask(2).note
    trusting = Gate(dice=0.0, correlation=-1.0)
    other = project(gate=trusting, folder=session.folder / "b")
    assert measured(other, 0.9, TopScore()).ask(2).note == ""


def test_never_fitted_is_an_error_and_not_a_doubt(project):
    session = project(gate=Gate(), strategy=TopScore())
    with pytest.raises(ColdStart):
        session.ask(2)


def test_the_score_is_found_inside_wrappers():
    base = TopScore(entropy)
    wrapped = PerVolume(WarmStart(Strided(), Subsample(base, 5)), 2)
    assert slice_score(wrapped) == base.per_slice
    assert slice_score(Strided()) is None


def test_the_correlation_is_spearmans_over_slices(hearts):
    import torch
    from scipy.stats import spearmanr

    volumes = list(hearts.volumes.values())[:3]

    class Noisy:
        unit = "slice"

        def probs(self, images):
            for batch in images:
                x = torch.stack([batch[:, 0] * k for k in (1.0, 0.4, 0.7, 0.2)], 1)
                yield x.softmax(1)[None]

    def score(probs):
        return entropy(probs).mean((1, 2))

    pairs = []
    for volume in volumes:
        for z in range(volume.shape[0]):
            image = torch.from_numpy(np.float32(volume.slice_image(z)))[None, None]
            (probs,) = Noisy().probs([image])
            wrong = (probs[0, 0].argmax(0).numpy() != volume.reference()[z]).mean()
            pairs.append((float(score(probs)), wrong))
    slow = spearmanr(*np.array(pairs).T).statistic
    assert error_correlation(score, Noisy(), volumes) == pytest.approx(slow)
