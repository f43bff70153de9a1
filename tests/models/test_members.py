import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from alnb.errors import BadInput
from alnb.losses.mixed import mixed_loss
from alnb.models import members
from alnb.models.committee import DeepEnsemble
from alnb.models.fit import Recipe
from alnb.models.learners import SingleNet
from alnb.models.members import Grouped, Vmapped, choose, seconds_per_step
from alnb.models.unet import unet
from alnb.protocols import Learner
from alnb.rng import stream
from alnb.testing.learner import check_learner, toy_train_set
from tests.toys import ClassMeans

JOINT = {"grouped": Grouped, "vmap": Vmapped}
each_engine = pytest.mark.parametrize("engine", list(JOINT))


def rng(seed=0):
    return np.random.default_rng(seed)


def tiny(**changes):
    small = {"size": 32, "steps": 4, "channels": (4, 8, 16), "residual_units": 2}
    return SingleNet(**(small | changes))


def networks(count=3, residual_units=2):
    return [
        unet(
            3,
            generator=torch.Generator().manual_seed(number),
            channels=(4, 8, 16),
            residual_units=residual_units,
        )
        for number in range(count)
    ]


def batch(count=3, size=4, side=32, seed=0):
    draw = rng(seed)
    images = torch.tensor(draw.random((count, size, 1, side, side)), dtype=torch.float32)
    targets = torch.tensor(draw.integers(0, 3, (count, size, side, side)), dtype=torch.uint8)
    return images, targets


def courses_of(learner, count=2):
    train, found = toy_train_set(6), []
    for number in range(count):
        like = found[0] if found else None
        member = copy.deepcopy(learner)
        found.append(member.course(train, rng=stream(1, "member", number), like=like))
    return found


@pytest.fixture
def float32(monkeypatch):
    """Without bfloat16, of which two roundings agree to three digits only."""
    monkeypatch.setattr("alnb.models.fit.fast_dtype", lambda device: None)


@each_engine
@pytest.mark.parametrize("residual_units", [0, 2])
def test_one_step_gives_each_member_the_weights_and_statistics_of_a_step_alone(
    engine, residual_units
):
    nets, (images, targets) = networks(residual_units=residual_units), batch()
    joint = JOINT[engine](nets).train()
    pairs = zip(joint(images), targets, strict=True)
    sum(mixed_loss(*pair) for pair in pairs).backward()
    torch.optim.SGD(joint.parameters(), lr=0.1).step()
    for net, image, target, state in zip(nets, images, targets, joint.states(), strict=True):
        before = copy.deepcopy(net.state_dict())
        mixed_loss(net.train()(image), target).backward()
        torch.optim.SGD(net.parameters(), lr=0.1).step()
        assert state.keys() == net.state_dict().keys()
        for name, expected in net.state_dict().items():
            torch.testing.assert_close(state[name], expected, rtol=1e-4, atol=1e-6)
        moved = [name for name in state if not torch.equal(state[name], before[name])]
        assert any("running_mean" in name for name in moved)
        assert any("num_batches" in name for name in moved)


@each_engine
def test_members_in_evaluation_are_the_networks_themselves(engine):
    nets, (images, _) = networks(), batch()
    for net, image in zip(nets, images, strict=True):
        net.train()(image)
    joint = JOINT[engine](nets).eval()
    with torch.no_grad():
        expected = torch.stack([n.eval()(x) for n, x in zip(nets, images, strict=True)])
        torch.testing.assert_close(joint(images), expected, rtol=1e-4, atol=1e-5)


@each_engine
def test_each_member_s_gradient_is_clipped_alone(engine):
    nets, (images, targets) = networks(), batch()
    joint = JOINT[engine](nets).train()
    scales, largest = torch.tensor([0.01, 1.0, 100.0]), 1.0
    joint.clip(largest)
    values = [mixed_loss(*pair) for pair in zip(joint(images), targets, strict=True)]
    (torch.stack(values) * scales).sum().backward()
    parts = [p.grad.unflatten(0, (3, -1)).flatten(1) for p in joint.parameters()]
    norms = torch.cat(parts, 1).norm(dim=1)
    for net, image, target, scale, norm in zip(nets, images, targets, scales, norms, strict=True):
        (mixed_loss(net.train()(image), target) * scale).backward()
        alone = nn.utils.get_total_norm([p.grad for p in net.parameters()])
        assert norm.item() == pytest.approx(min(float(alone), largest), rel=1e-3)
    assert norms[0] < 0.9 * largest, "short enough, so left as it was"


@each_engine
def test_a_committee_in_step_is_the_committee_in_turns_up_to_rounding(engine, float32):
    """The same batches, schedule, clipping and averaging of every member."""
    train, answers = toy_train_set(6), []
    for chosen in ("loop", engine):
        learner = DeepEnsemble(2, tiny(steps=8, recipe=Recipe()), engine=chosen)
        report = learner.fit(train, rng=rng(3))
        assert (report.steps, report.stopped, report.notes) == (16, False, ())
        images = [torch.as_tensor(image)[None, None] for image in train.images]
        answers.append([probs.flatten(3) for probs in learner.probs(images)])
    for first, second in zip(*answers, strict=True):
        torch.testing.assert_close(second, first, rtol=0, atol=0.02)
        assert (first[0] - first[1]).abs().max() > 0.05, "members differ among themselves"


@each_engine
def test_a_committee_in_step_keeps_the_contract(engine):
    make = lambda: DeepEnsemble(2, tiny(), engine=engine)  # noqa: E731
    check_learner(make)
    assert isinstance(make(), Learner)


