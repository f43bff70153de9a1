from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from alnb.errors import BadInput, ColdStart
from alnb.losses.mixed import mixed_loss
from alnb.models import window as module
from alnb.models.augment import Augment
from alnb.models.checkpoint import from_bytes, to_bytes
from alnb.models.committee import DeepEnsemble, MCDropout
from alnb.models.estimate import _memory, _trial, planned_steps, search_steps
from alnb.models.fit import Recipe
from alnb.models.frame import Frame, rescale
from alnb.models.gradients import last_layer_gradients
from alnb.models.infer import predict_volume
from alnb.models.learners import SingleNet
from alnb.models.members import seconds_per_step
from alnb.models.metrics import volume_dice
from alnb.models.network import locate
from alnb.models.samples import Kind, Samples
from alnb.models.unet import bottleneck
from alnb.models.window import Window, extent
from alnb.records import IGNORE, TrainSet
from alnb.testing.learner import check_learner

SHAPE = (100, 80)


def rng(seed=0):
    return np.random.default_rng(seed)


def discs(count=6, shape=SHAPE, *, radius=8, seed=0, ring=True):
    """Noise with one bright disc somewhere; a stroke through it, and one of background around."""
    draw = rng(seed)
    rows, cols = np.indices(shape)
    images, targets, masks = [], [], []
    for _ in range(count):
        row, col = (draw.integers(3 * radius, side - 3 * radius) for side in shape)
        away = np.hypot(rows - row, cols - col)
        image = (0.25 * draw.random(shape) + 0.6 * (away < radius)).astype(np.float32)
        target = np.full(shape, IGNORE, np.uint8)
        target[away < 0.7 * radius] = 1
        if ring:
            target[np.abs(away - 1.7 * radius) < 1.5] = 0
        images.append(image)
        targets.append(target)
        masks.append((away < radius).astype(np.uint8))
    return TrainSet(tuple(images), tuple(targets), np.ones(count, np.int64), 2), masks


def tiny(**changes):
    small = {
        "size": 32,
        "steps": 4,
        "scout_steps": (3, 2),
        "channels": (4, 8, 16),
        "residual_units": 0,
        "device": "cpu",
    }
    return SingleNet(**(small | changes))


def fitted(train=None, seed=0, **changes):
    learner = tiny(**changes)
    learner.fit(train or discs()[0], rng=rng(seed))
    return learner


def stack(train):
    return torch.from_numpy(np.stack(train.images))[:, None]


def answer(learner, train):
    return next(iter(learner.probs([stack(train)])))


def box(shape, top, bottom, left, right):
    target = np.full(shape, IGNORE, np.uint8)
    target[top:bottom, left:right] = 1
    return target


# the rule for a window


def test_extent_is_the_box_in_units_of_the_longer_side_of_a_centred_slice():
    # 40 rows lie in the middle of a square of 80: 20 rows of padding above
    row, col, side = extent(box((40, 80), 10, 20, 60, 76))
    assert (row, col, side) == ((20 + 15) / 80, 68 / 80, 16 / 80)
    silent = np.full((40, 80), IGNORE, np.uint8)
    silent[3] = 0
    assert extent(silent) is None


def test_a_window_is_wider_than_the_widest_structure_and_lies_at_the_median():
    places = [(10, 40), (20, 30), (22, 40), (10, 10), (26, 30)]
    targets = [box((100, 80), r, r + 20, c, c + 10) for r, c in places]
    targets[1][20:50, 30:40] = 1  # 30 rows: side is 1.75 * 0.3
    found = Window.around(targets, 48)
    assert found.side == pytest.approx(1.75 * 0.3)
    assert found.row == pytest.approx(0.32)  # of centres 20, 35, 32, 20, 36
    assert found.col == pytest.approx((10 + 35) / 100)  # of 45, 35, 45, 15, 35, and 10 of padding
    assert found.reach == round(48 / 0.525)


def test_a_window_does_not_magnify_slices_beyond_their_own_pixels():
    targets = [box((100, 80), 40, 50, 30, 40)] * 4
    assert Window.around(targets, 48).side == pytest.approx(48 / 100)
    assert Window.around(targets, 48).reach == 100


