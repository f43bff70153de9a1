"""The contract of a strategy, as a check that anybody can run on their own."""

from __future__ import annotations

import pickle
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from alnb.errors import AlnbError, ColdStart
from alnb.protocols import Strategy
from alnb.records import ItemId, Selection, Unit
from alnb.rng import stream
from alnb.testing.toy import ToySnapshot, toy_snapshot

_ORIGIN = re.compile(r"|control|again|person|class \d+")
_BATCH = 4
_OTHER_STATES = 8


class ContractBroken(AlnbError, AssertionError):
    """An extension does not keep the contract of its plug; the message lists rule by rule."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the report alone, whose rules matter and whose frames do not."""
        head, *rules = str(self).splitlines()
        return [f"\x1b[1m{type(self).__name__}: {head}\x1b[0m", *rules]


@dataclass(frozen=True)
class Breach:
    """A broken rule: what was found, on which question, and what to do about it."""

    rule: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"- {self.rule}: {self.found}\n  {self.remedy}"


@dataclass(frozen=True)
class _Question:
    """A pool to choose from, made anew for each call, and how many to choose."""

    setting: str
    make: Callable[[], ToySnapshot]
    n: int
    seed: int
    cold: bool = False

    def __str__(self) -> str:
        return f"{self.setting}, n = {self.n}, seed {self.seed}"


def check_strategy(
    strategy: Strategy,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    units: Sequence[Unit] = ("slice", "volume"),
) -> None:
    """Ask `strategy` many small questions; ContractBroken lists every rule that it breaks.

    A session checks that n items are left before it asks, so a strategy need not.

    - It returns a Selection of n distinct rows, all of them candidates; n = K returns all.
    - Scores and rows are as long as each other; a missing score is NaN. Larger means sooner.
    - The same state of `rng` gives the same answer; global random state is left alone.
    - The snapshot is read, never written.
    - It works while nothing is labelled and no model is fitted, or raises ColdStart; and it works
      when labelled rows stay candidates.
    - If the answer does not depend on `rng`, writing the pool down in another order changes
      neither the items chosen nor their scores. A strategy counts as independent of `rng` when
      nine states of it give the same rows; the toy pool has no ties to break. One that draws its
      rows is exempt.
    - Its repr, which the journal keeps, holds no memory address.

    units : the kinds of pool to try; a strategy made for slices alone leaves "volume" out.
    """
    breaches: dict[str, Breach] = {}
    for unit, seed in product(units, seeds):
        for breach in _breaches(strategy, unit, seed):
            breaches.setdefault(breach.rule, breach)
    if breaches:
        number = "a rule" if len(breaches) == 1 else f"{len(breaches)} rules"
        lines = [f"{strategy!r} breaks {number} of the contract of a strategy:"]
        raise ContractBroken("\n".join([*lines, *map(str, breaches.values())]))


def _breaches(strategy: Strategy, unit: Unit, seed: int) -> Iterator[Breach]:
    yield from _address(strategy)
    found = [breach for asked in _questions(unit, seed) for breach in _answer(strategy, asked)]
    yield from found
    # What fails on plain questions would only fail again, less clearly.
    if not found:
        question = next(_questions(unit, seed))
        yield from _permuted(strategy, question)


def _questions(unit: Unit, seed: int) -> Iterator[_Question]:
    """Questions about one pool in three states; the first is the plainest."""
    depths = (6, 4, 7, 5) if unit == "slice" else (2, 3) * 6

    def plain() -> ToySnapshot:
        return toy_snapshot(seed, unit=unit, depths=depths)

    def kept() -> ToySnapshot:
        return toy_snapshot(seed, unit=unit, depths=depths, keep_labelled=True)

    def cold() -> ToySnapshot:
        return toy_snapshot(seed, unit=unit, depths=depths, labelled=0, fitted=False)

    for setting, make in (
        (f"{unit} pool", plain),
        (f"{unit} pool whose labelled rows stay candidates", kept),
        (f"{unit} pool with nothing labelled and no model", cold),
    ):
        for n in (_BATCH, 1, len(make().candidates)):
            yield _Question(setting, make, n, seed, cold=make is cold)


