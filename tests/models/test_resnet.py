import numpy as np
import pytest
import torch
from torch import nn

from alnb.models.resnet import backbone, features, projection
from alnb.rng import torch_generator


def generator(seed=0):
    return torch_generator(np.random.default_rng(seed))


@pytest.fixture(scope="module")
def net():
    return backbone(generator=generator())


def test_it_is_the_standard_resnet_18_with_one_channel_and_no_final_layer(net):
    # torchvision's 11 689 512 less fc (513 000) and two of three channels of the stem (6 272)
    assert sum(p.numel() for p in net.parameters()) == 11_689_512 - 513_000 - 6_272
    assert net.conv1.kernel_size == (7, 7)
    assert net.conv1.stride == (2, 2)
    names = set(net.state_dict())
    assert {"layer1.0.conv1.weight", "layer2.0.downsample.1.running_var", "bn1.bias"} <= names
    assert not any(name.startswith("fc") for name in names)
    assert net.eval()(torch.rand(2, 1, 64, 48)).shape == (2, features(1.0)) == (2, 512)


def test_strides_halve_the_image_five_times(net):
    seen = []
    handle = net.layer4.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    net.eval()(torch.rand(1, 1, 96, 64))
    handle.remove()
    assert seen == [(1, 512, 3, 2)]


def test_the_generator_alone_decides_the_weights():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    nets = [backbone(generator=generator(seed), width=0.125) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    first, same, other = (net.conv1.weight for net in nets)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_convolutions_begin_with_the_variance_that_keeps_gradients_alive(net):
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_pooling_keeps_float32_where_the_network_runs_in_bfloat16():
    net = backbone(generator=generator(), width=0.125).eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        pooled = net(torch.rand(4, 1, 64, 64))
    assert pooled.dtype == torch.float32
    assert not torch.equal(pooled, pooled.bfloat16().float())


def test_the_head_has_two_layers_without_biases():
    head = projection(32, generator=generator())
    assert [tuple(p.shape) for p in head.parameters()] == [(32, 32), (64, 32)]
