import csv
from dataclasses import replace

import pytest

from alnb import cli
from alnb.session.nath import PUBLISHED
from alnb.session.session import Session


@pytest.fixture
def small_phantom(monkeypatch):
    """Sixteen volumes that can be labelled, six more than begin, and little networks."""
    from alnb.data.phantom import phantom

    hearts = phantom(12, size=32, slices=(3, 4))
    monkeypatch.setattr("alnb.session.nath.phantom", lambda: hearts)
    monkeypatch.setattr("alnb.data.phantom.phantom", lambda: hearts)
    name = "nath2021_hippocampus"
    little = replace(PUBLISHED[name], channels=(2, 4), residual_units=0, threads=1)
    monkeypatch.setitem(PUBLISHED, name, little)
    return hearts


def run(*arguments):
    return cli.main([str(a) for a in arguments])


TINY = (
    *("run", "--preset", "nath2021_hippocampus", "--arms", "random, full", "--scale", "0.01"),
    *("--size", "16", "--steps", "1"),
)


def test_the_published_protocol_is_one_command_that_goes_on_where_it_was(
    tmp_path, small_phantom, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(*TINY) == 0
    out = capsys.readouterr().out
    assert "nath2021_hippocampus protocol on phantom: 16 volumes that can be labelled" in out
    assert "steps 1 instead of 1500" in out
    assert "the Dice of the whole pool" in out
    (points,) = tmp_path.glob("alnb-runs/*/points.csv")
    with points.open() as file:
        rows = [(r["arm"], r["unique"]) for r in csv.DictReader(file)]
    assert rows == [("random", "10.0000"), ("random", "11.0000"), ("full", "16.0000")]
    assert len((points.parent / "trainings.csv").read_text().splitlines()) == 1 + 3
    assert (points.parent / "report.txt").read_text() in out
    before = points.read_text()
    points.unlink()
    monkeypatch.setattr(Session, "open", None)  # nothing is trained again
    assert run(*TINY) == 0
    assert points.read_text() == before


def test_what_is_assumed_is_printed_without_any_image(capsys, monkeypatch):
    monkeypatch.setattr("alnb.session.nath.phantom", None)
    for name in ("hippocampus", "pancreas"):
        assert run("run", "--preset", f"nath2021_{name}", "--assumed", "--members", "3") == 0
        out = capsys.readouterr().out
        assert "bandwidth rule" in out
        assert "svgd_mi_delete" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arms", "random"], "--arms needs --preset"),
        (["--assumed"], "--assumed needs --preset"),
        (["--preset", "vepa2024", "--members", "3"], "--members does not go with --preset vepa"),
        (["--preset", "nath2021_pancreas", "--rounds", "3"], "--rounds does not go with --preset"),
        (["--preset", "nath2021_pancreas", "--networks", "3"], "--networks does not go with"),
        (["--preset", "nath2021_pancreas", "--strategy", "bald"], "--strategy does not go with"),
        (["--preset", "nath2021_pancreas", "--size", "32"], "which learns patches"),
        (["--preset", "nath2021_hippocampus", "--arms", "svgd"], "each must be one of svgd_mi"),
        (["--preset", "nath2021_hippocampus", "--scale", "2"], "at most 1"),
        (["--preset", "nath2021_hippocampus", "--data", "/nowhere"], "/nowhere"),
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
