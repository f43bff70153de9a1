import pytest
import torch

from alnb.models.unet import bottleneck, unet


def net(seed=0, residual_units=0):
    generator = torch.Generator().manual_seed(seed)
    return unet(3, generator=generator, channels=(4, 8, 16), residual_units=residual_units)


@pytest.mark.parametrize("residual_units", [0, 2])
def test_weights_come_from_the_generator_alone(residual_units):
    state = torch.get_rng_state()
    first, second, other = (net(seed, residual_units=residual_units) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert value.isfinite().all()
        assert torch.equal(value, second.state_dict()[name])
    image = torch.rand((2, 1, 16, 16), generator=torch.Generator())
    assert first(image).shape == (2, 3, 16, 16)
    assert not torch.allclose(first(image), other(image))


def test_a_prediction_does_not_depend_on_its_neighbours_in_the_batch():
    image = torch.rand((3, 1, 16, 16), generator=torch.Generator())
    ready = net().eval()
    assert torch.allclose(ready(image)[:1], ready(image[:1]), atol=1e-5)


@pytest.mark.parametrize("residual_units", [0, 2])
def test_the_bottleneck_is_what_the_deepest_block_gives(residual_units):
    made = net(residual_units=residual_units)
    image = torch.rand((2, 1, 16, 16), generator=torch.Generator())
    seen = []
    deepest = made.model[1].submodule[1].submodule
    handle = deepest.register_forward_hook(lambda _m, _i, output: seen.append(output))
    made(image)
    handle.remove()
    assert torch.equal(bottleneck(made, image), seen[0])
    assert seen[0].shape == (2, 16, 4, 4)
