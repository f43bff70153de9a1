"""The panel of what a pool's images share with each other, live."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np

from alnb.panels.aside import told
from alnb.panels.figure import View
from alnb.panels.information import (
    MOST,
    Information,
    information,
    information_views,
    matrix_rows,
    sentences,
)
from alnb.panels.live import DRAGGED, Ask, Due, FigurePanel, Part
from alnb.panels.markup import SafeHTML
from alnb.panels.places import labelled_rows
from alnb.records import Rows, SliceId

if TYPE_CHECKING:
    from alnb.session.session import Session

_WAIT = "Comparing the images …"


class Matrix:
    """The matrix of a session, worked out off the loop; images are compared once."""

    def __init__(self, session: Session, rows: Rows | None, most: int) -> None:
        self._session = session
        self._rows = rows
        self._most = most
        self._due: Due[Information] = Due()
        self.order = ipywidgets.ToggleButtons(
            options=[("by patient", "patient"), ("by likeness", "likeness")],
            tooltips=["patient, volume and place", "what shares much stands together"],
            style={"button_width": "auto"},
        )
        self.mask = ipywidgets.Checkbox(
            value=False,
            description="inside the bodies only",
            indent=False,
            tooltip="Leave out voxels that lie outside of either body",
            layout={"width": "180px"},
        )

    @property
    def found(self) -> Information | None:
        """What is known, or None."""
        return self._due.value

    @property
    def note(self) -> str:
        """Why there is nothing to show."""
        if self.found is not None:
            return ""
        return f"The images could not be compared: {self._due.error}" if self._due.error else _WAIT

    @property
    def views(self) -> tuple[View, View]:
        """Both matrices."""
        return information_views(self.found, self.order.value, self.note)

    def work(self) -> Callable[[], None] | None:
        """The comparison that is due."""
        session = self._session
        if session.closed:
            return None
        rows = matrix_rows(session, self._most) if self._rows is None else np.unique(self._rows)
        labelled = labelled_rows(session.pool, session.state)
        key: Hashable = (rows.tobytes(), labelled[rows].tobytes(), self.mask.value)
        return self._due.work(key, partial(self._compare, rows, masked=self.mask.value))

    def _compare(self, rows: Rows, *, masked: bool) -> Information:
        from alnb.strategies.mutual_information import Quantiser
        from alnb.strategies.redundancy import Redundancy

        quantiser = Quantiser(mask="body" if masked else "none")
        return information(self._session, rows, Redundancy(quantiser))


class MatrixPart:
    """One of the two matrices; a click on a cell opens the image of its row."""

    def __init__(
        self, source: Matrix, place: int, on_pick: Callable[[SliceId], Any] | None
    ) -> None:
        self._source = source
        self._place = place
        self._on_pick = on_pick
        self._say: Callable[[str], None] = lambda _: None
        self.restless = False
        self.words = SafeHTML("", layout={"min_width": "0"})
        self.foot = self.words
        self.controls = source.mask if place else source.order

    def view(self) -> View:
        found = self._source.found
        if found is not None:
            caveat, small = sentences(found)
            shown = f"{len(found.rows)} of the {found.pool:,} items of the pool. "
            diagonal = "An image with itself shares its whole entropy, which is off the scale."
            self.words.value = told(caveat) if self._place else told(shown + diagonal, quiet=small)
        return self._source.views[self._place]

    def work(self) -> Callable[[], None] | None:
        return self._source.work()

    def connect(self, traces: Sequence[Any], say: Callable[[str], None], ask: Ask) -> None:
        self._say = say
        traces[0].on_click(self._clicked)
        self.controls.observe(lambda _: ask(DRAGGED), "value")

    def _clicked(self, _trace: Any, points: Any, _state: Any) -> None:
        found = self._source.found
        if found is None or not points.ys:
            return
        order = found.order(self._source.order.value)
        one, other = (int(order[int(at[0])]) for at in (points.ys, points.xs))
        self._say(
            f"{found.opens[one]} and {found.opens[other]} share {found.nats[one, other]:.3f} nats, "
            f"their outlines alone {found.field[one, other]:.3f}."
        )
        if self._on_pick is not None:
            self._on_pick(found.opens[one])


class InformationPanel(FigurePanel):
    """What images of the pool share with each other, and what of it is their field of view.

    Show it by ending a cell with it.

    Parameters
    ----------
    rows : pool rows to compare; labelled ones, the query and others of all volumes unless given.
    most : so many at most, if they are not given.
    labeller : a click on a cell shows the image of its row there.
    """

    def __init__(
        self,
        session: Session,
        labeller: Any = None,
        *,
        rows: Rows | None = None,
        most: int = MOST,
    ) -> None:
        source = Matrix(session, rows, most)
        on_pick = None if labeller is None else labeller.show
        parts: list[Part] = [MatrixPart(source, place, on_pick) for place in range(2)]
        super().__init__(session, parts, labeller=labeller)
