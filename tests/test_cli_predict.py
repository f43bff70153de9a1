import csv
import json
import re
import shutil

import nibabel as nib
import pytest

from alnb import cli
from alnb.session.session import Session


def run(*arguments):
    return cli.main([str(a) for a in arguments])


@pytest.fixture
def small_phantom(monkeypatch, hearts):
    monkeypatch.setattr("alnb.data.phantom.phantom", lambda: hearts)
    return hearts


@pytest.fixture(scope="module")
def original(tmp_path_factory, hearts):
    """A trained project, made once."""
    project = tmp_path_factory.mktemp("predict") / "project"
    words = ("--budget", 4, "--rounds", 1, "--steps", 2, "--size", 32, "--strategy", "strided")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alnb.data.phantom.phantom", lambda: hearts)
        assert run("run", *words, "--project", project) == 0
    return project


@pytest.fixture
def trained(tmp_path, original, small_phantom):
    """A copy of it, of one's own."""
    return shutil.copytree(original, tmp_path / "project")


def test_a_project_is_predicted_into_its_own_folder(trained, small_phantom, capsys):
    assert run("predict", trained) == 0
    written = capsys.readouterr().out.split()
    assert written[-1].endswith("alnb_predictions.csv")
    maps = sorted((trained / "predictions").glob("*.nii.gz"))
    assert len(maps) == 2 * len(small_phantom.volumes)
    for path in maps:
        stem = path.name.split("_prediction")[0].split("_uncertainty")[0]
        volume = small_phantom.volumes[stem.replace("_", "/")]
        assert nib.load(path).shape == volume.to_native(volume.image()).shape


def test_volumes_maps_and_pieces_are_chosen_by_options(trained, small_phantom, tmp_path, capsys):
    patient = small_phantom.patients[0]
    mine = [v.name for v in small_phantom.volumes.values() if v.patient == patient]
    words = ("--volumes", patient, "--out", tmp_path / "out", "--no-uncertainty")
    assert run("predict", trained, *words, "--largest-component") == 0
    capsys.readouterr()
    names = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert names == {f"{name.replace('/', '_')}_prediction.nii.gz" for name in mine}
    for sidecar in (tmp_path / "out").glob("*.json"):
        assert json.loads(sidecar.read_text())["post_processing"]["largest_component"] is True


def test_scores_are_printed_and_written_and_nothing_else_is(trained, small_phantom, capsys):
    before = {path for path in trained.rglob("*") if path.name != "journal.db-wal"}
    table = trained / "scores.csv"
    words = ("--scores", "val", "--csv", table, "--tolerance", 3)
    assert run("predict", trained, *words) == 0
    out = capsys.readouterr().out
    assert "NSD at 3 mm" in out
    assert re.search(r"class +Dice +HD95 \(mm\)", out)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    with Session.open(trained, small_phantom) as session:
        expected = session.score_volumes("val", tolerance=3.0)
    assert [(r["volume"], r["name"]) for r in rows] == [(s.volume, s.name) for s in expected.scores]
    assert not (trained / "predictions").exists()
    assert {p for p in trained.rglob("*") if p.name != "journal.db-wal"} - before <= {
        table,
        trained / "journal.db-shm",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--csv", "scores.csv"], "needs --scores"),
        (["--volumes", "nobody"], "neither a volume nor a patient"),
        (["--scores", "val", "--volumes", "nobody"], "needs --out"),
        (["--scores", "val", "--tolerance", "-1"], "distance of 0 or more"),
        (["--learner", "ensemble"], "checkpoint"),
    ],
)
def test_mistakes_are_answered_in_one_line(trained, capsys, arguments, words):
    assert run("predict", trained, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_folder_without_a_project_and_a_project_without_a_model_are_told_apart(
    tmp_path, project, small_phantom, capsys
):
    assert run("predict", tmp_path / "empty") == 2
    assert "holds no project" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists()
    folder = project().folder
    assert run("predict", folder) == 2
    assert "No model is trained yet" in capsys.readouterr().err
    assert not (folder / "predictions").exists()
