import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from alnb.errors import BadInput, ColdStart
from alnb.losses.log_dice import MinusLog
from alnb.models import svgd_committee
from alnb.models.checkpoint import from_bytes, to_bytes
from alnb.models.committee import DeepEnsemble
from alnb.models.fit import Recipe
from alnb.models.infer import predict_volume
from alnb.models.learners import SingleNet
from alnb.models.svgd import Stein, rbf, squared_distances, svgd_direction
from alnb.models.svgd_committee import SVGDCommittee, from_scratch
from alnb.protocols import GradientLearner, Learner
from alnb.records import TrainSet
from alnb.rng import stream
from alnb.testing.learner import check_learner, toy_train_set

ADAM = Recipe(batch=2, rate=1e-3, decay=0.0, average=0.9, optimiser="adam")
STEP = Recipe(
    batch=2, rate=1.0, decay=0.0, average=0.0, clip=math.inf, schedule="constant", optimiser="sgd"
)


def net(**changes):
    small = {"size": 32, "steps": 4, "channels": (4, 8), "residual_units": 0, "recipe": ADAM}
    return from_scratch(**(small | changes))


def committee(members=2, changes=None, **settings):
    return SVGDCommittee(members, net(**(changes or {})), **settings)


def rng(seed=0):
    return np.random.default_rng(seed)


def fitted(learner, seed=0, train=None):
    learner.fit(train or toy_train_set(), rng=rng(seed))
    return learner


def same(first, second):
    """Whether the networks are the same; what was noted on the way is not asked."""
    a, b = first.state_dict(), second.state_dict()
    a.pop("diagnostics", None), b.pop("diagnostics", None)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def weights(nets):
    return torch.stack([torch.cat([p.detach().flatten() for p in n.parameters()]) for n in nets])


def begun(learner, seed=0):
    """The networks that a fit of `learner` starts from."""
    key = int(rng(seed).integers(2**63 - 1))
    streams = [stream(key, "member", number) for number in range(learner.members)]
    courses = [learner._net().course(toy_train_set(), rng=own) for own in streams]
    return [course.model.net for course in courses]


@pytest.mark.parametrize(
    "settings", [{}, {"kernel": "function_space", "same_batches": True}, {"kernel": "per_layer"}]
)
def test_it_keeps_the_contract_and_torch_s_random_state(settings):
    before = torch.get_rng_state()
    check_learner(lambda: committee(changes={"steps": 2}, **settings))
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(committee(), Learner)
    assert isinstance(committee(), GradientLearner)
    assert committee().unit == "slice"


@pytest.mark.parametrize("recipe", [ADAM, replace(ADAM, optimiser="sgd", average=0.0, clip=0.01)])
def test_one_particle_is_plain_training_bit_for_bit(recipe):
    mine = fitted(committee(1, {"recipe": recipe}))
    theirs = fitted(DeepEnsemble(1, net(recipe=recipe, loss=MinusLog())))
    assert same(mine, theirs)


def test_the_control_is_a_deep_ensemble_bit_for_bit():
    mine = fitted(committee(3, control="ensemble"))
    assert same(mine, fitted(DeepEnsemble(3, net(loss=MinusLog()))))
    assert not same(mine, fitted(committee(3)))
    ours = fitted(committee(2, likelihood=None, control="ensemble"))
    assert same(ours, fitted(DeepEnsemble(2, net())))


def test_a_prior_pulls_as_weight_decay_inside_the_gradient():
    recipe = replace(STEP, decay=0.3, rate=0.1)
    mine = fitted(committee(1, {"recipe": recipe, "steps": 2}))
    theirs = fitted(DeepEnsemble(1, net(recipe=recipe, steps=2, loss=MinusLog())))
    for name, value in theirs.state_dict().items():
        assert torch.allclose(mine.state_dict()[name].float(), value.float(), atol=1e-6)
    free = fitted(committee(1, {"recipe": replace(recipe, decay=0.0), "steps": 2}))
    assert not same(mine, free)


