import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from alnb.data.acdc import acdc
from alnb.data.cohort import Split
from alnb.embed.train import EncoderRecipe
from alnb.errors import BadInput
from alnb.models.metrics import volume_dice
from alnb.session import replicate
from alnb.session.outcome import Measured, Outcome
from alnb.session.session import Session
from alnb.session.statistics import aubc
from alnb.session.vepa import BUDGETS, Preset, Schedule, vepa2024

SMALL = {
    "networks": 2,
    "seeds": (0, 1),
    "budgets": ("10%", "25%"),
    "iterations": 60,
    "size": 32,
    "every": 4,
    "channels": (4, 8, 16),
    "encoder": EncoderRecipe.paper(size=32, steps=3, width=0.125),
}


def small(**changes):
    return vepa2024(**(SMALL | changes))


def numbers(outcome):
    return [
        (m.seed, m.budget, m.slices, m.steps, m.validation, m.dice.tolist())
        for m in outcome.measured
    ]


# ------------------------------------------------------------------ the settings


def test_the_paper_trains_sixty_thousand_steps_times_the_cumulative_share():
    assert dict(zip(BUDGETS, Preset().steps(), strict=True)) == {
        "1%": 600,
        "2%": 1200,
        "3%": 1800,
        "4%": 2400,
        "5%": 3000,
        "10%": 6000,
        "15%": 9000,
        "20%": 12000,
        "40%": 24000,
    }
    assert set(Preset(schedule="fixed").steps()) == {6000}


def test_the_defaults_are_the_published_numbers():
    p = Preset()
    assert (p.networks, len(p.seeds), p.size, p.batch, p.every) == (5, 5, 256, 6, 200)
    assert p.counts(1454) == (14, 29, 43, 58, 72, 145, 218, 290, 581)
    assert p.reduced == ()
    assert vepa2024() == p
    recipe = p.network(1454, lambda _: 0.0, stored=True).recipe
    assert (recipe.rate, recipe.momentum, recipe.decay, recipe.power) == (0.01, 0.9, 1e-4, 0.9)
    assert (p.encoder.title, p.encoder.size, p.encoder.width) == ("acdc", 256, 1.0)


def test_a_network_trains_as_long_as_its_rounds_budget_says():
    network = Preset().network(1454, lambda _: 0.0, stored=True)
    counts = Preset().counts(1454)
    assert [network.steps(n) for n in counts] == list(Preset().steps())
    assert network.steps(42) == 1800, "one blank answer changes nothing"
    assert network.steps(1000) == 24000
    assert Schedule((2, 4), (10, 20))(1) == 10


def test_scribbles_train_two_decoders_and_masks_one():
    made = {
        o: small(oracle=o).network(30, lambda _: 0.0, stored=True) for o in ("scribble", "mask")
    }
    assert made["scribble"].dual
    assert "dmpls" in made["scribble"].loss
    assert not made["mask"].dual
    assert "mask_loss" in made["mask"].loss


def test_whatever_is_reduced_is_said():
    told = " ".join(vepa2024(scale=0.2, size=96).reduced)
    for phrase in (
        "networks 1 instead of 5",
        "seeds 1 instead of 5",
        "iterations 12000 instead of 60000",
        "size 96 instead of 256",
        "encoder size 96 instead of 256",
        "encoder epochs 20.0 instead of 100",
    ):
        assert phrase in told
    assert small(networks=5).reduced != ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0},
        {"networks": 0},
        {"seeds": (1, 1)},
        {"schedule": "long"},
        {"strategy": "vepa"},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(BadInput):
        vepa2024(**wrong)


@pytest.mark.data
def test_acdcs_training_volumes_give_the_published_numbers_of_slices(acdc_root):
    pool = acdc(acdc_root, patients=range(1, 81)).pool()
    assert Preset().counts(len(pool)) == (14, 29, 43, 58, 72, 145, 218, 290, 581)


# ------------------------------------------------------------------ the run


