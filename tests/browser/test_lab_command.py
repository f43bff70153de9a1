"""README's first command: `alnb lab` ends in JupyterLab showing the labelling view."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import (
    ARTEFACTS,
    Lab,
    _environment,
    _settings,
    _wait_until_up,
    free_port,
)


@pytest.mark.timeout(240)
def test_alnb_lab_shows_the_labelling_view_without_a_key_pressed(
    tmp_path: Path, browser: Any
) -> None:
    environment = _environment(tmp_path)
    _settings(tmp_path)
    token, port = "a-token-of-this-test", free_port()
    lab = Lab(f"http://127.0.0.1:{port}", token, tmp_path / "project", tmp_path / "lab.log")
    command = [sys.executable, "-m", "alnb.cli", "lab", str(lab.root), "--no-browser"]
    command += ["--port", str(port), "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    with lab.log.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_until_up(lab, process)
            assert f"/lab/tree/00_quickstart.ipynb?token={token}"[:30] in lab.log.read_text()
            context = browser.new_context(viewport={"width": 1400, "height": 1000})
            page = context.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(f"{lab.base}/lab/tree/00_quickstart.ipynb?token={token}")
            page.wait_for_function(
                """() => document.querySelector('.alnb-stage canvas')?.dataset.alnb === 'on'
                    && document.querySelector('.alnb-saved')?.dataset.tone === 'good'""",
                timeout=120_000,
            )
            page.wait_for_function(
                """() => {
                  const box = document.querySelector('.alnb-stage canvas').getBoundingClientRect();
                  return box.top >= 0 && box.bottom <= window.innerHeight;
                }""",
                timeout=10_000,
            )
            ARTEFACTS.mkdir(exist_ok=True)
            page.screenshot(path=str(ARTEFACTS / "alnb-lab.png"))
            assert errors == []
            assert (lab.root / "journal.db").is_file()
            # a reload meets the kernel that has run the cells: they are not run a second time
            before = (lab.root / "journal.db").stat().st_mtime_ns
            page.reload()
            page.wait_for_selector(".jp-Notebook")
            page.wait_for_timeout(3000)
            assert (lab.root / "journal.db").stat().st_mtime_ns == before
            context.close()
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            stopped = process.poll() is not None
            process.kill()
    assert stopped, "stopping `alnb lab` must stop its server"
