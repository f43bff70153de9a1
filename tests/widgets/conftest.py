from __future__ import annotations

import pytest

from alnb.data.phantom import phantom
from alnb.session.session import Session
from alnb.widgets.labeller import Labeller
from tests.widgets.page import Bright, Page


@pytest.fixture(scope="session")
def cohort():
    return phantom(5, size=32, slices=(3, 4))


@pytest.fixture
def session(cohort, tmp_path):
    opened = Session.open(tmp_path / "project", cohort, strategy="random", learner=Bright())
    yield opened
    opened.close()


@pytest.fixture
def page(session):
    session.ask(2)
    labeller = Labeller(session)
    made = Page(labeller)
    made.hello()
    yield made
    labeller.close()
