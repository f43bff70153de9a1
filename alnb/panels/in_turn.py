"""Learn several embeddings, one after the other, beside whatever else the notebook does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ipywidgets

from alnb.panels.learning import learning_text
from alnb.panels.live import Refresher

if TYPE_CHECKING:
    from alnb.embed.train import EncoderRecipe
    from alnb.records import FitReport
    from alnb.session.jobs import Job
    from alnb.session.session import Session

_WAITS = "waits for its turn"


class LearnInTurn:
    """Trains an encoder for each name, in turn and in the background; a bar and words for each.

    Show it by ending a cell with it. A session trains one encoder at a time, and the next one
    begins when the kernel is free to begin it, or in `wait`.

    Parameters
    ----------
    recipes : what to learn, by the name that its features will have: an `EncoderRecipe`, or the
        name of loss weights.

    Attributes
    ----------
    reports : of the trainings that are over, by name.
    """

    def __init__(self, session: Session, recipes: Mapping[str, EncoderRecipe | str]) -> None:
        self._session = session
        self._left = dict(recipes)
        self._now = ""
        self._job: Job[FitReport] | None = None
        self._failed = ""
        self.reports: dict[str, FitReport] = {}
        self._bars = {name: ipywidgets.FloatProgress(max=1.0) for name in recipes}
        self._words = {name: ipywidgets.Label(_WAITS) for name in recipes}
        self.button = ipywidgets.Button(description="Stop", icon="stop")
        self.button.on_click(lambda _: self.stop())
        rows = [
            ipywidgets.HBox(
                [
                    ipywidgets.Label(name, layout={"width": "110px"}),
                    self._bars[name],
                    self._words[name],
                ]
            )
            for name in recipes
        ]
        self.widget = ipywidgets.VBox([*rows, self.button])
        self._refresher = Refresher(self._draw)
        self._refresher.ask()

    @property
    def running(self) -> bool:
        """Whether something is being learnt, or still waits for its turn."""
        return bool(self._left) or self._job is not None

    def wait(self) -> dict[str, FitReport]:
        """Wait until all is learnt, and show how far it is; RuntimeError says what failed."""
        while self.running:
            self._draw()
            time.sleep(0.1)
        if self._failed:
            raise RuntimeError(self._failed)
        return self.reports

    def stop(self) -> None:
        """Stop after the step in progress, and begin no other."""
        for name in self._left:
            self._words[name].value = "not begun"
        self._left = {}
        if self._job is not None:
            self._job.stop()

    def _draw(self) -> None:
        if self._job is not None and not self._job.running:
            self._end(self._job)
        if self._job is None and self._left:
            self._begin()
        if self._job is not None:
            step = self._job.progress
            if step is not None and step.total:
                self._bars[self._now].value = step.step / step.total
            self._words[self._now].value = learning_text(step)
        self.button.disabled = not self.running
        if self.running and self._refresher.loop is not None:
            self._refresher.ask()

    def _begin(self) -> None:
        self._now = next(iter(self._left))
        recipe = self._left.pop(self._now)
        try:
            self._job = self._session.learn_embedding_in_background(recipe, name=self._now)
        except Exception as error:
            self._fail(str(error))

    def _end(self, job: Job[FitReport]) -> None:
        self._job = None
        if job.error is not None:
            self._fail(job.error)
            return
        report = self.reports[self._now] = job.result(0)
        done = "stopped" if report.stopped else "learnt"
        if not report.stopped:
            self._bars[self._now].value = 1.0
        words = f"{done} in {report.seconds:.0f} s, {report.steps:,} steps, loss {report.loss:.2f}"
        self._words[self._now].value = " ".join((words, *report.notes))

    def _fail(self, why: str) -> None:
        self._failed = f"{self._now} could not be learnt: {why}"
        self._words[self._now].value = self._failed
        self.stop()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)
