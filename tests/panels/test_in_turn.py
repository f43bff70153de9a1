from __future__ import annotations

import pytest

from alnb.errors import IllegalEvent
from alnb.panels.in_turn import LearnInTurn
from alnb.records import FitReport


class Job:
    """Runs for a few looks, then ends as it was told to."""

    def __init__(self, name, looks=2, error=None) -> None:
        self.name, self.looks, self.error = name, looks, error
        self.progress, self.stopped = None, False

    @property
    def running(self):
        self.looks -= 1
        return self.looks >= 0 and not self.stopped

    def stop(self):
        self.stopped = True

    def result(self, timeout):
        return FitReport(1, 0.5, 1.0, self.stopped)


class Session:
    def __init__(self, **errors) -> None:
        self.begun, self.errors = [], errors

    def learn_embedding_in_background(self, recipe, *, name):
        assert not any(job.looks > 0 and not job.stopped for job in self.begun)
        error = self.errors.get(name)
        if isinstance(error, Exception):
            raise error
        self.begun.append(Job(name, error=error))
        return self.begun[-1]

    @property
    def names(self):
        return [job.name for job in self.begun]


def words(learning):
    return [row.children[2].value for row in learning.widget.children[:-1]]


def test_encoders_are_learnt_one_after_the_other():
    session = Session()
    learning = LearnInTurn(session, {"a": "ntxent", "b": "acdc"})
    assert session.names == ["a"]
    assert list(learning.wait()) == ["a", "b"]
    assert session.names == ["a", "b"]
    assert all("learnt in 1 s" in told for told in words(learning))
    assert not learning.running
    assert learning.button.disabled


def test_a_stop_ends_the_one_and_begins_no_other():
    session = Session()
    learning = LearnInTurn(session, {"a": "ntxent", "b": "acdc"})
    learning.button.click()
    assert learning.wait()["a"].stopped
    assert session.names == ["a"]
    assert words(learning)[0].startswith("stopped")
    assert words(learning)[1] == "not begun"


@pytest.mark.parametrize("why", ["It diverged.", IllegalEvent("An encoder is being trained.")])
def test_what_failed_is_said_and_the_rest_is_left(why):
    learning = LearnInTurn(Session(a=why), {"a": "ntxent", "b": "acdc"})
    with pytest.raises(RuntimeError, match=str(why)):
        learning.wait()
    assert str(why) in words(learning)[0]
    assert words(learning)[1] == "not begun"
