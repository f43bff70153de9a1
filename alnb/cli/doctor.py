"""``alnb doctor``: versions, device, and whether widgets are whole."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
from pathlib import Path

import alnb
from alnb.cli.images import device_name


def examine(_: argparse.Namespace) -> int:
    """``alnb doctor``."""
    good = True
    print(f"alnb {alnb.__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name, floor in _FLOORS.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"  {name:16} missing: pip install {name!r}")
            good = False
            continue
        old = _numbers(version) < _numbers(floor)
        good &= not old
        print(f"  {name:16} {version}" + (f"  too old: at least {floor} is needed" if old else ""))
    print(f"device: {device_name()}, {os.cpu_count()} processors")
    found = _extensions()
    for name in ("@jupyter-widgets/jupyterlab-manager", "ipycanvas", "anywidget", "alnb"):
        whole = name in found
        good &= whole or name == "alnb"
        missing = "not installed in this JupyterLab" + (
            "; cells must be run by hand" if name == "alnb" else ": widgets will not show"
        )
        print(f"  lab extension {name:36} {'found' if whole else missing}")
    print("all is well" if good else "something is missing: see above")
    return 0 if good else 1


# versions with known faults are below these
_FLOORS = {
    "torch": "2.10",
    "monai": "1.6.1",
    "numpy": "1.26",
    "nibabel": "5.2",
    "h5py": "3.10",
    "scikit-learn": "1.4",
    "jupyterlab": "4.5.9",
    "jupyter_server": "2.20",
    "ipykernel": "6.29",
    "ipywidgets": "8.1",
    "ipycanvas": "0.14",
    "anywidget": "0.9.21",
    "plotly": "6",
}


def _numbers(version: str) -> tuple[int, ...]:
    release, *_ = version.partition("+")
    return tuple(int(part) for part in re.findall(r"\d+", release)[:3])


def _extensions() -> set[str]:
    from jupyter_core.paths import jupyter_path

    found = set()
    for folder in map(Path, jupyter_path("labextensions")):
        for package in [*folder.glob("*/package.json"), *folder.glob("@*/*/package.json")]:
            found.add(package.parent.relative_to(folder).as_posix())
    return found