@pytest.mark.parametrize("kernel", ["global", "per_layer", "function_space"])
def test_a_step_is_the_direction_of_the_definition(kernel, monkeypatch):
    monkeypatch.setattr("alnb.models.fit.fast_dtype", lambda _: None)
    stein = Stein(repulsion_scale=5.0)
    changes = {"steps": 1, "recipe": replace(STEP, decay=0.1)}
    learner = committee(3, changes, kernel=kernel, stein=stein)
    nets = begun(learner)
    start = weights(nets)
    apart = fitted(committee(3, changes, control="ensemble"))
    grad = weights([n.model.net for n in apart.networks()]) - start  # ascent, the prior included
    if kernel == "function_space":
        # the pass over the batch has moved the running statistics
        for own, other in zip(nets, apart.networks(), strict=True):
            for mine, theirs in zip(own.buffers(), other.model.net.buffers(), strict=True):
                mine.copy_(theirs)
        expected = through_predictions(nets, grad, stein)
    else:
        sizes = [(p.dim(), p.numel()) for p in nets[0].parameters()]
        layers = None
        if kernel == "per_layer":
            layers = []
            for dim, size in sizes:
                layers = [*layers, size] if dim > 1 else [*layers[:-1], layers[-1] + size]
        expected = svgd_direction(start, grad, stein, groups=layers)[0]
    fitted(learner)
    moved = weights([n.model.net for n in learner.networks()]) - start
    assert torch.allclose(moved, expected, rtol=1e-3, atol=2e-6)
    assert not torch.allclose(moved, grad, rtol=1e-2, atol=1e-4)


def through_predictions(nets, grad, stein):
    """Each particle climbs the negative sum of its kernels to the others' predictions."""
    learner = committee()
    probe = learner._net().course(toy_train_set(), rng=rng()).samples.first(4)[0]
    given = [n.eval()(probe).softmax(1).flatten() for n in nets]
    fixed = torch.stack(given).detach()
    kernel, h = rbf(squared_distances(fixed), stein)
    rows = []
    for own, member in zip(given, nets, strict=True):
        total = sum(torch.exp(-(own - other).square().sum() / h) for other in fixed)
        slopes = torch.autograd.grad(-total, list(member.parameters()))
        rows.append(torch.cat([slope.flatten() for slope in slopes]))
    return (kernel.float() @ grad + stein.repulsion_scale * torch.stack(rows)) / len(nets)


def test_members_draw_their_own_batches_unless_told_otherwise():
    for shared in (False, True):
        seen = []

        def loss(logits, target, whole, seen=seen):
            seen.append(target.clone())
            return logits.square().mean()

        changes = {"loss": loss, "steps": 3, "recipe": replace(ADAM, batch=3)}
        fitted(committee(2, changes, likelihood=None, same_batches=shared))
        alike = [torch.equal(a, b) for a, b in zip(seen[::2], seen[1::2], strict=True)]
        assert all(alike) == shared


def test_fits_start_from_scratch_and_seeds_decide_them():
    once, twice = fitted(committee()), committee()
    fitted(fitted(twice, seed=7))
    assert same(once, twice)
    assert not same(once, fitted(committee(), seed=1))
    first, second = weights([n.model.net for n in once.networks()])
    assert not torch.equal(first, second)


def test_a_warm_base_goes_on():
    warm = committee(2, {"start": "warm"})
    before = weights([n.model.net for n in fitted(warm).networks()])
    report = warm.fit(toy_train_set(), rng=rng(1), stopped=lambda: False)
    after = weights([n.model.net for n in warm.networks()])
    assert report.steps == 4
    assert 0 < float((after - before).abs().max()) < 0.02


def test_a_committee_answers_as_it_was_until_a_fit_has_ended():
    learner = fitted(committee())
    before = learner.state_dict()
    kept = []

    def look(_):
        now = learner.state_dict()
        kept.append(all(torch.equal(now[name], before[name]) for name in before))

    learner.fit(toy_train_set(), rng=rng(1), on_step=look)
    assert kept == [True] * 4
    assert not torch.equal(learner.state_dict()["0.net.model.0.conv.weight"], before[
        "0.net.model.0.conv.weight"
    ])  # fmt: skip


def test_what_was_stopped_is_published_only_if_there_is_nothing_better():
    learner, steps = committee(), []
    report = learner.fit(toy_train_set(), rng=rng(), stopped=lambda: True)
    assert report.stopped
    assert report.steps == 0
    assert "there is none yet" in report.notes[-1]
    with pytest.raises(ColdStart, match="SVGDCommittee"):
        learner.networks()
    stop = {"on_step": steps.append, "stopped": lambda: bool(steps)}
    report = learner.fit(toy_train_set(), rng=rng(), **stop)
    assert (report.steps, len(steps)) == (1, 1)
    first = learner.state_dict()
    steps.clear()
    report = learner.fit(toy_train_set(), rng=rng(1), **stop)
    assert "the committee before it is kept" in report.notes[-1]
    now = learner.state_dict()
    assert all(torch.equal(now[name], first[name]) for name in first)