@pytest.mark.parametrize("why", ["few", "large", "small slices", "tiny", "none"])
def test_there_is_no_window_where_it_would_not_pay(why):
    targets = [box((100, 80), 40, 60, 30, 40)] * 4
    size = 32
    assert Window.around(targets, size) is not None
    if why == "few":
        targets[0] = np.zeros((100, 80), np.uint8)
    elif why == "large":
        targets[0] = box((100, 80), 30, 74, 30, 40)
    elif why == "small slices":
        size = 80
    elif why == "tiny":
        targets = [box((100, 80), 40, 44, 30, 34)] * 4
    else:
        targets = []
    assert Window.around(targets, size) is None


def test_a_window_does_for_a_somewhat_smaller_one_of_its_size():
    window = Window(0.5, 0.5, 0.5, 32)
    assert window.holds(replace(window, side=0.45, row=0.2))
    assert not window.holds(replace(window, side=0.51))
    assert not window.holds(replace(window, side=0.39))
    assert not window.holds(replace(window, size=48))


# cutting and pasting


def test_what_is_cut_and_pasted_is_itself_inside_and_background_outside():
    window = Window(0.5, 0.5, 0.5, 8)
    images = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([[0, 0], [8, 8], [3, 5]])
    found = window.paste(window.cut(images, corners), corners)
    for image, whole, (row, col) in zip(images, found, corners.tolist(), strict=True):
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[row : row + 8, col : col + 8] = True
        assert torch.equal(whole[:, inside], image[:, inside])
        assert (whole[0, ~inside] == module.SURE).all()
        assert (whole[1:, ~inside] == -module.SURE).all()


def test_windows_never_leave_the_frame_and_lie_around_the_centroid():
    window = Window(0.4, 0.3, 0.6, 32)  # reach 80: a pixel of the scout's 16 is 5 of the frame
    seen = torch.zeros(6, 16, 16)
    seen[0, 0, 0] = seen[0, 1, 1] = 1  # a corner of the frame
    seen[1, 14:, 13:] = 1
    seen[2, 6:10, 4:8] = 0.9
    seen[3] = 0.49  # nowhere likelier than not
    seen[4, 8, 8] = 1  # less than two pixels
    seen[5, 6, 4] = 1
    seen[5, 7, 4] = 0.6  # weighs less
    seen[5, 9, 9] = 0.6
    corners = window.corners(seen)
    assert corners[0].tolist() == [0, 0]
    assert corners[1].tolist() == [48, 48]
    assert corners[2].tolist() == [8 * 5 - 16, 6 * 5 - 16]
    usual = [round(0.3 * 80 - 16), round(0.6 * 80 - 16)]
    assert corners[3].tolist() == usual
    assert corners[4].tolist() == usual
    row = (6.5 + 0.6 * 7.5 + 0.6 * 9.5) / 2.2 * 5 - 16
    col = (4.5 + 0.6 * 4.5 + 0.6 * 9.5) / 2.2 * 5 - 16
    assert corners[5].tolist() == [round(row), round(col)]


def test_centres_of_slices_without_foreground_are_the_usual_place():
    window = Window(0.4, 0.3, 0.6, 32)
    found = window.centres([box((40, 80), 10, 20, 60, 76), np.zeros((40, 80), np.uint8)])
    torch.testing.assert_close(found, torch.tensor([[35 / 80, 68 / 80], [0.3, 0.6]]))
    assert window.centres([]).shape == (0, 2)


# samples


def test_samples_are_drawn_in_the_window_around_their_own_structure():
    train, _ = discs()
    window = Window(0.32, 0.5, 0.5, 32)
    samples = Samples.prepare(train, Kind(32, torch.device("cpu"), False, 0.0, window))
    assert samples.images.shape == (6, 1, 100, 100)
    still = Augment(share=0.0)
    images, targets, _ = samples.draw(6, still, rng(3), torch.Generator())
    rows = rng(3).permutation(6)
    plain, labels, _ = samples.first(6)
    for place, row in enumerate(rows):
        middle = extent(train.targets[row])
        sides = [{math.floor(100 * part - 16), math.ceil(100 * part - 16)} for part in middle[:2]]
        assert (labels[row] == 1).sum() == (train.targets[row] == 1).sum(), "all of the disc"
        assert any(
            torch.equal(
                plain[row],
                rescale(samples.images[row, None, :, top : top + 32, left : left + 32])[0],
            )
            for top, left in itertools.product(*sides)
        )
        assert (targets[place] == 1).sum() == pytest.approx(int((labels[row] == 1).sum()), rel=0.2)
        # half a pixel at most between a window at its place and one on whole pixels
        shifts = [torch.roll(plain[row], s, d) for s, d in itertools.product((-1, 0, 1), (1, 2))]
        assert min((images[place] - s).abs().mean() for s in shifts) < 0.1


