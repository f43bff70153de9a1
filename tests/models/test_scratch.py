from dataclasses import replace

import numpy as np
import pytest
import torch

from alnb.errors import BadInput, ColdStart
from alnb.models.infer import predict_volume
from alnb.models.metrics import volume_dice
from alnb.models.poly import Poly, fit_poly
from alnb.models.scratch import dmpls, masks, nearest, scribbles
from alnb.records import IGNORE
from alnb.testing.learner import check_learner, toy_train_set

SMALL = {"size": 32, "steps": 3, "channels": (4, 8, 16), "recipe": Poly(batch=4)}


def rng(seed=0):
    return np.random.default_rng(seed)


def predict(learner, train):
    return [next(learner.probs([torch.as_tensor(image)[None, None]])) for image in train.images]


@pytest.mark.parametrize("make", [dmpls, masks])
def test_it_keeps_the_contract(make):
    check_learner(lambda: make(**SMALL))


def test_it_learns_discs_from_strokes_on_every_other_row():
    learner = dmpls(**(SMALL | {"steps": 150, "channels": (8, 16, 32)}))
    learner.fit(toy_train_set(8), rng=rng())
    other = toy_train_set(6, seed=9)
    for image, target in zip(other.images, other.targets, strict=True):
        assert volume_dice(predict_volume(learner, image[None])[0], target, 3).min() > 0.7


def test_the_steps_may_follow_from_the_number_of_slices():
    seen = []
    learner = dmpls(**(SMALL | {"steps": lambda slices: seen.append(slices) or 2}))
    assert learner.fit(toy_train_set(5), rng=rng()).steps == 2
    assert seen == [5]


def test_the_weights_that_validated_best_are_kept():
    probes, scores = [], iter([0.1, 0.7, 0.7, 0.2])
    train = toy_train_set()

    def validate(learner):
        probes.append(predict(learner, train))
        return next(scores)

    settings = SMALL | {"steps": 7, "recipe": Poly(batch=4, every=2), "validate": validate}
    learner = dmpls(**settings)
    report = learner.fit(train, rng=rng())
    assert len(probes) == 4, "after 2, 4 and 6 steps and after the last"
    assert all(torch.equal(a, b) for a, b in zip(predict(learner, train), probes[1], strict=True))
    assert "0.700 after step 4" in report.notes[0]


def test_every_fit_starts_from_scratch():
    train, learner = toy_train_set(), dmpls(**SMALL)
    learner.fit(train, rng=rng(1))
    learner.fit(train, rng=rng(2))
    fresh = dmpls(**SMALL)
    fresh.fit(train, rng=rng(2))
    again, once = predict(learner, train), predict(fresh, train)
    assert all(torch.equal(a, b) for a, b in zip(again, once, strict=True))


def test_a_checkpoint_holds_no_auxiliary_decoder_and_only_fits_its_own_shape():
    learner = dmpls(**SMALL)
    learner.fit(toy_train_set(), rng=rng())
    state = learner.state_dict()
    assert not [name for name in state if "auxiliary" in name]
    with pytest.raises(BadInput, match="size 32"):
        dmpls(**(SMALL | {"size": 64})).load_state_dict(state)
    with pytest.raises(BadInput, match="config"):
        dmpls(**SMALL).load_state_dict({})


def test_a_stopped_fit_leaves_the_model_before_it():
    train, learner = toy_train_set(), dmpls(**SMALL)
    learner.fit(train, rng=rng())
    before = predict(learner, train)
    report = learner.fit(train, rng=rng(1), stopped=lambda: True)
    assert report.stopped
    assert all(torch.equal(a, b) for a, b in zip(before, predict(learner, train), strict=True))


def test_nothing_drawn_is_a_cold_start():
    train = toy_train_set(2)
    silent = replace(train, targets=tuple(np.full_like(t, IGNORE) for t in train.targets))
    with pytest.raises(ColdStart):
        dmpls(**SMALL).fit(silent, rng=rng())


def test_a_label_map_is_taken_and_given_back_by_nearest_neighbour():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert torch.equal(nearest(x, 4, 6), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(nearest(nearest(x, 4, 6), 2, 3), x)
    assert nearest(x, 1, 1).item() == 4.0


@pytest.mark.parametrize(
    ("done", "rate"), [(0, 0.01), (300, 0.01 * 0.5**0.9), (599, 0.01 * (1 / 600) ** 0.9)]
)
def test_the_rate_falls_by_a_power(done, rate):
    assert Poly().rate_at(done, 600) == pytest.approx(rate)


def test_a_warm_up_rises_to_the_schedule():
    warm = Poly(warmup=100)
    assert warm.rate_at(0, 600) == pytest.approx(0.01 / 101)
    assert warm.rate_at(300, 600) == Poly().rate_at(300, 600)


def test_sgd_takes_the_published_steps():
    """One weight under the loss w, momentum and decay followed by hand."""
    net = torch.nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(1.0)
    w, speed = 1.0, 0.0
    for done in range(3):
        speed = 0.9 * speed + (1 + 1e-4 * w)
        w -= 0.01 * (1 - done / 3) ** 0.9 * speed
    fit_poly(net, lambda _: net.weight.sum(), steps=3, recipe=Poly())
    assert net.weight.item() == pytest.approx(w, abs=1e-6)


def test_a_loss_that_is_not_finite_ends_the_fit_with_the_weights_from_before_it():
    net = torch.nn.Linear(1, 1)
    losses = iter([1.0, float("nan")])
    report = fit_poly(
        net, lambda _: net(torch.ones(1)).sum() * next(losses), steps=5, recipe=Poly()
    )
    assert report.steps == 1
    assert "diverged" in report.notes[0]
    assert all(bool(p.isfinite().all()) for p in net.parameters())


NAMES = ["pce", "pce+entropy", "pce+crf", "pce+ms", "dmpls"]


@pytest.mark.parametrize(("name", "measure"), [("pce+entropy", 0), ("pce+crf", 1)])
def test_a_term_lowers_what_it_measures(name, measure):
    from alnb.losses.regularisers import entropy_minimisation, gated_crf

    train, left = toy_train_set(8), []
    for each in ("pce", name):
        learner = scribbles(each, **(SMALL | {"steps": 40}))
        learner.fit(train, rng=rng())
        images = torch.cat([learner.square(torch.as_tensor(x)[None, None]) for x in train.images])
        logits = next(learner.probs([images]))[0].log()
        left.append(float([entropy_minimisation(logits), gated_crf(logits, images)][measure]))
    assert left[1] < left[0]


def test_named_losses_differ_in_nothing_but_their_term():
    """One step from the same start: the losses differ by the weighted term, and by it alone."""
    from alnb.losses import regularisers

    given, losses = {}, {}
    for name in NAMES[:-1]:
        learner = scribbles(name, **(SMALL | {"steps": 1, "device": "cpu"}))
        if learner.term is not None:
            resolved = getattr(regularisers, learner.term.partition(":")[2])

            def noted(logits, images, name=name, resolved=resolved):
                given[name] = float(resolved(logits, images).detach())
                return resolved(logits, images)

            learner.term = noted
        losses[name] = learner.fit(toy_train_set(), rng=rng()).loss
    for name, term in given.items():
        assert losses[name] == pytest.approx(losses["pce"] + term, rel=1e-5)
    assert len(set(losses.values())) == 4


def test_a_loss_of_another_name_is_refused():
    with pytest.raises(ValueError, match="'pce\\+crf'"):
        scribbles("crf")
