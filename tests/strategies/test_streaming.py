"""What is added up member by member equals what the members give at once, in little memory."""

import math
import pickle
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from alnb.rng import stream
from alnb.session.snapshot import PoolSnapshot
from alnb.strategies import uncertainty as un
from alnb.strategies.common import Narrowed
from alnb.strategies.streaming import NEEDS, Running, Stacked, needs_of, streams, summed
from alnb.strategies.uncertainty import SliceScore, TopScore
from alnb.testing.toy import toy_snapshot

SCORES = [
    un.entropy,
    un.expected_entropy,
    un.bald,
    un.scaled_kl,
    un.pairwise_kl,
    un.margin,
    un.least_confidence,
    un.variation_ratio,
    un.class_variance,
]
REDUCTIONS = [un.mean, un.total, un.fg_mean, un.topk_mean]


def some_logs(members, *, sharpness=3.0, dtype=torch.float32, shape=(2, 4, 9, 7)):
    logits = np.random.default_rng(members).normal(size=(members, *shape)) * sharpness
    return torch.from_numpy(logits).to(dtype).log_softmax(2)


@pytest.mark.parametrize("members", [1, 2, 5, 40])
@pytest.mark.parametrize("score", SCORES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("sharpness", [0.0, 3.0, 40.0])
def test_member_by_member_equals_all_at_once(score, members, sharpness):
    logs = some_logs(members, sharpness=sharpness)
    streamed = score(Running.over(iter(logs), needs_of(score)))
    # the divergences of near certainty are large: their error is relative
    torch.testing.assert_close(streamed, score(logs.exp()), atol=1e-6, rtol=2e-6)
    if sharpness < 10:
        exact = score(logs.double().exp()).float()
        torch.testing.assert_close(streamed, exact, atol=1e-6, rtol=2e-6)


@pytest.mark.parametrize("part", sorted(NEEDS))
def test_each_part_equals_its_definition(part):
    logs = some_logs(5)
    members = logs.double().exp().numpy()
    labels = members.argmax(2)
    plain = {
        "mean": members.mean(0),
        "entropy": -(members * np.log(members)).sum(2).mean(0),
        "log": np.log(members).mean(0),
        "spread": members.var(0).sum(1),
        "votes": np.stack([(labels == c).mean(0) for c in range(4)], 1),
    }
    for sums in (Running.over(logs, [part]), Stacked(logs.exp())):
        assert sums.members == 5
        np.testing.assert_allclose(getattr(sums, part), plain[part], rtol=1e-5, atol=1e-6)


def test_equal_members_have_no_spread_at_all():
    same = some_logs(1).expand(7, -1, -1, -1, -1)
    assert (un.class_variance(Running.over(same, ["spread"])) == 0).all()
    assert (un.variation_ratio(Running.over(same, ["votes"])) == 0).all()


@pytest.mark.parametrize("score", SCORES, ids=lambda f: f.__name__)
def test_members_stay_as_they_are_and_a_nan_is_seen(score):
    logs = some_logs(3)
    before = logs.clone()
    score(Running.over(logs, needs_of(score)))
    assert torch.equal(logs, before)
    for member in range(3):
        broken = logs.clone()
        broken[member, 0, 1, 2, 2] = torch.nan
        found = score(Running.over(broken, needs_of(score)))
        assert found[0, 2, 2].isnan()
        assert found[1].isfinite().all()


def test_half_precision_is_added_up_in_float32():
    half = some_logs(3).to(torch.bfloat16)
    streamed = Running.over(half, ["mean", "entropy"])
    assert streamed.mean.dtype == streamed.entropy.dtype == torch.float32
    torch.testing.assert_close(
        un.bald(streamed), un.bald(half.double().exp()).float(), atol=0.02, rtol=0
    )


def test_what_was_not_declared_is_refused_with_the_way_out():
    sums = Running.over(some_logs(2), ["mean"])
    with pytest.raises(ValueError, match=r"reads 'entropy'.*declared mean.*@streams"):
        un.bald(sums)
    with pytest.raises(ValueError, match="'median'; known are"):
        streams("median")


def test_a_reduction_adds_to_what_a_score_needs():
    assert needs_of(SliceScore(un.bald, un.mean)) == {"mean", "entropy"}
    assert needs_of(SliceScore(un.variation_ratio, un.fg_mean)) == {"votes", "mean"}
    assert needs_of(SliceScore(lambda probs: probs[0, :, 0], un.mean)) is None
    assert needs_of(SliceScore(un.bald, lambda pixels, probs: pixels.amax((1, 2)))) is None
    assert needs_of(SliceScore(un.dice_disagreement, un.itself)) is None


def test_scores_of_a_slice_are_equal_by_value_and_pickle():
    score = TopScore(un.bald, un.fg_mean).per_slice
    assert score == TopScore(un.bald, un.fg_mean).per_slice
    assert pickle.loads(pickle.dumps(score)) == score
    asked = []

    class Counting(type(toy_snapshot())):
        def reduce(self, score, rows):
            asked.append(len(rows))
            return super().reduce(score, rows)

    toy = toy_snapshot()
    narrowed = Narrowed.of(Counting(**vars(toy)))
    for _ in range(2):
        TopScore(un.bald).select(narrowed, 2, rng=stream(0))
    assert asked == [len(toy.candidates)]


# --- a snapshot over a committee ---------------------------------------------------------------


class Members:
    """M fixed members, none of whom is computed before it is asked for; counts those alive."""

    unit = "slice"

    def __init__(self, members=6, classes=3):
        rng = np.random.default_rng(0)
        self.slopes = rng.normal(size=(members, classes)).astype(np.float32) * 3
        self.alive = self.most = 0

    def _log_probs(self, batch, slope):
        return (batch * torch.from_numpy(slope)[None, :, None, None]).log_softmax(1)

    def probs(self, images):
        for batch in images:
            yield torch.stack([self._log_probs(batch, slope).exp() for slope in self.slopes])


class OneByOne(Members):
    def log_probs(self, images, *, coarse=False):
        return (self._members(batch) for batch in images)

    def _members(self, batch):
        for slope in self.slopes:
            member = self._log_probs(batch, slope)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(member, self._gone)
            yield member
            del member

    def _gone(self):
        self.alive -= 1


class Images:
    """A cohort of 3 classes whose slices are noise of two sizes."""

    classes = ("background", "a", "b")

    def slice_image(self, slice_id):
        seed = [slice_id.index, *slice_id.volume.encode()]
        side = 8 + 4 * (slice_id.volume.endswith("ES"))
        return np.random.default_rng(seed).normal(size=(side, 8)).astype(np.float32)


def snapshot(learner, unit="slice"):
    toy = toy_snapshot(unit=unit, labelled=1, skipped=1)
    return PoolSnapshot(
        toy.pool, toy.candidates, toy.labelled, toy.counts, Images(), learner, toy.features
    )


@pytest.mark.parametrize("unit", ["slice", "volume"])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("score", SCORES, ids=lambda f: f.__name__)
def test_a_snapshot_gives_the_same_scores_streamed_and_stacked(score, reduction, unit):
    whole = SliceScore(score, reduction)
    rows = snapshot(None, unit).candidates
    streamed = snapshot(OneByOne(), unit).reduce(whole, rows)
    fallen_back = snapshot(Members(), unit).reduce(whole, rows)
    stacked = snapshot(Members(), unit).reduce(whole.__call__, rows)
    np.testing.assert_allclose(streamed, stacked, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(fallen_back, stacked, rtol=2e-6, atol=1e-6)


def test_a_declared_score_holds_two_members_at_most_however_many_there_are():
    learner = OneByOne(members=50)
    frozen = snapshot(learner)
    frozen.reduce(TopScore(un.bald, un.fg_mean).per_slice, frozen.candidates)
    assert learner.most <= 2
    assert learner.alive == 0
    held = learner.most
    frozen.presence()
    assert learner.most == held


def test_a_plain_function_still_gets_every_member():
    seen = []

    def spread_of_members(probs):
        seen.append(tuple(probs.shape))
        return probs.std(0).amax((1, 2, 3))

    frozen = snapshot(OneByOne())
    scores = frozen.reduce(spread_of_members, frozen.candidates)
    assert len(scores) == len(frozen.candidates)
    assert {shape[0] for shape in seen} == {6}
    assert {shape[2] for shape in seen} == {3}


def test_probabilities_that_are_exactly_zero_add_up_to_numbers():
    class Certain(Members):
        def probs(self, images):
            for stacked in super().probs(images):
                yield (stacked == stacked.amax(2, keepdim=True)).float()

    frozen = snapshot(Certain())
    for score in SCORES:
        whole = SliceScore(score, un.mean)
        streamed = frozen.reduce(whole, frozen.candidates)
        assert np.isfinite(streamed).all()
        stacked = frozen.reduce(whole.__call__, frozen.candidates)
        np.testing.assert_allclose(streamed, stacked, rtol=1e-5, atol=1e-6)


def test_one_s_own_score_streams_with_a_line_more():
    @streams("mean")
    def second_class(probs):
        return summed(probs).mean[:, 1]

    logs = some_logs(4)
    assert torch.allclose(second_class(logs.exp()), second_class(Running.over(logs, ["mean"])))
    assert second_class.__name__ == "second_class"
    assert math.isclose(
        float(second_class(logs.exp()).mean()), float(logs.exp()[:, :, 1].mean()), rel_tol=1e-5
    )


def test_a_coarse_snapshot_scores_on_the_grid_of_its_learner_streamed_and_stacked_alike():
    class Coarse(OneByOne):
        def log_probs(self, images, *, coarse=False):
            return super().log_probs(batch[..., ::2, ::2] if coarse else batch for batch in images)

    fine, shapes = snapshot(Coarse()), []
    coarse = replace(fine, coarse=True)
    score = TopScore(un.bald).per_slice

    def plain(probs):
        shapes.append(tuple(probs.shape[-2:]))
        return score(probs)

    rows = fine.candidates
    streamed, stacked = coarse.reduce(score, rows), coarse.reduce(plain, rows)
    np.testing.assert_allclose(streamed, stacked, rtol=2e-6, atol=1e-6)
    assert set(shapes) == {(4, 4), (6, 4)}
    assert not np.allclose(streamed, fine.reduce(score, rows))
    # a learner without a grid of its own is scored as ever
    plain_learner = snapshot(Members())
    np.testing.assert_array_equal(
        replace(plain_learner, coarse=True).reduce(score, rows), plain_learner.reduce(score, rows)
    )


@pytest.mark.parametrize("shape", [(5, 4, 300, 100), (3, 2, 9, 7), (1, 3, 400, 300)])
def test_maps_larger_than_a_block_are_added_up_alike(shape):
    logs = some_logs(3, shape=shape)
    for score in SCORES:
        streamed = score(Running.over(logs, needs_of(score)))
        torch.testing.assert_close(streamed, score(logs.exp()), atol=1e-6, rtol=1e-5)


def test_no_rows_have_no_scores():
    assert len(snapshot(OneByOne()).reduce(un.bald, np.empty(0, np.int64))) == 0