# a learner that looks for the structures first


@pytest.mark.slow
def test_it_finds_and_segments_a_small_disc_where_it_has_never_been():
    train, _ = discs(10, (256, 200), radius=14, seed=1)
    learner = tiny(
        size=48, steps=150, scout_steps=(150, 10), channels=(8, 16, 32), recipe=Recipe(rate=1e-2)
    )
    learner.fit(train, rng=rng())
    assert learner._model.window is not None
    other, masks = discs(8, (256, 200), radius=14, seed=9)
    for image, mask in zip(other.images, masks, strict=True):
        assert volume_dice(predict_volume(learner, image[None])[0], mask, 2).min() > 0.75


def test_probabilities_are_of_the_slice_s_size_sum_to_one_and_are_background_outside():
    train, _ = discs()
    learner = fitted(train)
    model = learner._model
    assert model.window.reach > model.size == 32
    found = answer(learner, train)[0]
    assert found.shape == (6, 2, *SHAPE)
    torch.testing.assert_close(found.sum(1), torch.ones(6, *SHAPE))
    frame = Frame(*SHAPE, model.reach)
    framed = frame.images(stack(train))
    corners = locate(model, framed)
    for image, probs, (row, col) in zip(framed, found, corners.tolist(), strict=True):
        with torch.no_grad():
            inside = model.net(rescale(image[None, :, row : row + 32, col : col + 32]))[0]
        whole = torch.full((2, model.reach, model.reach), -module.SURE)
        whole[0] = module.SURE
        whole[:, row : row + 32, col : col + 32] = inside
        expected = frame.logits(whole[None]).softmax(1)[0]
        torch.testing.assert_close(probs, expected, rtol=0, atol=5e-3)  # bfloat16 where it is fast
        pasted = torch.zeros(1, 1, model.reach, model.reach)
        pasted[:, :, row : row + 32, col : col + 32] = 1
        outside = frame.logits(pasted)[0, 0] == 0
        assert outside.any()
        assert (probs[0, outside] > 0.999).all()


def test_slices_of_any_size_are_looked_at_even_smaller_than_the_window():
    learner = fitted()
    for shape in ((20, 12), (1, 1), (300, 40), (33, 64)):
        image = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(1))
        found = next(iter(learner.probs([image])))
        assert found.shape == (1, 2, 2, *shape)
        torch.testing.assert_close(found.sum(2), torch.ones(1, 2, *shape))


def test_a_slice_s_window_does_not_depend_on_what_else_is_in_the_batch():
    train, _ = discs()
    learner = fitted(train)
    images = stack(train)
    together = next(iter(learner.probs([images])))
    alone = torch.cat(list(learner.probs(images.split(1))), 1)
    torch.testing.assert_close(together, alone, rtol=0, atol=5e-3)


