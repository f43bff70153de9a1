"""What several strategies would ask at the same moment, and how far they agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alnb.errors import AlnbError
from alnb.protocols import Strategy
from alnb.records import ItemId
from alnb.session.choosing import check_selection
from alnb.session.snapshot import PoolSnapshot
from alnb.strategies.wrappers import WarmStart


@dataclass(frozen=True)
class Comparison:
    """The queries of several strategies on one snapshot.

    Attributes
    ----------
    n : items asked of each.
    queries : per strategy that could choose, its items in picking order.
    scores : per strategy, a score for each item; None where there is no finite one.
    problems : per strategy that could not choose, why.
    expected : items that two independent random queries would share on average, n * n / K.
    notes : per strategy whose query is not quite its own, or would not be asked: why.
    """

    n: int
    queries: Mapping[str, tuple[ItemId, ...]]
    scores: Mapping[str, tuple[float | None, ...]]
    problems: Mapping[str, str]
    expected: float
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The strategies that could choose."""
        return tuple(self.queries)

    def overlap(self) -> NDArray[np.int64]:
        """(S, S) numbers of items that two strategies both ask; the diagonal is n."""
        sets = [set(query) for query in self.queries.values()]
        return np.array([[len(a & b) for b in sets] for a in sets], dtype=np.int64)

    def wanted(self) -> dict[ItemId, tuple[str, ...]]:
        """Per item, the strategies that ask it; those that most ask first."""
        found: dict[ItemId, tuple[str, ...]] = {}
        for name, query in self.queries.items():
            for item in query:
                found[item] = (*found.get(item, ()), name)
        return dict(sorted(found.items(), key=lambda pair: (-len(pair[1]), str(pair[0]))))

    def to_table(self) -> str:
        """The overlap as a Markdown table, and below it who could not choose."""
        lines = ["| both ask | " + " | ".join(self.names) + " |"]
        lines.append("|---|" + "---:|" * len(self.names))
        for name, row in zip(self.names, self.overlap().tolist(), strict=True):
            lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
        lines.append("")
        lines.append(f"Of {self.n} each; two random queries would share {self.expected:.1f}.")
        lines += [f"{name}: {note}" for name, note in self.notes.items()]
        lines += [f"{name} cannot choose: {why}" for name, why in self.problems.items()]
        return "\n".join(lines)


def compare(
    strategies: Mapping[str, Strategy],
    snapshot: PoolSnapshot,
    n: int,
    rng: Callable[[], np.random.Generator],
    doubt: Callable[[Strategy], str] = lambda _: "",
) -> Comparison:
    """Ask each strategy for n items of `snapshot`, each with a generator of its own from `rng`.

    doubt : why the model should not choose for a strategy, in words; asked of those that need it.
    """
    notes: dict[str, str] = {}
    queries: dict[str, tuple[ItemId, ...]] = {}
    scores: dict[str, tuple[float | None, ...]] = {}
    problems: dict[str, str] = {}
    for name, strategy in strategies.items():
        try:
            seen = replace(snapshot, wanted=[])
            chosen = strategy.select(seen, n, rng=rng())
            check_selection(chosen, snapshot, n)
        except AlnbError as error:
            problems[name] = str(error)
            continue
        queries[name] = tuple(snapshot.pool.ids[row] for row in chosen.rows.tolist())
        scores[name] = tuple(s if np.isfinite(s) else None for s in chosen.scores.tolist())
        note = _note(strategy, seen, doubt)
        if note:
            notes[name] = note
    expected = n * n / max(1, len(snapshot.candidates))
    return Comparison(n, queries, scores, problems, expected, notes)


def _note(strategy: Strategy, seen: PoolSnapshot, doubt: Callable[[Strategy], str]) -> str:
    if not len(seen.labelled) and _begins_with_another(strategy):
        return "nothing is labelled yet, so its cold start chose."
    if False in seen.wanted:
        return "no model is trained yet, so its cold start chose."
    words = doubt(strategy) if seen.wanted else ""
    return f"the cold start would be asked in its place. {words}" if words else ""


def _begins_with_another(strategy: Any) -> bool:
    """Whether another strategy chooses in its place while nothing is labelled."""
    while strategy is not None and not isinstance(strategy, WarmStart):
        strategy = getattr(strategy, "strategy", None)
    return strategy is not None
