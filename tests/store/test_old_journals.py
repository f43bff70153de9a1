"""Journals of every version that ever wrote labels open for ever; `tests/journals/make.py`."""

import json
import shutil
from pathlib import Path

import pytest

from alnb.session.opening import recovered
from alnb.store.events import EVENTS
from alnb.store.journal import Journal
from alnb.store.migrations import VERSION
from tests.journals.make import plain

FROZEN = sorted((Path(__file__).parents[1] / "journals").glob("v*.db"))


@pytest.mark.parametrize("frozen", FROZEN, ids=lambda path: path.stem)
def test_a_frozen_journal_opens_with_the_state_it_stood_for(frozen, tmp_path):
    copy = tmp_path / "journal.db"
    shutil.copyfile(frozen, copy)
    journal = Journal(copy)
    state, problems = recovered(journal)
    assert problems == ()
    assert plain(state) == json.loads(frozen.with_suffix(".json").read_text(encoding="utf-8"))
    assert {type(entry.event).__name__ for entry in journal.entries()} == set(EVENTS)
    journal.close()


def test_there_is_a_frozen_journal_of_every_version():
    assert [path.stem for path in FROZEN] == [f"v{n}" for n in range(1, VERSION + 1)]
