import copy
import math
import pickle
from itertools import pairwise
from typing import get_args

import pytest
import torch

from alnb.losses.log_dice import EPSILON, FLOOR, Likelihood, MinusLog, log_likelihood
from alnb.losses.weak import partial_dice
from alnb.records import IGNORE

READINGS = get_args(Likelihood)


def some(classes=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 5, 4, generator=generator).to(dtype)
    target = torch.randint(classes, (2, 5, 4), generator=generator).to(torch.uint8)
    target[0, :2] = IGNORE
    return logits, target


def sure(target, classes=3, by=60.0):
    drawn = target != IGNORE
    labels = torch.where(drawn, target, 0).long()
    return torch.nn.functional.one_hot(labels, classes).movedim(3, 1).float() * by


@pytest.mark.parametrize("reading", READINGS)
def test_the_reference_itself_is_the_most_likely(reading):
    _, target = some()
    best = float(log_likelihood(sure(target), target, reading))
    limit = -math.log(EPSILON) if reading == "neg_log_dice_loss" else 0.0
    assert best == pytest.approx(limit, abs=0.02)
    for seed in range(5):
        other = some(seed=seed)[0]
        assert float(log_likelihood(sure(target) + other * 20, target, reading)) <= best
        assert float(log_likelihood(other, target, reading)) < best


@pytest.mark.parametrize("reading", READINGS)
def test_gradients_are_those_of_finite_differences(reading, monkeypatch):
    # the loss works in float32; its arithmetic is checked where differences can be trusted
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self.double())
    logits, target = some(dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_likelihood(x, target, reading), (logits,))


@pytest.mark.parametrize("reading", READINGS)
def test_what_nobody_drew_is_not_heard(reading):
    logits, target = some()
    other = logits.clone()
    other[0, :, :2] = torch.tensor([math.nan, math.inf, -5.0])[:, None, None]
    a, b = logits.requires_grad_(), other.requires_grad_()
    first, second = log_likelihood(a, target, reading), log_likelihood(b, target, reading)
    assert torch.equal(first, second)
    first.backward()
    second.backward()
    assert torch.equal(a.grad, b.grad)
    assert not a.grad[0, :, :2].any()
    assert a.grad[0, :, 2:].any()


@pytest.mark.parametrize("reading", READINGS)
def test_where_nothing_is_drawn_nothing_is_learnt(reading):
    logits, target = some()
    value = log_likelihood(logits.requires_grad_(), torch.full_like(target, IGNORE), reading)
    value.backward()
    assert math.isfinite(value.item())
    assert not logits.grad.any()


@pytest.mark.parametrize("reading", READINGS)
def test_values_and_slopes_are_finite_from_all_wrong_to_all_right(reading):
    # one class that is never there, predicted everywhere, has next to no Dice
    target = torch.zeros(1, 64, 64, dtype=torch.uint8)
    target[0, 0, 0] = 1
    for logits in (sure(1 - target, 2), sure(target, 2), sure(target, 2, 1e4), sure(1 - target, 2)):
        value = log_likelihood(logits.requires_grad_(), target, reading)
        value.backward()
        assert math.isfinite(value.item())
        assert logits.grad.isfinite().all()


def test_a_vanishing_dice_keeps_a_slope_that_leads_out(monkeypatch):
    dice = torch.tensor([0.0, FLOOR / 2, FLOOR, 2 * FLOOR, 0.5, 1.0], requires_grad=True)
    found = []
    for value in dice:
        monkeypatch.setattr("alnb.losses.log_dice.partial_dice", lambda *_, v=value: 1 - v)
        found.append(log_likelihood(None, None, "log_dice"))
    slopes = torch.autograd.grad(sum(found), dice)[0]
    assert torch.allclose(slopes, 1 / dice.detach().clamp(min=FLOOR), rtol=1e-3)
    assert [float(v) for v in found[2:]] == pytest.approx(dice[2:].log().tolist(), abs=1e-4)
    assert all(a < b for a, b in pairwise(found))


def test_the_readings_are_what_they_say():
    logits, target = some()
    dice_loss = float(partial_dice(logits, target))
    p = logits.softmax(1)
    drawn = target != IGNORE
    picked = p.gather(1, torch.where(drawn, target, 0).long()[:, None])[:, 0][drawn]
    entropy = float(-picked.log().mean())
    expected = {
        "neg_log_dice_loss": -math.log(dice_loss + 1e-4),
        "log_dice": math.log(1 - dice_loss),
        "ce": -entropy,
        "dice_ce": -dice_loss - entropy,
    }
    for reading, value in expected.items():
        assert float(log_likelihood(logits, target, reading, epsilon=1e-4)) == pytest.approx(
            value, abs=1e-5
        )


def test_the_literal_reading_steepens_up_to_its_guard():
    _, target = some()
    logits = sure(target, by=12.0).requires_grad_()
    (slope,) = torch.autograd.grad(log_likelihood(logits, target), logits)
    (plain,) = torch.autograd.grad(-partial_dice(logits, target), logits)
    loss = float(partial_dice(logits, target))
    assert torch.allclose(slope, plain / (loss + EPSILON), rtol=1e-4)


def test_a_loss_is_minus_its_likelihood_and_can_be_copied_and_stored():
    logits, target = some()
    for reading in READINGS:
        loss = MinusLog(reading)
        assert float(loss(logits, target)) == -float(log_likelihood(logits, target, reading))
        assert copy.deepcopy(loss) == loss == pickle.loads(pickle.dumps(loss))
        assert repr(loss) == repr(MinusLog(reading))


def test_an_unknown_likelihood_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match=r"'dice' is not known.*'log_dice'"):
        log_likelihood(*some(), "dice")
    with pytest.raises(ValueError, match="'dice' is not known"):
        MinusLog("dice")
