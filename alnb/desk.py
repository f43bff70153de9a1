"""The shortest way in: open a project, and put the labelling view and the panels on the screen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alnb.data.cohort import Cohort
    from alnb.session.session import Session


def open_session(
    project: str | os.PathLike[str] = "alnb-project",
    data: Cohort | str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Session:
    """Create or resume the project in folder `project`.

    data : a cohort, or a folder that `alnb.load` understands; None is the built-in phantom.
    settings : as in `Session.open`: strategy, learner, seed, per_volume, annotator, ...
    """
    from alnb.session.session import Session

    return Session.open(project, _cohort(data), **settings)


def _cohort(data: Cohort | str | os.PathLike[str] | None) -> Cohort:
    if data is None:
        from alnb.data.phantom import phantom

        return phantom()
    if isinstance(data, str | os.PathLike):
        from alnb.data.load import load

        return load(Path(data))
    return data


class Desk:
    """A session's labelling view above its panels. Show it by ending a cell with it.

    Attributes
    ----------
    labeller : the canvas and its controls.
    card : why the slice in view was asked; None without panels.
    panels : learning curve and map; None without panels.
    """

    def __init__(self, session: Session, *, query: int, panels: bool, live: bool) -> None:
        import ipywidgets

        from alnb.panels.card import WhyCard
        from alnb.panels.dashboard import Panels
        from alnb.widgets.labeller import Labeller

        self.session = session
        self.labeller = Labeller(session, n=query, live=live)
        self.card = WhyCard(session, self.labeller) if panels else None
        self.panels = Panels(session, self.labeller) if panels else None
        if self.card is not None:
            self.labeller.place(self.card.widget)
        rows = [self.labeller.widget] + ([self.panels.widget] if self.panels else [])
        self.widget = ipywidgets.VBox(rows)
        self.widget.add_class("alnb-room")

    def close(self) -> None:
        """Detach the views from the session, which stays open."""
        for view in (self.card, self.panels, self.labeller):
            if view is not None:
                view.close()

    def __repr__(self) -> str:
        return f"<Desk on {self.session!r}>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)


def show(
    session: Session, *, query: int | None = None, panels: bool = True, live: bool = True
) -> Desk:
    """Draw, train, ask and look: the labelling view with the learning curve and the pool's map.

    query : items per round, unless given 6 slices or 1 volume; the first round is asked for when
    there is none yet. panels : whether curve, map and the card that says why a slice was asked are
    shown. live : whether strokes are grown into a proposal while they are drawn; the view has a
    switch for it.
    """
    query = query or session.usual
    if session.round is None:
        session.ask(min(query, len(session.pool)))
    return Desk(session, query=query, panels=panels, live=live)
