import math

import pytest
import torch

from alnb.losses.pseudo import dmpls_loss, drawn_loss, mixed_pseudo_label, pseudo_loss
from alnb.losses.weak import SMOOTH
from alnb.records import IGNORE


def logits(seed, batch=2, classes=3, side=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, classes, side, side, generator=generator).double()


def scribble(batch=2, classes=3, side=6):
    target = torch.full((batch, side, side), IGNORE, dtype=torch.uint8)
    for label in range(classes):
        target[:, 2 * label, ::2] = label
    return target


def test_equal_decoders_or_beta_one_give_the_main_decoders_own_labels():
    main, other = logits(0), logits(1)
    assert torch.equal(mixed_pseudo_label(main, other, 1.0), main.argmax(1))
    assert torch.equal(mixed_pseudo_label(main, other, 0.0), other.argmax(1))
    assert torch.equal(mixed_pseudo_label(main, main, 0.3), main.argmax(1))


def test_the_pseudo_label_is_the_likeliest_class_of_the_mixed_probabilities():
    main, other, beta = logits(0), logits(1), 0.3
    for b, row, column in torch.cartesian_prod(*(torch.arange(n) for n in (2, 6, 6))).tolist():
        p = main[b, :, row, column].softmax(0) * beta
        q = other[b, :, row, column].softmax(0) * (1 - beta)
        found = mixed_pseudo_label(main, other, beta)[b, row, column]
        assert found == (p + q).argmax()


def test_no_gradient_flows_through_the_pseudo_label():
    """The gradient equals that against the same label map handed in as a constant."""
    main, other = logits(0).requires_grad_(), logits(1).requires_grad_()
    pseudo_loss(main, other, 0.4).backward()
    label = mixed_pseudo_label(main, other, 0.4)
    assert not label.requires_grad
    again, beside = (x.detach().clone().requires_grad_() for x in (main, other))
    one_hot = torch.nn.functional.one_hot(label, 3).movedim(-1, 1).double()
    total = 0.0
    for x in (again, beside):
        p = x.float().softmax(1)
        overlap, size = (p * one_hot).sum((0, 2, 3)), (p**2 + one_hot).sum((0, 2, 3))
        total = total + 0.5 * (1 - ((2 * overlap + SMOOTH) / (size + SMOOTH)).mean())
    total.backward()
    assert torch.allclose(main.grad, again.grad, atol=1e-7)
    assert torch.allclose(other.grad, beside.grad, atol=1e-7)


def test_the_sum_is_pce_and_half_the_pseudo_dice_on_both_decoders():
    main, other, target = logits(0), logits(1), scribble()
    drawn = target != IGNORE
    pce = 0.0
    for x in (main, other):
        picked = x.log_softmax(1).movedim(1, -1)[drawn]
        pce -= 0.5 * picked.gather(1, target[drawn].long()[:, None]).mean()
    expected = float(pce) + 0.5 * float(pseudo_loss(main, other, 0.7))
    assert dmpls_loss(main, other, target, 0.7).item() == pytest.approx(expected, abs=1e-6)


def test_pixels_that_nobody_drew_do_not_reach_the_supervised_term():
    main, other, target = logits(0).requires_grad_(), logits(1).requires_grad_(), scribble()
    silent = (target == IGNORE).unsqueeze(1)
    before = drawn_loss(main, other, target)
    before.backward()
    for x in (main, other):
        assert (x.grad * silent == 0).all()
        assert (x.grad * ~silent).any()
    changed = [torch.where(silent, 1e4 * logits(5), x.detach()) for x in (main, other)]
    assert torch.equal(drawn_loss(*changed, target), before)


@pytest.mark.parametrize("nonsense", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_none_stay_out_of_the_supervised_gradient(nonsense):
    target = scribble()
    silent = (target == IGNORE).unsqueeze(1).expand(-1, 3, -1, -1)
    clean = [logits(seed).requires_grad_() for seed in (0, 1)]
    spoilt = [torch.where(silent, nonsense, x.detach()).requires_grad_() for x in clean]
    values = [drawn_loss(*pair, target) for pair in (clean, spoilt)]
    for value in values:
        value.backward()
    assert torch.equal(*values)
    for x, y in zip(clean, spoilt, strict=True):
        assert torch.equal(x.grad, y.grad)
        assert torch.equal(x.grad[silent], torch.zeros_like(x.grad[silent]))


def test_a_batch_in_which_nobody_drew_gives_a_connected_zero():
    main, other = logits(0).requires_grad_(), logits(1).requires_grad_()
    nothing = torch.full((2, 6, 6), IGNORE, dtype=torch.uint8)
    loss = drawn_loss(main, other, nothing)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(main.grad, torch.zeros_like(main))
    whole = dmpls_loss(main, other, nothing, 0.5)
    assert torch.isfinite(whole)
    assert whole.item() == pytest.approx(0.5 * pseudo_loss(main, other, 0.5).item())
