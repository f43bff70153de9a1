import math

import numpy as np
import pytest
import torch

from alnb.losses.full import mask_loss
from alnb.losses.mixed import mixed_loss
from alnb.losses.weak import (
    class_averaged_cross_entropy,
    partial_cross_entropy,
    partial_dice,
    scribble_loss,
)
from alnb.records import IGNORE

LOSSES = [
    partial_cross_entropy,
    class_averaged_cross_entropy,
    partial_dice,
    scribble_loss,
    mask_loss,
    mixed_loss,
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def batch(seed=0, classes=4, drawn=0.1):
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(0, 2, (3, classes, 8, 6)), dtype=torch.float32)
    target = rng.integers(0, classes, (3, 8, 6)).astype(np.uint8)
    target[rng.random(target.shape) > drawn] = IGNORE
    return logits, torch.from_numpy(target)


def slow_probabilities(logits, target):
    """(class, probabilities) of every drawn pixel, one at a time in double precision."""
    for b, h, w in np.argwhere(target.numpy() != IGNORE):
        row = logits[b, :, h, w].double().numpy()
        e = np.exp(row - row.max())
        yield int(target[b, h, w]), e / e.sum()


@every_loss
def test_ignored_pixels_get_exactly_zero_gradient(loss):
    logits, target = batch()
    logits.requires_grad_()
    loss(logits, target).backward()
    silent = (target == IGNORE)[:, None].expand_as(logits)
    assert torch.equal(logits.grad[silent], torch.zeros_like(logits.grad[silent]))
    assert logits.grad[~silent].abs().sum() > 0


@every_loss
@pytest.mark.parametrize("disturbance", [1e4, math.inf, -math.inf, math.nan])
def test_logits_at_ignored_pixels_change_no_bit_of_loss_or_gradient(loss, disturbance):
    logits, target = batch()
    disturbed = logits.clone()
    disturbed[:, 1][target == IGNORE] += disturbance
    values = []
    for given in (logits.requires_grad_(), disturbed.requires_grad_()):
        values.append(loss(given, target))
        values[-1].backward()
    assert torch.equal(*values)
    assert torch.equal(logits.grad, disturbed.grad), "exactly 0 at IGNORE, the same elsewhere"


@every_loss
@pytest.mark.parametrize("nonsense", [math.inf, math.nan])
def test_a_batch_without_any_label_is_zero_even_where_the_network_gives_no_numbers(loss, nonsense):
    logits, target = batch()
    logits = torch.full_like(logits, nonsense).requires_grad_()
    value = loss(logits, torch.full_like(target, IGNORE))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@every_loss
def test_a_batch_without_any_label_gives_a_connected_zero(loss):
    logits, target = batch()
    logits.requires_grad_()
    value = loss(logits, torch.full_like(target, IGNORE))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits.grad))


@every_loss
def test_a_bfloat16_network_is_summed_in_float32(loss):
    logits, target = batch(drawn=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits.bfloat16(), target)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(logits.bfloat16().float(), target))


@every_loss
def test_a_sure_and_right_answer_costs_nothing(loss):
    _, target = batch(drawn=0.5)
    right = 50.0 * torch.nn.functional.one_hot(target.long() % IGNORE, 4).movedim(3, 1).float()
    assert loss(right, target).item() == pytest.approx(0, abs=1e-5)


def test_partial_cross_entropy_is_the_mean_over_drawn_pixels():
    logits, target = batch()
    expected = np.mean([-np.log(p[c]) for c, p in slow_probabilities(logits, target)])
    assert partial_cross_entropy(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_class_averaged_cross_entropy_is_the_mean_over_classes_of_the_mean_within():
    logits, target = batch(drawn=0.3)
    target[target == 3] = IGNORE
    within: dict[int, list[float]] = {}
    for c, p in slow_probabilities(logits, target):
        within.setdefault(c, []).append(-np.log(p[c]))
    expected = np.mean([np.mean(values) for values in within.values()])
    assert class_averaged_cross_entropy(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_a_thin_class_pulls_as_hard_as_the_background_when_averaged_by_class():
    target = torch.zeros(1, 10, 10, dtype=torch.uint8)
    target[0, 0, 0] = 1
    logits = torch.zeros(1, 2, 10, 10, requires_grad=True)
    class_averaged_cross_entropy(logits, target).backward()
    pull = logits.grad[0, 1].clone()
    assert pull[0, 0].abs() == pytest.approx(pull[target[0] == 0].abs().sum().item())


def test_partial_dice_is_the_ratio_over_drawn_pixels():
    logits, target = batch(drawn=0.4)
    overlap, size = np.zeros(4), np.zeros(4)
    for c, p in slow_probabilities(logits, target):
        overlap[c] += p[c]
        size += p**2
        size[c] += 1
    expected = 1 - np.mean((2 * overlap + 1e-5) / (size + 1e-5))
    assert partial_dice(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_partial_dice_on_whole_masks_is_monai_s():
    dice = pytest.importorskip("monai.losses.dice")
    logits, target = batch(drawn=1.0)
    reference = dice.DiceLoss(
        softmax=True,
        to_onehot_y=True,
        squared_pred=True,
        batch=True,
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )
    expected = reference(logits, target[:, None].long())
    assert partial_dice(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_mixed_loss_treats_each_slice_by_what_it_holds():
    logits, target = batch(drawn=0.3)
    whole = torch.randint(0, 4, target.shape[1:], generator=torch.Generator()).to(torch.uint8)
    target[1] = whole
    scribbled = [0, 2]
    expected = (mask_loss(logits[[1]], target[[1]])) / 3
    expected = expected + scribble_loss(logits[scribbled], target[scribbled]) * 2 / 3
    assert torch.allclose(mixed_loss(logits, target), expected)


def test_mixed_loss_believes_the_caller_about_padded_masks():
    logits, target = batch(drawn=1.0)
    target[:, 0] = IGNORE
    padded = mixed_loss(logits, target, torch.ones(3, dtype=torch.bool))
    assert torch.equal(padded, mask_loss(logits, target))
    assert torch.equal(mixed_loss(logits, target), scribble_loss(logits, target))
