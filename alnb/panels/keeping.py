"""Delete or keep: how often each item was asked for, and which share of a pool that is.

What is labelled may leave the pool, or stay in it and be asked for again, which costs no time and
weighs it more in training. Then draws and labels are no longer the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alnb.panels.markup import Safe, element
from alnb.panels.sheet import Sheet
from alnb.records import ItemId

if TYPE_CHECKING:
    from alnb.session.session import Session

_CELL = 13
_MOST = 60
"""Items drawn most often that a line shows."""
_FIRST, _AGAIN = "#0072b2", "#e69f00"


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a session drew from its pool.

    Attributes
    ----------
    name : of the session, to show.
    rounds, draws : queries, and items asked for in all of them.
    times : how often each item was asked for, most often first.
    items : unique items that are labelled.
    pool : items there are.
    share : `items` of the whole pool, those of the first round included.
    asked_share : those beyond the first round, of the pool without them.
    """

    name: str
    rounds: int
    draws: int
    times: Mapping[ItemId, int]
    items: int
    pool: int
    share: float
    asked_share: float

    @property
    def repeats(self) -> int:
        """Draws of what had been asked for before."""
        return self.draws - len(self.times)


def keeping(session: Session, name: str = "") -> Keeping:
    """The record of a session as it is now."""
    from alnb.session.ledger import draws

    last = len(session.state.rounds) - 1
    found = session.ledger()
    times = draws(session, last)
    return Keeping(
        name,
        last + 1,
        found.draws,
        dict(sorted(times.items(), key=lambda pair: -pair[1])),
        found.items,
        len(session.pool),
        found.share,
        found.asked_share,
    )


def keeping_sheet(sessions: Mapping[str, Session]) -> Sheet:
    """Sessions by name: their numbers, and a column of squares for each item that was drawn."""
    found = [keeping(session, name) for name, session in sessions.items()]
    return Sheet(_table(found), *(_columns(each) for each in found), _KEY, _STYLE)


def sentence(found: Keeping) -> str:
    """The two shares in words, each with its denominator."""
    return (
        f"{found.items} of {found.pool} items are labelled, {found.share:.1%}. Without the first "
        f"round on either side it is {found.asked_share:.1%}."
    )


def _table(found: list[Keeping]) -> Safe:
    head = ("", "rounds", "draws", "labelled", "repeats", "of the pool", "without the first round")
    rows = (
        (
            each.name,
            str(each.rounds),
            str(each.draws),
            str(each.items),
            str(each.repeats),
            f"{each.share:.1%}",
            f"{each.asked_share:.1%}",
        )
        for each in found
    )
    return element(
        "table",
        element("tr", *(element("th", words) for words in head)),
        *(element("tr", *(element("td", words) for words in row)) for row in rows),
        cls="alnb-keeping",
    )


def _columns(found: Keeping) -> Safe:
    """A column per item: a square for the first time it was drawn, others for every repeat."""
    shown = list(found.times.items())[:_MOST]
    tallest = max((times for _, times in shown), default=1)
    width, height = _CELL * max(1, len(shown)), _CELL * tallest
    squares = [
        element(
            "rect",
            element("title", f"{item}: drawn {times} time{'s' * (times != 1)}"),
            x=f"{_CELL * at + 1}",
            y=f"{height - _CELL * (place + 1) + 1}",
            width=str(_CELL - 2),
            height=str(_CELL - 2),
            rx="2",
            fill=_AGAIN if place else _FIRST,
        )
        for at, (item, times) in enumerate(shown)
        for place in range(times)
    ]
    drawing = element(
        "svg",
        *squares,
        width=str(width),
        height=str(height),
        viewBox=f"0 0 {width} {height}",
        cls="alnb-keeping-columns",
    )
    rest = len(found.times) - len(shown)
    more = f", and {rest} more" if rest > 0 else ""
    head = element("div", f"{found.name}: {len(found.times)} items{more}", cls="alnb-sheet-title")
    return element("div", head, drawing, element("p", sentence(found)), cls="alnb-keeping-part")


_KEY = element(
    "div",
    element("span", element("i", style=f"background:{_FIRST}"), "drawn for the first time"),
    element("span", element("i", style=f"background:{_AGAIN}"), "drawn again: no cost"),
    cls="alnb-sheet-legend",
)
_STYLE = Safe("""<style>
.alnb-keeping { flex-basis: 100%; border-collapse: collapse; font-size: 13px; line-height: 1.5;
  font-variant-numeric: tabular-nums; color: var(--jp-ui-font-color1, #57606a); }
.alnb-keeping tr, .alnb-keeping td, .alnb-keeping th { background: none !important; }
.alnb-keeping td, .alnb-keeping th { padding: 1px 20px 1px 0; text-align: right; border: 0; }
.alnb-keeping td:first-child { text-align: left; font-weight: 600; }
.alnb-keeping tr:first-child th { border-bottom: 1px solid rgba(128, 128, 128, 0.35); }
.alnb-keeping-part { max-width: 460px; }
.alnb-keeping-part p { margin: 6px 0 0; line-height: 1.4; }
.alnb-keeping-columns { max-width: 100%; height: auto; display: block; }
</style>""")
