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

DERIVED = {"before"}
"""What a later version works out of events that an older one wrote as well; held to v4.json."""

FROZEN = sorted((Path(__file__).parents[1] / "journals").glob("v*.db"))


@pytest.mark.parametrize("frozen", FROZEN, ids=lambda path: path.stem)
def test_a_frozen_journal_opens_with_the_state_it_stood_for(frozen, tmp_path):
    copy = tmp_path / "journal.db"
    shutil.copyfile(frozen, copy)
    journal = Journal(copy)
    state, problems = recovered(journal)
    assert problems == ()
    known = json.loads(frozen.with_suffix(".json").read_text(encoding="utf-8"))
    differences(known, plain(state), latest=frozen.stem == f"v{VERSION}")
    if frozen.stem == f"v{VERSION}":
        assert {type(entry.event).__name__ for entry in journal.entries()} == set(EVENTS)
    journal.close()


def differences(known, now, *, latest):
    """Equal, but that an older version's state lacks later fields, which are then empty."""
    if isinstance(known, dict):
        assert known.keys() <= now.keys()
        later = {key: now[key] for key in now.keys() - known.keys()}
        assert not any(value for key, value in later.items() if key not in DERIVED), later
        assert not (latest and later)
        for key, value in known.items():
            differences(value, now[key], latest=latest)
    elif isinstance(known, list):
        assert len(known) == len(now)
        for one, other in zip(known, now, strict=True):
            differences(one, other, latest=latest)
    else:
        assert known == now


def test_there_is_a_frozen_journal_of_every_version():
    assert [path.stem for path in FROZEN] == [f"v{n}" for n in range(1, VERSION + 1)]
