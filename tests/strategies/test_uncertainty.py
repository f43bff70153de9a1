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
    un.scaled_kl: 0.0,
    un.pairwise_kl: 0.0,
    un.variation_ratio: 0.0,
    un.class_variance: 0.0,
}


def some_probs(seed=0, dtype=torch.float64):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(M, B, C, H, W)) * 3)
    return logits.softmax(dim=2).to(dtype)


def plain_entropy(p):
    return -sum(v * math.log(v) for v in p if v > 0)


def plain_kl(p, q):
    least = float(np.finfo(np.float64).tiny)
    return sum(a * math.log(a / max(b, least)) for a, b in zip(p, q, strict=True) if a > 0)


def plain_dice(a, b):
    """Of two maps (H, W), by the definition alone."""
    below = float((a * a).sum() + (b * b).sum())
    return 1.0 if (a * a).sum() < 1 and (b * b).sum() < 1 else 2 * float((a * b).sum()) / below


def plain_scores(members):
    """One pixel: a list of M lists of C floats, by the definitions alone."""
    average = [sum(p[c] for p in members) / len(members) for c in range(C)]
    first, second = sorted(average, reverse=True)[:2]
    inner = sum(plain_entropy(p) for p in members) / len(members)
    divergence = sum(
        sum(a * math.log(a / b) for a, b in zip(p, average, strict=True) if a > 0) for p in members
    ) / len(members)
    votes = [max(range(C), key=lambda c, p=p: (p[c], -c)) for p in members]
    pairs = [(p, q) for p in members for q in members if p is not q]
    return {
        un.scaled_kl: divergence / math.log(len(members)),
        un.pairwise_kl: sum(plain_kl(p, q) for p, q in pairs) / len(pairs),
        un.variation_ratio: 1 - max(votes.count(c) for c in range(C)) / len(members),
        un.class_variance: sum(
            sum((p[c] - average[c]) ** 2 for p in members) / len(members) for c in range(C)
        ),
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


def test_the_divergence_of_a_committee_is_bald_under_another_name():
    assert un.committee_kl is un.bald
    members = [pixel.tolist() for pixel in some_probs()[:, 0, :, 2, 3]]
    average = np.mean(members, axis=0).tolist()
    divergence = np.mean([plain_kl(member, average) for member in members])
    assert un.committee_kl(some_probs())[0, 2, 3].item() == pytest.approx(divergence, abs=1e-12)


def test_a_lone_member_agrees_with_itself():
    alone = some_probs()[:1]
    for score in (un.bald, un.scaled_kl, un.pairwise_kl, un.variation_ratio, un.class_variance):
        assert score(alone).abs().max() < 1e-12
    for score in (un.dice_disagreement, un.dice_to_mean):
        assert score(alone).abs().max() < 1e-12


def test_classes_keep_their_own_variance():
    """Pooled with the members, a confident agreement would vary and an unsure one would not."""
    sure = torch.zeros(5, 1, 3, 1, 1)
    sure[:, :, 1] = 1
    unsure = torch.full((5, 1, 3, 1, 1), 1 / 3)
    split = torch.zeros(5, 1, 3, 1, 1)
    split[range(5), 0, [0, 0, 1, 1, 2]] = 1
    found = [un.class_variance(maps).item() for maps in (sure, unsure, split)]
    assert found == pytest.approx([0, 0, 0.64], abs=1e-6)


def test_two_opposite_members_disagree_as_much_as_two_can():
    opposite = torch.zeros(2, 1, 2, 1, 1)
    opposite[0, :, 0] = opposite[1, :, 1] = 1
    assert un.variation_ratio(opposite).item() == pytest.approx(0.5)
    assert un.scaled_kl(opposite).item() == pytest.approx(1)
    assert un.class_variance(opposite).item() == pytest.approx(0.5)
    assert un.pairwise_kl(opposite).isfinite().all()
    assert un.pairwise_kl(opposite).item() > 10
    assert un.dice_disagreement(opposite.repeat(1, 1, 1, 3, 3)).item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dice_scores_equal_their_definitions_and_equal_members_agree(dtype):
    probs = some_probs(dtype=dtype)
    average = probs.mean(0)
    for b in range(B):
        pairs = [
            plain_dice(probs[a, b, c], probs[o, b, c])
            for a in range(M)
            for o in range(a + 1, M)
            for c in range(1, C)
        ]
        to_mean = [plain_dice(probs[a, b, c], average[b, c]) for a in range(M) for c in range(1, C)]
        assert un.dice_disagreement(probs)[b].item() == pytest.approx(1 - np.mean(pairs), abs=1e-6)
        assert un.dice_to_mean(probs)[b].item() == pytest.approx(1 - np.mean(to_mean), abs=1e-6)
    same = probs[:1].expand(5, -1, -1, -1, -1)
    assert un.dice_disagreement(same).max() < 1e-6
    assert un.dice_to_mean(same).max() < 1e-6
    order = [2, 0, 1]
    torch.testing.assert_close(un.dice_disagreement(probs[order]), un.dice_disagreement(probs))


def test_what_no_member_sees_is_no_disagreement():
    """Two members' traces of a class in different corners: without a pixel, no opinion."""
    probs = torch.zeros(2, 1, 2, 8, 8)
    probs[0, 0, 1, 0, 0] = probs[1, 0, 1, 7, 7] = 1e-3
    probs[:, :, 0] = 1 - probs[:, :, 1]
    assert un.dice_disagreement(probs).item() == un.dice_to_mean(probs).item() == 0
    probs[0, 0, 1, :3, :3] = 1
    assert un.dice_disagreement(probs).item() > 0.99


def test_a_nan_is_not_hidden_by_the_dice_scores():
    probs = some_probs()
    probs[1, 0, 2, 3, 3] = torch.nan
    for score in (un.dice_disagreement, un.dice_to_mean):
        assert score(probs)[0].isnan()
        assert score(probs)[1].isfinite()


def test_reductions_equal_their_definitions():
    probs = some_probs()
    pixels = un.entropy(probs)
    average = probs.mean(dim=0)
    for b in range(B):
        flat = sorted(pixels[b].flatten().tolist())
        weight = [1 - v for v in average[b, 0].flatten().tolist()]
        weighted = sum(s * w for s, w in zip(pixels[b].flatten().tolist(), weight, strict=True))
        assert un.mean(pixels, probs)[b].item() == pytest.approx(sum(flat) / 30)
        assert un.itself(pixels, probs) is pixels
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
