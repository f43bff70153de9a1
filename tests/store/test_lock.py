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
    lock.release()
    lock.release()
    ProjectLock(tmp_path).release()


def test_a_folder_that_cannot_be_written_is_said_in_words(tmp_path):
    with pytest.raises(JournalError, match="cannot be written"):
        ProjectLock(tmp_path / "absent")
