import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alnb.embed.encoders import MetricEncoder, TensorEncoder, fill, load_weights, pretrained
from alnb.errors import BadInput
from alnb.models.resnet import backbone
from alnb.protocols import Encoder
from alnb.rng import torch_generator

WIDTH = 0.125


def network(seed=0, width=WIDTH):
    return backbone(generator=torch_generator(np.random.default_rng(seed)), width=width).eval()


def encoder(seed=0, **changes):
    return MetricEncoder(
        **{"net": network(seed), "title": "t", "size": 32, "width": WIDTH} | changes
    )


def pictures(count=5, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.random((20 + 3 * (n % 3), 30)).astype(np.float32) for n in range(count)]


def moments(batch):
    return torch.stack([batch.mean((1, 2, 3)), batch.std((1, 2, 3)), batch.amax((1, 2, 3))], 1)


# ---------------------------------------------------------------- any function


def test_any_function_plugs_in_and_gets_every_image_in_order_at_its_own_size():
    seen = []

    def spy(batch):
        seen.append(tuple(batch.shape))
        return moments(batch)

    images = pictures(40)
    found = TensorEncoder(spy, "moments", None, intensities="stored")(iter(images))
    wanted = [[im.mean(), im.std(ddof=1), im.max()] for im in images]
    assert found == pytest.approx(np.array(wanted), abs=1e-5)
    assert found.dtype == np.float32
    assert {shape[2:] for shape in seen} == {(20, 30), (23, 30), (26, 30)}


def test_images_are_stretched_to_the_size_asked_for():
    seen = []
    TensorEncoder(lambda b: seen.append(b.shape[2:]) or moments(b), "m", 16)(pictures(4))
    assert set(seen) == {(16, 16)}


def test_scanner_units_leave_no_trace_unless_intensities_are_as_stored():
    images = pictures(3)
    units = [700 * im - 40 for im in images]
    scaled = TensorEncoder(moments, "m", 16)
    stored = TensorEncoder(moments, "m", 16, intensities="stored")
    assert scaled(units) == pytest.approx(scaled(images), abs=1e-4)
    assert stored(units)[:, 1] == pytest.approx(700 * stored(images)[:, 1], rel=1e-3)


def test_streaming_never_holds_more_than_a_batch():
    alive = []

    def stream():
        for number in range(200):
            alive.append(number)
            yield np.full((8, 8), number, dtype=np.float32)

    ahead = []

    def function(batch):
        ahead.append(len(alive) - int(batch[0, 0, 0, 0]))
        return moments(batch)

    TensorEncoder(function, "m", 8, intensities="stored")(stream())
    assert max(ahead) <= 32


def test_unit_rows_where_asked_for():
    found = TensorEncoder(moments, "m", 16, normalise=True)(pictures())
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def test_the_name_tells_the_settings():
    names = {
        TensorEncoder(moments, "m", size, normalise, intensities=kind).name
        for size in (16, 32, None)
        for normalise in (True, False)
        for kind in ("slice", "stored")
    }
    assert len(names) == 12
    assert all(name.startswith("m-") for name in names)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda b: b, r"\(5, 1, 16, 16\)"),
        (lambda b: moments(b)[1:], r"\(4, 3\)"),
        (lambda b: None, "NoneType"),
        (lambda b: moments(b) / 0, "not finite"),
    ],
)
def test_what_a_function_gives_is_checked(function, why):
    with pytest.raises(BadInput, match=why):
        TensorEncoder(function, "m", 16)(pictures())


def test_lengths_that_change_with_the_image_are_refused():
    with pytest.raises(BadInput, match="Pool its output"):
        TensorEncoder(lambda b: b.flatten(1), "m", None)(pictures())


