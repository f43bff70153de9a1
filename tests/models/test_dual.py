import pytest
import torch

from alnb.models.dual import CHANNELS, dual_unet


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**changes):
    return dual_unet(3, generator=gen(), **({"channels": (4, 8, 16)} | changes))


def test_the_main_decoder_answers_whatever_the_auxiliary_weights_are():
    net, image = small().eval(), torch.rand(2, 1, 32, 32, generator=gen(1))
    (before,) = net(image)
    for parameter in net.auxiliary.parameters():
        parameter.data.fill_(float("nan"))
    (after,) = net(image)
    assert torch.equal(before, after)


def test_both_decoders_answer_in_training_and_see_different_levels():
    net = small().train()
    net.auxiliary.load_state_dict(net.main.state_dict())
    main, other = net(torch.rand(2, 1, 32, 32, generator=gen(1)), gen(2))
    assert main.shape == other.shape == (2, 3, 32, 32)
    assert not torch.allclose(main, other)


def test_dropout_is_decided_by_the_generator_alone():
    image = torch.rand(2, 1, 32, 32, generator=gen(1))
    before = torch.random.get_rng_state()
    runs = [small().train()(image, gen(seed)) for seed in (2, 2, 3)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[2][0])


def test_training_without_a_generator_is_refused_and_evaluation_needs_none():
    net, image = small(), torch.rand(1, 1, 32, 32, generator=gen(1))
    with pytest.raises(ValueError, match="generator"):
        net.train()(image)
    net.eval()
    assert torch.equal(net(image)[0], net(image)[0])


def test_it_has_the_parameters_of_the_published_network():
    """Counted by hand: convolutions k² · in · out + out, norms 2 · out."""

    def conv(inside, outside, k=3):
        return k * k * inside * outside + outside

    def block(inside, outside):
        return conv(inside, outside) + conv(outside, outside) + 4 * outside

    encoder = sum(block(a, b) for a, b in zip((1, *CHANNELS), CHANNELS, strict=False))
    ups = zip(CHANNELS[:0:-1], CHANNELS[-2::-1], strict=True)
    decoder = sum(conv(deep, fine, 1) + block(2 * fine, fine) for deep, fine in ups)
    decoder += conv(CHANNELS[0], 4)
    for dual in (False, True):
        net = dual_unet(4, generator=gen(), dual=dual)
        expected = encoder + decoder * (1 + dual)
        assert sum(p.numel() for p in net.parameters()) == expected


def test_both_decoders_teach_the_encoder_and_the_deepest_level_is_the_bottleneck():
    net = small().train()
    image = torch.rand(2, 1, 32, 32, generator=gen(1))
    net(image, gen(2))[1].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.encoder.parameters())
    assert all(p.grad is None for p in net.main.parameters())
    assert net.eval().bottleneck(image).shape == (2, 16, 8, 8)
