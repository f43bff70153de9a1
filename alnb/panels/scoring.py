"""The panel of score bars, live: a click or the list opens a candidate."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets

from alnb.errors import AlnbError
from alnb.panels.aside import told
from alnb.panels.figure import View
from alnb.panels.live import DRAGGED, Ask, Due, FigurePanel
from alnb.panels.markup import Safe, SafeHTML, element, together
from alnb.panels.score_bars import EMPTY, ScoreBars, facts, no_bars, score_bars, score_view
from alnb.panels.thumbs import Thumbs
from alnb.records import SliceId

if TYPE_CHECKING:
    from alnb.session.session import Session
    from alnb.strategies.nath import EntropyMinusMI

_WAIT = "Scoring the candidates …"
_NONE = no_bars()
_PICK = "Click a bar, or choose from the list, to see what it stands for."


class ScorePart:
    """Score bars as a part of a panel, with a list of the candidates above them."""

    def __init__(
        self,
        session: Session,
        on_pick: Callable[[SliceId], Any] | None,
        strategy: EntropyMinusMI | None,
        n: int,
    ) -> None:
        self._session = session
        self._on_pick = on_pick
        self._strategy = strategy
        self._n = n
        self._due: Due[ScoreBars] = Due()
        self._thumbs = Thumbs(session.cohort)
        self._say: Callable[[str], None] = lambda _: None
        self._ask: Ask = lambda _: None
        self._setting = False
        self._listed = _NONE
        self.restless = False
        self.picked = -1
        self.list = ipywidgets.Dropdown(
            options=[("–", -1)],
            description="candidate",
            tooltip="Candidates, largest score first",
            layout={"width": "320px", "max_width": "100%"},
            style={"description_width": "70px"},
        )
        self.controls = self.list
        self.words = SafeHTML("", layout={"min_width": "0"})
        self.foot = self.words

    @property
    def data(self) -> ScoreBars:
        """The bars in view; none until they are worked out."""
        return self._due.value or _NONE

    def view(self) -> View:
        data = self.data
        if data is not self._listed:
            self._list(data)
        self.words.value = self._about(data)
        return score_view(data, self.picked, self._note())

    def work(self) -> Callable[[], None] | None:
        session = self._session
        if session.state.checkpoint is None or session.closed:
            return None
        fit, current = session.last_fit, session.round
        key: Hashable = (
            None if fit is None else fit.number,
            None if current is None else (current.number, current.query),
            len(session.labelled),
            bool(session.pending),
            session.strategy_name,
        )
        return self._due.work(key, lambda: score_bars(session, self._strategy, n=self._n))

    def connect(self, traces: Sequence[Any], say: Callable[[str], None], ask: Ask) -> None:
        self._say, self._ask = say, ask
        for trace in traces[:3]:
            trace.on_click(self._clicked)
        self.list.observe(self._chosen, "value")

    def _note(self) -> str:
        if self._due.value is not None:
            return ""
        error = self._due.error
        if error is not None:
            return str(error) if isinstance(error, AlnbError) else "The scores failed."
        return EMPTY if self._session.state.checkpoint is None else _WAIT

    def _list(self, data: ScoreBars) -> None:
        self._listed, self.picked = data, -1
        names = [f"{at + 1}. {item}" for at, item in enumerate(data.items)]
        self._setting = True
        try:
            self.list.options = [("–", -1), *((name, at) for at, name in enumerate(names))]
            self.list.value = -1
        finally:
            self._setting = False

    def _clicked(self, _trace: Any, points: Any, _state: Any) -> None:
        if points.point_inds:
            self.list.value = int(self.data.first[points.point_inds[0]])

    def _chosen(self, change: Any) -> None:
        data = self.data
        if self._setting or change["new"] is None or change["new"] < 0:
            return
        self.picked = int(change["new"])
        opened = data.opens[self.picked]
        self._say(f"{opened} is shown.")
        if self._on_pick is not None:
            self._on_pick(opened)
        self._ask(DRAGGED)

    def _about(self, data: ScoreBars) -> Safe:
        if not len(data.rows):
            return together()
        small = (
            f"H: entropy by the {data.model}. MI: what its image shares with the labelled ones. "
            "Hats bring both to 0..1 over the candidates."
        )
        if self.picked < 0:
            return told(_PICK, quiet=small)
        opened, item = data.opens[self.picked], data.items[self.picked]
        picture = element("img", src=self._thumbs.data_url(opened), alt=str(opened), style=_PICTURE)
        words = told(str(item), *facts(data, self.picked), quiet=small)
        return element("div", picture, words, style=_BESIDE)


_PICTURE = "width: 112px; height: 112px; object-fit: contain; background: #000; flex: none"
_BESIDE = "display: flex; gap: 12px; align-items: flex-start"


class ScorePanel(FigurePanel):
    """Why these candidates: doubt, likeness to what is labelled, and the score, live.

    Show it by ending a cell with it. It shows the open query among the candidates it was chosen
    from, scored by today's model; without an open query, what would be asked next.

    Parameters
    ----------
    labeller : a click on a bar, or a choice from the list, shows that item there.
    strategy : whose score; the session's `EntropyMinusMI`, or one with the defaults, unless given.
    n : how many would be asked next.
    """

    def __init__(
        self,
        session: Session,
        labeller: Any = None,
        *,
        strategy: EntropyMinusMI | None = None,
        n: int = 6,
    ) -> None:
        on_pick = None if labeller is None else labeller.show
        self.part = ScorePart(session, on_pick, strategy, n)
        super().__init__(session, [self.part], labeller=labeller)
