"""Drives a real JupyterLab in Chromium.

What a browser test gets
------------------------
`lab` : one JupyterLab server for the whole run, with its own configuration folders.
`notebook` : a `Notebook` page for one test. Its helpers:

- ``notebook.open([source, ...])`` makes a notebook of these code cells (or takes the path of an
  existing ``.ipynb``, which is copied), opens it and waits for an idle kernel.
- ``notebook.run_all()`` runs all cells and waits until the kernel is idle again; raises
  AssertionError with the text of the first cell error. ``wait=False`` returns at once.
- ``notebook.kernel(code)`` runs code in the kernel, beside the cells, and returns what it printed;
  ``notebook.start(code)`` does not wait.
- ``notebook.restart()`` restarts the kernel; ``notebook.kill()`` kills it with SIGKILL,
  and ``notebook.revived()`` then waits for the one the server starts in its place.
- ``notebook.reload()`` reloads the page as a person would.
- ``notebook.canvas`` is the locator of the slice canvas; ``notebook.wait_for_view()`` waits until
  it shows a slice and is connected; ``notebook.at(row, col)`` is the (x, y) on the page of a place
  in the slice; ``notebook.stroke([(row, col), ...], button="left")`` draws with the mouse.
- ``notebook.text(".alnb-line")`` is the visible text of an element.
- ``notebook.screenshot("name")`` writes ``artefacts/name.png`` (ignored by git).
- ``notebook.errors`` holds uncaught errors of the page; each test ends by asserting it is empty.

Without a Chromium the tests are skipped, or fail if ALNB_REQUIRE_BROWSER=1.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

ARTEFACTS = Path(__file__).parents[2] / "artefacts"
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
# plotly's scattergl needs WebGL; emulating it makes every frame slow, which spoils pen latencies
WEBGL = [
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
IDLE = """() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status
    === 'idle'"""
KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
# what cells raised that are not meant to
ERRORS = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .filter(cell => !(cell.model.getMetadata('tags') ?? []).includes('raises-exception'))
    .flatMap(cell => cell.model.outputs?.toJSON() ?? [])
    .filter(output => output.output_type === 'error')
    .map(output => output.ename + ': ' + output.evalue)"""
RUN = """async code => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({code, store_history: false});
  let out = '';
  future.onIOPub = m => {
    if (m.header.msg_type === 'stream') out += m.content.text;
    if (m.header.msg_type === 'error') out += 'ERROR ' + m.content.evalue;
  };
  await future.done;
  return out;
}"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and run them last.

    Playwright's synchronous interface keeps an event loop running in the main thread until the
    browser is closed; whatever runs after it would meet that loop.
    """
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
    items.sort(key=lambda item: here in item.path.parents)


def chromium() -> str | None:
    """Where a Chromium is, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Lab:
    """A running JupyterLab: `base` URL, `token`, the folder `root` it serves, its `log`."""

    base: str
    token: str
    root: Path
    log: Path


def _environment(folder: Path) -> dict[str, str]:
    names = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    own = {}
    for name, part in names.items():
        (folder / part).mkdir(parents=True)
        own[name] = str(folder / part)
    return {**os.environ, **own, "OMP_NUM_THREADS": "1"}


def _settings(folder: Path) -> None:
    wanted = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        # cells stay attached when they are off the screen, so selectors keep working
        "notebook-extension/tracker": {"windowingMode": "contentVisibility"},
    }
    for name, settings in wanted.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))


def _wait_until_up(lab: Lab, process: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(
        f"{lab.base}/api/status", headers={"Authorization": f"token {lab.token}"}
    )
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):
            return
        time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{lab.log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One JupyterLab on a free port, apart from the user's own configuration."""
    folder = tmp_path_factory.mktemp("lab")
    environment = _environment(folder)
    _settings(folder)
    (folder / "nb").mkdir()
    port, token = free_port(), secrets.token_hex(16)
    running = Lab(f"http://127.0.0.1:{port}", token, folder / "nb", folder / "lab.log")
    arguments = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={running.root}",
        "--LabApp.expose_app_in_browser=True",
    ]
    with running.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *arguments],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_up(running, process)
            yield running
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., Any]]:
    """Gives a headless Chromium, ``launch(webgl=True)`` or ``launch(webgl=False)``."""
    path = chromium()
    if path is None:
        if os.environ.get("ALNB_REQUIRE_BROWSER") == "1":
            pytest.fail("ALNB_REQUIRE_BROWSER is 1, but there is no Chromium.")
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started: dict[bool, Any] = {}

        def start(*, webgl: bool) -> Any:
            if webgl not in started:
                flags = [*FLAGS, *(WEBGL if webgl else ["--disable-gpu"])]
                started[webgl] = playwright.chromium.launch(executable_path=path, args=flags)
            return started[webgl]

        yield start
        for chrome in started.values():
            chrome.close()


@pytest.fixture(scope="session")
def browser(launch: Callable[..., Any]) -> Any:
    """A Chromium with software WebGL. A module may define its own `browser` instead."""
    return launch(webgl=True)


