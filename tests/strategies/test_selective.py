from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from alnb.rng import stream
from alnb.strategies.power import PowerX
from alnb.strategies.selective import Selective, selected_pixels
from alnb.strategies.streaming import Running
from alnb.strategies.uncertainty import TopScore, bald, entropy, mean
from alnb.testing import check_strategy
from alnb.testing.toy import toy_snapshot


def some_probs(seed=0, members=3, slices=4, classes=3):
    shape = (members, slices, classes, 6, 5)
    logits = torch.from_numpy(stream(seed).normal(size=shape)) * 2
    return logits.softmax(dim=2)


def test_pixels_are_chosen_by_target_and_boundary_alone():
    probs = some_probs()
    target, centre, width = 0.6, 0.4, 0.05
    got = selected_pixels(probs, target, centre, width)
    for b, h, w in np.ndindex(*got.shape):
        q = max(
            sum(probs[m, b, c, h, w].item() for m in range(3)) / 3 for c in range(1, probs.shape[2])
        )
        assert got[b, h, w].item() == (q > target or abs(q - centre) < width)
    assert 0 < got.double().mean() < 1


def test_the_score_is_the_mean_over_the_chosen_pixels():
    probs = some_probs()
    pixels = entropy(probs)
    rule = Selective(0.7, 0.5, 0.05)
    keep = selected_pixels(probs, 0.7, 0.5, 0.05)
    got = rule(pixels, probs)
    for b in range(4):
        assert got[b].item() == pytest.approx(pixels[b][keep[b]].mean().item())


def test_what_lies_outside_does_not_count_and_everything_inside_is_the_plain_mean():
    probs = some_probs()
    pixels = entropy(probs)
    keep = selected_pixels(probs, 0.5, 0.5, 0.1)
    noisy = torch.where(keep, pixels, pixels + 100)
    torch.testing.assert_close(Selective()(noisy, probs), Selective()(pixels, probs))
    torch.testing.assert_close(Selective(target=0, width=1)(pixels, probs), mean(pixels, probs))


def test_a_slice_of_certain_background_scores_zero():
    probs = torch.zeros(2, 1, 3, 4, 4)
    probs[:, :, 0] = 1
    assert Selective()(entropy(probs), probs).item() == 0


def test_a_small_lesion_is_not_watered_down_by_background():
    unsure, sure = torch.tensor([0.4, 0.6]), torch.tensor([1.0, 0.0])
    small, large = (sure.view(1, 1, 2, 1, 1).repeat(1, 1, 1, 8, 8) for _ in range(2))
    small[..., :1, :1] = unsure.view(1, 1, 2, 1, 1)
    large[..., :4, :4] = unsure.view(1, 1, 2, 1, 1)
    both = torch.cat([small, large], dim=1)
    scores = Selective()(entropy(both), both)
    assert scores[0].item() == pytest.approx(scores[1].item())
    plain = mean(entropy(both), both)
    assert plain[1].item() == pytest.approx(16 * plain[0].item())


def test_a_broken_model_is_not_hidden():
    probs = some_probs()
    pixels = entropy(probs)
    pixels[1, 0, 0] = torch.nan
    assert Selective()(pixels, probs)[1].isnan()


def test_members_one_at_a_time_give_the_same_scores():
    score = TopScore(bald, Selective()).per_slice
    streamed = score(Running.over(some_probs().log(), score.needs))
    torch.testing.assert_close(streamed, score(some_probs()))


def test_half_precision_is_lifted():
    probs = some_probs().to(torch.bfloat16)
    assert torch.equal(
        selected_pixels(probs, 0.5, 0.5, 0.1), selected_pixels(probs.float(), 0.5, 0.5, 0.1)
    )


def test_it_names_itself_pickles_and_refuses_what_is_out_of_range():
    strategy = TopScore(bald, Selective(width=0.2))
    assert "0x" not in repr(strategy)
    assert "Selective(target=0.5, centre=0.5, width=0.2)" in repr(strategy)
    assert pickle.loads(pickle.dumps(strategy)) == strategy
    for wrong in ({"target": 1.2}, {"centre": -0.1}, {"width": -1}):
        with pytest.raises(ValueError, match="out of range"):
            Selective(**wrong)


@pytest.mark.parametrize(
    "strategy", [TopScore(entropy, Selective()), PowerX(TopScore(bald, Selective()))], ids=repr
)
def test_the_contract_is_kept(strategy):
    check_strategy(strategy, seeds=[0])


def test_scores_of_a_pool_are_those_of_its_slices():
    toy = toy_snapshot()
    chosen = TopScore(entropy, Selective()).select(toy, 3, rng=stream(0))
    for row, score in zip(chosen.rows, chosen.scores, strict=True):
        probs = torch.from_numpy(toy.probabilities[row])
        assert Selective()(entropy(probs), probs).item() == pytest.approx(score, rel=1e-5)
