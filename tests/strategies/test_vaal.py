from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alnb.errors import ColdStart
from alnb.rng import stream
from alnb.strategies import vaal
from alnb.strategies.strided import Strided
from alnb.strategies.vaal import VAAL, unlike_labelled
from alnb.strategies.wrappers import PerVolume, WarmStart, WithControl
from alnb.testing import check_strategy, toy_snapshot

TINY = VAAL(size=16, channels=(4, 8), latent=4, width=16, epochs=1, batch=32, device="cpu")
LEARNS = replace(TINY, rate=5e-3, epochs=10, batch=16, width=64, adversary=0.0)


def bars(count, upright, rng):
    """Images of an upright bar on black at a random place, or of a lying one on grey."""
    images = 0.1 * rng.random((count, 16, 16)) + 0.4 * (not upright)
    for image, at in zip(images, rng.integers(2, 12, size=count), strict=True):
        part = np.s_[:, at : at + 3] if upright else np.s_[at : at + 3]
        image[part] += 0.5
    return torch.from_numpy(images[:, None].astype(np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_a_kind_of_image_that_nobody_labelled_is_asked_for(seed):
    rng = np.random.default_rng(seed)
    images = torch.cat([bars(40, True, rng), bars(15, False, rng)])
    labelled = np.arange(55) < 20
    scores = unlike_labelled(images, labelled, LEARNS, rng=stream(seed))
    assert ((scores >= 0) & (scores <= 1)).all()
    first = 20 + np.argsort(-scores[20:])[:10]
    assert (first >= 40).mean() >= 0.8  # 15 of 35 by chance
    assert scores[:20].mean() < scores[40:].mean()


def test_nothing_is_told_apart_when_the_sets_are_alike():
    rng = np.random.default_rng(0)
    images, labelled = bars(60, True, rng), np.arange(60) % 2 == 0
    scores = unlike_labelled(images, labelled, replace(LEARNS, epochs=5), rng=stream(0))
    assert abs(scores[labelled].mean() - scores[~labelled].mean()) < 0.2


def test_either_reduction_of_the_kl_and_one_set_alone_give_probabilities():
    images = bars(12, True, np.random.default_rng(0))
    for kl in ("sum", "mean"):
        for known in (np.arange(12) < 5, np.ones(12, dtype=bool)):
            scores = unlike_labelled(images, known, replace(TINY, kl=kl), rng=stream(0))
            assert np.isfinite(scores).all()
            assert scores.shape == (12,)


def test_the_generator_decides_and_is_all_that_does():
    images, known = bars(10, True, np.random.default_rng(0)), np.arange(10) < 4
    before = torch.random.get_rng_state()
    same = [unlike_labelled(images, known, TINY, rng=stream(1)) for _ in range(2)]
    assert np.array_equal(*same)
    assert not np.array_equal(same[0], unlike_labelled(images, known, TINY, rng=stream(2)))
    assert torch.equal(before, torch.random.get_rng_state())


def test_rows_come_back_as_rows_however_the_pool_is_written_down():
    for unit in ("slice", "volume"):
        toy = toy_snapshot(unit=unit, depths=(3, 2, 4, 3, 2, 5))
        order = np.random.default_rng(1).permutation(len(toy.pool))
        n = len(toy.candidates)
        plain = TINY.select(toy, n, rng=stream(3))
        moved = TINY.select(toy.permuted(order), n, rng=stream(3))
        found = dict(zip(order[moved.rows].tolist(), moved.scores, strict=True))
        for row, score in zip(plain.rows.tolist(), plain.scores, strict=True):
            assert found[row] == pytest.approx(score, rel=1e-4)


def test_a_volume_has_the_mean_of_its_slices(monkeypatch):
    def planted(images, labelled, settings, *, rng):
        return images.float().mean((1, 2, 3)).double().numpy()

    monkeypatch.setattr(vaal, "unlike_labelled", planted)
    toy = toy_snapshot(unit="volume", depths=(3, 2, 4, 3, 2, 5))
    chosen = TINY.select(toy, len(toy.candidates), rng=stream(0))
    for row, score in zip(chosen.rows, chosen.scores, strict=True):
        own = vaal._framed(toy, np.array([row]), 16).float()
        assert score == pytest.approx(own.mean().item(), rel=1e-5)
    assert (np.diff(chosen.scores) <= 0).all()


def test_labelled_slices_are_what_the_discriminator_is_told(monkeypatch):
    told = {}

    def planted(images, labelled, settings, *, rng):
        told["labelled"] = labelled
        return np.zeros(len(images))

    monkeypatch.setattr(vaal, "unlike_labelled", planted)
    toy = toy_snapshot(unit="volume", depths=(3, 2, 4, 3, 2, 5))
    TINY.select(toy, 1, rng=stream(0))
    assert told["labelled"].sum() == sum(len(toy.pool.slices[row]) for row in toy.labelled)


def test_a_cap_per_volume_trains_once(monkeypatch):
    calls = []
    train = vaal.unlike_labelled
    monkeypatch.setattr(
        vaal, "unlike_labelled", lambda *args, **kw: calls.append(1) or train(*args, **kw)
    )
    toy = toy_snapshot()
    chosen = PerVolume(TINY).select(toy, 4, rng=stream(0))
    assert len(set(toy.pool.volume[chosen.rows])) == 4
    assert len(calls) == 1


def test_without_a_label_it_is_too_early():
    with pytest.raises(ColdStart, match="none is labelled"):
        TINY.select(toy_snapshot(labelled=0), 2, rng=stream(0))


@pytest.mark.parametrize(
    "strategy",
    [TINY, PerVolume(TINY), WithControl(WarmStart(Strided(), TINY), share=0.5)],
    ids=["alone", "capped", "nested"],
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])


def test_the_default_and_the_published_size_answer():
    VAAL(device="cpu").select(toy_snapshot(), 3, rng=stream(0))
    paper = VAAL.paper()
    assert (paper.size, paper.channels, paper.latent) == (256, (64, 128, 256, 512, 1024), 32)
    encoder, decoder = vaal._autoencoder(paper, torch.Generator(), torch.device("cpu"))
    assert decoder(encoder.eval()(torch.zeros(1, 1, 256, 256))[:, :32]).shape[2:] == (256, 256)


@pytest.mark.parametrize(
    "wrong", [{"size": 100}, {"size": 16}, {"epochs": 0}, {"batch": 0}, {"kl": "max"}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"(?i){next(iter(wrong))}"):
        VAAL(**wrong)
