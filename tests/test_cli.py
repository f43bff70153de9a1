import csv
import json
import re

import nbformat
import pytest

from alnb import cli
from alnb.cli import doctor, lab
from alnb.records import Stroke


@pytest.fixture
def small_phantom(monkeypatch, hearts):
    monkeypatch.setattr("alnb.data.phantom.phantom", lambda: hearts)
    return hearts


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def test_run_prints_the_curve_and_writes_it_and_goes_on_where_it_was(
    tmp_path, small_phantom, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = ("run", "--budget", "6", "--rounds", "2", "--steps", "2", "--size", "32")
    assert run(*command) == 0
    out = capsys.readouterr().out
    assert re.search(r"round +slices +share +split +mean", out)
    (curve,) = tmp_path.glob("alnb-runs/*/curve.csv")
    with curve.open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["slices"], r["split"]) for r in rows] == [
        ("3", "val"),
        ("3", "test"),
        ("6", "val"),
        ("6", "test"),
    ]
    printed = [float(line.split()[4]) for line in out.splitlines() if re.match(r" +\d", line)]
    assert printed == pytest.approx([float(row["mean"]) for row in rows], abs=6e-4)
    before = curve.read_text()
    curve.unlink()
    monkeypatch.setattr("alnb.session.session.Session.fit", None)  # nothing is trained again
    assert run(*command) == 0
    assert curve.read_text() == before


PRESET = (
    *("run", "--preset", "vepa2024", "--networks", "2", "--seeds", "2", "--budgets", "10,25%"),
    *("--iterations", "20", "--size", "32", "--every", "4", "--encoder-epochs", "0.02"),
)


@pytest.mark.slow
def test_the_published_protocol_is_one_command_that_goes_on_where_it_was(
    tmp_path, small_phantom, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(*PRESET) == 0
    out = capsys.readouterr().out
    assert "vepa2024 protocol on phantom: strategy vepa2024, scribble oracle" in out
    assert "networks 2 instead of 5" in out
    assert "outside the budget: validation masks" in out
    (curve,) = tmp_path.glob("alnb-runs/*/budgets.csv")
    with curve.open() as file:
        assert [(r["budget"], r["seeds"]) for r in csv.DictReader(file)] == [
            ("10%", "2"),
            ("25%", "2"),
        ]
    assert len((curve.parent / "networks.csv").read_text().splitlines()) == 1 + 2 * 2 * 2
    before = curve.read_text()
    monkeypatch.setattr("alnb.session.session.Session.fit", None)  # nothing is trained again
    assert run(*PRESET) == 0
    assert curve.read_text() == before


def test_runs_with_other_settings_get_folders_of_their_own(
    tmp_path, small_phantom, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for strategy, steps in (("random", 1), ("random", 2), ("strided", 1)):
        run("run", "--budget", 2, "--rounds", 1, "--strategy", strategy, "--steps", steps)
    assert len(list(tmp_path.glob("alnb-runs/*"))) == 3
    assert "curve:" in capsys.readouterr().out


@pytest.mark.parametrize("learner", ["ensemble", "dropout"])
def test_a_committee_answers_and_is_asked_in_a_folder_of_its_own(
    tmp_path, small_phantom, monkeypatch, capsys, learner
):
    monkeypatch.chdir(tmp_path)
    words = ("--budget", 4, "--rounds", 2, "--steps", 2, "--size", 32, "--strategy", "bald")
    assert run("run", *words, "--learner", learner) == 0
    (folder,) = tmp_path.glob("alnb-runs/*")
    assert f"-{learner}-" in folder.name
    assert "bald on pixels" in capsys.readouterr().out


def test_features_that_are_not_there_are_learnt_before_the_first_query(
    tmp_path, small_phantom, monkeypatch
):
    from alnb.embed.train import EncoderRecipe
    from alnb.session.session import Session

    learn = Session.learn_embedding
    monkeypatch.setattr(
        Session,
        "learn_embedding",
        lambda self, name: learn(self, EncoderRecipe(name, steps=1, size=32, batch=6, width=0.1)),
    )
    monkeypatch.chdir(tmp_path)
    words = ("run", "--budget", 2, "--rounds", 1, "--steps", 1, "--strategy", "vepa2024")
    assert run(*words, "--features", "acdc") == 0
    (folder,) = tmp_path.glob("alnb-runs/*-acdc-*")
    with Session.open(folder, small_phantom) as session:
        assert session.embedding == "acdc"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "2000%"], "budget"),
        (["--strategy", "coresett"], "Did you mean 'coreset'"),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--pool", "first"], "not a range"),
        (["--pool", "900-950"], "No patient"),
        (["--val", "1-2"], "needs --pool"),
        (["--networks", "2"], "--networks needs --preset"),
        (["--encoder-epochs", "2"], "--encoder-epochs needs --preset"),
        (["--preset", "vepa2024", "--rounds", "3"], "--rounds does not go with --preset"),
        (["--preset", "vepa2024", "--budgets", "5,1"], "farther apart"),
    ],
)
def test_mistakes_are_answered_in_one_line_without_a_traceback(
    tmp_path, small_phantom, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    assert run("run", *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_split_by_patient_numbers_is_taken_as_given(tmp_path, small_phantom, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    split = ("--pool", "1-3", "--val", "4-4", "--test", "5-6")
    assert run("run", "--budget", 2, "--rounds", 1, "--steps", 1, *split) == 0
    assert "of 3 patients, validation 1, test 2" in capsys.readouterr().out


def test_export_writes_what_a_project_holds(tmp_path, project, small_phantom, capsys):
    session = project()
    session.ask(1)
    session.draw(session.queue[0], Stroke(((5.0, 5.0), (9.0, 9.0)), 1))
    session.submit(session.queue[0])
    session.close()
    assert run("export", session.folder, tmp_path / "out") == 0
    written = capsys.readouterr().out.split()
    assert len(written) == 1
    assert written[0].endswith("_labels.nii.gz")
    assert run("export", tmp_path / "empty", tmp_path / "out") == 2


def test_the_working_copy_opens_the_project_it_lies_in_and_is_never_overwritten(tmp_path):
    copy = lab.working_copy(tmp_path / "p", str(tmp_path))
    first = next(
        c for c in nbformat.read(copy, 4).cells if "alnb-settings" in c.metadata.get("tags", [])
    )
    names = {}
    settings = [line for line in first.source.splitlines() if re.match("(PROJECT|DATA) =", line)]
    exec("\n".join(settings), names)
    assert names["PROJECT"] == "."
    assert names["DATA"] == str(tmp_path)
    copy.write_text(json.dumps({"mine": True}))
    assert lab.working_copy(tmp_path / "p", None) == copy
    assert json.loads(copy.read_text()) == {"mine": True}


def test_doctor_names_what_is_missing(monkeypatch, capsys):
    assert run("doctor") == 0
    assert "all is well" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "_extensions", set)
    monkeypatch.setitem(doctor._FLOORS, "torch", "99")
    assert run("doctor") == 1
    out = capsys.readouterr().out
    assert "at least 99 is needed" in out
    assert "widgets will not show" in out


def test_strategies_prints_every_name(capsys):
    from alnb.strategies import STRATEGIES

    assert run("strategies") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1].strip("`") for line in lines[2:]] == list(STRATEGIES)
