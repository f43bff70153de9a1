import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from alnb.errors import BadInput, ColdStart
from alnb.losses.mixed import mixed_loss
from alnb.models.augment import Augment
from alnb.models.fit import Recipe
from alnb.models.infer import predict_volume
from alnb.models.learners import SingleNet, interactive_steps
from alnb.models.metrics import volume_dice
from alnb.protocols import Learner
from alnb.records import IGNORE, TrainSet
from alnb.testing.learner import check_learner, toy_train_set


def tiny(**changes):
    small = {"size": 32, "steps": 4, "channels": (4, 8, 16), "residual_units": 0}
    return SingleNet(**(small | changes))


def rng(seed=0):
    return np.random.default_rng(seed)


def predict(learner, train):
    return [next(learner.probs([torch.as_tensor(image)[None, None]])) for image in train.images]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("changes", [{}, {"residual_units": 2}, {"start": "scratch"}])
def test_single_net_keeps_the_contract(changes):
    check_learner(lambda: tiny(**changes))


def test_it_is_a_learner_of_slices():
    assert isinstance(tiny(), Learner)
    assert tiny().unit == "slice"


def test_it_learns_discs_from_strokes_on_every_other_row():
    train = toy_train_set(8)
    learner = tiny(steps=150, channels=(8, 16, 32))
    learner.fit(train, rng=rng())
    other = toy_train_set(6, seed=9)
    for image, target in zip(other.images, other.targets, strict=True):
        assert volume_dice(predict_volume(learner, image[None])[0], target, 3).min() > 0.7


def test_a_far_field_nobody_drew_in_is_not_painted_with_foreground():
    """Strokes in the middle only; the far field looks like foreground."""
    image = np.full((32, 32), 0.9, np.float32)
    image[8:24, 8:24] = 0.1
    image[13:19, 13:19] = 0.9
    target = np.full((32, 32), IGNORE, np.uint8)
    target[10, 10:22] = target[21, 10:22] = target[10:22, 10] = target[10:22, 21] = 0
    target[14:18, 14:18] = 1
    train = TrainSet((image,) * 2, (target,) * 2, np.ones(2, int), 2)
    painted = {}
    for far in (True, False):
        learner = tiny(
            steps=120,
            far_background=far,
            near_background=0,
            augment=Augment(share=0),
            channels=(8, 16, 32),
        )
        learner.fit(train, rng=rng())
        labels = predict_volume(learner, image[None])[0]
        assert (labels[14:18, 14:18] == 1).mean() > 0.8
        painted[far] = (labels[[0, 1, -2, -1]] == 1).mean()
    assert painted[True] < 0.05
    assert painted[False] > painted[True]


def test_a_whole_mask_reaches_the_loss_as_whole_although_it_is_padded():
    seen = []

    def loss(logits, target, whole):
        seen.append((whole.clone(), target.clone()))
        return mixed_loss(logits, target, whole)

    train = toy_train_set(2)
    mask = np.where(train.targets[1] == IGNORE, 0, train.targets[1]).astype(np.uint8)
    train = replace(train, targets=(train.targets[0], mask))
    tiny(loss=loss, augment=Augment(share=0), recipe=Recipe(batch=2)).fit(train, rng=rng())
    for whole, target in seen:
        assert whole.sum() == 1
        assert (target[whole] == IGNORE).any()


def test_each_item_is_shown_as_often_as_its_weight_says():
    shown = np.zeros(3)

    def loss(logits, target, whole):
        for label in target:
            shown[int(label[label != IGNORE].max())] += 1
        return logits.float().sum() * 0

    targets = tuple(np.full((32, 32), label, np.uint8) for label in range(3))
    train = TrainSet((np.zeros((32, 32)),) * 3, targets, np.array([1, 2, 3]), 3)
    learner = tiny(steps=5, loss=loss, recipe=Recipe(batch=6))
    learner.fit(train, rng=rng())
    assert shown.tolist() == [5, 10, 15]


def test_a_warm_start_goes_on_from_the_last_weights_and_scratch_does_not():
    train = toy_train_set()
    crawl = Recipe(rate=1e-7)
    for start, moved in (("warm", False), ("scratch", True)):
        learner = tiny(start=start, steps=1)
        learner.fit(train, rng=rng(0))
        before = predict(learner, train)
        learner.recipe = crawl
        learner.fit(train, rng=rng(1))
        gap = max(
            float((a - b).abs().max()) for a, b in zip(before, predict(learner, train), strict=True)
        )
        assert (gap > 0.02) is moved


