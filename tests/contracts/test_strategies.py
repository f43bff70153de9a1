from __future__ import annotations

import inspect
import pkgutil
from dataclasses import dataclass, field
from importlib import import_module

import numpy as np
import pytest

import alnb.strategies
from alnb.errors import ColdStart
from alnb.records import Selection
from alnb.rng import torch_generator
from alnb.strategies import STRATEGIES, resolve
from alnb.strategies.alps import ALPS, CALR
from alnb.strategies.badge import BADGE
from alnb.strategies.claspe import ClaspPE
from alnb.strategies.common import candidates_for, unscored
from alnb.strategies.coregcn import CoreGCN
from alnb.strategies.coreset import CoreSet, coreset_pixels
from alnb.strategies.cost import CostAware
from alnb.strategies.foreground import ForegroundRandom
from alnb.strategies.kmeans_bald import KMeansBALD
from alnb.strategies.max_cover import SuggestiveAnnotation
from alnb.strategies.nath import EntropyMinusMI
from alnb.strategies.own import Own
from alnb.strategies.power import PowerX, SoftmaxX, SoftrankX
from alnb.strategies.probcover import ProbCover
from alnb.strategies.random_sampling import RandomSampling, StratifiedRandom
from alnb.strategies.stochastic_batches import StochasticBatches
from alnb.strategies.strided import Strided
from alnb.strategies.typiclust import TypiClust
from alnb.strategies.uncertainty import (
    TopScore,
    bald,
    expected_entropy,
    fg_mean,
    margin,
    topk_mean,
    total,
)
from alnb.strategies.usim import UsimLike
from alnb.strategies.vaal import VAAL
from alnb.strategies.wrappers import PerVolume, Subsample, WarmStart, WithControl
from alnb.testing import ContractBroken, check_strategy


def dimmest(snapshot):
    return -snapshot.features()[snapshot.candidates, 0]


DEFAULTS = [
    RandomSampling(),
    StratifiedRandom(),
    Strided(),
    ForegroundRandom(),
    CoreSet(),
    TopScore(),
    WarmStart(CoreSet(), TopScore()),
    PerVolume(CoreSet()),
    Subsample(TopScore()),
    WithControl(CoreSet()),
    PowerX(),
    SoftrankX(),
    SoftmaxX(),
    StochasticBatches(),
    ClaspPE(),
    SuggestiveAnnotation(),
    UsimLike(),
    CostAware(),
    TypiClust(),
    ProbCover(),
    BADGE(),
    KMeansBALD(),
    ALPS(),
    CALR(),
    CoreGCN(),
    VAAL(),
    EntropyMinusMI(),
    Own(dimmest),
]
OTHERS = [
    Strided(per_volume=3),
    ForegroundRandom(0),
    ForegroundRandom(1),
    CoreSet("random"),
    CoreSet(3),
    TopScore(bald, fg_mean),
    TopScore(margin, topk_mean),
    TopScore(expected_entropy, total),
    CoreGCN(steps=4, hidden=8),
    PerVolume(CoreGCN(steps=4, hidden=8)),
    PerVolume(TopScore(), cap=2),
    PerVolume(RandomSampling()),
    PerVolume(WarmStart(Strided(), TopScore()), cap=2),
    Subsample(CoreSet(), m=5),
    WithControl(PerVolume(TopScore()), share=0.5),
    PerVolume(WithControl(Strided(), share=0.5)),
    WithControl(Subsample(WarmStart(StratifiedRandom(), TopScore(bald)), m=6), share=1),
]


# these train a network in each of some hundred queries
LONG = (CoreGCN(), VAAL())


def test_an_adversary_of_a_small_size_keeps_the_contract():
    small = VAAL(size=16, channels=(4, 8), latent=4, width=16, epochs=1)
    check_strategy(small, seeds=[0], units=["slice"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("strategy", LONG, ids=["coregcn", "vaal"])
def test_what_trains_a_network_keeps_the_contract_with_default_arguments(strategy):
    check_strategy(strategy, seeds=[0])


@pytest.mark.parametrize("strategy", [s for s in DEFAULTS + OTHERS if s not in LONG], ids=repr)
def test_shipped_strategies_keep_the_contract(strategy):
    check_strategy(strategy)


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - {"coregcn", "vaal", "coreset_pixels"}))
def test_named_strategies_keep_the_contract_alone_and_with_one_slice_per_volume(name):
    check_strategy(resolve(name), seeds=[0])
    check_strategy(PerVolume(resolve(name)), seeds=[0])


def test_the_core_set_by_pixels_keeps_the_contract_at_a_small_size():
    assert resolve("coreset_pixels") == coreset_pixels(256)
    check_strategy(coreset_pixels(8), seeds=[0])
    check_strategy(PerVolume(coreset_pixels(8)), seeds=[0])


