from dataclasses import replace

import numpy as np
import pytest

from alnb.data.cohort import Cohort
from alnb.data.volume import Volume
from alnb.errors import BadInput
from alnb.session import arms
from alnb.session.arms import ARMS, COMPARED
from alnb.session.assumed import assumed_table
from alnb.session.nath import (
    PUBLISHED,
    nath2021_hippocampus,
    nath2021_pancreas,
    preset,
)
from alnb.strategies.nath import EntropyMinusMI
from alnb.strategies.uncertainty import bald, entropy

OPEN = {
    "bandwidth rule": "bandwidth rule",
    "MI bins": "MI bins",
    "MI range": "MI range",
    "MI mask": "MI mask",
    "MI resizing": "MI grid",
    "MI aggregation over T": "MI over the labelled",
    "exact normalisation": "hats",
    "alpha": "alpha",
    "U-Net widths": "U-Net widths",
    "U-Net depth": "U-Net depth",
    "U-Net norm": "normalisation layer",
    "optimiser": "optimiser",
    "lr schedule": "learning rate schedule",
    "dropout": "dropout",
    "validation": "validation",
    "model selection": "weights that are kept",
    "sign of the likelihood": "likelihood",
    "MI with itself": "MI with oneself",
}
"""What the paper and what is written about it leave open, and where that is listed."""


def patients(count):
    image = np.zeros((1, 1, 1), np.float32)
    volumes = [
        Volume(f"p{n}", f"p{n}", "", (1, 1, 1), lambda: image, lambda: image.astype(np.uint8))
        for n in range(count)
    ]
    return Cohort("c", {v.name: v for v in volumes}, ("background", "a"))


# ------------------------------------------------------------------ the settings


def test_the_published_numbers_of_both_data_sets():
    names = ("rate", "batch", "members", "trainings", "steps", "queries")
    names += ("initial", "pool", "val", "test", "patch", "voxel_mm", "intensity")
    found = {n: tuple(getattr(p, name) for name in names) for n, p in PUBLISHED.items()}
    one, two = "nath2021_hippocampus", "nath2021_pancreas"
    assert found == {
        one: (1e-3, 8, 5, 40, 1500, 1, 10, 153, 50, 50, None, None, one),
        two: (4e-4, 8, 5, 40, 10_000, 5, 20, 201, 30, 30, 48, 4.0, two),
    }
    assert {len(p.seeds) for p in PUBLISHED.values()} == {5}
    assert PUBLISHED[one].size == 64
    assert nath2021_hippocampus() == PUBLISHED[one]
    assert nath2021_pancreas() == PUBLISHED[two]
    assert PUBLISHED[one].reduced == ()


@pytest.mark.parametrize(
    ("name", "pool", "most"), [("hippocampus", 163, 49), ("pancreas", 221, 215)]
)
def test_forty_trainings_have_thirty_nine_queries_between_them(name, pool, most):
    p = PUBLISHED[f"nath2021_{name}"]
    plan = p.plan("svgd_mi", pool)
    assert len(plan) == 40
    assert plan[0] == p.initial
    assert set(np.diff(plan)) == {p.queries}
    assert plan[-1] == most == p.initial + 39 * p.queries
    assert p.plan("full", pool) == (pool,)


def test_the_learner_and_the_score_are_the_published_ones_as_far_as_they_are_known():
    committee = nath2021_hippocampus().committee("svgd_mi")
    net, recipe = committee.base, committee.base.recipe
    assert (committee.members, committee.control, committee.kernel) == (5, None, "global")
    assert (net.size, net.patch, net.steps, net.start) == ((64, 64, 64), None, 1500, "scratch")
    assert net.augment.share == 0
    assert (recipe.batch, recipe.rate, recipe.average, recipe.decay) == (8, 1e-3, 0, 0)
    assert net.loss.likelihood == "neg_log_dice_loss"
    patches = nath2021_pancreas().committee("svgd_mi").base
    assert (patches.size, patches.patch, patches.recipe.rate) == (None, (48, 48, 48), 4e-4)
    strategy = nath2021_hippocampus().strategy("svgd_mi", None)
    assert isinstance(strategy, EntropyMinusMI)
    assert (strategy.uncertainty, strategy.reduce, strategy.alpha) == (entropy, "sum", 1)
    assert strategy.redundancy.quantiser.bins == 32


def test_arms_differ_in_what_they_ask_who_answers_and_what_they_keep():
    p = nath2021_hippocampus()
    assert p.strategy("epistemic", None).redundancy is None
    assert p.strategy("jsd", None).uncertainty is bald
    assert p.strategy("entropy", None) == p.strategy("epistemic", {})
    ensembles = {arm for arm in ARMS if p.committee(arm).control == "ensemble"}
    assert ensembles == {"entropy", "random_ensemble"}
    assert {arm for arm in ARMS if ARMS[arm].keep} == {"svgd_mi", "epistemic_keep"}
    assert {"svgd_mi", "random", "foreground_random", "full"} <= set(COMPARED)


