"""One label map out of several people's answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alnb.records import IGNORE, LabelMap


def merge(maps: Sequence[LabelMap]) -> LabelMap:
    """What all who labelled a pixel agree on; IGNORE where they differ or nobody said."""
    merged = maps[0].copy()
    differ = np.zeros(merged.shape, dtype=bool)
    for other in maps[1:]:
        differ |= (other != merged) & (other != IGNORE) & (merged != IGNORE)
        merged = np.where(merged == IGNORE, other, merged)
    merged[differ] = IGNORE
    return merged
