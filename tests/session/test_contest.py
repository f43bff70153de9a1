import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from alnb.data.cohort import Split
from alnb.errors import BadInput
from alnb.models.checkpoint import from_bytes
from alnb.models.metrics import volume_dice
from alnb.models.svgd_committee import SVGDCommittee
from alnb.records import TrainSet
from alnb.session import contest
from alnb.session.nath import nath2021_hippocampus, nath2021_pancreas
from alnb.session.session import Session
from alnb.session.study_report import to_table, trainings_csv
from alnb.store.shelf import Shelf

TINY = {"members": 2, "steps": 2, "batch": 2, "channels": (2, 4), "residual_units": 0, "threads": 1}
SMALL = TINY | {"seeds": (0,), "trainings": 3, "initial": 2, "pool": 4, "val": 1, "test": 1}
SMALL |= {"size": 8, "grid": 8, "bins": 8, "arms": ("svgd_mi", "random", "full")}


def small(**changes):
    return nath2021_hippocampus(**(SMALL | changes))


def numbers(study):
    """All that must not change: everything but the wall clock."""
    rows = csv.DictReader(io.StringIO(trainings_csv(study)))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(hearts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, contest.run(small(), hearts, folder)


@pytest.fixture
def opened(hearts):
    """Opens the project of an arm."""
    return lambda folder, arm, **changes: contest.project(small(**changes), hearts, folder, arm, 0)


class Cut(Exception):
    pass


# ------------------------------------------------------------------ what is run


def test_arms_begin_with_the_same_volumes_and_the_same_networks(whole, opened):
    start, checkpoints = [], []
    for arm in ("svgd_mi", "random"):
        with opened(whole[0], arm) as session:
            start.append(session.state.rounds[0].query)
            checkpoints.append([f.checkpoint for f in session.state.fits])
    assert start[0] == start[1]
    assert checkpoints[0][0] == checkpoints[1][0]
    assert len(set(checkpoints[0] + checkpoints[1])) == 5


def test_draws_follow_the_plan_and_only_an_arm_that_keeps_can_draw_more_than_it_labels(whole):
    rows = {(t.arm, t.training): t for t in whole[1].trained}
    assert [rows["svgd_mi", n].draws for n in range(3)] == [2, 3, 4]
    assert [rows["random", n].unique for n in range(3)] == [2, 3, 4]
    assert all(t.unique <= t.draws for t in whole[1].trained)
    full = rows["full", 0]
    assert full.unique == full.draws == full.pool == 8
    assert (full.share, full.asked_share) == (1, 1)


def test_a_volume_that_is_drawn_again_costs_nothing_and_weighs_more(hearts, tmp_path, opened):
    """Entropy alone, where labelled volumes stay, until one of them comes again."""
    changes = {"arms": ("epistemic_keep",), "trainings": 7}
    study = contest.run(small(**changes), hearts, tmp_path)
    last = study.trained[-1]
    assert last.draws == 8
    assert last.unique < 8
    with opened(tmp_path, "epistemic_keep", **changes) as session:
        again = [item for item, times in session.state.counts.items() if times > 1]
        labelled = {s.volume for s in session.state.labelled}
        weights = session.trainer._train_set(session.state)
    assert again
    assert len(labelled) == last.unique
    assert dict(zip(weights.names, weights.weight.tolist(), strict=True)) == {
        item.volume: times for item, times in session.state.counts.items() if times
    }


def test_the_numbers_are_those_of_the_networks_in_the_journal(whole, hearts, opened):
    """One line of the table, computed again by hand."""
    learner = small().committee("svgd_mi")
    with opened(whole[0], "svgd_mi") as session:
        fit = session.state.fits[1]
        learner.load_state_dict(from_bytes(session.blobs.get(fit.checkpoint)))
        assert session.split.val == ()
    row = next(t for t in whole[1].trained if (t.arm, t.training) == ("svgd_mi", 1))
    test = small().split(hearts).test
    volumes = [v for v in hearts.volumes.values() if v.patient in test]
    for volume, dice in zip(volumes, row.dice, strict=True):
        image = torch.from_numpy(volume.image().copy())[None, None]
        mean = next(iter(learner.probs([image]))).mean(0)[0]
        predicted = mean.argmax(0).numpy().astype(np.uint8)
        expected = volume_dice(predicted, volume.reference(), 4, "one")
        assert dice.tolist() == pytest.approx(expected.tolist())
    assert row.disagreement == pytest.approx(learner.diagnostics[-1].disagreement, abs=1e-6)


def test_every_arm_asks_in_its_own_way_and_ensembles_begin_by_themselves(hearts, tmp_path, opened):
    arms = ("svgd_mi_delete", "epistemic", "entropy", "jsd", "max_cover", "random_ensemble")
    arms = (*arms, "foreground_random")
    study = contest.run(small(arms=arms, trainings=2), hearts, tmp_path)
    last = [each for each in study.trained if each.training == 1]
    assert [each.arm for each in last] == list(arms)
    assert {each.unique for each in last} == {3}
    asked, first = {}, {}
    for arm in arms:
        with opened(tmp_path, arm) as session:
            asked[arm] = session.state.rounds[1].strategy
            first[arm] = session.state.fits[0].checkpoint
    assert "Redundancy" in asked["svgd_mi_delete"]
    assert asked["epistemic"] == asked["entropy"] != asked["jsd"]
    assert "bald" in asked["jsd"]
    assert "Suggestive" in asked["max_cover"]
    assert first["entropy"] == first["random_ensemble"] != first["epistemic"]
    assert first["epistemic"] == first["jsd"] == first["max_cover"]


def test_a_training_depends_on_its_volumes_and_its_seed_and_the_first_is_not_repeated(
    hearts, tmp_path, monkeypatch
):
    volumes = list(hearts.volumes.values())
    folder, rng = Shelf(tmp_path / "start"), np.random.default_rng
    plain = small().committee("random")

    def learner(seed=0, shelf=None):
        return contest.Repeatable(2, plain.base, None, seed=seed, start=2, shelf=shelf)

    def fitted(which, count, rng):
        chosen = volumes[:count]
        train = TrainSet(
            tuple(v.image() for v in chosen),
            tuple(v.reference() for v in chosen),
            np.ones(count, np.int64),
            4,
            tuple(v.name for v in chosen),
        )
        report = which.fit(train, rng=rng)
        state = which.state_dict()
        return report, np.concatenate([v.double().numpy().ravel() for v in state.values()])

    report, one = fitted(learner(shelf=folder), 2, rng(1))
    assert (fitted(learner(), 2, rng(2))[1] == one).all()
    assert not np.array_equal(fitted(learner(seed=1), 2, rng(1))[1], one)
    fitted(learner(shelf=folder), 3, rng(1))
    assert len(folder) == 2
    monkeypatch.setattr(SVGDCommittee, "fit", None)
    again, kept = fitted(learner(shelf=folder), 2, rng(3))
    assert again == report
    assert (kept == one).all()


def test_patches_of_resampled_volumes_go_the_same_way(hearts, tmp_path, monkeypatch):
    monkeypatch.setattr("alnb.session.nath.phantom", lambda: hearts)
    counts = {"trainings": 2, "initial": 2, "queries": 3, "pool": 4, "val": 1, "test": 1}
    small = TINY | counts | {"seeds": (4,), "patch": 8, "voxel_mm": 9.0, "grid": 8}
    preset = nath2021_pancreas(**small, arms=("svgd_mi_delete",))
    cohort = preset.cohort(None)
    assert {v.spacing_mm for v in cohort.volumes.values()} == {(9.0, 9.0, 9.0)}
    study = contest.run(preset, cohort, tmp_path)
    assert [t.unique for t in study.trained] == [2, 5]
    assert "at 9 mm" in study.title


# ------------------------------------------------------------------ cut off, and gone on with


def test_a_run_that_was_cut_off_anywhere_ends_with_the_same_numbers(
    whole, hearts, tmp_path, monkeypatch
):
    """Between two acts, within a training, and between a training and its measurement."""

    def cut(name, done):
        if (name, done) == ("svgd_mi, seed 0: answer", 1):
            raise Cut

    with pytest.raises(Cut):
        contest.run(small(), hearts, tmp_path, on_stage=cut)

    def dying(self, train, **_):
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(SVGDCommittee, "fit", dying)
        with pytest.raises(Cut):
            contest.run(small(), hearts, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(contest, "dice_table", dying)
        with pytest.raises((Cut, TypeError)):
            contest.run(small(), hearts, tmp_path)
    study = contest.run(small(), hearts, tmp_path)
    assert numbers(study) == numbers(whole[1])


def test_a_finished_run_opens_nothing_and_more_trainings_go_on_from_it(whole, hearts, monkeypatch):
    folder, study = whole
    told = []
    with monkeypatch.context() as patch:
        patch.setattr(Session, "open", None)
        again = contest.run(small(), hearts, folder, on_trained=told.append)
        assert numbers(contest.read(small(), hearts, folder)) == numbers(study)
        fewer = contest.run(small(trainings=2), hearts, folder)
    assert numbers(again) == numbers(study)
    assert len(told) == len(study.trained)
    assert len(fewer.trained) == 5
    more = contest.run(small(arms=("random",), trainings=4), hearts, folder)
    assert [t.unique for t in more.trained] == [2, 3, 4, 5]
    with pytest.raises(BadInput, match="another members: 2, now 3"):
        contest.run(small(members=3), hearts, folder)
    with pytest.raises(BadInput, match=r"another strides: None, now \(1,\)"):
        contest.run(small(strides=(1,)), hearts, folder)
    assert numbers(contest.read(small(), hearts, folder)) == numbers(study)


def test_a_table_that_was_lost_is_measured_again_by_the_networks_of_the_journal(
    whole, hearts, monkeypatch
):
    folder, study = whole
    (folder / "seed0" / "svgd_mi" / "measured" / "001.json").unlink()
    monkeypatch.setattr(Session, "fit", None)
    assert numbers(contest.run(small(), hearts, folder)) == numbers(study)


def test_validation_is_measured_only_where_it_is_asked_for_and_changes_nothing_else(
    whole, hearts, tmp_path
):
    assert all(np.isnan(t.validation) for t in whole[1].trained)
    study = contest.run(small(validate=True, arms=("random",)), hearts, tmp_path)
    assert all(0 <= t.validation <= 1 for t in study.trained)
    plain = [t for t in whole[1].trained if t.arm == "random"]
    assert [t.mean for t in study.trained] == [t.mean for t in plain]


# ------------------------------------------------------------------ what is said


def test_the_report_says_what_was_run_and_what_is_not_as_published(whole):
    text = to_table(whole[1])
    for words in (
        "nath2021_hippocampus protocol on phantom: 8 volumes that can be labelled, 2 to begin",
        "steps 2 instead of 1500",
        "no arm can label more than 4 of 8 volumes (50.0%)",
        "the Dice of the whole pool",
        "--assumed lists them",
        "foreground_random is chance under other draws",
    ):
        assert words in text


def test_a_pool_that_is_asked_out_ends_the_run_and_the_report_says_so(hearts, tmp_path):
    study = contest.run(small(arms=("random",), trainings=40, queries=5), hearts, tmp_path)
    assert [t.unique for t in study.trained] == [2, 7]
    assert "Trainings ended after 2 of 40" in to_table(study)


def test_without_anybody_to_test_on_and_without_anything_measured_it_says_so(hearts, tmp_path):
    who = hearts.patients
    with pytest.raises(BadInput, match="holds no test volume"):
        contest.run(small(), hearts, tmp_path, split=Split(who[:5], who[5:], ()))
    with pytest.raises(BadInput, match="no measured training yet"):
        contest.read(small(), hearts, tmp_path)
    assert replace(small(), seeds=(3,)).settings == small().settings


@pytest.mark.data
def test_hippocampi_go_the_whole_way(data_root, tmp_path):
    preset = small(arms=("svgd_mi",), intensity="percentiles", size=16, grid=16, trainings=2)
    cohort = preset.cohort(data_root / "hippocampus")
    who = cohort.patients
    study = contest.run(preset, cohort, tmp_path, split=Split(who[:5], (), who[5:7]))
    assert [t.unique for t in study.trained] == [2, 3]
    assert study.classes == ("background", "anterior", "posterior")
    assert all(t.dice.shape == (2, 2) for t in study.trained)
