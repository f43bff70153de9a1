import copy
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from alnb.errors import BadInput, ColdStart
from alnb.losses.mixed import mixed_loss
from alnb.models.augment import Augment
from alnb.models.checkpoint import from_bytes, to_bytes
from alnb.models.committee import DeepEnsemble, MCDropout
from alnb.models.dropout import Dropout, Fixed, Fresh, dropping
from alnb.models.fit import Recipe
from alnb.models.hardware import fast_dtype
from alnb.models.infer import member_log_probs, predict_volume, volume_probs
from alnb.models.learners import SingleNet
from alnb.models.unet import encoder, unet
from alnb.protocols import GradientLearner, Learner
from alnb.records import IGNORE, FitReport
from alnb.rng import stream
from alnb.testing.learner import check_learner, toy_train_set
from tests.toys import ClassMeans

RATES = (0.1, 0.3, 0.5)


def tiny(**changes):
    small = {"size": 32, "steps": 4, "channels": (4, 8, 16), "residual_units": 0}
    return SingleNet(**(small | changes))


def ensemble(members=3, turn=20, **changes):
    return DeepEnsemble(members, tiny(**changes), turn)


def dropper(passes=4, **changes):
    return MCDropout(passes, tiny(dropout=RATES, **changes))


def rng(seed=0):
    return np.random.default_rng(seed)


def fitted(learner, seed=0, **changes):
    learner.fit(replace(toy_train_set(), **changes), rng=rng(seed))
    return learner


def some_images(count=3, height=32, width=24):
    noise = np.random.default_rng(5).random((count, 1, height, width))
    return torch.from_numpy(noise.astype(np.float32))


def probs(learner, images):
    return next(iter(learner.probs([images])))


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


COMMITTEES = [
    lambda: ensemble(2, turn=2),
    lambda: ensemble(2, start="scratch"),
    dropper,
    lambda: DeepEnsemble(2, dropper(2), turn=1),
    lambda: DeepEnsemble(2, ClassMeans(steps=2)),
]


@pytest.mark.parametrize("make", COMMITTEES[:-1])  # the toy learns without weights
def test_committees_keep_the_contract_and_torch_s_random_state(make):
    before = torch.get_rng_state()
    check_learner(make)
    assert isinstance(make(), Learner)
    assert make().unit == "slice"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("make", "members"), list(zip(COMMITTEES, [2, 2, 4, 4, 2], strict=True)))
def test_members_one_by_one_are_the_members_at_once(make, members):
    learner = fitted(make())
    images = some_images()
    at_once = probs(learner, images)
    assert at_once.shape == (members, 3, 3, 32, 24)
    batches = [images, images[:1]]
    for batch, stacked in zip(batches, learner.probs(iter(batches)), strict=True):
        assert torch.equal(stacked[:, :1], at_once[:, :1]) or torch.allclose(
            stacked[:, :1], at_once[:, :1], atol=1e-5
        )
        assert stacked.shape[1] == len(batch)
    for stacked, one_by_one in zip(
        learner.probs(batches), member_log_probs(learner, batches), strict=True
    ):
        torch.testing.assert_close(
            torch.stack(list(one_by_one)).exp(), stacked, atol=1e-6, rtol=1e-6
        )


# --- ensembles ---------------------------------------------------------------------------------


def test_each_member_is_the_base_fitted_with_its_own_stream():
    """So members differ in initial weights, order and augmentation, and in nothing else."""
    learner = fitted(ensemble(3), seed=4)
    seed = int(rng(4).integers(2**63 - 1))
    for number in range(3):
        alone = tiny()
        alone.fit(toy_train_set(), rng=stream(seed, "member", number))
        expected = alone.state_dict()
        assert all(
            torch.equal(value, expected[name.partition(".")[2]])
            for name, value in learner.state_dict().items()
            if name.startswith(f"{number}.")
        )
    images = some_images()
    torch.testing.assert_close(probs(learner, images)[2], probs(alone, images)[0])
    spread = probs(learner, images).std(0)
    assert spread.max() > 0.01


