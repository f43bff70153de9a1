"""The one table of keys: what the browser listens for and what the help overlay lists."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """One action and the chords that start it.

    Attributes
    ----------
    action : what the browser performs.
    keys : chords as ``Ctrl+Shift+z``: letters in lower case, Shift only before letters and named
        keys; on a Mac the command key counts as Ctrl.
    help : what a person gets, in a few words.
    shown : how the overlay writes the keys; `keys` themselves if empty.
    repeats : whether holding the key down repeats the action.
    volume : whether it does something only where whole volumes are asked for.
    """

    action: str
    keys: tuple[str, ...]
    help: str
    shown: tuple[str, ...] = ()
    repeats: bool = False
    volume: bool = False

    def as_message(self) -> dict[str, object]:
        """The entry as the browser reads it."""
        return {
            "action": self.action,
            "keys": list(self.keys),
            "help": self.help,
            "shown": list(self.shown or self.keys),
            "repeats": self.repeats,
            "volume": self.volume,
        }


KEYS: tuple[Key, ...] = (
    Key("class", tuple("0123456789"), "choose a class", ("0", "…", "9")),
    Key("previous_class", (",",), "previous class"),
    Key("next_class", (".",), "next class"),
    Key("brush", ("p",), "brush", ("P",)),
    Key("lasso", ("l",), "lasso: fill an outline", ("L",)),
    Key("eraser", ("e",), "eraser (or the right button)", ("E",)),
    Key("swap", ("x",), "swap brush and eraser", ("X",)),
    Key("smaller", ("[",), "narrower brush", ("[",), repeats=True),
    Key("larger", ("]",), "wider brush (or Shift+wheel)", repeats=True),
    Key("protect", ("b",), "protect other classes", ("B",)),
    Key("undo", ("Ctrl+z",), "undo", ("Ctrl+Z",), repeats=True),
    Key("redo", ("Ctrl+Shift+z", "Ctrl+y"), "redo", ("Ctrl+Y",), repeats=True),
    Key("live", ("v",), "live proposals on or off", ("V",)),
    Key("fainter", ("a",), "proposal fainter", ("A",), repeats=True),
    Key("stronger", ("d",), "proposal stronger", ("D",), repeats=True),
    Key("outline", ("o",), "proposal as outline or fill", ("O",)),
    Key("hide", ("s",), "hide or show ink and proposal", ("S",)),
    Key("zoom_in", ("+", "="), "zoom in (or Ctrl+wheel)", ("+",), repeats=True),
    Key("zoom_out", ("-",), "zoom out", repeats=True),
    Key("pan", ("Space",), "hold and drag to pan"),
    Key("reset", ("z",), "reset window and zoom", ("Z",)),
    Key("above", ("ArrowUp", "PageUp"), "slice above", ("↑", "wheel"), repeats=True),
    Key("below", ("ArrowDown", "PageDown"), "slice below", ("↓", "wheel"), repeats=True),
    Key("previous", ("ArrowLeft",), "previous in the queue", ("←",), repeats=True),
    Key("next", ("ArrowRight",), "next in the queue", ("→",), repeats=True),
    Key("home", ("Home",), "back to the query"),
    Key("worth", ("n",), "next slice worth labelling", ("N",), volume=True),
    Key("between", ("i",), "interpolation on or off", ("I",), volume=True),
    Key("accept_all", ("Shift+i",), "accept all interpolated", ("⇧+I",), volume=True),
    Key("next_volume", ("Shift+ArrowRight",), "next volume", ("⇧+→",), volume=True),
    Key("previous_volume", ("Shift+ArrowLeft",), "previous volume", ("⇧+←",), volume=True),
    Key("finish", ("Shift+d",), "done with this volume", ("⇧+D",), volume=True),
    Key("primary", ("Ctrl+Enter",), "do the blue button: submit, go on"),
    Key("accept", ("Ctrl+Shift+Enter",), "accept the proposal", ("Ctrl+⇧+Enter",)),
    Key("skip", ("Ctrl+Space",), "skip this slice"),
    Key("help", ("?", "F1"), "show these keys", ("?",)),
    Key("leave", ("Escape",), "abort the stroke; again: give the keyboard back", ("Esc",)),
)
