from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from alnb.errors import BadInput, ColdStart
from alnb.models.frame import Frame
from alnb.models.gradients import last_layer_gradients
from alnb.models.learners import SingleNet
from alnb.protocols import GradientLearner
from alnb.session.snapshot import PoolSnapshot
from alnb.testing.learner import toy_train_set


def fitted(**changes):
    learner = SingleNet(**({"size": 32, "steps": 4, "channels": (4, 8, 16)} | changes))
    learner.fit(toy_train_set(), rng=np.random.default_rng(0))
    return learner


def slices(count=3, shape=(24, 20), seed=0):
    values = np.random.default_rng(seed).random((count, 1, *shape)).astype(np.float32)
    return torch.from_numpy(values)


def whole_network_gradient(learner, image, weight):
    """One slice at a time through plain autograd, down to the named weight."""
    model = learner._model
    frame = Frame(*image.shape[2:], model.size)
    logits = frame.logits(model.net(frame.images(image)))
    loss = functional.cross_entropy(logits, logits.detach().argmax(1))
    return torch.autograd.grad(loss, weight)[0].flatten()


@pytest.mark.parametrize("residual_units", [0, 2])
def test_gradients_equal_those_of_plain_autograd_slice_by_slice(residual_units):
    learner = fitted(residual_units=residual_units)
    convolutions = [
        layer
        for layer in learner._model.net.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    images = slices()
    (found,) = learner.gradients([images])
    for row, image in zip(found, images, strict=True):
        expected = whole_network_gradient(learner, image[None], convolutions[-1].weight)
        torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-6)
    assert found.abs().amax(1).gt(0).all()


def test_a_one_by_one_output_gives_errors_times_activations():
    generator = torch.Generator().manual_seed(0)
    trunk, output = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 3, 1)
    for parameter in (*trunk.parameters(), *output.parameters()):
        nn.init.normal_(parameter, generator=generator)
    net = nn.Sequential(trunk, nn.ReLU(inplace=True), output)
    images = slices(2, (6, 7))
    found = last_layer_gradients(net, images, lambda twin, x: twin(x))
    with torch.no_grad():
        z = trunk(images).relu().flatten(2)
        p = output(trunk(images).relu()).softmax(1).flatten(2)
    y = functional.one_hot(p.argmax(1), 3).transpose(1, 2)
    expected = (p - y) @ z.transpose(1, 2) / z.shape[2]
    torch.testing.assert_close(found, expected.flatten(1), rtol=1e-4, atol=1e-6)


def test_the_network_stays_as_it_was_and_neighbours_in_a_batch_do_not_matter():
    learner = fitted()
    before = learner.state_dict()
    net, images = learner._model.net, slices(4)
    slopes = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    (together,) = learner.gradients([images])
    alone = torch.cat(list(learner.gradients(images.split(1))))
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-6)
    after = learner.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for parameter, slope in zip(net.parameters(), slopes, strict=True):
        assert parameter.grad is slope is None or torch.equal(parameter.grad, slope)
    assert not any(module._forward_hooks for module in net.modules())


def test_a_sure_network_has_smaller_gradients_than_an_unsure_one():
    output = nn.Conv2d(1, 2, 1)
    nn.init.constant_(output.bias, 0)
    with torch.no_grad():
        output.weight[:] = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    images = torch.stack([torch.full((1, 4, 4), level) for level in (0.1, 1.0, 5.0)])
    sizes = last_layer_gradients(output, images, lambda twin, x: twin(x))
    certainty = (sizes / images.mean((1, 2, 3))[:, None]).norm(dim=1)
    assert certainty.diff().lt(0).all()


def test_single_net_offers_gradients_and_needs_a_fit_for_them():
    assert isinstance(SingleNet(), GradientLearner)
    with pytest.raises(ColdStart):
        SingleNet().gradients([slices()])


def test_a_volume_has_the_mean_gradient_of_its_slices(small_cohort):
    learner = fitted()
    by_slice, by_volume = (
        PoolSnapshot(
            pool=pool,
            candidates=np.arange(len(pool)),
            labelled=np.empty(0, np.int64),
            counts=np.zeros(len(pool), np.int64),
            cohort=small_cohort,
            learner=learner,
            embed=lambda: np.zeros((0, 0)),
        )
        for pool in (small_cohort.pool(), small_cohort.pool("volume"))
    )
    singles = by_slice.gradients(by_slice.candidates)
    codes = by_slice.pool.volume
    expected = [singles[codes == code].mean(0) for code in by_volume.pool.volume]
    found = by_volume.gradients(by_volume.candidates)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_a_learner_without_gradients_is_named_with_a_way_out(small_cohort):
    class Plain:
        pass

    snapshot = PoolSnapshot(
        pool=small_cohort.pool(),
        candidates=np.arange(1),
        labelled=np.empty(0, np.int64),
        counts=np.zeros(1, np.int64),
        cohort=small_cohort,
        learner=Plain(),
        embed=lambda: np.zeros((0, 0)),
    )
    with pytest.raises(BadInput, match=r"Plain gives no gradients.*k-means-BALD"):
        snapshot.gradients(np.arange(1))


@pytest.fixture
def small_cohort():
    from alnb.data.phantom import phantom

    return phantom(patients=1, seed=0)