def test_features_and_gradients_are_those_of_the_part_cut_by_hand():
    train, _ = discs()
    learner, images = fitted(train), stack(train)
    model = learner._model
    frame = Frame(*SHAPE, model.reach)
    framed = frame.images(images)
    corners = locate(model, framed)
    (found,) = learner.features([images])
    (slopes,) = learner.gradients([images])
    last = [m for m in model.net.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert last or slopes.shape[1]
    for place, (row, col) in enumerate(corners.tolist()):
        cut = rescale(framed[place : place + 1, :, row : row + 32, col : col + 32])
        with torch.no_grad():
            deepest = bottleneck(model.net, cut).mean((2, 3))[0]
        torch.testing.assert_close(found[place], deepest, rtol=2e-2, atol=2e-2)

        def whole(net, x, row=row, col=col):
            logits = net(x)
            canvas = torch.full((1, 2, model.reach, model.reach), -module.SURE)
            canvas[:, 0] = module.SURE
            above = torch.cat([canvas[:, :, :row, col : col + 32], logits], 2)
            column = torch.cat([above, canvas[:, :, row + 32 :, col : col + 32]], 2)
            left, right = canvas[..., :col], canvas[..., col + 32 :]
            return frame.logits(torch.cat([left, column, right], 3))

        expected = last_layer_gradients(model.net, cut, whole)[0]
        torch.testing.assert_close(slopes[place], expected, rtol=1e-3, atol=1e-6)
        assert slopes[place].abs().max() > 0


def test_slices_with_only_background_take_part_and_are_found_empty_or_not():
    train, _ = discs()
    empty = np.zeros(SHAPE, np.uint8)
    train = replace(train, targets=(*train.targets[:5], empty))
    found = answer(fitted(train), train)
    assert found.isfinite().all()


def test_a_learner_with_a_window_keeps_the_contract(monkeypatch):
    """The toys of the contract are large in their slices."""
    monkeypatch.setattr(module, "LARGEST", 1.0)
    monkeypatch.setattr(module, "MARGIN", 1.0)
    monkeypatch.setattr(module, "FEWEST", 1)
    seen = []
    around = Window.around.__func__
    monkeypatch.setattr(
        Window,
        "around",
        classmethod(lambda cls, targets, size: seen.append(around(cls, targets, size)) or seen[-1]),
    )
    check_learner(lambda: tiny(size=16, channels=(4, 8)))
    assert all(window is not None for window in seen)


def test_the_same_stream_gives_the_same_weights_and_whole_or_in_turns_the_same_fit():
    train, _ = discs()
    whole, turns = fitted(train, steps=5), tiny(steps=5)
    told = []
    course = turns.course(train, rng=rng())
    assert course.total == 8
    while not course.over:
        course.advance(2, on_step=told.append)
    report = course.end()
    assert (report.steps, report.stopped) == (5, False)
    assert [(step.step, step.total) for step in told] == [(n, 8) for n in range(1, 9)]
    first, second = whole.state_dict(), turns.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_scout_is_told_of_and_its_time_is_part_of_the_report():
    told = []
    report = tiny().fit(discs()[0], rng=rng(), on_step=told.append)
    assert [step.step for step in told] == list(range(1, 8))
    assert {step.total for step in told} == {7}
    assert report.steps == 4
    assert report.seconds > 0


@pytest.mark.parametrize("after", [0, 2, 3])
def test_a_fit_stopped_while_it_looks_for_the_structures_publishes_nothing(after):
    train, _ = discs()
    for learner in (tiny(scout_steps=(3, 3)), fitted(train, scout_steps=(3, 3))):
        before = None if learner._model is None else learner.state_dict()
        told = []
        report = learner.fit(
            train, rng=rng(1), on_step=told.append, stopped=lambda t=told, n=after: len(t) >= n
        )
        assert (report.steps, report.stopped, len(told)) == (0, True, after)
        if before is None:
            assert "Stopped after 0 steps: there is no model yet." in report.notes
            with pytest.raises(ColdStart):
                learner.state_dict()
        else:
            assert "Stopped after 0 steps: the model before it is kept." in report.notes
            assert all(torch.equal(v, before[n]) for n, v in learner.state_dict().items())


def diverging(after):
    """A loss that is not a number from its call number `after` + 1 on, of the small slices."""
    calls = itertools.count()

    def loss(logits, target, whole):
        value = mixed_loss(logits, target, whole)
        return value * (torch.nan if logits.shape[2] == 64 and next(calls) >= after else 1)

    return loss


def test_a_scout_that_diverges_is_used_as_it_was_before_and_said_so():
    learner = tiny(loss=diverging(2))
    told = []
    report = learner.fit(discs()[0], rng=rng(), on_step=told.append)
    assert report.steps == 4
    assert "While looking for the structures: Training diverged" in report.notes[0]
    assert [step.step for step in told] == [1, 2, 4, 5, 6, 7]
    assert answer(learner, discs()[0]).isfinite().all()
    with pytest.raises(FloatingPointError, match="looking for the structures"):
        tiny(loss=diverging(0)).fit(discs()[0], rng=rng())


def test_a_window_is_kept_while_it_does_and_comes_and_goes_with_the_strokes():
    train, _ = discs()
    learner = tiny()
    few = replace(train, targets=tuple(t if n < 2 else t * 0 for n, t in enumerate(train.targets)))
    assert learner.searches(few) == 0
    learner.fit(few, rng=rng())
    assert (learner._model.window, learner._model.scout) == (None, None)
    weights = [p.clone() for p in learner._model.net.parameters()]

    crawl = Recipe(rate=1e-9)
    learner.recipe = crawl
    assert learner.searches(train) == 3
    learner.fit(train, rng=rng())
    window = learner._model.window
    assert window is not None
    assert learner.searches(train) == 2
    for old, new in zip(weights, learner._model.net.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-6)

    scout = learner._model.scout
    moved = replace(train, targets=tuple(np.roll(t, 7, 0) for t in train.targets))
    learner.fit(moved, rng=rng())
    assert learner._model.window is window, "as wide, so it still does"
    assert learner._model.scout is not scout
    for old, new in zip(scout.net.parameters(), learner._model.scout.net.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-6)

    wide = replace(train, targets=(box(SHAPE, 30, 65, 20, 50), *train.targets[1:]))
    learner.fit(wide, rng=rng())
    assert learner._model.window.side == pytest.approx(1.75 * 0.35)
    assert learner.searches(few) == 0
    learner.fit(few, rng=rng())
    assert (learner._model.window, learner._model.scout) == (None, None)
    for old, new in zip(weights, learner._model.net.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5)


def test_a_fit_leaves_the_model_that_it_goes_on_from_as_it_was():
    train, _ = discs()
    learner = fitted(train)
    before = learner._model
    kept = copy.deepcopy(
        [*before.net.state_dict().values(), *before.scout.net.state_dict().values()]
    )
    learner.fit(train, rng=rng(5))
    now = [*before.net.state_dict().values(), *before.scout.net.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))
    assert learner._model is not before