def test_a_divergence_of_one_member_ends_the_fit_with_the_weights_before_it():
    calls = [0]

    def loss(logits, target, whole):
        calls[0] += 1
        return logits.square().mean() * (math.nan if calls[0] == 6 else 1.0)

    recipe = replace(ADAM, schedule="constant")
    learner = committee(2, {"loss": loss, "recipe": recipe}, likelihood=None)
    report = learner.fit(toy_train_set(), rng=rng())
    assert report.steps == 2
    assert "diverged" in " ".join(report.notes)
    calls[0] = -100
    short = committee(2, {"loss": loss, "recipe": recipe, "steps": 2}, likelihood=None)
    assert same(learner, fitted(short))
    calls[0] = 5
    with pytest.raises(FloatingPointError, match="Nothing was learnt"):
        fitted(committee(2, {"loss": loss}, likelihood=None))


def test_out_of_memory_halves_the_batch_of_all():
    def loss(logits, target, whole):
        if len(logits) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return logits.square().mean()

    learner = committee(2, {"loss": loss, "steps": 2}, likelihood=None)
    report = learner.fit(toy_train_set(), rng=rng())
    assert report.steps == 2
    assert any("went on with 1" in note for note in report.notes)


@pytest.mark.parametrize("control", [None, "ensemble"])
def test_there_is_a_record_per_epoch(control, monkeypatch):
    monkeypatch.setattr(svgd_committee, "FEWEST", 1)
    learner = committee(3, {"steps": 5}, control=control)
    report = learner.fit(toy_train_set(), rng=rng())
    assert [moment.step for moment in learner.diagnostics] == [0, 2, 4]  # four slices, two a step
    start = squared_distances(weights(begun(learner)))
    first = learner.diagnostics[0].forces
    assert first.distances**2 == pytest.approx(start.numpy(), rel=1e-5)
    assert first.kernel[0] == pytest.approx(rbf(start)[0].numpy(), rel=1e-5)
    for moment in learner.diagnostics:
        assert 0 < moment.disagreement <= 1
        assert math.isfinite(moment.loss)
        assert 0 < moment.forces.rep_ratio < 100
    assert report.loss == pytest.approx(learner.diagnostics[-1].loss)
    again = committee(3, {"steps": 5}, control=control)
    again.load_state_dict(from_bytes(to_bytes(learner.state_dict())))
    for mine, theirs in zip(again.diagnostics, learner.diagnostics, strict=True):
        assert (mine.step, mine.loss, mine.disagreement) == (
            (theirs.step, theirs.loss, theirs.disagreement)
        )
        for name in ("kernel", "bandwidth", "distances", "rep_ratio", "collapsed"):
            assert np.array_equal(getattr(mine.forces, name), getattr(theirs.forces, name))


def test_every_step_can_be_looked_at():
    learner = fitted(committee(2, {"steps": 3}, every=1))
    assert [moment.step for moment in learner.diagnostics] == [0, 1, 2]
    with pytest.raises(ValueError, match="record every 0"):
        committee(every=0)


@pytest.mark.parametrize("engine", ["grouped", "vmap"])
@pytest.mark.parametrize(("clip", "average"), [(1.0, 0.9), (0.01, 0.0)])
def test_members_at_once_are_members_in_turn_up_to_rounding(engine, clip, average, monkeypatch):
    # not Adam, which takes whole steps along gradients that are nothing but rounding
    recipe = replace(ADAM, optimiser="sgd", average=average, clip=clip)
    monkeypatch.setattr("alnb.models.fit.fast_dtype", lambda device: None)
    together = fitted(committee(3, {"recipe": recipe}, engine=engine))
    in_turn = fitted(committee(3, {"recipe": recipe}, engine="loop"))
    a, b = together.state_dict(), in_turn.state_dict()
    for name in a.keys() - {"diagnostics"}:
        assert torch.allclose(a[name].double(), b[name].double(), rtol=1e-3, atol=1e-4), name
    for mine, theirs in zip(together.diagnostics, in_turn.diagnostics, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-3)
        assert mine.forces.rep_ratio == pytest.approx(theirs.forces.rep_ratio, rel=1e-2)


