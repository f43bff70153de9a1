import gc
import os
import subprocess
import sys

import pytest

from alnb.errors import JournalError, ProjectBusy
from alnb.store.lock import ProjectLock

HOLD = """
import sys
from pathlib import Path
from alnb.store.lock import ProjectLock
lock = ProjectLock(Path({folder!r}))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_the_project_until_it_dies(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.format(folder=str(tmp_path))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ProjectBusy, match=f"process {holder.pid} "):
            ProjectLock(tmp_path)
        holder.kill()
        holder.wait()
    ProjectLock(tmp_path).release()


def test_a_released_lock_can_be_taken_again(tmp_path):
    lock = ProjectLock(tmp_path)
    with pytest.raises(ProjectBusy):
        ProjectLock(tmp_path)
    lock.release()
    lock.release()
    again = ProjectLock(tmp_path)
    with pytest.raises(ProjectBusy):
        ProjectLock(tmp_path)
    again.release()


def test_a_folder_that_cannot_be_written_is_said_in_words(tmp_path):
    with pytest.raises(JournalError, match="cannot be written"):
        ProjectLock(tmp_path / "absent")


def test_a_lock_that_was_forgotten_is_given_back(tmp_path):
    lock = ProjectLock(tmp_path)
    with pytest.raises(ProjectBusy):
        ProjectLock(tmp_path)
    del lock
    gc.collect()
    ProjectLock(tmp_path).release()


def test_a_full_disk_keeps_nobody_from_holding_a_project(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        lock = ProjectLock(tmp_path)
    with pytest.raises(ProjectBusy, match="holder unknown"):
        ProjectLock(tmp_path)
    lock.release()


def test_a_file_system_without_locks_is_not_called_busy(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(fd, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(JournalError, match="cannot lock files") as caught:
        ProjectLock(tmp_path)
    assert not isinstance(caught.value, ProjectBusy)


def test_the_shorter_note_of_a_new_holder_replaces_the_longer_one(tmp_path):
    (tmp_path / "lock").write_text("x" * 500)
    lock = ProjectLock(tmp_path)
    with pytest.raises(ProjectBusy, match=f"process {os.getpid()} "):
        ProjectLock(tmp_path)
    lock.release()
