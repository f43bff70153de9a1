"""The card beside the canvas that says why the slice in view was asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Protocol

import ipywidgets

from alnb.panels.covers import Covers, covers
from alnb.panels.live import UNSEEN, Due, Refresher, pen_of, run_beside
from alnb.panels.markup import Safe, SafeHTML, element, together
from alnb.panels.places import centres_and_waiting
from alnb.panels.ranks import Ranking, rankings, ranks_of
from alnb.panels.thumbs import Thumbs
from alnb.panels.why import Why, row_of, sentences, why
from alnb.records import Floats, SliceId
from alnb.store.events import Entry

if TYPE_CHECKING:
    from alnb.session.session import Session

INTERVAL = 0.15
"""Seconds between two cards, while a person goes through slices quickly."""

_TITLE = "Why this slice?"
_WAIT = "Comparing it with what is labelled …"


class Shows(Protocol):
    """What the card follows: a view of one slice at a time, such as a `Labeller`."""

    @property
    def here(self) -> SliceId | None:
        """The slice in view."""
        ...

    @property
    def drawing(self) -> bool:
        """Whether a pen is down."""
        ...

    def on_show(self, listener: Callable[[SliceId], None]) -> Callable[[], None]:
        """Call `listener` when another slice comes into view; what comes back ends it."""
        ...


def why_html(found: Why, thumbs: Thumbs | None, ranking: bool = True) -> Safe:
    """The card's body. `ranking`: whether the ranks are still to come, if there are none."""
    first, *rest = sentences(found)
    facts = " · ".join(part for part in (found.patient, found.position, found.asked) if part)
    words = element(
        "div",
        element("p", first, cls="alnb-why-lead"),
        *(element("p", text) for text in rest if text),
        element("p", facts, cls="alnb-why-facts"),
        cls="alnb-why-words",
    )
    pictures, ranks = _pictures(found, thumbs), _ranks(found, ranking)
    return element("div", pictures, words, ranks, cls="alnb-why-body")


def _pictures(found: Why, thumbs: Thumbs | None) -> Safe:
    if thumbs is None:
        return together()
    shown = [("this slice", found.slice_id)]
    if found.nearest is not None:
        shown.append(("nearest labelled", found.nearest))
    figures = (
        element(
            "figure",
            element("img", src=thumbs.data_url(slice_id), alt=text),
            element("figcaption", text),
        )
        for text, slice_id in shown
    )
    return element("div", *figures, cls="alnb-why-pictures")


def _ranks(found: Why, coming: bool) -> Safe:
    if not found.ranks:
        wait = element("div", "Ranking the pool …", cls="alnb-why-ranks")
        return wait if coming else together()
    rows = (
        element("tr", element("th", name), element("td", str(rank)))
        for name, rank in found.ranks.items()
    )
    help_ = "Its place in the order in which each strategy would have asked"
    caption = element("caption", "Rank by other strategies", title=help_)
    return element("table", caption, *rows, cls="alnb-why-ranks")


class WhyCard:
    """Says why the slice in view of a labeller was asked, and what labelling it would cover.

    Worked out off the loop, once for each slice and state of the labels, never while the pen is
    down, and not at all while the card is folded. The rankings of other strategies follow when
    they are ready, once per round and model.

    Attributes
    ----------
    widget : the card: a button that folds it, and its body.
    shown : the record that the body shows, or None.
    """

    def __init__(self, session: Session, labeller: Shows, *, folded: bool = False) -> None:
        self._session = session
        self._labeller = labeller
        self._thumbs = Thumbs(session.cohort)
        self._cards: Due[tuple[Why, Safe]] = Due()
        self._rankings: Due[dict[str, Ranking]] = Due()
        self._known: tuple[Hashable, Floats, Covers] | None = None
        self.shown: Why | None = None
        self.head = ipywidgets.ToggleButton(
            value=not folded, description=_TITLE, tooltip="Fold or unfold this card"
        )
        self.head.add_class("alnb-why-head")
        self.body = SafeHTML(_line(_WAIT))
        self.widget = ipywidgets.VBox([self.head, self.body])
        self.widget.add_class("alnb-why")
        self._refresher = Refresher(self._draw, busy=pen_of(labeller), interval=INTERVAL)
        self._ends = [
            session.subscribe(self._heard),
            session.watch(self._watched),
            labeller.on_show(lambda _: self.refresh()),
        ]
        self.head.observe(lambda _: self.refresh(), "value")
        self.refresh()

    def refresh(self) -> None:
        """Say it again soon; any thread may ask."""
        self._refresher.ask()

    def close(self) -> None:
        """Follow the labeller no longer."""
        for end in self._ends:
            end()
        self._refresher.close()

    def _heard(self, entry: Entry) -> None:
        if not isinstance(entry.event, UNSEEN):
            self.refresh()

    def _watched(self, what: str) -> None:
        if what in ("embedding", "model"):
            self.refresh()

    def _draw(self) -> None:
        here, unfolded = self._labeller.here, self.head.value
        self.head.icon = "caret-down" if unfolded else "caret-right"
        self.body.layout.display = "" if unfolded else "none"
        if here is None or not unfolded or self._session.closed:
            return
        key = (*self._state(), self._ranking_key(), self._rankings.key, here)
        for work in (
            self._cards.work(key, lambda: self._card(here)),
            # after the card: whoever looks at it reads first and compares then
            self._rankings.work(self._ranking_key(), lambda: rankings(self._session))
            if self._cards.key is not None
            else None,
        ):
            if work is not None:
                run_beside(self._refresher, work)
        self._show(here)

    def _show(self, here: SliceId) -> None:
        if self._cards.error is not None:
            self.shown, text = None, _line(f"Nothing can be said of it: {self._cards.error}")
        elif self._cards.value is not None and self._cards.value[0].slice_id == here:
            self.shown, text = self._cards.value
        else:
            self.shown, text = None, _line(_WAIT)
        if self.body.value != text:
            self.body.value = text

    def _state(self) -> tuple[Hashable, ...]:
        """All that the distances depend on."""
        session = self._session
        centres, waiting = centres_and_waiting(session)
        name = session.embedding
        learnt = session.state.embeddings.get(name)
        current = session.round
        return (
            name,
            learnt,
            centres.tobytes(),
            waiting.tobytes(),
            None if current is None else (current.number, current.query),
        )

    def _ranking_key(self) -> Hashable:
        """All that the rankings depend on: the query, the features and the model."""
        session = self._session
        fit, current, name = session.last_fit, session.round, session.embedding
        return (
            -1 if current is None else (current.number, current.query),
            name,
            session.state.embeddings.get(name),
            None if fit is None else fit.number,
        )

    def _card(self, slice_id: SliceId) -> tuple[Why, Safe]:
        features, known = self._ground()
        ready = self._rankings.key == self._ranking_key() and self._rankings.value is not None
        row = row_of(self._session, slice_id)
        orders = self._rankings.value if ready and row is not None else None
        ranks = None if orders is None or row is None else ranks_of(orders, row)
        found = why(self._session, slice_id, features, known, ranks)
        coming = row is not None and not ready and self._rankings.error is None
        return found, why_html(found, self._thumbs, coming)

    def _ground(self) -> tuple[Floats, Covers]:
        key = self._state()
        if self._known is None or self._known[0] != key:
            features = self._session.features()
            self._known = key, features, covers(features, *centres_and_waiting(self._session))
        return self._known[1], self._known[2]

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)


def _line(text: str) -> Safe:
    return element("div", element("p", text, cls="alnb-why-facts"), cls="alnb-why-body")