@pytest.mark.parametrize(("name", "cls"), [("coregcn", CoreGCN), ("vaal", VAAL)])
def test_what_trains_a_network_is_named_with_the_settings_that_are_checked(name, cls):
    assert resolve(name) == WarmStart(Strided(), cls())


def test_every_class_that_selects_is_checked_with_default_arguments():
    found = set()
    for module in pkgutil.iter_modules(alnb.strategies.__path__, "alnb.strategies."):
        for _, cls in inspect.getmembers(import_module(module.name), inspect.isclass):
            if cls.__module__ == module.name and hasattr(cls, "select"):
                found.add(cls)
    assert found == {type(strategy) for strategy in DEFAULTS}


# --- the contract catches what it is there for -------------------------------------------------


class Broken:
    """A sound strategy, for a bug to be planted in."""

    def __repr__(self):
        return type(self).__name__

    def select(self, snapshot, n, *, rng):
        rows = candidates_for(snapshot, n)
        order = np.argsort(-snapshot.features()[rows, 0])[:n]
        return Selection(rows=rows[order], scores=snapshot.features()[rows[order], 0])


class ReturnsPositions(Broken):
    def select(self, snapshot, n, *, rng):
        rows = candidates_for(snapshot, n)
        return unscored(np.argsort(snapshot.features()[rows, 0])[:n])


class RepeatsItself(Broken):
    def select(self, snapshot, n, *, rng):
        return unscored(rng.choice(candidates_for(snapshot, n), size=n))


class ReturnsTooFew(Broken):
    def select(self, snapshot, n, *, rng):
        rows = candidates_for(snapshot, n)
        return unscored(rng.permutation(rows[rows % 3 > 0])[:n])


class FailsOnTheWholePool(Broken):
    def select(self, snapshot, n, *, rng):
        if n == len(snapshot.candidates):
            raise IndexError("index out of range")
        return super().select(snapshot, n, rng=rng)


class ReturnsAList(Broken):
    def select(self, snapshot, n, *, rng):
        return super().select(snapshot, n, rng=rng).rows.tolist()


class ReturnsFloatRows(Broken):
    def select(self, snapshot, n, *, rng):
        rows = super().select(snapshot, n, rng=rng).rows.astype(float)
        return Selection(rows=rows, scores=rows)


class ReturnsAllScores(Broken):
    def select(self, snapshot, n, *, rng):
        rows = super().select(snapshot, n, rng=rng).rows
        return Selection(rows=rows, scores=snapshot.features()[:, 0])


class InventsAnOrigin(Broken):
    def select(self, snapshot, n, *, rng):
        chosen = super().select(snapshot, n, rng=rng)
        return Selection(rows=chosen.rows, scores=chosen.scores, origin=("model",) * n)


class SeedsItself(Broken):
    def select(self, snapshot, n, *, rng):
        rng = np.random.default_rng()
        return unscored(rng.permutation(candidates_for(snapshot, n))[:n])


@dataclass
class Remembers(Broken):
    calls: list = field(default_factory=list, repr=False)

    def select(self, snapshot, n, *, rng):
        self.calls.append(n)
        return unscored(np.roll(candidates_for(snapshot, n), len(self.calls))[:n])


class SeedsEverybody(Broken):
    def select(self, snapshot, n, *, rng):
        np.random.seed(0)  # noqa: NPY002
        rows = candidates_for(snapshot, n)
        return unscored(rows[np.random.permutation(len(rows))[:n]])  # noqa: NPY002


class SeedsTorch(Broken):
    def select(self, snapshot, n, *, rng):
        import torch

        torch.manual_seed(0)
        return super().select(snapshot, n, rng=rng)


class CentresInPlace(Broken):
    def select(self, snapshot, n, *, rng):
        features = snapshot.features()
        features -= features.mean(axis=0)
        return super().select(snapshot, n, rng=rng)


class ShufflesCandidates(Broken):
    def select(self, snapshot, n, *, rng):
        rows = candidates_for(snapshot, n)
        rng.shuffle(rows)
        return unscored(rows[:n].copy())


class StandardisesImages(Broken):
    def select(self, snapshot, n, *, rng):
        rows = candidates_for(snapshot, n)
        scores = [float(batch.div_(2).amax()) for batch in snapshot.images(rows)]
        order = np.argsort(-np.array(scores))[:n]
        return Selection(rows=rows[order], scores=np.array(scores)[order])


class TakesTheFirst(Broken):
    def select(self, snapshot, n, *, rng):
        return unscored(candidates_for(snapshot, n)[:n].copy())


class SortsRowsOnly(Broken):
    def select(self, snapshot, n, *, rng):
        chosen = super().select(snapshot, n, rng=rng)
        # Alphabetical, so that the items come in one order, but the scores stay where they were.
        names = [str(snapshot.pool.ids[row]) for row in chosen.rows]
        scores = snapshot.features()[np.sort(chosen.rows), 0]
        return Selection(rows=chosen.rows[np.argsort(names)], scores=scores)


