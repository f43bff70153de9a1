"""Fixtures shared by all tests: small hearts, a learner that fits in milliseconds, real data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alnb.data.cohort import Cohort


@pytest.fixture(scope="session")
def hearts() -> Cohort:
    """Six procedural patients, two phases, three or four slices of about 48 x 48 pixels."""
    from alnb.data.phantom import phantom

    return phantom(6, size=48, slices=(3, 4))


@pytest.fixture
def project(tmp_path: Path, hearts: Cohort) -> Iterator[Callable[..., object]]:
    """Opens a session on `hearts` in one temporary folder; again for a resumed one."""
    from alnb.session.session import Session
    from alnb.strategies.random_sampling import RandomSampling
    from tests.toys import ClassMeans

    opened = []

    def open_project(**changes: object) -> Session:
        settings: dict[str, object] = {"strategy": RandomSampling(), "per_volume": None}
        # a toy of so few classes and pixels would not pass the gate
        settings |= {"learner": ClassMeans(), "gate": None} | changes
        folder = settings.pop("folder", tmp_path / "project")
        cohort = settings.pop("cohort", hearts)
        opened.append(Session.open(folder, cohort, **settings))
        return opened[-1]

    yield open_project
    for session in opened:
        session.close()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data that ALNB_DATA names."""
    root = os.environ.get("ALNB_DATA")
    if not root:
        pytest.skip("ALNB_DATA is not set: no real data on this machine")
    return Path(root)


@pytest.fixture(scope="session")
def acdc_root(data_root: Path) -> Path:
    """The preprocessed ACDC volumes."""
    if not (data_root / "acdc").is_dir():
        pytest.skip(f"ALNB_DATA holds no folder 'acdc': {data_root.name}")
    return data_root / "acdc"
