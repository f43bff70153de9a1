"""Learning curve and map side by side, in one figure widget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alnb.panels.curves import CurvePart
from alnb.panels.embedding import EmbeddingPart
from alnb.panels.live import FigurePanel, Part

if TYPE_CHECKING:
    from alnb.session.session import Session


class Panels(FigurePanel):
    """What a session looks like: its pool as a map and its progress as a curve, both live.

    Show it by ending a cell with it, or place `.widget`. With a `labeller`, a click on the map
    shows that slice there, and the panels keep still while its pen is down.
    """

    def __init__(self, session: Session, labeller: Any = None) -> None:
        on_pick = None if labeller is None else labeller.show
        parts: list[Part] = [CurvePart(session), EmbeddingPart(session, on_pick)]
        super().__init__(session, parts, labeller=labeller)
