"""Learn an embedding from a button: which loss, how far it is, and how to stop it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets

from alnb.records import Step

if TYPE_CHECKING:
    from alnb.session.session import Session

RECIPES = (
    ("group loss: patient, volume", "acdc"),
    ("group loss: volume", "single_volume"),
    ("group loss: volume, slice", "single_volume_slice"),
    ("NT-Xent alone", "ntxent"),
)
"""Words for loss weights of `alnb.losses.contrastive`, and their names."""

_HELP = "Train an encoder on the images of the pool, without labels, beside the labelling"
_STOP = "Stop after this step; learning the same again goes on from there"

_log = logging.getLogger(__name__)


class LearnRow:
    """The choice of a loss, a button that begins or stops the training, and its progress.

    Attributes
    ----------
    widget : the row.
    say : shows a sentence; on_begin : called once a training has begun. Set by the owner.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._told: object = None
        self.say: Callable[[str], None] = lambda _: None
        self.on_begin: Callable[[], None] = lambda: None
        self.recipe = ipywidgets.Dropdown(
            options=RECIPES,
            tooltip="What pulls slices together: slices of one patient or volume, or none",
            layout={"width": "206px", "flex": "none"},
        )
        self.button = ipywidgets.Button(
            description="Learn features",
            tooltip=_HELP,
            icon="graduation-cap",
            layout={"width": "136px", "flex": "none"},
        )
        self.bar = ipywidgets.FloatProgress(
            max=1.0, layout={"flex": "1 1 60px", "min_width": "40px", "max_width": "110px"}
        )
        self.words = ipywidgets.Label("", layout={"flex": "1 1 100%", "min_width": "0"})
        self.widget = ipywidgets.HBox(
            [self.recipe, self.button, self.bar, self.words],
            layout={"flex_flow": "row wrap", "width": "100%", "align_items": "center"},
        )
        self.button.on_click(self._clicked)
        self.refresh()

    @property
    def running(self) -> bool:
        """Whether an encoder is being trained now."""
        job = self._session.embedding_job
        return job is not None and job.running

    def refresh(self) -> None:
        """Show how far the training is, and how it ended."""
        job, running = self._session.embedding_job, self.running
        self.button.description = "Stop" if running else "Learn features"
        self.button.icon = "stop" if running else "graduation-cap"
        self.button.tooltip = _STOP if running else _HELP
        self.button.disabled = running and bool(job and job.stopping)
        self.recipe.disabled = running
        self.bar.layout.display = "" if running else "none"
        if job is not None and running:
            step = job.progress
            self.bar.value = step.step / step.total if step and step.total else 0.0
            self.words.value = "Stopping …" if job.stopping else learning_text(step)
        elif job is not None and self._told is not job:
            self._told = job
            self.words.value = _ending(job)
        self.words.layout.display = "" if self.words.value else "none"

    def _clicked(self, _: Any) -> None:
        job = self._session.embedding_job
        try:
            if job is not None and job.running:
                job.stop()
            else:
                self._session.learn_embedding_in_background(self.recipe.value)
        except Exception as error:  # the widget machinery would swallow it
            _log.exception("Learning features failed.")
            self.say(f"No features could be learnt: {error}")
        self.on_begin()


def learning_text(step: Step | None) -> str:
    """How far a training is, in words."""
    if step is None:
        return "Reading the images …"
    left = step.seconds_left
    time = ""
    if math.isfinite(left):
        time = f", {left / 60:.0f} min left" if left >= 90 else f", {max(1, round(left))} s left"
    return f"step {step.step:,} of {step.total:,}, loss {step.loss:.2f}{time}"


def _ending(job: Any) -> str:
    if job.error is not None:
        return str(job.error)
    report = job.result(0)
    if report.stopped:
        return f"Stopped after {report.steps:,} steps. Learn the same again to go on."
    return " ".join((f"Learnt in {report.seconds:.0f} s, loss {report.loss:.2f}.", *report.notes))