@pytest.mark.parametrize("make", [encoder, lambda: TensorEncoder(moments, "m", 16)])
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (np.full((8, 8), np.nan), "not finite"),
        (np.full((8, 8), 1e300), "not finite"),
        (np.zeros((0, 8)), "not empty"),
        (np.zeros((8, 8, 8)), "must be"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_bad_image_is_named(make, bad, why):
    images = pictures(40)
    images[37] = bad
    with pytest.raises(BadInput, match=f"Image 37 .*{why}"):
        make()(images)


# ---------------------------------------------------------------- the trained network


def test_rows_do_not_depend_on_who_else_is_encoded():
    images = pictures(40)
    whole = encoder()(images)
    alone = np.concatenate([encoder()([image]) for image in images[::13]])
    spread = whole.std(0).mean()
    assert np.abs(whole[::13] - alone).max() < 0.1 * spread


def test_features_are_as_pooled_and_those_of_constant_images_are_finite():
    images = [*pictures(3), np.zeros((9, 12)), np.full((9, 12), 7.0)]
    found = encoder()(images)
    assert found.shape == (5, 64)
    assert np.isfinite(found).all()
    assert np.array_equal(found[3], found[4])
    assert not np.allclose(np.linalg.norm(found, axis=1), 1)


def test_nothing_in_gives_no_rows():
    assert encoder()([]).shape == (0, 64)


def test_bytes_hold_the_whole_encoder():
    before = encoder(size=48, intensities="stored", title="acdc")
    after = MetricEncoder.from_bytes(before.to_bytes())
    checked: Encoder = after
    assert checked.name == before.name
    assert np.array_equal(after(pictures()), before(pictures()))
    assert after.to_bytes() == before.to_bytes()


def test_the_name_changes_with_weights_and_settings():
    names = {
        encoder(seed, **changes).name
        for seed in (0, 1)
        for changes in ({}, {"size": 48}, {"intensities": "stored"}, {"title": "u"})
    }
    assert len(names) == 8


@pytest.mark.parametrize("data", [b"", b"rubbish", encoder().to_bytes()[:-9]])
def test_bytes_of_no_encoder_are_refused(data):
    with pytest.raises(BadInput):
        MetricEncoder.from_bytes(data)


# ---------------------------------------------------------------- weights from elsewhere


def colourful(prefix=""):
    """A ResNet-18 for colours, as torchvision would store it."""
    state = network(5, width=1).state_dict()
    generator = torch_generator(np.random.default_rng(6))
    state["conv1.weight"] = torch.randn((64, 3, 7, 7), generator=generator)
    state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    return {prefix + name: value for name, value in state.items()}


def given():
    """What a user's own function may give."""
    return network(5, width=1)


def test_a_file_of_either_kind_and_a_function_give_the_same_weights(tmp_path):
    state = network(5, width=1).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pth")
    sources = [tmp_path / "w.safetensors", str(tmp_path / "w.pth"), f"{__name__}:given"]
    for source in sources:
        found = load_weights(source)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_grey_image_gives_what_the_colour_network_gives(tmp_path):
    torch.save(colourful("module.backbone."), tmp_path / "w.pth")
    frozen = pretrained(tmp_path / "w.pth", size=64, device="cpu")
    colour = network(5, width=1)
    colour.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    colour.load_state_dict({k: v for k, v in colourful().items() if not k.startswith("fc.")})
    images = torch.rand((2, 1, 64, 64), generator=torch_generator(np.random.default_rng(0)))
    with torch.no_grad():
        wanted = colour.eval()(images.expand(-1, 3, -1, -1))
        assert torch.allclose(frozen.net(images), wanted, rtol=1e-3, atol=1e-3)


def test_the_first_kernel_can_stay_random():
    net = network(0, width=1)
    stem = net.conv1.weight.detach().clone()
    fill(net, colourful(), stem="random")
    assert torch.equal(net.conv1.weight, stem)
    assert torch.equal(net.layer4[1].conv2.weight, colourful()["layer4.1.conv2.weight"])


def test_weights_that_do_not_fit_are_named():
    missing = colourful()
    del missing["layer3.0.bn1.weight"]
    deeper = {**colourful(), "layer1.0.conv3.weight": torch.zeros(256, 64, 1, 1)}
    with pytest.raises(BadInput, match=r"layer3.0.bn1.weight is missing"):
        fill(network(width=1), missing)
    with pytest.raises(BadInput, match=r"layer1.0.conv3.weight is foreign"):
        fill(network(width=1), deeper)
    with pytest.raises(BadInput, match=r"must be .*and \d+ more.*width 1"):
        fill(network(width=0.5), colourful())
    with pytest.raises(BadInput, match="no weights of a ResNet"):
        fill(network(), {"features.0.weight": torch.zeros(3)})


class Harmful:
    def __reduce__(self):
        return (eval, ("1 + 1",))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(BadInput, match=r"w\.pt cannot be read as weights alone"):
        load_weights(path)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("nowhere.pth", "not downloaded"),
        ("no_such_package:weights", "Install its package"),
        ("math:no_such_function", "check the spelling"),
        ("builtins:dict", "holds no tensors"),
    ],
)
def test_a_source_that_gives_nothing_says_what_to_do(source, why):
    with pytest.raises(BadInput, match=why):
        load_weights(source)