def test_auto_says_what_it_took_and_what_else_there_was():
    report = committee(2, engine="auto").fit(toy_train_set(), rng=rng())
    (note,) = [note for note in report.notes if "Members were trained" in note]
    assert "in turns" in note
    assert "grouped" in note
    with pytest.raises(ValueError, match="engine is 'wide'"):
        committee(engine="wide")


def test_particles_that_begin_in_one_place_are_reported(monkeypatch):
    monkeypatch.setattr(svgd_committee, "stream", lambda seed, *_: np.random.default_rng(seed))
    learner = committee()
    report = learner.fit(toy_train_set(), rng=rng())
    assert any("Collapsed: before step 1" in note for note in report.notes)
    first, second = weights([n.model.net for n in learner.networks()])
    assert torch.equal(first, second)


def test_a_push_that_does_next_to_nothing_is_reported():
    report = committee(stein=Stein(repulsion_scale=1e-3)).fit(toy_train_set(), rng=rng())
    assert any("hardly pushed" in note for note in report.notes)
    for quiet in (committee(1), committee(control="ensemble")):
        assert quiet.fit(toy_train_set(), rng=rng()).notes == ()


def test_its_members_are_those_of_a_committee_for_whoever_reads_them():
    learner = fitted(committee(3))
    state = learner.state_dict()
    plain = DeepEnsemble(3, net())
    plain.load_state_dict({name: v for name, v in state.items() if name != "diagnostics"})
    images = torch.from_numpy(np.random.default_rng(5).random((2, 1, 32, 24), dtype=np.float32))
    assert len(learner.networks()) == 3
    for mine, theirs in (
        (learner.probs([images]), plain.probs([images])),
        (learner.features([images]), plain.features([images])),
        (learner.gradients([images]), plain.gradients([images])),
    ):
        assert torch.equal(next(iter(mine)), next(iter(theirs)))
    volume = images[:, 0].numpy()
    assert np.array_equal(predict_volume(learner, volume), predict_volume(plain, volume))
    with pytest.raises(BadInput, match="holds 3 members"):
        committee(2).load_state_dict(state)


def test_scouts_learn_first_and_count_as_steps():
    images, targets = [], []
    for number in range(4):
        target = np.zeros((64, 64), np.uint8)
        target[20 + number : 32 + number, 24:36] = 1
        targets.append(target)
        images.append(target.astype(np.float32) + 0.1)
    train = TrainSet(tuple(images), tuple(targets), np.ones(4, np.int64), 2)
    learner = committee(2, {"window": True, "scout_steps": (2, 2), "steps": 3, "size": 32})
    steps = []
    report = learner.fit(train, rng=rng(), on_step=steps.append)
    assert [(taken.step, taken.total) for taken in steps] == [(n, 7) for n in range(1, 8)]
    assert report.steps == 3
    assert all(n.model.scout is not None for n in learner.networks())
    halted = learner.fit(train, rng=rng(1), stopped=lambda: True)
    assert halted.stopped
    assert len(learner.networks()) == 2


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="0 particles"):
        SVGDCommittee(0)
    with pytest.raises(ValueError, match="'global', 'per_layer'"):
        SVGDCommittee(kernel="layer")
    with pytest.raises(ValueError, match="control is 'random'"):
        SVGDCommittee(control="random")
    with pytest.raises(ValueError, match="'log_dice'"):
        SVGDCommittee(likelihood="dice")


def test_the_default_is_the_published_training_as_far_as_it_is_known():
    base = SVGDCommittee().base
    assert isinstance(base, SingleNet)
    assert (base.steps, base.start, base.recipe.batch, base.recipe.rate) == (
        1500,
        "scratch",
        8,
        1e-3,
    )
    assert SVGDCommittee().members == 5
    image, target = torch.rand(2, 1, 8, 8), torch.ones(2, 8, 8, dtype=torch.uint8)
    from alnb.models.augment import apply

    change = base.augment.draw((2, 1, 8, 8), torch.Generator())
    assert torch.allclose(apply(image, target, change)[0], image, atol=1e-5)
