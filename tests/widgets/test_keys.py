from __future__ import annotations

import re

from alnb.widgets.canvas import FRONT
from alnb.widgets.keys import KEYS


def test_no_chord_starts_two_actions():
    chords = [chord for key in KEYS for chord in key.keys]
    assert len(chords) == len(set(chords))


def test_chords_of_the_host_and_of_the_browser_are_left_alone():
    taken = {"Ctrl+s", "Ctrl+w", "Ctrl+t", "Ctrl+n", "Ctrl+r", "Shift+Enter", "Tab", "Shift+Tab"}
    assert taken.isdisjoint(chord for key in KEYS for chord in key.keys)


def test_the_browser_performs_every_action_of_the_table_and_no_other():
    source = (FRONT / "desk.js").read_text()
    table = source[source.index("const actions = {") : source.index("return actions[action]")]
    performed = set(re.findall(r"^      (\w+): ", table, flags=re.MULTILINE))
    assert performed == {key.action for key in KEYS}


def test_letters_are_lower_case_so_that_caps_lock_changes_nothing():
    assert all(chord == chord.lower() for key in KEYS for chord in key.keys if len(chord) == 1)
