"""What the drop-down beside the query offers: names, grouped, with a hint for each. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from alnb.strategies.catalogue import CATALOGUE, Entry
from alnb.widgets.status import Line

OTHER, OWN, IMAGES, MODEL = "In charge", "Yours", "From the images", "From the model"

_ENTRIES = {entry.name: entry for entry in CATALOGUE}


def offered(names: Sequence[str], chosen: str, enabled: bool) -> dict[str, Any]:
    """The drop-down as the browser reads it.

    names : what can be chosen. chosen : what is in charge; shown even if it has no name among them.
    """
    return {"chosen": chosen, "enabled": enabled, "groups": list(_groups(tuple(names), chosen))}


@lru_cache(maxsize=8)
def _groups(names: tuple[str, ...], chosen: str) -> tuple[dict[str, Any], ...]:
    members: dict[str, list[dict[str, str]]] = {OTHER: [], OWN: [], IMAGES: [], MODEL: []}
    if chosen not in names:
        members[OTHER].append({"name": chosen, "hint": "Chosen in a cell."})
    for name in names:
        entry = _ENTRIES.get(name)
        group = OWN if entry is None else MODEL if _starts(entry) else IMAGES
        members[group].append({"name": name, "hint": hint(name)})
    return tuple({"name": group, "choices": found} for group, found in members.items() if found)


def hint(name: str) -> str:
    """What a strategy asks for and what it needs, in words."""
    entry = _ENTRIES.get(name)
    if entry is None:
        return "Added in this session."
    words = f"Asks for {entry.asks}."
    if entry.needs != "nothing":
        words += f" Needs {entry.needs}."
    if _starts(entry):
        words += f" Until then {entry.start} chooses."
    return words


def chosen_line(name: str, trained: bool) -> Line:
    """What to say once `name` is in charge. trained : whether there is a model."""
    entry = _ENTRIES.get(name)
    text = f"{name} chooses the next query."
    if entry is not None and _starts(entry) and not trained:
        return Line(f"{text} It needs {entry.needs}: until the first training {entry.start} does.")
    return Line(text, "good")


def _starts(entry: Entry) -> bool:
    """Whether another one chooses in its place at first."""
    return entry.start != "native"