def test_the_number_of_steps_in_a_turn_changes_nothing():
    assert same(fitted(ensemble(2, turn=1)), fitted(ensemble(2, turn=20)))
    assert same(fitted(fitted(ensemble(2, turn=1)), 1), fitted(fitted(ensemble(2, turn=3)), 1))


def test_a_member_more_leaves_the_others_as_they_are():
    few, many = fitted(ensemble(2)).state_dict(), fitted(ensemble(3)).state_dict()
    assert few.keys() < many.keys()
    assert all(torch.equal(value, many[name]) for name, value in few.items())


def test_progress_counts_the_steps_of_all_members():
    steps = []
    learner = ensemble(3, turn=2)
    report = learner.fit(toy_train_set(), rng=rng(), on_step=steps.append)
    assert [step.step for step in steps] == list(range(1, 13))
    assert {step.total for step in steps} == {12}
    assert steps[-1].seconds_left == 0
    assert report.steps == 12
    assert report.loss == steps[-1].loss
    assert not report.stopped


@pytest.mark.parametrize("after", [4, 9, 17, 30, 47])
def test_stopped_at_any_time_members_have_learnt_nearly_equally_long(after):
    turn, members = 4, 3
    learner = ensemble(members, turn=turn, steps=20)
    taken = []
    seen = []

    def loss(logits, target, whole):
        seen.append(1)
        return mixed_loss(logits, target, whole)

    learner.base.loss = loss
    report = learner.fit(
        toy_train_set(), rng=rng(), on_step=taken.append, stopped=lambda: len(taken) >= after
    )
    assert len(taken) == report.steps == after
    assert report.stopped
    # equal up to one turn: what each has taken shows in the batch counter of its batch norm
    counted = [
        int(value)
        for name, value in learner.state_dict().items()
        if name.endswith("model.0.conv.unit0.adn.N.num_batches_tracked")
        or name.endswith("model.0.adn.N.num_batches_tracked")
    ]
    assert len(counted) == members
    assert max(counted) - min(counted) <= turn
    assert len(seen) == after


def test_a_first_fit_stopped_before_all_have_begun_leaves_no_committee():
    learner, taken = ensemble(3), []
    report = learner.fit(
        toy_train_set(), rng=rng(), on_step=taken.append, stopped=lambda: len(taken) >= 2
    )
    assert report.stopped
    assert report.steps == 0
    assert "no committee yet" in report.notes[-1]
    with pytest.raises(ColdStart):
        learner.state_dict()
    report = learner.fit(
        toy_train_set(), rng=rng(), on_step=taken.append, stopped=lambda: len(taken) >= 5
    )
    assert report.steps == 3
    assert len(probs(learner, some_images())) == 3


def test_a_warm_committee_that_is_stopped_keeps_what_each_has_learnt():
    learner = fitted(ensemble(3))
    before, taken = copy.deepcopy(learner), []
    report = learner.fit(
        toy_train_set(), rng=rng(1), on_step=taken.append, stopped=lambda: len(taken) >= 2
    )
    assert report.stopped
    assert report.steps == 2
    old, new = before.state_dict(), learner.state_dict()
    changed = {name[0] for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"0", "1"}


def test_a_committee_from_scratch_that_is_stopped_keeps_the_one_before_it():
    learner = fitted(ensemble(2, start="scratch"))
    before, taken = copy.deepcopy(learner), []
    report = learner.fit(
        toy_train_set(), rng=rng(1), on_step=taken.append, stopped=lambda: len(taken) >= 7
    )
    assert report.stopped
    assert "committee before it is kept" in report.notes[-1]
    assert same(before, learner)


def test_a_warm_start_goes_on_from_each_member_s_own_weights():
    for start, moved in (("warm", False), ("scratch", True)):
        learner = fitted(ensemble(2, start=start, steps=1))
        before = learner.state_dict()
        for member in learner._fitted:
            member.recipe = Recipe(rate=1e-7)
        after = fitted(learner, 1).state_dict()
        for number in "01":
            gap = max(
                float((after[name] - before[name]).abs().max())
                for name in before
                if name.startswith(number) and name.endswith("conv.weight")
            )
            assert (gap > 1e-3) is moved


