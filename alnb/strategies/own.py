"""A strategy of one's own: a function or a class, as short as the idea."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from alnb.errors import BadInput, BadSelection
from alnb.protocols import Snapshot, Strategy
from alnb.records import Selection
from alnb.strategies.common import candidates_for

_PLACES = ("snapshot", "n", "rng")


@dataclass(frozen=True, repr=False)
class Own:
    """A strategy made of a function; see `as_strategy` for what it may look like."""

    function: Callable[..., Any]

    def __repr__(self) -> str:
        return f"Own({own_name(self.function)})"

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates: those the function names, or those it scores highest."""
        candidates = candidates_for(snapshot, n)
        wanted = _wanted(self.function)
        given = {"snapshot": snapshot, "n": n, "rng": rng}
        answer = self.function(**{name: given[name] for name in wanted})
        if isinstance(answer, Selection):
            return answer
        values = np.asarray(answer)
        if "n" in wanted:
            if values.ndim != 1 or (len(values) and values.dtype.kind not in "iu"):
                raise BadSelection(
                    f"{self!r} takes n, so it must return n rows of the pool; it gave an array of "
                    f"shape {values.shape} and type {values.dtype}. Return whole numbers out of "
                    "snapshot.candidates, or leave n out and return a score for each candidate."
                )
            return Selection(rows=values.astype(np.int64), scores=np.full(len(values), np.nan))
        scores = values.astype(np.float64)
        if scores.shape != candidates.shape:
            raise BadSelection(
                f"{self!r} must return one score for each of the {len(candidates)} candidates, in "
                f"their order; it gave shape {scores.shape}. Score snapshot.candidates, not the "
                "whole pool."
            )
        bad = np.flatnonzero(np.isnan(scores))
        if len(bad):
            raise BadSelection(
                f"{self!r} is not a number for {len(bad)} of {len(scores)} candidates, first "
                f"{snapshot.pool.ids[candidates[bad[0]]]}. Give every candidate a number."
            )
        order = np.lexsort((rng.permutation(len(scores)), -scores))[:n]
        return Selection(rows=candidates[order], scores=scores[order])


def as_strategy(thing: Any) -> Strategy:
    """A strategy out of an object, a class or a function.

    - an object with ``select(snapshot, n, *, rng)`` is one already; a class is called without
      arguments;
    - ``def f(snapshot)`` or ``f(snapshot, rng)`` gives a score for each of `snapshot.candidates`,
      in their order; the largest are asked first, ties broken by chance;
    - ``def f(snapshot, n)`` or ``f(snapshot, n, rng)`` gives the n rows, or a `Selection`.

    BadInput says what is missing.
    """
    if inspect.isclass(thing):
        try:
            thing = thing()
        except TypeError as error:
            raise BadInput(
                f"{own_name(thing)} cannot be made without arguments ({error}). Give its fields "
                "default values, or hand over an instance."
            ) from error
    if isinstance(thing, Strategy):
        return thing
    if not callable(thing):
        raise BadInput(
            f"{thing!r} is no strategy: it has no method select(snapshot, n, *, rng), and it is "
            "no function of (snapshot), (snapshot, rng), (snapshot, n) or (snapshot, n, rng)."
        )
    strategy = Own(thing)
    _wanted(thing)
    return strategy


def own_name(thing: Any) -> str:
    """What a person would call a strategy: the name of its function or class."""
    if isinstance(thing, Own):
        return own_name(thing.function)
    return str(getattr(thing, "__name__", type(thing).__name__))


def _wanted(function: Callable[..., Any]) -> tuple[str, ...]:
    names = tuple(inspect.signature(function).parameters)
    if "snapshot" not in names or set(names) - set(_PLACES):
        raise BadInput(
            f"{own_name(function)}({', '.join(names)}) is no strategy: its parameters must be "
            "snapshot, and if it needs them n and rng, by these names."
        )
    return names
