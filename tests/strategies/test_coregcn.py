from __future__ import annotations

import numpy as np
import pytest
import torch

from alnb.errors import ColdStart
from alnb.rng import stream, torch_generator
from alnb.strategies import coregcn
from alnb.strategies.coregcn import CoreGCN, Similarity, graph_features
from alnb.strategies.coreset import k_center
from alnb.strategies.strided import Strided
from alnb.strategies.wrappers import PerVolume, WarmStart, WithControl
from alnb.testing import check_strategy, toy_snapshot

FEW = {"steps": 4, "hidden": 8, "device": "cpu"}


def explicit(features, floor=1.0):
    """The N x N matrix, entry by entry."""
    x = [row / (np.linalg.norm(row) or 1.0) for row in features]
    n = len(x)
    s = np.array([[x[i] @ x[j] if i != j else 0.0 for j in range(n)] for i in range(n)])
    return s / np.maximum(s.sum(axis=0), floor) + np.eye(n)


@pytest.mark.parametrize("shift", [2.0, 0.0])
def test_the_factored_graph_equals_the_matrix_written_out(shift):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(15, 6)) + shift
    features[4] = 0
    features[9] = features[10]
    h = rng.normal(size=(15, 3))
    found = Similarity.of(torch.from_numpy(features)) @ torch.from_numpy(h)
    np.testing.assert_allclose(found, explicit(features) @ h, atol=1e-12)


def test_cosines_that_cancel_make_no_node_outweigh_the_others():
    rng = np.random.default_rng(1)
    half = rng.normal(size=(10, 4))
    features = np.concatenate([half, -half])
    found = Similarity.of(torch.from_numpy(features)) @ torch.eye(20, dtype=torch.float64)
    assert found.abs().max() <= 1 + 1e-9


def test_training_equals_that_with_the_matrix_written_out():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(25, 5)) + 1
    labelled = np.arange(25) % 4 == 0
    found = graph_features(
        features, labelled, rng=stream(0), hidden=6, dropout=0.0, steps=30, rate=0.03, device="cpu"
    )
    generator = torch_generator(stream(0))
    bound = 6**-0.5
    first, bias, second, last = (
        (bound * (2 * torch.rand(shape, generator=generator) - 1)).double().requires_grad_()
        for shape, bound in (((5, 6), bound), ((6,), bound), ((6, 1), 1.0), ((1,), 1.0))
    )
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    x, a = torch.from_numpy(unit), torch.from_numpy(explicit(features))
    optimiser = torch.optim.Adam([first, bias, second, last], lr=0.03, weight_decay=5e-4)
    losses = []
    for _ in range(30):
        s = torch.sigmoid(a @ (a @ x @ first + bias).relu() @ second + last)[:, 0]
        loss = -s[labelled].log().mean() - 1.2 * (1 - s[~labelled]).log().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    expected = (a @ x @ first + bias).relu().detach()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert losses[-1] < losses[0]


def test_dropout_and_the_start_are_chance():
    features = np.random.default_rng(0).normal(size=(12, 3)) + 1
    known = np.arange(12) < 3

    def trained(seed, dropout):
        return graph_features(
            features, known, rng=stream(seed), steps=3, dropout=dropout, device="cpu"
        )

    assert np.array_equal(trained(0, 0.5), trained(0, 0.5))
    assert not np.array_equal(trained(0, 0.5), trained(0, 0.0))
    assert not np.array_equal(trained(0, 0.5), trained(1, 0.5))


def test_it_asks_where_nothing_is_labelled():
    toy = toy_snapshot(depths=(10,) * 4)
    rng = np.random.default_rng(3)
    learned = 5 * np.eye(4)[toy.pool.volume] + 0.1 * rng.normal(size=(40, 4))

    class Given(type(toy)):
        def learned(self, rows):
            return learned[rows]

    fields = {name: getattr(toy, name) for name in toy.__dataclass_fields__}
    fields |= {"labelled": np.arange(0, 5), "candidates": np.arange(5, 40)}
    chosen = CoreGCN(device="cpu").select(Given(**fields), 3, rng=stream(0))
    assert sorted(toy.pool.volume[chosen.rows]) == [1, 2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_rows_come_back_as_rows_however_the_pool_is_written_down(seed):
    toy = toy_snapshot(seed)
    order = np.random.default_rng(seed).permutation(len(toy.pool))
    plain = CoreGCN(**FEW).select(toy, 8, rng=stream(seed))
    moved = CoreGCN(**FEW).select(toy.permuted(order), 8, rng=stream(seed))
    assert order[moved.rows].tolist() == plain.rows.tolist()
    np.testing.assert_allclose(moved.scores, plain.scores, rtol=1e-3)


def test_hidden_features_belong_to_the_rows_that_are_then_chosen(monkeypatch):
    """With one feature per row that only this row has, a shuffled mapping would show."""
    seen = {}

    def planted(learned, labelled, **_):
        seen["labelled"] = labelled
        return learned[:, :1] * 1000

    toy = toy_snapshot()
    monkeypatch.setattr(coregcn, "graph_features", planted)
    chosen = CoreGCN(hidden=1).select(toy, 4, rng=stream(0))
    hidden = toy.learned(np.arange(len(toy.pool)))[:, :1] * 1000
    expected = k_center(
        hidden.astype(np.float32), centres=toy.labelled, candidates=toy.candidates, n=4
    )
    assert chosen.rows.tolist() == expected.rows.tolist()
    assert seen["labelled"].sum() == len(toy.labelled)


def test_it_needs_a_model_and_a_label():
    with pytest.raises(ColdStart):
        CoreGCN(**FEW).select(toy_snapshot(fitted=False), 3, rng=stream(0))
    with pytest.raises(ColdStart, match="none is labelled"):
        CoreGCN(**FEW).select(toy_snapshot(labelled=0), 3, rng=stream(0))


def test_a_pool_in_which_all_is_labelled_still_gives_finite_features():
    features = np.random.default_rng(0).normal(size=(6, 3))
    found = graph_features(features, np.ones(6, dtype=bool), rng=stream(0), steps=5, device="cpu")
    assert np.isfinite(found).all()


def test_a_cap_per_volume_trains_once(monkeypatch):
    calls = []
    train = coregcn.graph_features
    monkeypatch.setattr(
        coregcn, "graph_features", lambda *args, **kw: calls.append(1) or train(*args, **kw)
    )
    toy = toy_snapshot()
    chosen = PerVolume(CoreGCN(**FEW)).select(toy, 4, rng=stream(0))
    assert len(set(toy.pool.volume[chosen.rows])) == 4
    assert len(calls) == 1


@pytest.mark.parametrize(
    "strategy",
    [
        CoreGCN(**FEW),
        PerVolume(CoreGCN(**FEW)),
        WithControl(WarmStart(Strided(), CoreGCN(**FEW)), share=0.5),
    ],
    ids=repr,
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"steps": -1}, {"dropout": 1.0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CoreGCN(**wrong)
