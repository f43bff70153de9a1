"""One colour per class, everywhere: canvas, buttons, curves and maps.

Okabe and Ito's palette is safe for colour-vision deficiency; black is left out because it
vanishes on grey images. Class 0 (background) has a pale grey of its own.
"""

from __future__ import annotations

BACKGROUND = "#b8b8b8"
OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")


def class_colour(label: int) -> str:
    """Hex colour of class `label`; beyond the seven colours of the palette they repeat."""
    return BACKGROUND if label == 0 else OKABE_ITO[(label - 1) % len(OKABE_ITO)]


def class_rgb(label: int) -> tuple[int, int, int]:
    """The colour of class `label` as three integers in 0..255."""
    code = class_colour(label)
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
