from __future__ import annotations

import math
import pickle
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from alnb.errors import BadSelection, ColdStart
from alnb.rng import stream
from alnb.strategies import uncertainty as un
from alnb.strategies.uncertainty import TopScore
from alnb.testing.toy import toy_snapshot

M, B, C, H, W = 3, 2, 4, 5, 6
SCORES = {
    un.entropy: math.log(C),
    un.expected_entropy: math.log(C),
    un.bald: 0.0,
    un.margin: 1.0,
    un.least_confidence: 1 - 1 / C,
}


def some_probs(seed=0, dtype=torch.float64):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(M, B, C, H, W)) * 3)
    return logits.softmax(dim=2).to(dtype)


def plain_entropy(p):
    return -sum(v * math.log(v) for v in p if v > 0)


def plain_scores(members):
    """One pixel: a list of M lists of C floats, by the definitions alone."""
    average = [sum(p[c] for p in members) / len(members) for c in range(C)]
    first, second = sorted(average, reverse=True)[:2]
    inner = sum(plain_entropy(p) for p in members) / len(members)
    divergence = sum(
        sum(a * math.log(a / b) for a, b in zip(p, average, strict=True) if a > 0) for p in members
    ) / len(members)
    return {
        un.entropy: plain_entropy(average),
        un.expected_entropy: inner,
        un.bald: divergence,  # the same number by another road: mean KL from the mean
        un.margin: 1 - (first - second),
        un.least_confidence: 1 - first,
    }


@pytest.mark.parametrize("score", SCORES, ids=lambda f: f.__name__)
def test_a_score_equals_its_definition_pixel_by_pixel(score):
    probs = some_probs()
    probs[0, 0, :, 0, 0] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # 0 log 0 is 0
    probs[:, 1, :, 1, 1] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    got = score(probs)
    assert got.shape == (B, H, W)
    for b, h, w in np.ndindex(B, H, W):
        expected = plain_scores(probs[:, b, :, h, w].tolist())[score]
        assert got[b, h, w].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("score", "at_uniform"), SCORES.items(), ids=lambda v: str(v)[:20])
def test_uniform_probabilities_give_the_known_value_and_certainty_gives_zero(score, at_uniform):
    uniform = torch.full((M, 1, C, 2, 2), 1 / C)
    assert score(uniform).numpy() == pytest.approx(at_uniform, abs=1e-6)
    certain = torch.zeros(M, 1, C, 2, 2)
    certain[:, :, 2] = 1
    assert (score(certain) == 0).all()


def test_bald_is_zero_for_equal_members_and_ln_2_for_opposite_ones():
    same = some_probs()[:1].expand(M, -1, -1, -1, -1)
    assert un.bald(same).max() < 1e-12
    opposite = torch.zeros(2, 1, 2, 1, 1)
    opposite[0, :, 0] = 1
    opposite[1, :, 1] = 1
    assert un.bald(opposite).item() == pytest.approx(math.log(2))
    assert un.bald(some_probs(dtype=torch.float32)).min() >= 0


@pytest.mark.parametrize("score", SCORES, ids=lambda f: f.__name__)
def test_the_order_of_members_does_not_matter(score):
    probs = some_probs()
    for order in permutations(range(M)):
        torch.testing.assert_close(score(probs[list(order)]), score(probs))


@pytest.mark.parametrize("score", SCORES, ids=lambda f: f.__name__)
def test_half_precision_is_lifted_and_volumes_are_welcome(score):
    coarse = some_probs().to(torch.bfloat16)
    assert score(coarse).dtype == torch.float32
    torch.testing.assert_close(score(coarse), score(coarse.float()))
    volume = some_probs()[..., None].repeat(1, 1, 1, 1, 1, 2)
    torch.testing.assert_close(score(volume)[..., 0], score(some_probs()))