def test_a_new_class_starts_a_new_committee():
    learner = fitted(fitted(ensemble(2)), 1, classes=5)
    assert probs(learner, some_images()).shape[2] == 5


def test_predictions_during_a_fit_come_from_the_committee_before_it():
    learner = fitted(ensemble(2))
    before = probs(learner, some_images())
    entered, leave = threading.Event(), threading.Event()

    def pause(step):
        if step.step == 6:
            entered.set()
            assert leave.wait(20)

    worker = threading.Thread(
        target=learner.fit, args=(toy_train_set(),), kwargs={"rng": rng(1), "on_step": pause}
    )
    worker.start()
    assert entered.wait(20)
    during = probs(learner, some_images())
    leave.set()
    worker.join()
    assert torch.equal(before, during)
    assert not torch.equal(before, probs(learner, some_images()))


def test_a_member_that_diverges_keeps_its_last_weights_and_is_named():
    calls = []

    def loss(logits, target, whole):
        calls.append(1)
        return mixed_loss(logits, target, whole) * (torch.nan if len(calls) == 6 else 1)

    learner = ensemble(2, turn=2, loss=loss)
    report = learner.fit(toy_train_set(), rng=rng())
    # turns of 1, 1, 2 and 2 steps: the sixth is the second member's third
    assert report.steps == 4 + 2
    assert len(report.notes) == 1
    assert report.notes[0].startswith("Member 2: Training diverged")
    assert probs(learner, some_images()).isfinite().all()


def test_nothing_learnt_at_all_is_an_error():
    def loss(logits, target, whole):
        return mixed_loss(logits, target, whole) * torch.nan

    with pytest.raises(FloatingPointError, match="Nothing was learnt"):
        fitted(ensemble(2, loss=loss))
    silent = tuple(np.full_like(target, IGNORE) for target in toy_train_set().targets)
    with pytest.raises(ColdStart, match="None of the 4"):
        fitted(ensemble(2), targets=silent)


def test_features_and_gradients_stand_side_by_side():
    learner = fitted(ensemble(2))
    images = some_images()
    for name in ("features", "gradients"):
        found = next(iter(getattr(learner, name)([images])))
        parts = [next(iter(getattr(m, name)([images]))) for m in learner._fitted]
        assert torch.equal(found, torch.cat(parts, 1))
    assert isinstance(learner, GradientLearner)
    with pytest.raises(BadInput, match="ClassMeans and give no gradients"):
        fitted(DeepEnsemble(2, ClassMeans())).gradients([images])


def test_a_base_that_cannot_take_turns_is_fitted_member_by_member():
    @dataclass
    class Noted(ClassMeans):
        def fit(self, train, *, rng, **others):
            noted.append(rng.integers(10**9))
            return super().fit(train, rng=rng, **others)

    noted = []
    learner = DeepEnsemble(3, Noted(steps=2))
    steps = []
    report = learner.fit(toy_train_set(), rng=rng(), on_step=steps.append)
    assert len(set(noted)) == 3
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert report.steps == 6
    before = copy.deepcopy(learner)
    stopped = learner.fit(
        toy_train_set(seed=3), rng=rng(), on_step=steps.append, stopped=lambda: len(steps) >= 9
    )
    assert stopped.stopped
    assert same(before, learner)


@pytest.mark.parametrize("make", COMMITTEES)
def test_a_committee_survives_its_checkpoint(make):
    learner, other = fitted(make()), make()
    other.load_state_dict(from_bytes(to_bytes(learner.state_dict())))
    assert torch.equal(probs(learner, some_images()), probs(other, some_images()))
    assert to_bytes(other.state_dict()) == to_bytes(learner.state_dict())


