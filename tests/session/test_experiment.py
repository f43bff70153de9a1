import csv
import io

import pytest

from alnb.errors import BadInput
from alnb.session.experiment import budget_counts, budget_plan, run, to_csv, to_table
from alnb.session.oracle import SimulatedOracle
from alnb.strategies.random_sampling import RandomSampling
from tests.toys import ClassMeans


@pytest.mark.parametrize(
    ("budget", "rounds", "pool", "plan"),
    [
        ("5%", 5, 1454, (14, 29, 43, 58, 72)),
        ("40%", 2, 382, (76, 152)),
        ("29%", 1, 100, (29,)),
        ("12", 3, 50, (4, 8, 12)),
        ("100%", 1, 7, (7,)),
    ],
)
def test_budgets_are_exact_fractions_rounded_down(budget, rounds, pool, plan):
    assert budget_plan(budget, rounds, pool) == plan


@pytest.mark.parametrize("budget", ["1%", "0", "101%", "60", "many", "-5%", "%"])
def test_a_budget_that_cannot_be_spent_says_so(budget):
    with pytest.raises(BadInput):
        budget_plan(budget, 3, 50)


PAPER = ("1%", "2%", "3%", "4%", "5%", "10%", "15%", "20%", "40%")


@pytest.mark.parametrize(
    ("pool", "counts"),
    [
        (1454, (14, 29, 43, 58, 72, 145, 218, 290, 581)),
        (2351, (23, 47, 70, 94, 117, 235, 352, 470, 940)),
        (382, (3, 7, 11, 15, 19, 38, 57, 76, 152)),
    ],
)
def test_cumulative_budgets_are_exact_fractions_rounded_down(pool, counts):
    assert budget_counts(PAPER, pool) == counts


@pytest.mark.parametrize(
    "budgets", [(), ("1%",), ("20%", "10%"), ("20%", "21%"), ("x%",), ("200%",)]
)
def test_cumulative_budgets_that_cannot_be_spent_say_so(budgets):
    with pytest.raises(BadInput):
        budget_counts(budgets, 50)


def test_every_strategy_can_share_the_start_of_its_seed(project, hearts, tmp_path):
    oracle, started = SimulatedOracle(hearts, "mask"), []
    for name in ("strided", "coreset", "random"):
        session = project(folder=tmp_path / name, strategy=name)
        run(session, oracle, (3, 5), first=RandomSampling())
        started.append([r.query for r in session.state.rounds])
    assert started[0][0] == started[1][0] == started[2][0]
    assert len({rounds[1] for rounds in started}) > 1


def test_a_run_that_was_cut_off_at_any_stage_ends_with_the_same_curve(project, hearts, tmp_path):
    oracle = SimulatedOracle(hearts, "mask")
    plan = (2, 4)
    whole = run(project(folder=tmp_path / "whole"), oracle, plan)

    class Cut(Exception):
        pass

    stages = []
    run(project(folder=tmp_path / "count"), oracle, plan, on_stage=lambda s, n: stages.append(s))
    for cut in range(len(stages)):
        left = cut

        def stage(_name, _done):
            nonlocal left
            left -= 1
            if left < 0:
                raise Cut

        folder = tmp_path / f"cut{cut}"
        with pytest.raises(Cut):
            run(project(folder=folder), oracle, plan, on_stage=stage)
        resumed = run(project(folder=folder, learner=ClassMeans()), oracle, plan)
        assert [(r.round, r.items, r.split, r.dice) for r in resumed] == [
            (r.round, r.items, r.split, r.dice) for r in whole
        ], f"cut before stage {cut} ({stages[cut]})"


def test_a_run_killed_between_training_and_measuring_measures_that_model(
    project, hearts, monkeypatch
):
    oracle = SimulatedOracle(hearts, "mask")
    session = project()
    with monkeypatch.context() as patch:
        patch.setattr(session.trainer, "_measure_fit", lambda *_: None)
        session.ask(3)
        for slice_id in session.pending:
            session.annotate(*oracle.annotate(slice_id))
        session.fit()
    assert session.round.metrics == ()
    rows = run(project(learner=ClassMeans()), oracle, (3,))
    assert [(r.round, r.split) for r in rows] == [(1, "val"), (1, "test")]


def test_the_csv_holds_every_round_and_split_and_quotes_formulas(project, hearts):
    rows = run(project(), SimulatedOracle(hearts, "mask"), (3, 6))
    text = to_csv(rows, ("background", "=RV", "Myo", "LV"))
    table = list(csv.DictReader(io.StringIO(text)))
    assert [(r["round"], r["slices"], r["split"]) for r in table] == [
        ("1", "3", "val"),
        ("1", "3", "test"),
        ("2", "6", "val"),
        ("2", "6", "test"),
    ]
    assert "'=RV" in table[0]
    for row, r in zip(table, rows, strict=True):
        assert float(row["mean"]) == pytest.approx(sum(r.dice) / 3, abs=1e-4)
    assert len(to_table(rows, hearts.classes).splitlines()) == 2 + len(rows)
