"""The panel of a committee: its forces, how far its members differ, and K, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets

from alnb.errors import AlnbError
from alnb.panels.aside import Still, told
from alnb.panels.figure import View
from alnb.panels.forces import (
    EMPTY,
    HONEST,
    MEASURES,
    CommitteeData,
    committee_data,
    diagnostics_of,
    disagreement_view,
    force_view,
    kernel_view,
    sentences,
)
from alnb.panels.live import DRAGGED, Ask, Due, FigurePanel, Part
from alnb.panels.markup import SafeHTML

if TYPE_CHECKING:
    from alnb.models.svgd_committee import Moment
    from alnb.session.session import Session

_WAIT = "Reading the model …"
_ONE = "One training each: another seed moves these numbers, so read them as one example."


class Committees:
    """The committee of a session's last training, read off the loop, and others beside it.

    `chosen` is the step that a person looks at, or None for the last.
    """

    def __init__(
        self, session: Session | None, others: Mapping[str, Sequence[Moment]], name: str
    ) -> None:
        self._session = session
        self._others = dict(others)
        self._name = name
        self._due: Due[tuple[Sequence[Moment], str]] = Due()
        self._shown: tuple[object, CommitteeData] | None = None
        self.chosen: int | None = None

    @property
    def data(self) -> CommitteeData:
        """What is known now; the same object until something changes."""
        found = self._due.value
        if self._shown is None or self._shown[0] is not found:
            self._shown = found, self._gather(found)
        return self._shown[1]

    @property
    def step(self) -> int:
        """The step to look at: of those that have a record, the one nearest to the chosen one."""
        steps = self.data.steps.tolist()
        if not steps:
            return 0
        chosen = self.chosen
        return int(steps[-1] if chosen is None else min(steps, key=lambda s: abs(s - chosen)))

    def work(self) -> Callable[[], None] | None:
        """Reading the model of the last training, if that is due."""
        session = self._session
        if session is None or session.state.checkpoint is None or session.closed:
            return None

        def compute() -> tuple[Sequence[Moment], str]:
            try:
                found = session.trainer.model()
            except AlnbError as error:
                return (), str(error)
            return ((), EMPTY) if found is None else diagnostics_of(found[1])

        return self._due.work(session.state.checkpoint, compute)

    def _gather(self, found: tuple[Sequence[Moment], str] | None) -> CommitteeData:
        if self._session is None:
            return committee_data(self._others)
        waits = self._session.state.checkpoint is not None
        moments, note = ((), _WAIT if waits else EMPTY) if found is None else found
        return committee_data({self._name: moments, **self._others}, note)


class _Part:
    """A subplot that shows committees."""

    def __init__(self, source: Committees) -> None:
        self._source = source
        self.restless = False
        self.foot: SafeHTML | None = None

    def work(self) -> Callable[[], None] | None:
        return self._source.work()


class ForcePart(_Part):
    """What acts, with the choice of what to look at; below it, what to expect."""

    def __init__(self, source: Committees) -> None:
        super().__init__(source)
        self.controls = ipywidgets.ToggleButtons(
            options=MEASURES,
            tooltips=[
                "How long the push apart is beside the climb along the gradients",
                "Least and largest similarity of two members; 1 is the same place",
                "Width of the kernel: the median of squared distances over ln(M + 1)",
            ],
            style={"button_width": "auto"},
        )
        self.foot = SafeHTML(told(HONEST), layout={"min_width": "0"})

    def view(self) -> View:
        return force_view(self._source.data, self.controls.value, self._source.step)

    def connect(self, traces: Sequence[Any], say: Callable[[str], None], ask: Ask) -> None:
        self.controls.observe(lambda _: ask(DRAGGED), "value")


class DisagreementPart(_Part):
    """How far members differ; below it, the numbers in words."""

    def __init__(self, source: Committees) -> None:
        super().__init__(source)
        self.controls = ipywidgets.HBox()
        self.words = SafeHTML("", layout={"min_width": "0"})
        self.foot = self.words

    def view(self) -> View:
        data = self._source.data
        said = sentences(data)
        why = "" if data.empty else data.note
        self.words.value = told(why, *said, quiet=_ONE if len(said) > 1 else "")
        return disagreement_view(data, self._source.step)

    def connect(self, traces: Sequence[Any], say: Callable[[str], None], ask: Ask) -> None:
        return None


class KernelPart(_Part):
    """K of one committee at a step; the slider walks through the training."""

    def __init__(self, source: Committees) -> None:
        super().__init__(source)
        self._setting = False
        self.which = ipywidgets.Dropdown(
            options=[line.name for line in source.data.lines],
            layout={"width": "150px", "flex": "none"},
        )
        self.slider = ipywidgets.SelectionSlider(
            options=[("–", 0)],
            disabled=True,
            description="step",
            layout={"width": "100%", "max_width": "320px"},
            style={"description_width": "34px"},
        )
        self.controls = ipywidgets.VBox(
            [self.which, self.slider], layout={"width": "100%", "min_width": "0"}
        )

    def view(self) -> View:
        self._show_steps(self._source.data)
        return kernel_view(self._source.data, self._source.step, self.which.index or 0)

    def connect(self, traces: Sequence[Any], say: Callable[[str], None], ask: Ask) -> None:
        self.which.observe(lambda _: ask(DRAGGED), "value")
        self.slider.observe(lambda _: self._moved(ask), "value")

    def _show_steps(self, data: CommitteeData) -> None:
        """Offer the steps there are, and stand at the one that is looked at."""
        steps = data.steps.tolist()
        self.slider.disabled = not steps
        if not steps:
            return
        options = tuple((f"{step:,}", step) for step in steps)
        self._setting = True
        try:
            if tuple(self.slider.options) != options:
                self.slider.options = options
            self.slider.value = self._source.step
        finally:
            self._setting = False

    def _moved(self, ask: Ask) -> None:
        if not self._setting:
            self._source.chosen = self.slider.value
            ask(DRAGGED)


class CommitteePanel(FigurePanel):
    """What acts between the members of a committee, and how far they differ, live.

    Show it by ending a cell with it.

    Parameters
    ----------
    session : its last training is followed; None shows the others alone.
    others : diagnostics by name, such as those of the control without any force.
    name : of the session's committee.
    labeller : while its pen is down, the panel keeps still.
    """

    def __init__(
        self,
        session: Session | None = None,
        others: Mapping[str, Sequence[Moment]] | None = None,
        *,
        name: str = "SVGD",
        labeller: Any = None,
    ) -> None:
        source = Committees(session, others or {}, name)
        parts: list[Part] = [ForcePart(source), DisagreementPart(source), KernelPart(source)]
        followed: Any = Still() if session is None else session
        super().__init__(followed, parts, labeller=labeller)
