"""What panels share that explain more than they follow: words beside a plot, and no session."""

from __future__ import annotations

from collections.abc import Callable

from alnb.panels.markup import Safe, element, together


class Still:
    """In the place of a session: something to follow to which nothing ever happens."""

    def subscribe(self, listener: object) -> Callable[[], None]:
        """Take a listener that will never hear of anything; what comes back ends nothing."""
        return _nothing

    def watch(self, watcher: object) -> Callable[[], None]:
        """Take a watcher in the same way."""
        return _nothing


def told(*sentences: str, quiet: str = "") -> Safe:
    """Sentences below a plot, a paragraph for each; `quiet` stands last, small."""
    last = (element("p", quiet, cls="alnb-aside-quiet"),) if quiet else ()
    paragraphs = (element("p", words) for words in sentences if words)
    return together(element("div", *paragraphs, *last, cls="alnb-aside"), _STYLE)


def _nothing() -> None:
    """Be called, and do no more."""


_STYLE = Safe("""<style>
.alnb-aside { line-height: 1.4; font-size: 13px; font-variant-numeric: tabular-nums;
  color: var(--jp-ui-font-color1, #1f2328); max-width: 560px; padding-right: 12px;
  white-space: normal; }
.alnb-aside p { margin: 0 0 5px; }
.alnb-aside .alnb-aside-quiet { font-size: 12px; color: var(--jp-ui-font-color2, #6a737d); }
</style>""")
