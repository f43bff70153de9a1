"""Which slice next? One file per idea: a pure function beside the frozen class that applies it."""

from __future__ import annotations

import difflib
from importlib import import_module

from alnb.errors import BadInput
from alnb.protocols import Strategy
from alnb.strategies.catalogue import CATALOGUE

STRATEGIES: dict[str, str] = {entry.name: entry.where for entry in CATALOGUE}
"""Name at the command line -> "module:attribute", a class or function that needs no argument."""


def resolve(name: str) -> Strategy:
    """The strategy called `name`, with default settings; BadInput lists the names if unknown."""
    if name not in STRATEGIES:
        close = difflib.get_close_matches(name, STRATEGIES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise BadInput(
            f"There is no strategy called {name!r}.{hint} Known are: {', '.join(STRATEGIES)}."
        )
    module, attribute = STRATEGIES[name].split(":")
    strategy = getattr(import_module(module), attribute)()
    if not isinstance(strategy, Strategy):
        raise BadInput(f"{STRATEGIES[name]} gave {strategy!r}, which has no method select.")
    return strategy