def test_a_checkpoint_holds_window_and_scout_and_one_without_them_is_read_as_such():
    train, _ = discs()
    learner = fitted(train)
    content = to_bytes(learner.state_dict())
    other = tiny()
    other.load_state_dict(from_bytes(content))
    assert other._model.window == learner._model.window
    assert torch.equal(answer(other, train), answer(learner, train))
    assert to_bytes(other.state_dict()) == content
    assert other.searches(train) == 2, "it goes on from the scout too"

    plain = fitted(train, window=False)
    state = from_bytes(to_bytes(plain.state_dict()))
    assert not any(name.startswith(("window", "scout")) for name in state)
    other.load_state_dict(state)
    assert other._model.window is None
    assert torch.equal(answer(other, train), answer(plain, train))

    cut = {n: v for n, v in from_bytes(content).items() if not n.startswith("scout.")}
    with pytest.raises(BadInput):
        other.load_state_dict(cut)


# committees


def test_members_with_windows_share_what_was_framed_and_are_those_fitted_alone():
    train, _ = discs()
    learner = DeepEnsemble(2, tiny())
    report = learner.fit(train, rng=rng(7))
    assert report.steps == 8
    courses = []
    for number in range(2):
        like = courses[0] if courses else None
        courses.append(tiny().course(train, rng=rng(number), like=like))
    assert courses[1].samples.images is courses[0].samples.images
    assert courses[1].scout.samples.images is courses[0].scout.samples.images
    assert courses[1].samples.shuffle is not courses[0].samples.shuffle
    while not all(course.over for course in courses):
        for course in courses:
            course.advance(2)
    for number, course in enumerate(courses):
        course.end()
        alone = fitted(train, seed=number).state_dict()
        mine = course.learner.state_dict()
        assert all(torch.equal(value, alone[name]) for name, value in mine.items())


@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_progress_of_a_committee_counts_the_scouts_and_its_report_does_not(engine):
    told = []
    learner = DeepEnsemble(2, tiny(), engine=engine)
    report = learner.fit(discs()[0], rng=rng(), on_step=told.append)
    steps = [step.step for step in told]
    assert steps == sorted(set(steps))
    assert steps[-1] == 2 * (3 + 4)
    assert {step.total for step in told} == {14}
    assert report.steps == 8
    assert answer(learner, discs()[0]).shape[0] == 2


@pytest.mark.parametrize("engine", ["loop", "grouped"])
@pytest.mark.parametrize("warm", [False, True])
def test_a_committee_stopped_while_scouts_search_is_left_as_it_was(engine, warm):
    train, _ = discs()
    learner = DeepEnsemble(2, tiny(scout_steps=(3, 3)), engine=engine)
    if warm:
        learner.fit(train, rng=rng())
    before = learner.state_dict() if warm else None
    for after in (1, 3, 5):
        told = []
        report = learner.fit(
            train, rng=rng(1), on_step=told.append, stopped=lambda t=told, n=after: len(t) >= n
        )
        assert report.stopped
        assert report.steps == 0
        if warm:
            assert all(torch.equal(v, before[n]) for n, v in learner.state_dict().items())
        else:
            with pytest.raises(ColdStart):
                learner.state_dict()