def _answer(strategy: Strategy, question: _Question) -> Iterator[Breach]:
    toy = question.make()
    untouched = question.make()
    globally = _global_state()
    chosen = _ask(strategy, question, toy)
    if chosen is None:
        return
    if isinstance(chosen, Breach):
        yield chosen
        return
    now = _global_state()
    changed = [module for module, state in globally.items() if state != now[module]]
    if changed:
        yield Breach(
            "leave global random state alone",
            f"that of {' and '.join(changed)} changed ({question}).",
            "Draw from the argument rng; torch takes alnb.rng.torch_generator(rng).",
        )
    for (name, array), (_, before) in zip(toy.arrays(), untouched.arrays(), strict=True):
        if not np.array_equal(array, before):
            yield Breach(
                "read the snapshot, never write it",
                f"{name} was changed in place ({question}).",
                "Copy it first; beware of shuffle, sort, out= and operators such as -=.",
            )
    malformed = list(_malformed(chosen, untouched, question))
    yield from malformed
    if not malformed:
        yield from _repeated(strategy, question, chosen)


def _ask(strategy: Strategy, question: _Question, toy: ToySnapshot) -> Selection | Breach | None:
    """The answer; the breach, if there is none; None, if it is too early to answer."""
    try:
        chosen: object = strategy.select(toy, question.n, rng=stream(question.seed, "check"))
    except ColdStart as error:
        if question.cold:
            return None
        return Breach(
            "answer once rows are labelled and a model is fitted",
            f"it raised ColdStart: {error} ({question}).",
            "ColdStart is for a pool without labels or model.",
        )
    except Exception as error:
        return Breach(
            "answer, or raise ColdStart while there is nothing to go by",
            f"it raised {type(error).__name__}: {error} ({question}).",
            "n is at most the number of candidates here, so that every n can be answered.",
        )
    if isinstance(chosen, Selection):
        return chosen
    return Breach(
        "return a Selection",
        f"it returned {type(chosen).__name__} ({question}).",
        "Return alnb.records.Selection(rows, scores).",
    )


def _malformed(chosen: Selection, toy: ToySnapshot, question: _Question) -> Iterator[Breach]:
    rows, scores = np.asarray(chosen.rows), np.asarray(chosen.scores)
    if rows.ndim != 1 or rows.dtype.kind != "i":
        yield Breach(
            "rows are a 1-D array of integers",
            f"they have shape {rows.shape} and type {rows.dtype} ({question}).",
            "Return rows of the pool as int64, in the order of picking.",
        )
        return
    if len(rows) != question.n:
        yield Breach(
            "return as many rows as are asked for",
            f"{len(rows)} came back ({question}, {len(toy.candidates)} candidates).",
            "n = K must return every candidate; when preferred rows run out, take the others.",
        )
    values, times = np.unique(rows, return_counts=True)
    if (times > 1).any():
        yield Breach(
            "rows are distinct",
            f"row {values[times.argmax()]} came {times.max()} times ({question}).",
            "Keep an explicit mask of what is taken; a distance of 0 does not tell.",
        )
    strange = np.setdiff1d(rows, toy.candidates)
    if len(strange):
        yield Breach(
            "rows are candidates",
            f"rows {strange.tolist()} are not ({question}).",
            "Positions within the candidates are no rows: return snapshot.candidates[positions].",
        )
    if scores.shape != rows.shape or scores.dtype.kind != "f":
        yield Breach(
            "one score per row",
            f"scores have shape {scores.shape} and type {scores.dtype} for {len(rows)} rows.",
            "Give a float per row, in the order of the rows; NaN where there is no score.",
        )
    strange_words = [word for word in chosen.origin if not _ORIGIN.fullmatch(word)]
    if strange_words or len(chosen.origin) not in (0, len(rows)):
        yield Breach(
            "origin is empty or one known word per row",
            f"it is {chosen.origin} for {len(rows)} rows ({question}).",
            "Known are '', 'control', 'again', 'person' and 'class 2', for any class; leave it out "
            "if all rows were simply chosen.",
        )