class Notebook:
    """One page of JupyterLab with one notebook; the helpers are listed in the module's text."""

    def __init__(self, lab: Lab, page: Any) -> None:
        self.lab = lab
        self.page = page
        self.name = ""
        self.errors: list[str] = []
        self.ended = False
        page.set_default_navigation_timeout(120_000)  # a busy machine is slow, not broken
        page.on("pageerror", self._report)
        page.route("**/*", self._only_the_server)

    def _report(self, error: Any) -> None:
        # A kernel that is ending writes its last status on a thread of its own while its main
        # thread closes the same socket; frames of two messages can mix, and JupyterLab then drops
        # that one message with this error. It says nothing of the page once its kernel is going.
        if self.ended and str(error).startswith("Kernel message validation error"):
            return
        # JupyterLab's loading screen now and then takes itself away twice, by a timer of its own
        frames = (error.stack or "").splitlines()[1:]
        own = len(frames) == 1 and "/static/lab/jlab_core." in frames[0]
        if own and str(error).startswith("Failed to execute 'removeChild' on 'Node'"):
            return
        self.errors.append(str(error))

    def _only_the_server(self, route: Any) -> None:
        if route.request.url.startswith((self.lab.base, "data:", "blob:")):
            route.continue_()
        else:
            route.abort()

    # ---- notebook and kernel ----

    def open(self, cells: Sequence[str] | Path) -> None:
        self.name = f"test-{secrets.token_hex(4)}.ipynb"
        target = self.lab.root / self.name
        if isinstance(cells, Path):
            shutil.copy(cells, target)
        else:
            book = nbformat.v4.new_notebook()
            book.cells = [nbformat.v4.new_code_cell(source) for source in cells]
            book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
            nbformat.write(book, target)
        self.page.goto(f"{self.lab.base}/lab/tree/{self.name}?reset&token={self.lab.token}")
        self.wait_idle()

    def wait_idle(self, timeout: float = 180) -> None:
        self.page.wait_for_function(IDLE, timeout=1000 * timeout)

    def command(self, name: str) -> None:
        self.page.evaluate("name => { window.jupyterapp.commands.execute(name) }", name)

    def run_all(self, *, wait: bool = True, timeout: float = 120) -> None:
        if not wait:
            self.command("notebook:run-all-cells")
            return
        ran = "async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }"
        self.page.set_default_timeout(1000 * timeout)
        self.page.evaluate(ran)
        self.wait_idle(timeout)
        failed = self.page.evaluate(ERRORS)
        assert failed == [], "\n".join(failed)

    def kernel(self, code: str) -> str:
        return str(self.page.evaluate(RUN, code))

    def start(self, code: str) -> None:
        self.page.evaluate(
            f"code => {{ {KERNEL}.requestExecute({{code, store_history: false}}) }}", code
        )

    def restart(self) -> None:
        self.ended = True
        self.page.evaluate(f"async () => {{ await {KERNEL}.restart() }}")
        self.wait_idle()

    def pid(self) -> int:
        return int(self.kernel("import os; print(os.getpid())"))

    def kill(self, pid: int | None = None) -> None:
        self.ended = True
        os.kill(pid or self.pid(), signal.SIGKILL)

    def revived(self) -> None:
        """After a kill: wait for the server's new kernel and close the host's notice of it."""
        self.page.locator(".jp-Dialog .jp-mod-accept").click(timeout=30_000)
        self.wait_idle()

    def reload(self) -> None:
        self.page.evaluate(
            "async () => { await window.jupyterapp.commands.execute('docmanager:save') }"
        )
        self.page.reload()
        self.wait_idle()

    # ---- the view ----

    @property
    def canvas(self) -> Any:
        return self.page.locator(".alnb-stage canvas").first

    def wait_for_view(self, timeout: float = 60) -> None:
        self.page.wait_for_function(
            """() => document.querySelector('.alnb-stage canvas')?.dataset.alnb === 'on'
                && document.querySelector('.alnb-where')?.textContent.includes('slice')
                && document.querySelector('.alnb-saved')?.dataset.tone === 'good'""",
            timeout=1000 * timeout,
        )
        self.canvas.scroll_into_view_if_needed()

    def at(self, row: float, col: float) -> tuple[float, float]:
        box = self.canvas.bounding_box()
        width, height = self.page.evaluate(
            "() => { const c = document.querySelector('.alnb-stage canvas');"
            " return [c.width, c.height]; }"
        )
        return box["x"] + col / width * box["width"], box["y"] + row / height * box["height"]

    def stroke(self, places: Sequence[tuple[float, float]], button: str = "left") -> None:
        mouse = self.page.mouse
        mouse.move(*self.at(*places[0]))
        mouse.down(button=button)
        for place in places[1:]:
            mouse.move(*self.at(*place))
        mouse.up(button=button)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def wait_text(self, selector: str, part: str, timeout: float = 15) -> None:
        self.page.wait_for_function(
            "([s, t]) => document.querySelector(s)?.textContent.includes(t)",
            arg=[selector, part],
            timeout=1000 * timeout,
        )

    def saved(self, timeout: float = 15) -> None:
        """Wait until every stroke is acknowledged."""
        self.wait_text(".alnb-saved", "All strokes saved", timeout)

    def pixel(self, row: int, col: int) -> list[int]:
        """RGBA of one voxel on the visible canvas."""
        found: list[int] = self.page.evaluate(
            """([r, c]) => Array.from(document.querySelector('.alnb-stage canvas')
                .getContext('2d').getImageData(c, r, 1, 1).data)""",
            [row, col],
        )
        return found

    def screenshot(self, name: str) -> Path:
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=str(path))
        return path


@pytest.fixture
def notebook(lab: Lab, browser: Any, request: pytest.FixtureRequest) -> Iterator[Notebook]:
    """A fresh page; its kernel is shut down after the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    book = Notebook(lab, page)
    failures = request.session.testsfailed
    yield book
    if request.session.testsfailed > failures:
        with contextlib.suppress(Exception):
            book.screenshot(f"failed-{request.node.name}")
        shutil.copy(lab.log, ARTEFACTS / "lab.log")
    with contextlib.suppress(Exception):
        page.evaluate(
            "async () => { await window.jupyterapp.serviceManager.sessions.shutdownAll() }"
        )
    context.close()
    assert book.errors == [], book.errors