def test_progress_counts_the_steps_of_all_members_and_a_stop_leaves_nothing_half_done():
    learner, seen = DeepEnsemble(2, tiny(), engine="grouped"), []
    report = learner.fit(toy_train_set(), rng=rng(), on_step=seen.append, stopped=lambda: True)
    assert (report.steps, report.stopped, seen) == (0, True, [])
    assert "no committee yet" in report.notes[-1]
    report = learner.fit(
        toy_train_set(), rng=rng(), on_step=seen.append, stopped=lambda: len(seen) == 2
    )
    assert [(step.step, step.total) for step in seen] == [(2, 8), (4, 8)]
    assert (report.steps, report.stopped) == (4, True)
    assert report.loss == pytest.approx(seen[-1].loss)
    assert len(learner.state_dict()) > 0


def test_a_committee_that_diverges_says_so_once_and_keeps_what_it_had():
    learner = DeepEnsemble(2, tiny(), engine="grouped")
    learner.fit(toy_train_set(), rng=rng())
    before = learner.state_dict()
    diverging = lambda logits, *_: logits.sum() * math.nan  # noqa: E731
    for member in learner._fitted:
        member.loss = diverging
    with pytest.raises(FloatingPointError, match="diverged"):
        learner.fit(toy_train_set(), rng=rng(1))
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_auto_takes_what_was_fastest_here_once_and_says_so(monkeypatch):
    pace, asked = {"loop": 0.3, "grouped": 0.2, "vmap": 0.1}, []

    def seconds(engine, courses, **_):
        asked.append(engine)
        return pace[engine]

    monkeypatch.setattr(members, "seconds_per_step", seconds)
    monkeypatch.setattr(members, "_known", {})
    learner = DeepEnsemble(2, tiny(device="cpu"), engine="auto")
    report = learner.fit(toy_train_set(), rng=rng())
    assert asked == ["loop", "grouped"], "on a CPU vmap is not worth a try"
    (note,) = report.notes
    assert note.startswith("Members were trained in step, grouped;")
    assert "0.3 s" in note
    learner.fit(toy_train_set(), rng=rng(1))
    assert len(asked) == 2


def test_auto_that_takes_the_loop_is_the_loop_bit_for_bit(monkeypatch):
    """The real measurement runs, so this also shows that it moves no stream and no weight."""
    monkeypatch.setattr(members, "_known", {})
    monkeypatch.setattr(members, "_PATIENCE", 0.0)
    measured = members.seconds_per_step
    slow = lambda e, c, **k: measured(e, c, **k) + (e != "loop") * 1e3  # noqa: E731
    monkeypatch.setattr(members, "seconds_per_step", slow)
    states = []
    for engine in ("loop", "auto"):
        learner = DeepEnsemble(2, tiny(), engine=engine)
        learner.fit(toy_train_set(), rng=rng(4))
        states.append(learner.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_an_engine_without_room_is_not_chosen(monkeypatch):
    monkeypatch.setattr(members, "_known", {})

    def full(nets):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setitem(members.KINDS, "grouped", full)
    engine, note = choose("auto", courses_of(tiny(device="cpu")))
    assert engine == "loop"
    assert "grouped not at all" in note


@pytest.mark.parametrize("engine", ["loop", "grouped", "vmap"])
def test_a_measurement_gives_seconds_and_changes_nothing(engine):
    courses = courses_of(tiny())
    before = copy.deepcopy(courses[0].model.net.state_dict())
    states = [course.rng.bit_generator.state for course in courses]
    assert 0 < seconds_per_step(engine, courses) < math.inf
    assert all(torch.equal(v, before[n]) for n, v in courses[0].model.net.state_dict().items())
    assert [course.rng.bit_generator.state for course in courses] == states


def test_members_that_cannot_be_trained_in_step_are_refused_or_take_turns():
    rates = (0.1, 0.2, 0.3)
    with pytest.raises(BadInput, match="drop out"):
        DeepEnsemble(2, tiny(dropout=rates), engine="grouped").fit(toy_train_set(), rng=rng())
    assert choose("auto", courses_of(tiny(dropout=rates))) == ("loop", "")
    different = [*courses_of(tiny(), 1), *courses_of(tiny(recipe=Recipe(rate=1e-4)), 1)]
    assert choose("auto", different) == ("loop", "")
    with pytest.raises(BadInput, match="no method course"):
        DeepEnsemble(2, ClassMeans(), engine="vmap").fit(toy_train_set(), rng=rng())
    DeepEnsemble(2, ClassMeans(), engine="auto").fit(toy_train_set(), rng=rng())
    with pytest.raises(ValueError, match="'grouped'"):
        DeepEnsemble(engine="fast")


def test_a_network_that_has_no_groups_is_refused_by_name():
    with pytest.raises(TypeError, match="InstanceNorm2d"):
        Grouped([nn.Sequential(nn.Conv2d(1, 2, 1), nn.InstanceNorm2d(2, affine=True))] * 2)


def test_weights_given_to_the_joint_are_copies():
    nets = networks(2)
    before = [copy.deepcopy(net.state_dict()) for net in nets]
    for kind in JOINT.values():
        with torch.no_grad():
            for parameter in kind(nets).parameters():
                parameter.zero_()
    for net, state in zip(nets, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_items_that_were_chosen_twice_count_twice_in_step_too(float32):
    train = replace(toy_train_set(4), weight=np.array([3, 1, 1, 1]))
    answers = []
    for engine in ("loop", "grouped"):
        learner = DeepEnsemble(2, tiny(), engine=engine)
        learner.fit(train, rng=rng(5))
        answers.append(next(learner.probs([torch.as_tensor(train.images[0])[None, None]])))
    torch.testing.assert_close(*answers, rtol=0, atol=0.02)