@pytest.fixture(scope="module")
def whole(hearts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, replicate.run(small(), hearts, folder)


def test_the_outcome_says_what_was_measured_and_how(whole, hearts):
    _, outcome = whole
    assert [(m.seed, m.budget) for m in outcome.measured] == [
        (0, "10%"),
        (0, "25%"),
        (1, "10%"),
        (1, "25%"),
    ]
    table = outcome.to_table()
    assert "networks 2 instead of 5" in table
    assert "outside the budget: validation masks of 2 volumes" in table
    assert "AUBC, axis: share of the pool labelled" in table
    lines = list(csv.DictReader(io.StringIO(outcome.to_csv())))
    assert [line["budget"] for line in lines] == ["10%", "25%"]
    runs = list(csv.DictReader(io.StringIO(outcome.runs_csv())))
    assert len(runs) == 2 * 2 * 2
    for seed in "01":
        for budget in ("10%", "25%"):
            mine = [r for r in runs if (r["seed"], r["budget"]) == (seed, budget)]
            best = max(mine, key=lambda r: float(r["validation"]))
            assert [r["chosen"] for r in mine].count("1") == 1
            assert float(best["validation"]) == max(
                float(r["validation"]) for r in mine if r["chosen"] == "1"
            )


def test_the_networks_of_a_round_are_those_of_its_checkpoint(whole, hearts):
    """The table of one round, computed again from the journal by hand."""
    folder, outcome = whole
    split = replicate.split_by_reference(hearts, 0)
    runs = replicate._Runs(small(), hearts, split, folder)
    learner = runs.learner(1)
    with runs.open(1, learner) as session:
        fit = next(f for f in session.state.fits if f.round == 0)
        state = replicate.from_bytes(session.blobs.get(fit.checkpoint))
        assert len(session.state.rounds) == 2
        assert "vepa2024" in session.embeddings
        metrics = session.state.rounds[0].metrics
    learner.load_state_dict(state)
    row = next(m for m in outcome.measured if (m.seed, m.round) == (1, 0))
    volume = runs.held("test")[1]
    for network, dice in zip(learner.committee, row.dice, strict=True):
        predicted = replicate.predict_volume(network, volume.image())
        expected = volume_dice(predicted, volume.reference(), 4, "paper")
        assert dice[1].tolist() == pytest.approx(expected.tolist())
    validate = replicate.Validation(runs.held("val"), 4)
    assert row.validation == pytest.approx([validate(n) for n in learner.committee])
    assert [m.split for m in metrics] == ["val"]


def test_a_run_that_was_cut_off_anywhere_ends_with_the_same_numbers(
    whole, hearts, tmp_path, monkeypatch
):
    """Cut off between two acts, then within the training of the second network of a round."""

    class Cut(Exception):
        pass

    def cut(name, done):
        if (name, done) == ("seed 0: answer", 1):
            raise Cut

    with pytest.raises(Cut):
        replicate.run(small(), hearts, tmp_path, on_stage=cut)
    scored = replicate.Validation.__call__
    calls = []

    def dying(self, learner):
        calls.append(learner)
        if len(calls) == 6:
            raise Cut
        return scored(self, learner)

    with monkeypatch.context() as patch:
        patch.setattr(replicate.Validation, "__call__", dying)
        with pytest.raises(Cut):
            replicate.run(small(), hearts, tmp_path)
    assert len(list((tmp_path / "seed0" / "networks").iterdir())) == 1
    outcome = replicate.run(small(), hearts, tmp_path)
    assert numbers(outcome) == numbers(whole[1])
    assert outcome.to_csv() == whole[1].to_csv()


def test_a_finished_run_trains_nothing_and_another_seed_only_itself(whole, hearts, monkeypatch):
    folder, outcome = whole
    with monkeypatch.context() as patch:
        patch.setattr(Session, "fit", None)
        patch.setattr(Session, "learn_embedding", None)
        patch.setattr(replicate, "predict_volume", None)
        again = replicate.run(small(seeds=(1, 0)), hearts, folder)
    assert sorted(numbers(again)) == sorted(numbers(outcome))
    with pytest.raises(BadInput, match="another networks: 2, now 3"):
        replicate.run(small(networks=3), hearts, folder)


def test_strategies_can_share_a_start_and_a_committee_answers_the_unsure(hearts, tmp_path):
    asked = {}
    for name in ("random", "bald"):
        preset = small(strategy=name, seeds=(3,), shared_start=True, iterations=20, oracle="mask")
        replicate.run(preset, hearts, tmp_path / name)
        runs = replicate._Runs(
            preset, hearts, replicate.split_by_reference(hearts, 0), tmp_path / name
        )
        with runs.open(3, runs.learner(3)) as session:
            asked[name] = [r.query for r in session.state.rounds]
            members = session.trainer.learner().answers
        assert members == {"random": "best", "bald": "all"}[name]
    assert asked["random"][0] == asked["bald"][0]
    assert asked["random"][1] != asked["bald"][1]


def test_without_patients_to_validate_or_test_on_it_says_so(hearts, tmp_path):
    who = hearts.patients
    for split in (Split(who[:5], (), who[5:]), Split(who[:5], who[5:], ())):
        with pytest.raises(BadInput, match=r"holds no (val|test) volume"):
            replicate.run(small(), hearts, tmp_path / "p", split=split)


# ------------------------------------------------------------------ the numbers


def made(whole, seed, number, value, validation=(0.1, 0.9)):
    """One round whose networks give `value` and `value` + .2, the second one chosen."""
    dice = np.stack([np.full((4, 3), value), np.full((4, 3), value + 0.2)])
    dice[:, 0] += 0.04
    spent = whole[1].measured[0].spent
    budget = ("2%", "4%", "40%")[number]
    share = (0.02, 0.04, 0.4)[number]
    return Measured(seed, number, budget, share, 10 * number, 100, validation, dice, spent)


def test_a_budget_shows_the_chosen_network_the_mean_of_all_and_two_error_bars(whole):
    rows = tuple(made(whole, s, r, 0.1 * r + 0.02 * s) for s in range(3) for r in range(3))
    outcome = Outcome("t", (), ("background", "a", "b", "c"), rows)
    last = outcome.points()[2]
    assert last.mean == pytest.approx(0.2 + 0.02 + 0.2 + 0.01)
    assert last.networks_mean == pytest.approx(last.mean - 0.1)
    assert last.run_std == last.networks_std == pytest.approx(0.02)
    assert last.twice_se == pytest.approx(2 * np.std([0.04, 0, 0, 0]) / 2, rel=0.1)
    assert last.classes == pytest.approx((last.mean,) * 3)
    areas = {name: mean for name, mean, _ in outcome.areas()}
    curve = [p.mean for p in outcome.points()]
    assert areas["AUBC, axis: share of the pool labelled"] == pytest.approx(
        aubc((0.02, 0.04, 0.4), curve)
    )
    assert areas["mean over the budgets of 2 to 5 %"] == pytest.approx(np.mean(curve[:2]))
    assert areas["final Dice"] == pytest.approx(curve[2])


def test_one_seed_has_no_deviation_over_runs_and_the_table_says_nothing_there(whole):
    outcome = Outcome("t", (), ("background", "a", "b", "c"), (made(whole, 0, 1, 0.5),))
    (point,) = outcome.points()
    assert np.isnan(point.run_std)
    assert "–" in outcome.to_table()
    (line,) = csv.DictReader(io.StringIO(outcome.to_csv()))
    assert line["run_std"] == ""


def test_the_protocol_lies_beside_its_projects_without_the_seeds(whole):
    facts = json.loads((whole[0] / "protocol.json").read_text())
    assert facts["networks"] == "2"
    assert "seeds" not in facts
    assert replace(small(), seeds=(9,)).networks == 2