def _repeated(strategy: Strategy, question: _Question, chosen: Selection) -> Iterator[Breach]:
    again = _ask(strategy, question, question.make())
    if not isinstance(again, Selection) or not _same(chosen, again):
        found = again.rows.tolist() if isinstance(again, Selection) else again
        yield Breach(
            "the same state of rng gives the same answer",
            f"first {chosen.rows.tolist()}, then {found} ({question}).",
            "Draw from the argument rng alone, keep no state, and never iterate over a set.",
        )


def _same(one: Selection, other: Selection) -> bool:
    return (
        np.array_equal(one.rows, other.rows)
        and np.array_equal(one.scores, other.scores, equal_nan=True)
        and one.origin == other.origin
    )


def _permuted(strategy: Strategy, question: _Question) -> Iterator[Breach]:
    toy = question.make()
    order = stream(question.seed, "order").permutation(len(toy.pool))
    states = [stream(question.seed, "state", i) for i in range(_OTHER_STATES + 1)]
    first = strategy.select(question.make(), question.n, rng=states[0])
    for rng in states[1:]:
        other = strategy.select(question.make(), question.n, rng=rng)
        if not np.array_equal(first.rows, other.rows):
            return
    state = stream(question.seed, "state", 0)
    moved = strategy.select(question.make().permuted(order), question.n, rng=state)
    items = _scored(toy.pool.ids, first)
    moved_items = _scored([toy.pool.ids[row] for row in order], moved)
    if [item for item, _ in items] != [item for item, _ in moved_items]:
        yield Breach(
            "the order of the pool does not matter",
            f"{_names(items)} were chosen, and after writing the same pool down in another order "
            f"{_names(moved_items)} ({question}).",
            "Compare items by what they are, not by row number; break ties by rng.",
        )
    elif not np.allclose(
        [score for _, score in items],
        [score for _, score in moved_items],
        rtol=1e-4,
        atol=1e-6,
        equal_nan=True,
    ):
        yield Breach(
            "each row keeps its own score",
            f"scores {first.scores.tolist()} became {moved.scores.tolist()} for the same items "
            f"when the pool was written down in another order ({question}).",
            "Reorder rows and scores together.",
        )
    scores = first.scores
    if np.isfinite(scores).all() and all(a < b for a, b in pairwise(scores)):
        yield Breach(
            "a larger score means sooner",
            f"scores rise from pick to pick: {scores.tolist()} ({question}).",
            "Turn the sign of the score.",
        )


def _scored(ids: Sequence[ItemId], chosen: Selection) -> list[tuple[ItemId, float]]:
    pairs = zip(chosen.rows.tolist(), chosen.scores.tolist(), strict=True)
    return [(ids[row], score) for row, score in pairs]


def _names(items: Iterable[tuple[ItemId, float]]) -> str:
    return ", ".join(str(item) for item, _ in items)


def _address(strategy: Strategy) -> Iterator[Breach]:
    if re.search(r"\b0x[0-9a-fA-F]{6,}", repr(strategy)):
        yield Breach(
            "the repr tells what the strategy is",
            f"it is {strategy!r}, which differs from run to run.",
            "Make it a frozen dataclass, or give it a __repr__ without memory addresses.",
        )


def _global_state() -> dict[str, bytes]:
    """Per module loaded so far, bytes that change when its global generator is drawn from."""
    states = {
        "random": pickle.dumps(random.getstate()),
        "numpy": pickle.dumps(np.random.get_state()),  # noqa: NPY002 - watched, not used
    }
    if "torch" in sys.modules:
        states["torch"] = sys.modules["torch"].random.get_rng_state().numpy().tobytes()
    return states
