"""Volumes are learnt whole or by patches, and come back at their own size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from alnb.errors import BadInput, ColdStart
from alnb.losses.log_dice import MinusLog
from alnb.losses.mixed import mixed_loss
from alnb.models.augment import apply
from alnb.models.augment3d import VolumeAugment
from alnb.models.checkpoint import from_bytes, to_bytes
from alnb.models.committee import DeepEnsemble
from alnb.models.fit import Recipe
from alnb.models.infer import predict_volume
from alnb.models.metrics import volume_dice
from alnb.models.svgd_committee import SVGDCommittee, volumes_from_scratch
from alnb.models.volume_net import MOST, VolumeNet
from alnb.models.volume_samples import VolumeKind, VolumeSamples, nearest, stretched
from alnb.records import IGNORE, TrainSet
from alnb.rng import torch_generator
from alnb.testing.learner import check_learner

STILL = VolumeAugment(share=0.0)


def rng(seed=0):
    return np.random.default_rng(seed)


def balls(count=4, seed=0):
    """Bright balls in a grey shell on noise, of sizes that differ; labelled everywhere."""
    chance, images, targets = rng(seed), [], []
    for number in range(count):
        shape = (12 + number % 2, 18, 16)
        centre = np.array(shape) / 2 + chance.uniform(-1, 1, 3)
        grid = np.moveaxis(np.indices(shape), 0, -1) + 0.5
        away = np.linalg.norm(grid - centre, axis=-1)
        target = np.where(away < 3, 2, np.where(away < 5, 1, 0)).astype(np.uint8)
        image = np.choose(target, [0.1, 0.5, 0.9]) + chance.normal(0, 0.05, shape)
        images.append(image.astype(np.float32))
        targets.append(target)
    return TrainSet(tuple(images), tuple(targets), np.ones(count, np.int64), 3)


def net(**settings):
    known = {"steps": 4, "channels": (4, 8), "residual_units": 0, "device": "cpu"}
    return VolumeNet(**(known | {"recipe": Recipe(batch=2, rate=1e-2)} | settings))


def fitted(learner, train=None, seed=1):
    learner.fit(balls() if train is None else train, rng=rng(seed))
    return learner


def maps(learner, volume):
    return next(iter(learner.probs([torch.from_numpy(volume)[None, None]])))


@pytest.mark.parametrize("way", [{}, {"patch": (8, 8, 8)}])
def test_it_learns_what_stands_in_the_volumes(way):
    train = balls(6)
    learner = net(steps=60 if not way else 300, **way)
    learner.fit(train, rng=rng())
    unseen = balls(2, seed=9)
    for image, target in zip(unseen.images, unseen.targets, strict=True):
        dice = volume_dice(predict_volume(learner, image), target, 3)
        assert min(dice) > 0.7


@pytest.mark.parametrize("way", [{}, {"patch": (8, 8, 8)}])
def test_probabilities_have_the_volumes_own_size_and_sum_to_one(way):
    learner = fitted(net(**way))
    for shape in ((12, 18, 16), (5, 30, 7)):
        volume = rng(3).random(shape, dtype=np.float32)
        found = maps(learner, volume)
        assert found.shape == (1, 1, 3, *shape)
        assert torch.allclose(found.sum(2), torch.ones(1, 1, *shape), atol=1e-5)
        logs = [m for members in learner.log_probs([torch.from_numpy(volume)[None, None]])
                for m in members]  # fmt: skip
        assert torch.allclose(logs[0].exp(), found[0], atol=1e-5)


@pytest.mark.parametrize("loss", [mixed_loss, MinusLog(), MinusLog("log_dice"), MinusLog("ce")])
def test_unlabelled_voxels_have_no_say(loss):
    logits = torch.randn(2, 3, 4, 5, 6, generator=torch_generator(rng()), requires_grad=True)
    target = torch.from_numpy(rng().integers(0, 3, (2, 4, 5, 6)).astype(np.uint8))
    target[:, 2:] = IGNORE
    value = loss(logits, target, torch.zeros(2, dtype=torch.bool))
    (slope,) = torch.autograd.grad(value, logits)
    assert not slope[:, :, 2:].any()
    assert slope[:, :, :2].abs().sum() > 0
    # slices on top of each other are pixels like any others
    flat = loss(logits.detach().flatten(2, 3), target.flatten(1, 2), torch.zeros(2).bool())
    assert value.item() == pytest.approx(flat.item(), rel=1e-5)


def test_nothing_labelled_is_a_cold_start():
    train = balls()
    blank = replace(train, targets=tuple(np.full_like(t, IGNORE) for t in train.targets))
    with pytest.raises(ColdStart, match="has a label"):
        net().fit(blank, rng=rng())


def test_a_volume_without_labels_takes_no_part():
    train = balls(3)
    empty = np.full_like(train.targets[2], IGNORE)
    with_blank = replace(train, targets=(*train.targets[:2], empty))
    without = TrainSet(train.images[:2], train.targets[:2], train.weight[:2], 3)
    size = (12, 18, 16)
    first, second = fitted(net(size=size), with_blank), fitted(net(size=size), without)
    a, b = first.state_dict(), second.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_weight_two_is_the_volume_twice():
    train = balls(3)
    heavy = replace(train, weight=np.array([2, 1, 1]))
    kind = VolumeKind((8, 8, 8), None, torch.device("cpu"))
    samples = VolumeSamples.prepare(heavy, kind)
    drawn = np.concatenate([samples.shuffle.next(4, rng(seed)).numpy() for seed in range(6)])
    assert np.bincount(drawn).tolist() == [12, 6, 6]


def test_the_same_seed_gives_the_same_network_and_another_does_not():
    a, b, c = (fitted(net(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize(
    "way", [{}, {"patch": (8, 8, 8)}, {"channels": (4, 4, 8), "strides": (1, 2)}]
)
def test_a_stored_network_predicts_as_before(way):
    learner, other = fitted(net(**way)), net(**way)
    other.load_state_dict(from_bytes(to_bytes(learner.state_dict())))
    volume = balls(1, seed=4).images[0]
    assert torch.equal(maps(learner, volume), maps(other, volume))
    with pytest.raises(BadInput, match="channels"):
        net(**(way | {"channels": (8,) * len(learner.channels)})).load_state_dict(
            learner.state_dict()
        )
    with pytest.raises(BadInput, match="no VolumeNet"):
        net().load_state_dict({"config": torch.zeros(8)})


def test_a_warm_fit_goes_on_and_a_fit_from_scratch_does_not():
    train = balls()
    still = Recipe(batch=2, rate=0.0, decay=0.0, average=0.0, schedule="constant")
    for start, kept in (("warm", True), ("scratch", False)):
        learner = fitted(net(start=start), train)
        before = {n: p.clone() for n, p in learner.networks()[0].model.net.named_parameters()}
        learner.recipe = still  # so that what is seen is where the fit began
        learner.fit(train, rng=rng(5))
        after = dict(learner.networks()[0].model.net.named_parameters())
        assert all(torch.equal(before[name], after[name]) for name in before) == kept


def test_a_fit_that_was_stopped_leaves_the_model_before_it():
    learner = fitted(net(start="scratch"))
    before = learner.state_dict()
    report = learner.fit(balls(), rng=rng(7), stopped=lambda: True)
    assert report.stopped
    after = learner.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_grid_is_the_median_shape_within_bounds():
    train = balls(3)  # 12, 13 and 12 slices
    assert fitted(net(channels=(4, 8, 8)), train).networks()[0].model.size == (12, 20, 16)
    wide = TrainSet(
        (np.zeros((9, 300, 280), np.float32),), (np.zeros((9, 300, 280), np.uint8),),
        np.ones(1, np.int64), 3,
    )  # fmt: skip
    assert net(channels=(4, 8, 8), strides=(1, 2))._grid(train) == (12, 18, 16)
    z, h, w = net()._grid(wide)
    assert z * h * w <= MOST
    assert z >= 9  # slices are few and none is lost
    assert 0.8 < h / w < 1.25


def test_stretching_keeps_a_constant_and_what_a_voxel_is_called():
    volume = torch.full((1, 2, 5, 6, 7), 3.0)
    assert torch.equal(stretched(volume, (8, 3, 7)), torch.full((1, 2, 8, 3, 7), 3.0))
    labels = rng().integers(0, 3, (4, 5, 6)).astype(np.uint8)
    doubled = nearest(labels, (8, 10, 12))
    assert np.array_equal(doubled, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert np.array_equal(nearest(doubled, (4, 5, 6)), labels)


def test_patches_lie_inside_and_half_of_them_are_around_structures():
    train = balls(1)
    target = np.zeros((30, 30, 30), np.uint8)
    target[2:5, 2:5, 2:5] = 1
    image = np.arange(27_000, dtype=np.float32).reshape(30, 30, 30)
    train = replace(train, images=(image,), targets=(target,), weight=np.ones(1, np.int64))
    kind = VolumeKind(None, (8, 8, 8), torch.device("cpu"))
    samples = VolumeSamples.prepare(train, kind)
    images, targets, whole = samples.draw(200, STILL, rng(), torch_generator(rng(1)))
    assert whole.all()
    # a patch of voxels as they are: each line goes up by one
    assert (images.diff(dim=-1) == 1).all()
    shown = (targets == 1).flatten(1).any(1).float().mean()
    assert 0.45 < shown < 0.75  # half by choice, and a few of the others by chance


def test_a_patch_holds_a_labelled_voxel_where_slices_are_missing():
    train = balls(1)
    target = np.full((40, 16, 16), IGNORE, np.uint8)
    target[20] = 0
    train = replace(train, images=(np.zeros(target.shape, np.float32),), targets=(target,))
    samples = VolumeSamples.prepare(train, VolumeKind(None, (8, 8, 8), torch.device("cpu")))
    _, targets, whole = samples.draw(50, STILL, rng(), torch_generator(rng(1)))
    assert not whole.any()
    assert (targets != IGNORE).flatten(1).any(1).all()


def test_a_turn_about_one_axis_is_a_rotation_of_cubes_whatever_the_grid():
    """A ball stays a ball on a grid whose sides differ, and labels move with the image."""
    shape = (16, 24, 20)
    grid = np.moveaxis(np.indices(shape), 0, -1) + 0.5 - np.array(shape) / 2
    ball = (np.linalg.norm(grid, axis=-1) < 6).astype(np.float32)
    bold = VolumeAugment(
        rotate=90.0, scale=1.0, move=0.0, gamma=1.0, gain=1.0, shift=0.0, noise=0.0, share=1.0
    )
    batch = torch.from_numpy(ball)[None, None].repeat(8, 1, 1, 1, 1)
    change = bold.draw(tuple(batch.shape), torch_generator(rng(2)))
    moved, labels = apply(batch, batch[:, 0].to(torch.uint8), change)
    inside = labels == 1
    overlap = (
        2 * (inside & (batch[:, 0] == 1)).sum((1, 2, 3)) / (inside.sum((1, 2, 3)) + int(ball.sum()))
    )
    assert (overlap > 0.9).all()  # as round as voxels allow
    assert functional.l1_loss(moved[:, 0], batch[:, 0]) < 0.03
    # and something off the centre does move
    corner = torch.zeros(8, 1, *shape)
    corner[:, :, 8, 20, 10] = 1
    away, _ = apply(corner, corner[:, 0].to(torch.uint8), change)
    assert (away[:, 0, 8, 20, 10] < 0.5).any()


def test_members_of_an_ensemble_and_particles_are_volumes_learners():
    train, volume = balls(), balls(1, seed=8).images[0]
    base = net(recipe=Recipe(batch=2, rate=1e-2, decay=0.0))
    ensemble = fitted(DeepEnsemble(2, base), train)
    assert ensemble.unit == "volume"
    assert maps(ensemble, volume).shape == (2, 1, 3, *volume.shape)
    committee = SVGDCommittee(
        2, volumes_from_scratch(size=(8, 8, 8), steps=3, channels=(4, 8), residual_units=0)
    )
    assert committee.unit == "volume"
    report = committee.fit(train, rng=rng(1))
    assert report.steps == 3
    found = maps(committee, volume)
    assert not torch.equal(found[0], found[1])
    assert predict_volume(committee, volume).shape == volume.shape
    # its plain control is the ensemble, member by member
    control = SVGDCommittee(2, base, likelihood=None, control="ensemble")
    a, b = fitted(control, train).state_dict(), ensemble.state_dict()
    assert all(torch.allclose(a[name].float(), b[name].float(), atol=1e-6) for name in b)


@pytest.mark.parametrize("way", [{}, {"size": (8, 8, 8)}, {"patch": (8, 8, 8)}])
def test_it_keeps_the_contract_of_learners(way):
    check_learner(lambda: net(steps=2, augment=STILL, **way))


@pytest.mark.parametrize("engine", ["grouped", "vmap"])
def test_volumes_are_learnt_by_all_members_at_once_as_in_turn(engine, monkeypatch):
    monkeypatch.setattr("alnb.models.fit.fast_dtype", lambda device: None)
    base = net(steps=2, recipe=Recipe(batch=2, rate=1e-2, optimiser="sgd", average=0.0))
    together = fitted(SVGDCommittee(2, base, engine=engine)).state_dict()
    in_turn = fitted(SVGDCommittee(2, base, engine="loop")).state_dict()
    for name in together.keys() - {"diagnostics"}:
        assert torch.allclose(
            together[name].double(), in_turn[name].double(), rtol=1e-3, atol=1e-4
        ), name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": (8, 8, 8), "patch": (8, 8, 8)}, "exclude each other"),
        ({"size": (8, 9, 8)}, "multiples of 2"),
        ({"patch": (8, 8)}, "three"),
        ({"strides": (1, 2)}, "one less than channels"),
        ({"steps": 0}, "at least 1 step"),
        ({"start": "cold"}, "'warm' or 'scratch'"),
        ({"overlap": 1.0}, "below 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        net(**settings)


def test_slices_are_refused_in_words():
    flat = TrainSet((np.zeros((8, 8), np.float32),), (np.zeros((8, 8), np.uint8),), np.ones(1), 2)
    with pytest.raises(BadInput, match="SingleNet for slices"):
        net().fit(flat, rng=rng())
