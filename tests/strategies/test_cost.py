from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from alnb.errors import BadInput, BadSelection, ColdStart
from alnb.records import Selection
from alnb.rng import stream
from alnb.strategies.cost import ByArea, ByStructures, Constant, CostAware, structures
from alnb.strategies.random_sampling import RandomSampling
from alnb.strategies.streaming import Running, needs_of
from alnb.strategies.strided import Strided
from alnb.strategies.uncertainty import TopScore, bald
from alnb.strategies.wrappers import PerVolume, WarmStart
from alnb.testing import check_strategy
from alnb.testing.toy import toy_snapshot


@dataclass(frozen=True)
class Given:
    values: tuple[float, ...]

    def select(self, snapshot, n, *, rng):
        rows = rng.permutation(snapshot.candidates)[:n]
        return Selection(rows=rows, scores=np.array(self.values)[rows])


def by_row(snapshot, rows):
    return 1.0 + rows


def tiny(values):
    toy = toy_snapshot(depths=(len(values),), labelled=0, skipped=0)
    return toy, Given(tuple(float(v) for v in values))


def test_score_per_second_decides():
    toy, base = tiny([3, 4, 10, 4])  # 3/1, 4/2, 10/3, 4/4
    chosen = CostAware(base, by_row).select(toy, 4, rng=stream(0))
    assert chosen.rows.tolist() == [2, 0, 1, 3]
    np.testing.assert_allclose(chosen.scores, [10 / 3, 3, 2, 1])


def test_equal_costs_change_nothing_but_the_scale():
    toy = toy_snapshot()
    n = len(toy.candidates)
    plain = TopScore().select(toy, n, rng=stream(0))
    for seconds in (1.0, 90.0):
        chosen = CostAware(cost=Constant(seconds)).select(toy, n, rng=stream(1))
        assert chosen.rows.tolist() == plain.rows.tolist()
        np.testing.assert_allclose(chosen.scores, plain.scores / seconds)


def test_only_the_proportions_of_a_cost_matter():
    toy = toy_snapshot(classes=5)
    one = CostAware(cost=ByStructures(10, 15)).select(toy, 9, rng=stream(0))
    ten = CostAware(cost=ByStructures(100, 150)).select(toy, 9, rng=stream(0))
    assert one.rows.tolist() == ten.rows.tolist()


def test_ties_are_broken_by_chance():
    toy, base = tiny([1, 2, 3, 4])
    rng = stream(0)
    firsts = [CostAware(base, by_row).select(toy, 1, rng=rng).rows[0] for _ in range(800)]
    assert np.abs(np.bincount(firsts, minlength=4) - 200).max() < 4 * np.sqrt(150)


@pytest.mark.parametrize("unit", ["slice", "volume"])
def test_a_volume_costs_what_its_slices_cost(unit):
    toy = toy_snapshot(unit=unit, depths=(3, 2) * 6, classes=4)
    rows = toy.candidates[::-1]
    depth = np.array([len(toy.pool.slices[row]) for row in rows])
    np.testing.assert_allclose(Constant(7)(toy, rows), 7 * depth)
    np.testing.assert_allclose(ByArea(2, 1e6)(toy, rows), depth * (2 + 64))
    expected = []
    for row in rows:
        labels = toy.probabilities[row].mean(axis=0).argmax(axis=1)
        expected.append(sum(5 + 3 * len(set(np.unique(z)) - {0}) for z in labels))
    np.testing.assert_allclose(ByStructures(5, 3)(toy, rows), expected)


def test_area_is_that_of_each_rows_own_images():
    toy = toy_snapshot(depths=(4,), labelled=0, skipped=0)
    sizes = [(2, 3), (10, 10), (5, 5), (8, 2)]
    toy = replace(toy, pixels=tuple(np.zeros((1, *s), dtype=np.float32) for s in sizes))
    rows = np.array([3, 1, 0, 2])
    np.testing.assert_allclose(ByArea(0, 1e6)(toy, rows), [16, 100, 6, 25])