def test_a_checkpoint_of_another_committee_is_refused_with_both_numbers():
    state = fitted(ensemble(2)).state_dict()
    with pytest.raises(BadInput, match=r"holds 2 members.*members=3"):
        ensemble(3).load_state_dict(state)
    with pytest.raises(BadInput, match=r"holds no members.*members=3"):
        ensemble(3).load_state_dict(fitted(tiny()).state_dict())
    learner = fitted(ensemble(2))
    kept = copy.deepcopy(learner)
    damaged = {n: v for n, v in state.items() if not n.startswith("1.net")}
    with pytest.raises(BadInput):
        learner.load_state_dict(damaged)
    assert same(kept, learner)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DeepEnsemble(0), "0 members"),
        (lambda: DeepEnsemble(3, turn=0), "turns of 0"),
        (lambda: MCDropout(0), "0 passes"),
        (lambda: MCDropout(base=SingleNet()), "drops nothing"),
        (lambda: Dropout(1.0), "rate of 1.0"),
        (lambda: unet(2, generator=torch.Generator(), dropout=(0.1, 0.2)), "2 dropout rates"),
    ],
)
def test_settings_that_make_no_committee_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_mean_over_a_committee_predicts():
    learner = fitted(ensemble(3))
    volume = some_images()[:, 0].numpy()
    mean = probs(learner, some_images()).mean(0)
    np.testing.assert_allclose(volume_probs(learner, volume), mean, atol=1e-6)
    assert np.array_equal(predict_volume(learner, volume), mean.argmax(1))