class TurnsTheSign(Broken):
    def select(self, snapshot, n, *, rng):
        chosen = super().select(snapshot, n, rng=rng)
        return Selection(rows=chosen.rows, scores=-chosen.scores)


class NeverWarm(Broken):
    def select(self, snapshot, n, *, rng):
        raise ColdStart("not yet")


class CrashesWhenCold(Broken):
    def select(self, snapshot, n, *, rng):
        if not len(snapshot.labelled):
            raise ZeroDivisionError("mean of nothing")
        return super().select(snapshot, n, rng=rng)


class NeedsSlices(Broken):
    def select(self, snapshot, n, *, rng):
        if not hasattr(snapshot.pool.ids[0], "index"):
            raise AttributeError("no attribute 'index'")
        return super().select(snapshot, n, rng=rng)


class WithoutLabelled(Broken):
    """Drops labelled rows although the session offers them again."""

    def select(self, snapshot, n, *, rng):
        rows = np.setdiff1d(candidates_for(snapshot, n), snapshot.labelled)
        return unscored(rng.permutation(rows)[:n])


class Nameless(Broken):
    __repr__ = object.__repr__


PLANTED = {
    ReturnsPositions: r"rows are candidates: rows \[\d.*\] are not \(slice pool, n = 4",
    RepeatsItself: r"rows are distinct: row \d+ came \d+ times",
    ReturnsTooFew: r"as many rows as are asked for: \d+ came back \(slice pool, n = 17",
    FailsOnTheWholePool: r"answer, or raise ColdStart.*IndexError: index out of range .*n = 17",
    ReturnsAList: "return a Selection: it returned list",
    ReturnsFloatRows: "1-D array of integers: they have shape .* and type float64",
    ReturnsAllScores: r"one score per row: scores have shape \(22,\)",
    InventsAnOrigin: "one known word per row: it is .'model'",
    SeedsItself: "same state of rng gives the same answer: first",
    Remembers: "same state of rng gives the same answer: first",
    SeedsEverybody: "leave global random state alone: that of numpy changed",
    SeedsTorch: "leave global random state alone: that of torch changed",
    CentresInPlace: r"never write it: features\(\) was changed in place",
    ShufflesCandidates: "never write it: candidates was changed in place",
    StandardisesImages: r"never write it: images\(\) was changed in place",
    TakesTheFirst: "order of the pool does not matter: patient000",
    SortsRowsOnly: "each row keeps its own score: scores",
    TurnsTheSign: "a larger score means sooner: scores rise",
    NeverWarm: "once rows are labelled and a model is fitted: it raised ColdStart",
    CrashesWhenCold: "ZeroDivisionError: mean of nothing .*nothing labelled and no model",
    NeedsSlices: "AttributeError: no attribute 'index' .volume pool",
    WithoutLabelled: "as many rows as are asked for.*labelled rows stay candidates",
    Nameless: "memory addresses",
}


@pytest.mark.parametrize(
    ("cls", "message"), PLANTED.items(), ids=lambda v: getattr(v, "__name__", "")
)
def test_a_planted_bug_breaks_its_rule_and_no_other(cls, message):
    with pytest.raises(ContractBroken, match=message) as caught:
        check_strategy(cls())
    report = str(caught.value)
    assert report.count("\n- ") == 1, report


def test_the_sound_strategy_in_which_bugs_are_planted_keeps_the_contract():
    check_strategy(Broken())


def test_a_report_lists_every_broken_rule_once_with_a_way_out():
    class Hopeless(Broken):
        def select(self, snapshot, n, *, rng):
            snapshot.candidates[:] = 0
            return unscored(np.zeros(n, dtype=np.int64))

    with pytest.raises(AssertionError) as caught:
        check_strategy(Hopeless())
    lines = str(caught.value).splitlines()
    assert lines[0] == "Hopeless breaks 3 rules of the contract of a strategy:"
    assert [line.split(":")[0] for line in lines[1::2]] == [
        "- read the snapshot, never write it",
        "- rows are distinct",
        "- rows are candidates",
    ]
    assert all(line.startswith("  ") for line in lines[2::2])


def test_a_strategy_for_slices_alone_can_be_checked_on_slices():
    check_strategy(NeedsSlices(), units=["slice"])


def test_drawing_through_torch_from_the_given_rng_is_allowed():
    class DrawsWithTorch(Broken):
        def select(self, snapshot, n, *, rng):
            import torch

            rows = candidates_for(snapshot, n)
            order = torch.randperm(len(rows), generator=torch_generator(rng))
            return unscored(rows[order[:n].numpy()])

    check_strategy(DrawsWithTorch())