def test_a_warm_committee_stopped_when_only_one_member_has_learnt_keeps_the_other():
    train, _ = discs()
    learner = DeepEnsemble(2, tiny(scout_steps=(3, 3)))
    learner.fit(train, rng=rng())
    before, told = learner.state_dict(), []
    # turns of 1 and 2 are the scouts', so the seventh step is the first member's own
    report = learner.fit(train, rng=rng(1), on_step=told.append, stopped=lambda: len(told) >= 7)
    assert (report.steps, report.stopped) == (1, True)
    after = learner.state_dict()
    same = {n: all(torch.equal(v, before[k]) for k, v in after.items() if k[0] == n) for n in "01"}
    assert same == {"0": False, "1": True}


def test_passes_with_dropout_all_look_into_the_same_window():
    train, _ = discs()
    learner = MCDropout(3, tiny(dropout=(0.1, 0.2, 0.3)))
    learner.fit(train, rng=rng())
    found = answer(learner, train)
    assert found.shape == (3, 6, 2, *SHAPE)
    outside = (found[:, :, 0] > 0.9999).flatten(2)
    assert outside.any()
    other = MCDropout(3, tiny(dropout=(0.1, 0.2, 0.3)))
    other.load_state_dict(from_bytes(to_bytes(learner.state_dict())))
    assert torch.equal(answer(other, train), found)


def test_engines_are_timed_on_what_the_networks_see():
    train, _ = discs()
    learner, shapes = tiny(), []

    def loss(logits, target, whole):
        shapes.append(tuple(target.shape))
        return mixed_loss(logits, target, whole)

    learner.loss = loss
    course = learner.course(train, rng=rng())
    assert seconds_per_step("loop", [course, course]) > 0
    assert set(shapes) == {(8, 32, 32)}


# what is said beforehand


@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_steps_of_the_scouts_come_on_top_of_those_planned(engine):
    train, _ = discs()
    for learner, times in ((tiny(), 1), (DeepEnsemble(2, tiny(), engine=engine), 2)):
        assert planned_steps(learner, 6) == 4 * times
        assert search_steps(learner, train) == 3 * times
        learner.fit(train, rng=rng())
        assert search_steps(learner, train) == 2 * times
    assert search_steps(tiny(window=False), train) == 0


class Clock:
    """Time passes in the losses alone: a second for a scout's step, ten for one of the network."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def loss(self):
        """A function, since a copy of a learner would copy a method's clock."""

        def spend(logits, target, whole):
            self.now += 1.0 if logits.shape[2] == 64 else 10.0
            return mixed_loss(logits, target, whole)

        return spend


def test_a_trial_times_the_steps_of_the_network_and_of_the_scout_apart(monkeypatch):
    from alnb.models import estimate as there

    clock = Clock()
    monkeypatch.setattr(there, "time", clock)
    monkeypatch.setattr(there, "_known", {})
    train, _ = discs()
    for learner, times in (
        (tiny(steps=40, scout_steps=(30, 20), loss=clock.loss()), 1),
        (DeepEnsemble(2, tiny(steps=40, scout_steps=(30, 20), loss=clock.loss())), 2),
    ):
        found = _trial(learner, train, None, lambda: False)
        assert (found.per_step, found.per_search, found.per_slice) == (10.0, 1.0, 0.0)
        assert found.total == 40 * times
        told = there.estimate(learner, train)
        assert told.steps == 70 * times
        assert told.seconds == pytest.approx((30 + 400) * times)
    assert _trial(tiny(), train, None, lambda: True) is None


def test_memory_is_that_of_the_network_in_its_window():
    shapes = []

    def loss(logits, target, whole):
        shapes.append((len(target), logits.shape[2]))
        return mixed_loss(logits, target, whole)

    train, _ = discs(8)
    silent = np.zeros(SHAPE, np.uint8)
    train = replace(train, targets=(*[silent] * 3, *train.targets[3:]))
    assert _memory(tiny(loss=loss), train, torch.device("cpu")) > 0
    assert shapes == [(1, 64), (1, 32), (2, 64), (2, 32)]
