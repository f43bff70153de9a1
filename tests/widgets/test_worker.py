from __future__ import annotations

import threading

from alnb.widgets.worker import Worker


def test_a_flood_of_equal_requests_becomes_one_that_sees_the_last_state():
    gate, runs = threading.Event(), []
    worker = Worker(failed=lambda error: None)
    worker.soon("block", gate.wait)
    for _ in range(1000):
        worker.soon("refresh", lambda: runs.append(1))
    gate.set()
    worker.settle()
    assert len(runs) == 1
    worker.soon("refresh", lambda: runs.append(1))
    worker.settle()
    assert len(runs) == 2
    worker.close()


def test_a_failure_is_told_and_the_next_job_runs():
    told, runs = [], []
    worker = Worker(failed=told.append)
    worker.soon("bad", lambda: 1 / 0)
    worker.soon("good", lambda: runs.append(1))
    worker.settle()
    assert isinstance(told[0], ZeroDivisionError)
    assert runs == [1]
    worker.close()
    worker.soon("late", lambda: runs.append(1))
    assert runs == [1]
