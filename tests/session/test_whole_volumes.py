"""Volumes as what is asked for, and as what a learner learns from."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import torch

import alnb
from alnb.errors import BadInput, PoolExhausted, UnknownItem
from alnb.models.infer import volume_probs
from alnb.records import IGNORE, SliceId, Stroke, VolumeId
from alnb.session import glimpses
from alnb.session.experiment import run
from alnb.session.gate import error_correlation
from alnb.session.ledger import draws
from alnb.session.oracle import SimulatedOracle
from alnb.session.snapshot import PoolSnapshot
from alnb.store.shelf import Shelf
from alnb.strategies import redundancy
from alnb.strategies.mutual_information import Quantiser
from alnb.strategies.nath import EntropyMinusMI
from alnb.strategies.random_sampling import RandomSampling
from alnb.strategies.redundancy import Redundancy
from alnb.strategies.strided import Strided
from alnb.strategies.uncertainty import TopScore, bald, dice_disagreement, entropy, itself
from alnb.strategies.wrappers import WarmStart
from tests.session.test_session import line
from tests.toys import ClassMeans, VolumeMeans, VolumeMembers

SMALL = Redundancy(Quantiser(bins=4, side=8, depth=8))


def answer(session, slices):
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in slices:
        session.annotate(*oracle.annotate(slice_id))


def submitted(session, slices):
    for slice_id in slices:
        session.draw(slice_id, line())
        session.submit(slice_id)


@pytest.fixture
def solid(project):
    """Opens a project of whole volumes with a learner of volumes."""
    return lambda **changes: project(**({"unit": "volume", "learner": VolumeMembers()} | changes))


# ------------------------------------------------------------------ the loop


def test_a_volume_is_asked_answered_in_part_learnt_proposed_measured_and_found_again(solid):
    session = solid()
    (asked,) = session.ask(1).query
    depth = len(session.cohort.volumes[asked.volume])
    assert session.pending == tuple(SliceId(asked.volume, z) for z in range(depth))
    first, second, *rest = session.pending
    submitted(session, [first])
    session.skip(second)
    assert session.pending == tuple(rest)
    assert session.snapshot().labelled.tolist() == session.pool.rows([asked]).tolist()
    session.fit()
    assert session.state.fits[-1].taught == {first}
    shown, badge = session.prediction(rest[0])
    assert shown.shape == session.cohort.shape(rest[0])
    assert badge == "model of round 1 · 1 slice"
    assert session.evaluate("val").volumes == len(session.trainer.measurable("val"))
    (other,) = session.ask(1).query
    assert other != asked
    assert {s.volume for s in session.pending} == {other.volume}
    before = session.state
    again = solid()
    assert again.state == before
    assert again.pending == session.pending
    assert again.trainer.model()[1].means.tolist() == session.trainer.model()[1].means.tolist()


def test_an_oracle_answers_whole_volumes_round_after_round(solid):
    session = solid(strategy=WarmStart(RandomSampling(), EntropyMinusMI(redundancy=SMALL)))
    rows = run(session, SimulatedOracle(session.cohort, "mask"), (2, 3, 5))
    asked = [item for r in session.state.rounds for item in r.query]
    depths = [len(session.cohort.volumes[item.volume]) for item in asked]
    assert len(set(asked)) == 5
    assert rows[-1].items == sum(depths)
    assert rows[-1].share == sum(depths) / sum(map(len, session.pool.slices))
    assert session.state.rounds[1].strategy.startswith("WarmStart")
    train = session.trainer._train_set(session.state)
    for name, target in zip(train.names, train.targets, strict=True):
        np.testing.assert_array_equal(target, session.cohort.volumes[name].reference())


def test_one_volume_is_shown_first_and_six_slices(solid, project, tmp_path):
    volumes = solid()
    desk = alnb.show(volumes, panels=False, live=False)
    assert len(volumes.round.query) == 1
    desk.close()
    slices = project(folder=tmp_path / "slices")
    desk = alnb.show(slices, panels=False, live=False)
    assert len(slices.round.query) == 6
    desk.close()


def test_volumes_of_which_anything_is_answered_are_not_asked_again(solid):
    session = solid()
    session.ask(2)
    one, two = session.round.query
    submitted(session, [SliceId(one.volume, 0)])
    for slice_id in [s for s in session.queue if s.volume == two.volume][1:]:
        session.skip(slice_id)
    free = {session.pool.ids[row] for row in session.snapshot().candidates}
    assert free == set(session.pool.ids) - {one}
    left = len(session.pool) - 1
    with pytest.raises(PoolExhausted, match=f"{left} of {len(session.pool)} can"):
        session.ask(left + 1)


def test_a_volume_of_which_enough_is_answered_can_be_finished(solid):
    session = solid()
    (item,) = session.ask(1).query
    first, second, *rest = session.queue
    submitted(session, [first])
    session.draw(second, line())
    session.finish(item)
    assert session.pending == (second,)
    assert {session.status(s) for s in rest} == {"skipped"}
    session.submit(second)
    assert session.pending == ()
    target = session.trainer._train_set(session.state).targets[0]
    assert [(plane != IGNORE).any() for plane in target] == [True, True] + [False] * len(rest)
    seq = session.state.seq
    session.finish(item)
    assert session.state.seq == seq
    with pytest.raises(UnknownItem, match="not in the pool"):
        session.finish(VolumeId("nobody"))


def test_a_project_of_volumes_has_no_cap_per_volume_however_it_is_opened(project):
    session = project(unit="volume", per_volume=2)
    chosen = repr(session.strategy)
    assert repr(project(per_volume=2).strategy) == chosen == repr(RandomSampling())


@pytest.mark.parametrize("unit", ["slice", "volume"])
def test_a_committee_of_networks_of_volumes_goes_through_the_loop(project, unit):
    from alnb.models.fit import Recipe
    from alnb.models.svgd_committee import SVGDCommittee
    from alnb.models.volume_net import VolumeNet

    tiny = VolumeNet(
        size=(8, 16, 16),
        steps=2,
        channels=(4, 8),
        residual_units=0,
        recipe=Recipe(batch=2),
        device="cpu",
    )
    settings = {
        "unit": unit,
        "strategy": WarmStart(Strided(), EntropyMinusMI(redundancy=SMALL)),
        "keep_labelled": True,
        "cold_start": "random",
    }
    session = project(learner=SVGDCommittee(2, tiny), **settings)
    run(session, SimulatedOracle(session.cohort, "simulated"), (2, 4))
    assert session.round.strategy.startswith("WarmStart")
    assert None not in session.round.scores
    slice_id = session.pool.slices[-1][0]
    shown = session.prediction(slice_id)[0]
    again = project(learner=SVGDCommittee(2, tiny), **settings)
    again.trainer.model()
    np.testing.assert_array_equal(again.prediction(slice_id)[0], shown)
    rows = again.snapshot().candidates
    score = TopScore(bald).per_slice
    fine = again.snapshot().reduce(score, rows)
    np.testing.assert_allclose(fine, session.snapshot().reduce(score, rows), atol=1e-6)
    coarse = replace(again.snapshot(), coarse=True).reduce(score, rows)
    assert coarse.shape == fine.shape
    assert np.isfinite(coarse).all()


# ------------------------------------------------------------------ what is learnt


def test_a_learner_of_volumes_learns_sparse_slices_with_the_rest_unsaid(project):
    session = project(learner=VolumeMeans())
    name = session.pool.ids[0].volume
    other = next(i.volume for i in session.pool.ids if i.volume != name)
    taught = [SliceId(name, 2), SliceId(name, 0), SliceId(other, 1)]
    answer(session, taught)
    blank = SliceId(other, 0)
    session.annotate(*_blank(session, blank))
    train = session.trainer._train_set(session.state)
    assert train.names == (name, other)
    # as often as any of its answered slices was chosen
    assert train.weight.tolist() == [2, 1]
    for volume, target, image in zip(train.names, train.targets, train.images, strict=True):
        source = session.cohort.volumes[volume]
        np.testing.assert_array_equal(image, source.image())
        for z in range(len(source)):
            truth = source.reference()[z] if SliceId(volume, z) in taught else IGNORE
            np.testing.assert_array_equal(target[z], np.broadcast_to(truth, target[z].shape))
    session.fit()
    assert session.state.fits[-1].report.steps == 1


def _blank(session, slice_id):
    from alnb.records import Annotation, Scribble

    stroke = Stroke(((2.0, 2.0),), IGNORE)
    return Annotation(slice_id, Scribble((stroke,)), "oracle"), {}


def test_a_volume_chosen_twice_weighs_two_also_after_reopening_and_costs_nothing(solid):
    session = solid(keep_labelled=True)
    session.ask(len(session.pool))
    answer(session, session.pending)
    first, second = session.ask(2).query
    assert session.pending == ()
    session.fit()
    again = solid(keep_labelled=True)
    for each in (session, again):
        train = each.trainer._train_set(each.state)
        weight = dict(zip(train.names, train.weight.tolist(), strict=True))
        assert {name for name, w in weight.items() if w == 2} == {first.volume, second.volume}
        assert set(weight.values()) == {1, 2}
    spent, total = again.ledger(), len(again.pool)
    assert (spent.draws, spent.repeats, spent.items) == (total + 2, 2, total)
    assert (spent.share, np.isnan(spent.asked_share)) == (1.0, True)
    assert draws(again, 1)[first] == 2


def test_what_was_left_of_a_volume_does_not_wait_when_it_is_asked_again(solid):
    session = solid(keep_labelled=True)
    session.ask(len(session.pool))
    name = session.pool.ids[0].volume
    done, *left = (s for s in session.queue if s.volume == name)
    submitted(session, [done])
    session.ask(len(session.pool))
    assert set(session.pending) == {s for s in session.queue if s.volume != name}
    told = dict(zip(session.round.query, session.round.origin, strict=True))
    assert {item for item, word in told.items() if word == "again"} == {VolumeId(name)}
    # unless a person wants it, or has begun it
    session.draw(left[0], line())
    assert left[0] in session.pending
    session.amend(remove=[VolumeId(name)])
    session.amend(add=[VolumeId(name)])
    assert set(left) <= set(session.pending)
    assert solid(keep_labelled=True).pending == session.pending


def test_the_ledger_counts_both_shares_with_and_without_the_first_round(project):
    session = project(keep_labelled=True)
    session.ask(6)
    answer(session, session.pending)
    initial = set(session.round.query)
    for n in (4, 5):
        session.ask(n)
        answer(session, session.pending)
    asked = [item for r in session.state.rounds for item in r.query]
    spent, pool = session.ledger(), len(session.pool)
    unique = set(asked)
    assert spent.draws == 15
    assert spent.items == len(unique) == spent.slices
    assert spent.repeats == 15 - len(unique)
    assert spent.share == len(unique) / pool
    assert spent.asked_share == len(unique - initial) / (pool - 6)
    assert session.ledger(0).asked_share == 0
    counts = [session.ledger(number).items for number in range(3)]
    assert all(a <= b for a, b in pairwise(counts))
    with pytest.raises(UnknownItem, match="no round 3"):
        session.ledger(3)


# ------------------------------------------------------------------ what a strategy is told


def reference(session, learner, row, pixel_score):
    """Pixel scores (Z, H, W) and mean (Z, C, H, W) of a row, volume by volume, in float64."""
    slices = session.pool.slices[row]
    volume = session.cohort.volumes[slices[0].volume]
    if learner.unit == "volume":
        whole = torch.from_numpy(volume.image().copy())[None, None]
        (stacked,) = learner.probs([whole])
        probs = stacked[:, 0].transpose(1, 2)
    else:
        probs = next(learner.probs([torch.from_numpy(volume.image().copy())[:, None]]))
    probs = probs[:, [s.index for s in slices]].double()
    return pixel_score(probs).numpy(), probs.mean(0).numpy()


def reduced(pixels, mean, reduce):
    """One number over all voxels of an item."""
    if reduce == "sum":
        return pixels.sum()
    if reduce == "mean":
        return pixels.mean()
    if reduce == "fg_mean":
        weight = 1 - mean[:, 0]
        return (pixels * weight).sum() / weight.sum()
    k = max(1, round(0.05 * pixels[0].size))
    return np.mean([np.sort(plane.ravel())[-k:].mean() for plane in pixels])


@pytest.mark.parametrize("reduce", ["sum", "mean", "fg_mean", "topk_mean"])
@pytest.mark.parametrize("unit", ["slice", "volume"])
@pytest.mark.parametrize("learner", [ClassMeans, VolumeMeans, VolumeMembers])
def test_scores_are_over_all_voxels_of_an_item(project, learner, unit, reduce):
    session = project(unit=unit, learner=learner())
    session.ask(2)
    answer(session, session.pending)
    session.fit()
    snapshot = session.snapshot()
    rows = snapshot.candidates[::-1]
    model = session.trainer.model()[1]
    found, _ = EntropyMinusMI(reduce=reduce, redundancy=None).terms(snapshot, rows)
    slow = [reduced(*reference(session, model, row, entropy), reduce) for row in rows]
    np.testing.assert_allclose(found, slow, rtol=1e-5)


@pytest.fixture
def fitted(project):
    """A snapshot of a fitted project, for a unit of the pool and a learner."""

    def make(unit, learner) -> tuple[object, PoolSnapshot, object]:
        session = project(unit=unit, learner=learner)
        session.ask(2)
        answer(session, session.pending)
        session.fit()
        model = session.trainer.model()[1]
        model.seen.clear()
        return session, session.snapshot(), model

    return make


@pytest.mark.parametrize("unit", ["slice", "volume"])
@pytest.mark.parametrize("kind", [VolumeMeans, VolumeMembers])
def test_scores_of_all_members_and_streamed_ones_agree_and_see_each_volume_once(fitted, unit, kind):
    session, snapshot, model = fitted(unit, kind())
    some = snapshot.candidates[[3, 0, 3, 4]]
    volumes = {s.volume for row in some for s in session.pool.slices[row]}
    for score in (TopScore(bald).per_slice, TopScore(dice_disagreement, itself).per_slice):
        model.seen.clear()
        found = snapshot.reduce(score, some)
        assert len(model.seen) == len(volumes)
        np.testing.assert_allclose(found, snapshot.reduce(score.__call__, some), atol=1e-6)
        assert found[0] == found[2]
    assert len(snapshot.reduce(bald, some[:0])) == 0


@pytest.mark.parametrize("unit", ["slice", "volume"])
def test_features_gradients_and_presence_are_of_the_whole_volume(fitted, unit):
    session, snapshot, model = fitted(unit, VolumeMeans())
    rows = snapshot.candidates
    images = [session.cohort.volumes[session.pool.slices[row][0].volume].image() for row in rows]
    whole = [torch.from_numpy(image.copy())[None, None] for image in images]
    for give, found in ((model.features, snapshot.learned), (model.gradients, snapshot.gradients)):
        slow = torch.cat([next(iter(give([each]))) for each in whole]).numpy()
        np.testing.assert_allclose(found(rows), slow, rtol=1e-6)
    presence = snapshot.presence()
    for row, slices in enumerate(session.pool.slices):
        image = session.cohort.volumes[slices[0].volume].image()
        labels = volume_probs(model, image)[[s.index for s in slices]].argmax(1)
        held = np.isin(np.arange(snapshot.classes), labels)
        np.testing.assert_array_equal(presence[row], held)


def test_gradients_of_a_learner_without_any_are_refused(project):
    session = project(unit="volume", learner=ClassMeans())
    session.ask(1)
    answer(session, session.pending)
    session.fit()
    with pytest.raises(BadInput, match="gives no gradients"):
        session.snapshot().gradients(np.array([0]))


def test_a_coarse_score_of_a_volume_is_near_the_fine_one(fitted):
    _, snapshot, _ = fitted("volume", VolumeMembers())
    rows, score = snapshot.candidates, TopScore(entropy).per_slice
    fine = snapshot.reduce(score, rows)
    coarse = replace(snapshot, coarse=True).reduce(score, rows)
    np.testing.assert_allclose(coarse, fine, rtol=0.3)
    assert not np.allclose(coarse, fine, rtol=1e-4)


def test_the_gate_measures_a_learner_of_volumes_slice_by_slice(hearts):
    from scipy.stats import spearmanr

    learner = VolumeMembers(means=torch.tensor([0.2, 0.5, 0.35, 0.6]))
    volumes = list(hearts.volumes.values())[:3]
    pairs = []
    for volume in volumes:
        probs = torch.from_numpy(volume_probs(learner, volume.image())).double()
        wrong = (probs.argmax(1).numpy() != volume.reference()).mean((1, 2))
        pairs += zip(entropy(probs[None]).mean((1, 2)).tolist(), wrong, strict=True)
    learner.seen.clear()
    slow = spearmanr(*np.array(pairs).T).statistic
    found = error_correlation(TopScore(entropy).per_slice, learner, volumes)
    assert found == pytest.approx(slow, abs=1e-9)
    assert len(learner.seen) == 3


# ------------------------------------------------------------------ proposals


def test_looking_at_a_slice_predicts_its_volume_once_and_holds_the_others(fitted):
    session, _, model = fitted("slice", VolumeMembers())
    name = session.pool.ids[0].volume
    expected = volume_probs(model, session.cohort.volumes[name].image())
    model.seen.clear()
    fit = session.trainer.model()
    for z in range(len(expected)):
        labels, _ = session.prediction(SliceId(name, z))
        np.testing.assert_array_equal(labels, expected[z].argmax(0))
        assert not labels.flags.writeable
        prior = session.trainer.probabilities(fit, SliceId(name, z))
        np.testing.assert_allclose(prior, expected[z], atol=1e-3)
    assert len(model.seen) == 1
    ((_, found),) = [(p.name, p.prediction) for p in session.predict(name)]
    np.testing.assert_array_equal(found.labels, expected.argmax(1))


def test_few_volumes_are_held_and_the_one_looked_at_last_stays(fitted, monkeypatch):
    monkeypatch.setattr(glimpses, "LABEL_BYTES", 1)
    monkeypatch.setattr(glimpses, "PROBABILITY_BYTES", 1)
    session, _, model = fitted("slice", VolumeMembers())
    session.trainer._glimpses = glimpses.Glimpses(session.cohort)
    one, two = dict.fromkeys(item.volume for item in session.pool.ids[:8])
    for slice_id in (SliceId(one, 0), SliceId(one, 1), SliceId(two, 0), SliceId(two, 1)):
        session.prediction(slice_id)
    assert len(model.seen) == 2
    session.prediction(SliceId(one, 0))
    assert len(model.seen) == 3


def test_a_live_proposal_takes_a_slice_of_the_volumes_prediction(fitted):
    session, _, model = fitted("slice", VolumeMembers())
    session.live.least_dice = 0.0
    slice_id = session.pool.ids[5]
    model.seen.clear()
    session.opened(slice_id)
    session.draw(slice_id, line(2))
    assert session.live.settle()
    latest = session.live.latest(slice_id)
    assert latest.checkpoint == session.state.checkpoint
    assert latest.labels.shape == session.cohort.shape(slice_id)
    assert len(model.seen) == 1


def test_live_proposals_do_not_wait_until_a_volume_is_predicted(fitted):
    session, _, model = fitted("slice", Waiting())
    session.live.least_dice = 0.0
    shown = threading.Semaphore(0)
    session.watch(lambda what: shown.release() if what == "live" else None)
    slice_id = session.pool.ids[5]
    model.seen.clear()
    session.draw(slice_id, line(2))
    assert shown.acquire(timeout=20)
    assert session.live.latest(slice_id).checkpoint is None
    Waiting.go.set()
    while session.live.latest(slice_id).checkpoint is None:
        assert shown.acquire(timeout=20)
    assert session.live.latest(slice_id).checkpoint == session.state.checkpoint
    assert model.seen == ["looked", (1, 1, *session.cohort.volumes[slice_id.volume].shape)]


def test_a_volume_that_cannot_be_predicted_is_told_once_and_strokes_alone_go_on(fitted):
    session, _, model = fitted("slice", Waiting())
    session.live.least_dice = 0.0
    Waiting.fails = True
    Waiting.go.set()
    told = threading.Event()
    session.watch(lambda what: told.set() if what == "problem" else None)
    slice_id = session.pool.ids[5]
    for offset in (0.0, 3.0, 6.0):
        session.draw(slice_id, line(2, offset))
        assert session.live.settle()
    assert told.wait(20)
    assert session.live.settle()
    session.draw(slice_id, line(1, 9.0))
    assert session.live.settle()
    assert session.live.latest(slice_id).checkpoint is None
    (problem,) = session.problems
    assert "go without the model" in problem
    assert model.seen == ["looked"]


class Waiting(VolumeMeans):
    """Predicts only when it is let go, unless it is measured."""

    go, fails = threading.Event(), False

    def probs(self, images):
        for batch in images:
            if threading.current_thread().name == "alnb-look":
                self.seen.append("looked")
                assert Waiting.go.wait(20)
                if Waiting.fails:
                    raise RuntimeError("no memory")
            yield from super().probs([batch])


@pytest.fixture(autouse=True)
def _held_back():
    Waiting.go, Waiting.fails = threading.Event(), False
    yield
    Waiting.go.set()


# ------------------------------------------------------------------ on disk


@pytest.fixture
def counted(monkeypatch):
    """How often mutual information was computed since the test began."""
    calls = []
    real = redundancy.between

    def noted(rows, columns, quantiser, **settings):
        calls.append(len(columns))
        return real(rows, columns, quantiser, **settings)

    monkeypatch.setattr(redundancy, "between", noted)
    return calls


@pytest.mark.parametrize("unit", ["slice", "volume"])
def test_mutual_information_is_computed_once_in_the_life_of_a_project(project, counted, unit):
    strategy = WarmStart(Strided(), EntropyMinusMI(None, redundancy=SMALL))
    settings = {"unit": unit, "strategy": strategy, "per_volume": 1, "keep_labelled": True}
    session = project(**settings)
    session.ask(3)
    answer(session, session.pending)
    assert counted == []
    first = session.compare_strategies([strategy], 2)
    assert len(counted) == 1
    other = EntropyMinusMI(None, redundancy=replace(SMALL, aggregate="max"), alpha=2.0)
    session.ask(2, strategy=other)
    again = project(**settings)
    again.ask(2)
    assert len(counted) == 1
    assert list(again.compare_strategies([strategy], 2).scores) == list(first.scores)
    # the strategy that was handed in has kept nothing for itself
    assert strategy.then.redundancy._memory == {}
    assert len(Shelf(again.folder / "information")) == 3


def test_a_cache_that_was_given_is_used_and_a_full_disk_only_costs_time(
    project, counted, monkeypatch
):
    mine = {}
    session = project(strategy=EntropyMinusMI(None, redundancy=replace(SMALL, cache=mine)))
    answer(session, session.pool.ids[:2])
    session.ask(2)
    assert len(mine) == 2
    assert len(Shelf(session.folder / "information")) == 0

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alnb.store.shelf.atomic_write", full)
    lost = EntropyMinusMI(None, redundancy=SMALL)
    number = len(counted)
    assert session.compare_strategies([lost], 2).problems == {}
    session.compare_strategies([lost], 2)
    assert len(counted) == number + 2


def test_a_volume_answered_in_part_is_exported_with_the_rest_unlabelled(solid, tmp_path):
    session = solid()
    (item,) = session.ask(1).query
    volume = session.cohort.volumes[item.volume]
    answer(session, session.pending[1:])
    session.fit()
    paths = session.export(tmp_path / "out")
    (written,) = [path for path in paths if path.name.endswith(".nii.gz")]
    found = volume.from_native(np.asarray(nib.load(written).dataobj))
    assert (found[0] == IGNORE).all()
    np.testing.assert_array_equal(found[1:], volume.reference()[1:])
    maps = session.export_predictions(tmp_path / "predicted", item.volume)
    predicted = volume.from_native(np.asarray(nib.load(maps[0]).dataobj))
    expected = volume_probs(session.trainer.model()[1], volume.image()).argmax(1)
    np.testing.assert_array_equal(predicted, expected)
