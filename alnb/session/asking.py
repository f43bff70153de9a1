"""What to ask next: the strategies at hand, the query they give, and what others would give."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alnb.data.cohort import Cohort
from alnb.errors import ColdStart, PoolExhausted
from alnb.protocols import Encoder, Strategy
from alnb.records import ItemId, Round, Selection
from alnb.rng import stream
from alnb.session.answering import FINISHED
from alnb.session.choosing import capped, check_selection, found
from alnb.session.comparing import Comparison, compare
from alnb.session.embedding import Embedding
from alnb.session.gate import Doubts, Gate
from alnb.session.snapshot import PoolSnapshot
from alnb.store.events import QueryAmended, RoundClosed, RoundOpened, SliceSkipped
from alnb.store.journal import Journal
from alnb.store.shelf import LooseShelf
from alnb.strategies import STRATEGIES
from alnb.strategies.common import with_cache
from alnb.strategies.own import as_strategy, own_name
from alnb.testing.strategy import check_strategy

if TYPE_CHECKING:
    from alnb.session.trainer import Trainer


class Asking(Embedding):
    """A session's queries.

    Attributes
    ----------
    strategy : chooses the next query, under the session's cap of slices per volume.
    gate : when a strategy may trust the model, or None for always.
    """

    def __init__(
        self,
        folder: Path,
        cohort: Cohort,
        annotator: str,
        journal: Journal,
        *,
        encoder: Encoder | None,
        strategy: Strategy,
        cold_start: Strategy,
        per_volume: int | None,
        gate: Gate | None,
        reveal: bool,
    ) -> None:
        super().__init__(folder, cohort, annotator, journal, encoder)
        self.strategy = strategy
        self.gate = gate
        self._cold_start = cold_start
        self._per_volume = per_volume
        self._reveal = reveal
        self._shelf = LooseShelf(folder / "information")
        self._own: dict[str, Strategy] = {}
        self._name = ""
        self._doubts: Doubts | None = None

    @property
    @abstractmethod
    def trainer(self) -> Trainer:
        """What trains, predicts and measures."""

    # ------------------------------------------------------------------ strategies at hand

    @property
    def strategies(self) -> tuple[str, ...]:
        """Names that `choose_strategy` knows: those of alnb, and one's own."""
        return tuple(dict.fromkeys((*STRATEGIES, *self._own)))

    @property
    def strategy_name(self) -> str:
        """The name of the strategy in charge."""
        return self._name

    def add_strategy(self, thing: Any, name: str = "") -> str:
        """Hold a strategy of one's own to the contract and offer it by name; returns the name.

        thing : an object, a class or a function, see `alnb.strategies.own.as_strategy`.
        name : its own name unless given; the same name replaces.

        It is asked small questions about made-up pools; ContractBroken lists what it did wrong,
        and then nothing has changed.
        """
        strategy = as_strategy(thing)
        check_strategy(strategy, units=("volume" if self.created.unit == "volume" else "slice",))
        name = name or own_name(thing)
        self._own[name] = strategy
        self.say("strategies")
        return name

    def choose_strategy(self, strategy: Strategy | str) -> None:
        """Let `strategy`, an object or one of `strategies`, choose from the next query on."""
        if isinstance(strategy, str):
            self._name, strategy = strategy, self._found(strategy)
        else:
            self._name = next((k for k, v in self._own.items() if v is strategy), repr(strategy))
        self.strategy = capped(strategy, self._per_volume)
        self.say("strategies")

    def lasting(self, strategy: Strategy) -> Strategy:
        """`strategy`, keeping what it finds out about images in the project's folder.

        So do all strategies that this session asks. What has a cache of its own keeps that one.
        """
        return with_cache(strategy, self._shelf)

    def _found(self, strategy: Strategy | str) -> Strategy:
        if isinstance(strategy, str) and strategy in self._own:
            return self._own[strategy]
        return found(strategy)

    # ------------------------------------------------------------------ asking

    @property
    def usual(self) -> int:
        """Items of a query for which nobody gave a number: 6 slices, or 1 volume."""
        return 1 if self.created.unit == "volume" else 6

    def snapshot(self) -> PoolSnapshot:
        """The pool as a strategy would see it now."""
        with self._lock:
            state = self.state
            free, labelled = self.candidates()
        model = self.trainer.model() if state.checkpoint is not None else None
        return PoolSnapshot(
            pool=self.pool,
            candidates=np.flatnonzero(free),
            labelled=np.flatnonzero(labelled),
            counts=np.array([state.counts.get(i, 0) for i in self.pool.ids], dtype=np.int64),
            cohort=self.cohort,
            learner=None if model is None else model[1],
            embed=self.features,
            reveal=self._reveal,
            rounds=len(state.rounds),
        )

    def ask(self, n: int, *, strategy: Strategy | None = None) -> Round:
        """Open the next round: `n` items chosen by the strategy out of those that may be asked.

        Items of the current query of which nobody answered anything go back to the pool; a volume
        that is answered in part is done with, and what nobody said of it stays unsaid. Where the
        gate finds the model too weak for the strategy, the cold start chooses, and the round's
        `note` says so.

        Raises
        ------
        PoolExhausted, BadSelection, ColdStart, IllegalEvent
        """
        with self._acting():
            if any(isinstance(event, RoundOpened) for event in self._redone):
                return self.state.rounds[-1]
            number = len(self.state.rounds)
        chooser = strategy or self.strategy
        snapshot = self._enough(n)
        chosen, note = self._select(chooser, snapshot, n, number)
        opened = RoundOpened(
            number=number,
            query=tuple(self.pool.ids[row] for row in chosen.rows.tolist()),
            scores=tuple(s if np.isfinite(s) else None for s in chosen.scores.tolist()),
            origin=_origins(chosen, snapshot),
            strategy=repr(chooser),
            rng=f"query/{number}",
            note=note,
        )
        with self._acting():
            last = self.round
            closing = [RoundClosed(last.number)] if last is not None and not last.closed else []
            self._commit(*closing, opened)
            return self.state.rounds[-1]

    def _enough(self, n: int) -> PoolSnapshot:
        snapshot = self.snapshot()
        free = len(snapshot.candidates)
        if not 1 <= n <= free:
            raise PoolExhausted(
                f"Asked for {n} items; {free} of {len(self.pool)} can still be asked. "
                f"Ask for 1 to {free}, or open the project with keep_labelled=True."
                if free
                else f"All {len(self.pool)} items of the pool are answered. Train, or export."
            )
        return snapshot

    def _select(
        self, chooser: Strategy, snapshot: PoolSnapshot, n: int, number: int
    ) -> tuple[Selection, str]:
        """What `chooser` selects, or the cold start in its place, and a note if it did."""
        doubt = "" if self.gate is None else self._doubted(chooser, self.gate)
        chooser, cold = self.lasting(chooser), self.lasting(self._cold_start)
        snapshot = replace(snapshot, doubt=doubt, refused=[])
        try:
            chosen = chooser.select(snapshot, n, rng=stream(self.seed, "query", number))
        except ColdStart:
            if not snapshot.refused:
                raise
            opener = capped(cold, self._per_volume)
            chosen = opener.select(snapshot, n, rng=stream(self.seed, "query", number))
        check_selection(chosen, snapshot, n)
        return chosen, f"{doubt} The cold start chose instead." if snapshot.refused else ""

    def _doubted(self, chooser: Strategy, gate: Gate) -> str:
        if self._doubts is None:
            self._doubts = Doubts(lambda: self.state, self.trainer)
        return self._doubts.about(chooser, gate)

    def finish(self, item: ItemId) -> None:
        """Wait no longer for the slices of `item` that nobody has begun; they stay unlabelled.

        For a volume of which enough is answered; asking for the next query finishes it as well.
        Slices with strokes that were not submitted go on waiting. UnknownItem if it is not in the
        pool.
        """
        (row,) = self.pool.rows([item]).tolist()
        with self._acting():
            untouched = [
                slice_id
                for slice_id in self.pool.slices[row]
                if self.status(slice_id) == "open" and not self.draft(slice_id).strokes
            ]
            if untouched:
                self._commit(*(SliceSkipped(s, FINISHED, None) for s in untouched))

    def amend(self, *, add: Sequence[ItemId] = (), remove: Sequence[ItemId] = ()) -> None:
        """Override the query by hand."""
        self.pool.rows([*add, *remove])
        self._commit(QueryAmended(tuple(add), tuple(remove)))

    def compare_strategies(self, strategies: Iterable[Strategy | str], n: int) -> Comparison:
        """What each of `strategies` would ask now; nothing is asked.

        strategies : objects or names of `strategies`. One that cannot choose now, such as one that
        needs a model before the first training, has its reason in the comparison's `problems`.
        Each is asked without the gate; where the gate would not let it choose, or its cold start
        chose in its place, the comparison's `notes` say so.
        """
        number = len(self.state.rounds)
        snapshot = self._enough(n)
        named = {
            s if isinstance(s, str) else own_name(s): capped(
                self.lasting(self._found(s) if isinstance(s, str) else as_strategy(s)),
                self._per_volume,
            )
            for s in strategies
        }
        gate = self.gate
        return compare(
            named,
            snapshot,
            n,
            lambda: stream(self.seed, "query", number),
            lambda strategy: "" if gate is None else self._doubted(strategy, gate),
        )


def _origins(chosen: Selection, snapshot: PoolSnapshot) -> tuple[str, ...]:
    """Where each row came from; "again" if it was labelled before and nothing else is known."""
    labelled = np.isin(chosen.rows, snapshot.labelled).tolist()
    words = chosen.origin or ("",) * len(labelled)
    return tuple(
        word or ("again" if known else "") for word, known in zip(words, labelled, strict=True)
    )