def test_a_new_class_starts_a_new_network():
    train = toy_train_set()
    learner = tiny()
    learner.fit(train, rng=rng())
    learner.fit(replace(train, classes=5), rng=rng())
    assert predict(learner, train)[0].shape[2] == 5


def test_predictions_during_a_fit_come_from_the_model_before_it():
    train = toy_train_set()
    learner = tiny()
    learner.fit(train, rng=rng(0))
    before = predict(learner, train)
    during = []
    entered, leave = threading.Event(), threading.Event()

    def pause(step):
        entered.set()
        assert leave.wait(20)

    worker = threading.Thread(
        target=learner.fit, args=(train,), kwargs={"rng": rng(1), "on_step": pause}
    )
    worker.start()
    assert entered.wait(20)
    during = predict(learner, train)
    leave.set()
    worker.join()
    assert same(before, during)
    assert not same(before, predict(learner, train))


def test_a_fit_from_scratch_that_is_stopped_keeps_the_model_before_it():
    train = toy_train_set()
    learner = tiny(start="scratch")
    learner.fit(train, rng=rng(0))
    before = predict(learner, train)
    steps = []
    report = learner.fit(train, rng=rng(1), on_step=steps.append, stopped=lambda: bool(steps))
    assert report.stopped
    assert "model before it is kept" in report.notes[-1]
    assert same(before, predict(learner, train))


def test_a_first_fit_that_is_stopped_gives_what_it_has():
    train = toy_train_set()
    learner, steps = tiny(), []
    learner.fit(train, rng=rng(), on_step=steps.append, stopped=lambda: bool(steps))
    assert len(predict(learner, train)) == len(train.images)


def test_a_fit_stopped_before_it_began_leaves_a_cold_learner():
    learner = tiny()
    report = learner.fit(toy_train_set(), rng=rng(), stopped=lambda: True)
    assert report.steps == 0
    with pytest.raises(ColdStart):
        learner.state_dict()


def test_a_loss_that_is_nan_keeps_the_model_before_it_and_says_so():
    train = toy_train_set()
    calls = 0

    def loss(logits, target, whole):
        nonlocal calls
        calls += 1
        return mixed_loss(logits, target, whole) * (torch.nan if calls > 6 else 1)

    learner = tiny(loss=loss)
    learner.fit(train, rng=rng())
    report = learner.fit(train, rng=rng())
    assert report.steps == 2
    assert "diverged" in report.notes[0]
    assert all(probs.isfinite().all() for probs in predict(learner, train))
    with pytest.raises(FloatingPointError, match="step 1"):
        learner.fit(train, rng=rng())


def test_nothing_labelled_is_a_cold_start():
    train = toy_train_set()
    silent = tuple(np.full_like(target, IGNORE) for target in train.targets)
    with pytest.raises(ColdStart, match="None of the 4"):
        tiny().fit(replace(train, targets=silent), rng=rng())
    with pytest.raises(ColdStart, match="None of the 4"):
        tiny().fit(replace(train, weight=np.zeros(4, int)), rng=rng())


def test_a_checkpoint_of_another_network_is_refused_with_both_values():
    learner = tiny()
    learner.fit(toy_train_set(), rng=rng())
    state = learner.state_dict()
    with pytest.raises(BadInput, match=r"size=32.*size=64"):
        tiny(size=64).load_state_dict(state)
    with pytest.raises(BadInput, match="residual_units=0"):
        tiny(residual_units=2).load_state_dict(state)
    with pytest.raises(BadInput, match="no entry 'config'"):
        tiny().load_state_dict({})
    with pytest.raises(BadInput, match="does not fit its own config"):
        tiny().load_state_dict({"config": state["config"]})
    free = tiny(size=None)
    free.load_state_dict(state)
    assert same(predict(free, toy_train_set()), predict(learner, toy_train_set()))


@pytest.mark.parametrize(
    "changes", [{"size": 30}, {"size": 4}, {"steps": 0}, {"start": "lukewarm"}]
)
def test_a_learner_that_cannot_work_is_refused_when_it_is_made(changes):
    with pytest.raises(ValueError, match=r"multiple|step|warm"):
        tiny(**changes)


def test_more_slices_get_more_steps_up_to_a_wait_one_accepts():
    counts = [interactive_steps(n) for n in (1, 10, 30, 100, 1000)]
    assert counts == sorted(counts)
    assert counts[0] >= 200
    assert counts[-1] == counts[-2]