def test_the_table_of_arms_tells_what_they_are():
    lines = [line.split() for line in arms.__doc__.splitlines()]
    told = {line[0]: line for line in lines if line and line[0] in ARMS}
    assert told.keys() == ARMS.keys()
    for name, arm in ARMS.items():
        assert ("ensemble" in told[name][:3]) == arm.ensemble
        assert ("kept" in told[name]) == arm.keep


def test_whatever_is_reduced_is_said():
    told = " ".join(nath2021_hippocampus(scale=0.1, size=32, arms=("random",)).reduced)
    for phrase in (
        "members 2 instead of 5",
        "seeds 1 instead of 5",
        "trainings 4 instead of 40",
        "steps 150 instead of 1500",
        "size 32 instead of 64",
    ):
        assert phrase in told
    assert "arms" not in told


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0},
        {"arms": ()},
        {"arms": ("svgd", "random")},
        {"arms": ("random", "random")},
        {"members": 0},
        {"seeds": (1, 1)},
        {"intensity": "raw"},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(BadInput):
        nath2021_hippocampus(**wrong)
    with pytest.raises(BadInput, match="No preset"):
        preset("nath2021")


# ------------------------------------------------------------------ what is assumed


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_constant_that_is_left_open_is_listed_with_a_value_and_a_reason(name):
    listed = {each.name: each for each in PUBLISHED[name].assumed}
    assert set(OPEN.values()) <= listed.keys()
    assert len(listed) == len(PUBLISHED[name].assumed)
    assert all(each.value and each.why for each in listed.values())
    text = assumed_table(PUBLISHED[name].assumed)
    assert all(each.name in text and each.why in text for each in listed.values())


def test_what_is_listed_is_what_is_run():
    changes = {"bins": 16, "alpha": 2.0, "hat": "rank", "channels": (4, 8), "bandwidth": 3.0}
    listed = {each.name: each.value for each in nath2021_hippocampus(**changes).assumed}
    assert listed["MI bins"] == "16"
    assert listed["alpha"] == "2"
    assert listed["hats"].startswith("rank")
    assert (listed["U-Net widths"], listed["U-Net depth"]) == ("4-8", "2 levels, strides of 2")
    assert listed["bandwidth rule"].startswith("3.0")


# ------------------------------------------------------------------ who is where


@pytest.mark.parametrize(
    ("available", "expected"),
    [(263, (163, 50, 50)), (300, (163, 50, 50)), (260, (161, 50, 49)), (199, (123, 38, 38))],
)
def test_fewer_cases_shrink_pool_validation_and_test_alike(available, expected):
    train, val, test = nath2021_hippocampus().subjects(available)
    assert (train, *sorted((val, test))) == (expected[0], *sorted(expected[1:]))
    assert train + val + test == min(available, 263)


def test_all_released_pancreases_are_used():
    assert nath2021_pancreas().subjects(281) == (221, 30, 30)


def test_the_split_is_one_draw_whatever_the_order_of_the_files():
    p, cohort = nath2021_hippocampus(), patients(199)
    split = p.split(cohort)
    assert (len(split.train), len(split.val), len(split.test)) == (123, 38, 38)
    assert len({*split.train, *split.val, *split.test}) == 199
    turned = Cohort("c", dict(reversed(cohort.volumes.items())), cohort.classes)
    assert p.split(turned) == split
    assert replace(p, seeds=(7,)).split(cohort) == split
    assert len(p.split(patients(300)).train) == 163


def test_patients_without_a_reference_are_neither_asked_nor_tested_on():
    cohort = patients(20)
    blind = replace(cohort.volumes["p3"], read_reference=None)
    split = nath2021_hippocampus().split(
        Cohort("c", {**cohort.volumes, "p3": blind}, cohort.classes)
    )
    assert "p3" not in {*split.train, *split.val, *split.test}
    with pytest.raises(BadInput, match="too few"):
        nath2021_hippocampus().split(patients(2))


def test_a_pool_that_is_asked_out_ends_the_run_and_one_too_small_to_begin_is_refused():
    p = nath2021_pancreas()
    assert p.plan("svgd_mi", 33) == (20, 25, 30)
    with pytest.raises(BadInput, match="fewer than the 20 that begin"):
        p.plan("random", 19)


def test_the_images_of_the_other_task_are_refused_and_ones_own_are_taken(monkeypatch):
    named = {}
    monkeypatch.setattr("alnb.session.nath.msd", lambda folder, **_: named[folder])
    named["a"] = replace(patients(3), name="MSD pancreas")
    named["b"] = replace(patients(3), name="mine")
    with pytest.raises(BadInput, match="Take nath2021_pancreas"):
        nath2021_hippocampus().cohort("a")
    assert nath2021_hippocampus().cohort("b") is named["b"]


@pytest.mark.data
def test_the_hippocampi_here_are_split_as_stated(data_root):
    p = nath2021_hippocampus(intensity="percentiles")
    cohort = p.cohort(data_root / "hippocampus")
    split = p.split(cohort)
    total = len(cohort.patients)
    assert len(split.train) == pytest.approx(total * 163 / 263, abs=1)
    assert len(split.train) + len(split.val) + len(split.test) == total
