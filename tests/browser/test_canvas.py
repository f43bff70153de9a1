from __future__ import annotations

SETUP = """
import tempfile, pathlib
from alnb.data.phantom import phantom
from alnb.session.session import Session
from alnb.widgets.labeller import Labeller
folder = pathlib.Path({folder!r})
session = Session.open(folder, phantom(6, size=96, slices=(6, 7)), strategy="random")
if session.round is None:
    session.ask(4)
"""
VIEW = "view = Labeller(session)\nview"


def project(notebook, tmp_path):
    notebook.open([SETUP.format(folder=str(tmp_path / "project")), VIEW])
    notebook.run_all()
    notebook.wait_for_view()


def test_first_look(notebook, tmp_path):
    project(notebook, tmp_path)
    notebook.screenshot("first")
    notebook.stroke([(30, 30), (40, 40), (30, 60)])
    notebook.screenshot("stroke")
    notebook.saved()
    print(notebook.kernel("print(session.draft(session.queue[0]))"))
    notebook.screenshot("saved")