@pytest.mark.parametrize("score", SCORES, ids=lambda f: f.__name__)
def test_scores_leave_the_probabilities_alone_and_do_not_hide_nan(score):
    probs = some_probs()
    before = probs.clone()
    score(probs)
    assert torch.equal(probs, before)
    probs[1, 0, 2, 3, 3] = torch.nan
    assert score(probs)[0, 3, 3].isnan()


def test_reductions_equal_their_definitions():
    probs = some_probs()
    pixels = un.entropy(probs)
    average = probs.mean(dim=0)
    for b in range(B):
        flat = sorted(pixels[b].flatten().tolist())
        weight = [1 - v for v in average[b, 0].flatten().tolist()]
        weighted = sum(s * w for s, w in zip(pixels[b].flatten().tolist(), weight, strict=True))
        assert un.mean(pixels, probs)[b].item() == pytest.approx(sum(flat) / 30)
        assert un.total(pixels, probs)[b].item() == pytest.approx(sum(flat))
        assert un.fg_mean(pixels, probs)[b].item() == pytest.approx(weighted / sum(weight))
        # 5 % of 30 pixels is 1.5, which rounds to 2
        assert un.topk_mean(pixels, probs)[b].item() == pytest.approx(sum(flat[-2:]) / 2)


def test_a_slice_of_background_has_no_foreground_uncertainty():
    probs = torch.zeros(1, 1, C, 2, 2)
    probs[:, :, 0] = 1
    assert un.fg_mean(un.entropy(probs), probs).item() == 0


def test_the_mean_is_size_neutral_and_the_total_is_not():
    small = some_probs()
    large = small.repeat(1, 1, 1, 2, 2)
    pixels = un.entropy(small), un.entropy(large)
    torch.testing.assert_close(un.mean(pixels[1], large), un.mean(pixels[0], small))
    torch.testing.assert_close(un.total(pixels[1], large), 4 * un.total(pixels[0], small))


@pytest.mark.parametrize("unit", ["slice", "volume"])
def test_top_score_takes_the_largest_in_order(unit):
    toy = toy_snapshot(unit=unit, depths=(6, 4, 7, 5, 3, 3), labelled=1, skipped=1)
    slow = {}
    for row in toy.candidates.tolist():
        values = [
            plain_entropy(toy.probabilities[row][:, z, :, h, w].mean(axis=0).tolist())
            for z in range(toy.probabilities[row].shape[1])
            for h, w in np.ndindex(8, 8)
        ]
        slow[row] = sum(values) / len(values)
    best = sorted(slow, key=slow.get, reverse=True)
    chosen = TopScore().select(toy, 4, rng=stream(0))
    assert chosen.rows.tolist() == best[:4]
    np.testing.assert_allclose(chosen.scores, [slow[row] for row in best[:4]], rtol=1e-5)


def test_ties_are_broken_by_chance_and_evenly():
    toy = toy_snapshot()
    same = tuple(np.full_like(maps, 1 / 3) for maps in toy.probabilities)
    toy = replace(toy, probabilities=same)
    k, draws, rng = len(toy.candidates), 1500, stream(0)
    picks = [TopScore().select(toy, 1, rng=rng).rows[0] for _ in range(draws)]
    seen = np.bincount(picks, minlength=len(toy.pool))[toy.candidates] / draws
    assert np.abs(seen - 1 / k).max() < 4 * np.sqrt(1 / k / draws)


def test_top_score_names_itself_and_pickles():
    strategy = TopScore(un.bald, un.topk_mean)
    assert repr(strategy) == "TopScore(bald, topk_mean)"
    assert pickle.loads(pickle.dumps(strategy)) == strategy


def test_no_model_is_a_cold_start_and_a_broken_model_is_named():
    with pytest.raises(ColdStart):
        TopScore().select(toy_snapshot(fitted=False), 2, rng=stream(0))
    toy = toy_snapshot()
    row = int(toy.candidates[3])
    toy.probabilities[row][0, 0, 1, 2, 2] = np.nan
    with pytest.raises(BadSelection, match=rf"1 of {len(toy.candidates)}.*{toy.pool.ids[row]}"):
        TopScore().select(toy, 2, rng=stream(0))
