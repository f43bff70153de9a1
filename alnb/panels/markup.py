"""The one door for markup: what is not built here is text, whatever a file name says."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets
import traitlets


class Safe(str):
    """Markup that was built by `element` and `together`, so that all text in it is escaped."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str) -> Safe:
    """``<tag attributes>children</tag>``; whatever is not `Safe` is escaped. `cls` is the class."""
    words = "".join(
        f' {"class" if name == "cls" else name}="{html.escape(value)}"'
        for name, value in attributes.items()
        if value
    )
    inner = together(*children)
    return Safe(f"<{tag}{words}>" if tag == "img" else f"<{tag}{words}>{inner}</{tag}>")


def together(*children: str) -> Safe:
    """The children one after another; whatever is not `Safe` is escaped."""
    return Safe("".join(c if isinstance(c, Safe) else html.escape(c) for c in children))


class SafeHTML(ipywidgets.HTML):
    """Shows `Safe` markup as it is, and any other string as text."""

    @traitlets.validate("value")
    def _escaped(self, proposal: Any) -> str:
        return together(proposal["value"])