@pytest.mark.parametrize("make", COMMITTEES[:-1])
def test_on_the_network_s_own_grid_members_cover_the_same_slice(make):
    """Resampled to the slice's size, the coarse maps are the fine ones: same field, same place."""
    learner = fitted(make())
    images = some_images(2, 64, 48)
    fine = torch.stack(list(next(learner.log_probs([images]))))
    coarse = torch.stack(list(next(learner.log_probs([images], coarse=True))))
    assert coarse.shape[-2:] == (32, 24)
    # what a logarithm lacks to its logit is the same for all classes, and softmax removes it
    grown = torch.nn.functional.interpolate(coarse.flatten(0, 1), (64, 48), mode="bilinear")
    torch.testing.assert_close(grown.log_softmax(1).view_as(fine), fine, atol=1e-4, rtol=0)
    same_size = some_images(2, 32, 32)
    for a, b in zip(
        next(learner.log_probs([same_size])),
        next(learner.log_probs([same_size], coarse=True)),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_weights_converted_once_give_the_numbers_of_autocast():
    learner = fitted(tiny(residual_units=2))
    model = learner._model
    net, dtype = model.ready
    framed = some_images(2, 32, 32)
    expected = fast_dtype(torch.device("cpu"))
    assert dtype is expected
    assert next(model.net.parameters()).dtype == torch.float32
    with torch.no_grad(), torch.autocast("cpu", expected, enabled=expected is not None):
        plain = model.net(framed)
        assert torch.equal(net(framed if dtype is None else framed.to(dtype)), plain)


# --- Monte Carlo dropout -----------------------------------------------------------------------


def test_scored_twice_and_in_any_company_a_slice_has_the_same_passes():
    learner = fitted(dropper())
    images = some_images()
    together = probs(learner, images)
    assert torch.equal(together, probs(learner, images))
    alone = torch.cat([probs(learner, images[i : i + 1]) for i in range(3)], 1)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    assert together.std(0).max() > 0.01


def test_more_passes_leave_the_first_ones_as_they_are():
    learner = fitted(dropper(2))
    few = probs(learner, some_images())
    learner.passes = 5
    assert torch.equal(probs(learner, some_images())[:2], few)


def test_a_pass_switches_nothing_but_dropout():
    learner = fitted(dropper())
    net = learner.base._model.net
    before = {name: value.clone() for name, value in net.state_dict().items()}
    probs(learner, some_images())
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    plain = probs(learner.base, some_images())[0]
    for module in learner.base._model.ready[0].modules():
        if isinstance(module, Dropout):
            module.rate = 0.0
    torch.testing.assert_close(probs(learner, some_images()), plain.expand(4, -1, -1, -1, -1))


def test_each_fit_draws_other_masks_and_a_checkpoint_keeps_them():
    learner = fitted(dropper())
    first = int(learner.state_dict()["masks"])
    fitted(learner, 1)
    assert int(learner.state_dict()["masks"]) != first
    assert "masks" not in fitted(tiny()).state_dict()


def test_dropout_lies_in_the_encoder_one_rate_per_level():
    for units in (0, 2):
        net = unet(
            3,
            generator=torch.Generator(),
            channels=(4, 8, 16),
            residual_units=units,
            dropout=(0.05, 0.1, *RATES),
        )
        levels = [
            {m.rate for m in level.modules() if isinstance(m, Dropout)} for level in encoder(net)
        ]
        assert levels == [{0.1}, {0.3}, {0.5}]
        inside = sum(isinstance(m, Dropout) for level in encoder(net) for m in level.modules())
        assert sum(isinstance(m, Dropout) for m in net.modules()) == inside
        assert not any(isinstance(m, nn.Dropout) for m in net.modules())


def test_dropout_leaves_the_initial_weights_as_they_would_be():
    made = [
        unet(3, generator=torch.Generator().manual_seed(1), channels=(4, 8, 16), dropout=rates)
        for rates in ((), RATES)
    ]
    plain, dropping_one = (net.state_dict() for net in made)
    assert plain.keys() == dropping_one.keys()
    assert all(torch.equal(value, dropping_one[name]) for name, value in plain.items())


def test_dropout_drops_its_share_and_keeps_the_mean():
    layer, x = Dropout(0.3), torch.ones(64, 8, 16, 16)
    assert layer(x) is x
    with dropping(Fresh(torch.Generator().manual_seed(0))):
        dropped = layer(x)
    values = sorted(set(dropped.flatten().tolist()))
    assert values == pytest.approx([0, 1 / 0.7])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert not torch.equal(dropped[0], dropped[1])
    with dropping(Fixed(3, 0)):
        fixed, again = layer(x), layer(x[:2])
    assert torch.equal(fixed[:2], again)
    assert torch.equal(fixed[0], fixed[1])
    with dropping(Fixed(3, 1)):
        assert not torch.equal(layer(x), fixed)


def test_dropping_on_one_thread_leaves_another_alone():
    layer, x, seen = Dropout(0.5), torch.ones(1, 4, 8, 8), []
    with dropping(Fixed(0, 0)):
        worker = threading.Thread(target=lambda: seen.append(layer(x)))
        worker.start()
        worker.join()
        assert not torch.equal(layer(x), x)
    assert torch.equal(seen[0], x)
    assert torch.equal(layer(x), x)


def test_a_network_learns_with_dropout_on_and_predicts_with_it_off():
    """Trained on one slice without augmentation, its training loss varies by dropout alone."""
    losses = {}
    for rates in ((), RATES):
        seen = losses.setdefault(rates, [])

        def loss(logits, target, whole, seen=seen):
            seen.append(float(mixed_loss(logits.detach(), target, whole)))
            return logits.float().sum() * 0

        train = toy_train_set(1)
        tiny(dropout=rates, loss=loss, augment=Augment(share=0), recipe=Recipe(batch=1)).fit(
            train, rng=rng()
        )
    assert np.ptp(losses[()]) < np.ptp(losses[RATES]) / 10
    learner = fitted(tiny(dropout=RATES))
    assert torch.equal(probs(learner, some_images()), probs(learner, some_images()))


def test_an_ensemble_of_droppers_has_members_times_passes():
    learner = fitted(DeepEnsemble(2, dropper(3)))
    found = probs(learner, some_images())
    assert len(found) == 6
    parts = [probs(member, some_images()) for member in learner._fitted]
    assert torch.equal(found, torch.cat(parts))


def test_a_report_of_no_steps_is_a_stop():
    report = ensemble(2).fit(toy_train_set(), rng=rng(), stopped=lambda: True)
    assert isinstance(report, FitReport)
    assert report.stopped
    assert report.steps == 0
