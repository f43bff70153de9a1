"""``alnb lab``: JupyterLab on a copy of the quick-start notebook."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import alnb
from alnb.cli.images import cohort_of
from alnb.errors import BadInput

QUICKSTART = "00_quickstart.ipynb"


def starter() -> Path:
    """The quick-start notebook: in the installed package, or in the checkout it was built from."""
    home = Path(alnb.__file__).parent
    for folder in (home / "starter", home.parent / "notebooks"):
        if (folder / QUICKSTART).is_file():
            return folder / QUICKSTART
    raise BadInput(f"{QUICKSTART} is missing from this installation; install alnb again.")


def working_copy(project: Path, data: str | None) -> Path:
    """Put the quick-start notebook into `project`, never over an existing file."""
    import nbformat

    try:
        project.mkdir(parents=True, exist_ok=True)
        copy = project / QUICKSTART
        if not copy.exists():
            notebook = nbformat.read(starter(), as_version=4)
            first = next(c for c in notebook.cells if "alnb-settings" in c.metadata.get("tags", []))
            source = str(Path(data).expanduser().resolve()) if data else None
            first.source = re.sub(r"(?m)^PROJECT = .*$", 'PROJECT = "."', first.source)
            first.source = re.sub(r"(?m)^DATA = \S+", lambda _: f"DATA = {source!r}", first.source)
            nbformat.write(notebook, copy)
        elif data:
            print(f"{copy} exists and is kept; its first cell says which images it opens.")
    except OSError as error:
        raise BadInput(
            f"The project folder {project} cannot be written ({error.strerror}). Choose another."
        ) from error
    return copy


def open_lab(options: argparse.Namespace) -> int:
    """``alnb lab``."""
    if options.data is not None:
        cohort_of(options.data)  # a folder that cannot be read is said here, not in a notebook
    copy = working_copy(Path(options.project), options.data)
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={copy.parent.resolve()}"]
    command += [f"--ServerApp.port={options.port}", f"--Alnb.start={copy.name}"]
    command += [f"--LabApp.default_url=/lab/tree/{copy.name}"]
    command += ["--no-browser"] if options.no_browser else []
    if os.name == "nt":
        return subprocess.call([*command, *options.rest])
    # the server takes this process's place, so that stopping `alnb lab` stops it
    os.execv(command[0], [*command, *options.rest])