def test_structures_are_the_predicted_foreground_classes():
    probs = torch.zeros(2, 3, 4, 5, 5)
    probs[:, :, 0] = 0.6
    probs[:, 1, 2, 0, 0] = 0.9
    probs[:, 2, 1:, 1, 1] = torch.tensor([0.9, 0.1, 0.1])
    probs[:, 2, 3, 4, 4] = 0.7
    assert structures(probs).tolist() == [0, 1, 2]
    streamed = Running.over((probs + 1e-30).log(), needs_of(structures))
    assert structures(streamed).tolist() == [0, 1, 2]
    # One member's opinion is not that of the mean.
    probs[0, 0, 1, 2, 2] = 0.7
    assert structures(probs).tolist() == [0, 1, 2]


def test_the_reference_is_never_looked_at():
    toy = replace(toy_snapshot(), holds=None)  # presence would raise
    assert len(CostAware().select(toy, 4, rng=stream(0)).rows) == 4


def test_fitted_seconds_recover_the_annotator():
    rng = stream(0)
    found = rng.integers(0, 5, size=40)
    cost = ByStructures.fitted(found, 12 + 20 * found)
    assert (cost.each, cost.per_structure) == (pytest.approx(12), pytest.approx(20))
    noisy = ByStructures.fitted(found, 12 + 20 * found + rng.normal(size=40))
    residual = (noisy.each + noisy.per_structure * found) - (12 + 20 * found)
    assert np.abs(residual).max() < 2
    # Faster with more structures is chance: it must not make them pay.
    odd = ByStructures.fitted(np.array([0, 1, 2]), np.array([30.0, 20.0, 10.0]))
    assert odd.per_structure == 0
    assert odd.each == pytest.approx(20)
    # Time that is all in the structures would make an empty slice free.
    assert ByStructures.fitted(np.array([1, 2, 3]), np.array([10.0, 20.0, 30.0])).each > 0
    for seconds in ([5.0], [5.0, 0.0, 3.0], [1.0, 2.0]):
        with pytest.raises(BadInput, match="a fit needs"):
            ByStructures.fitted(np.array([1, 2, 3]), np.array(seconds))


def test_costs_and_scores_that_cannot_be_divided_are_refused():
    toy, base = tiny([3, 4, 10, 4])
    for wrong in (
        lambda snapshot, rows: np.zeros(len(rows)),
        lambda snapshot, rows: np.full(len(rows), np.nan),
        lambda snapshot, rows: np.ones(len(rows) - 1),
    ):
        with pytest.raises(BadSelection, match="a number of seconds above 0 for each of 4 rows"):
            CostAware(base, wrong).select(toy, 2, rng=stream(0))
    _, negative = tiny([1, -2, 3, 4])
    with pytest.raises(BadSelection, match=r"A score is -2, but divided by seconds"):
        CostAware(negative, Constant()).select(toy, 2, rng=stream(0))
    with pytest.raises(BadSelection, match="no finite score"):
        CostAware(RandomSampling(), Constant()).select(toy, 2, rng=stream(0))
    with pytest.raises(ColdStart):
        CostAware().select(toy_snapshot(fitted=False), 2, rng=stream(0))
    for cost in (
        lambda: Constant(0),
        lambda: ByArea(-1, 2),
        lambda: ByArea(0, 0),
        lambda: ByStructures(0, 3),
        lambda: ByStructures(1, -3),
    ):
        with pytest.raises(ValueError, match="is no cost"):
            cost()


def test_it_names_its_cost_without_an_address():
    assert repr(CostAware(cost=by_row)) == "CostAware(TopScore(entropy, mean), by_row)"
    assert repr(CostAware()).endswith("ByStructures(each=10.0, per_structure=15.0))")


@pytest.mark.parametrize(
    "strategy",
    [
        CostAware(),
        CostAware(TopScore(bald), ByArea()),
        CostAware(cost=Constant()),
        PerVolume(CostAware()),
        WarmStart(Strided(), CostAware()),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])
