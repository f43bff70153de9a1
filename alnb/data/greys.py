"""The grey window in which a volume is shown, everywhere the same."""

from __future__ import annotations

import numpy as np

from alnb.records import Floats

_SAMPLE = 200_000

Range = tuple[float, float]


def greys(image: Floats) -> tuple[Range, Range]:
    """The range of `image`, and the values to show as black and white: 0.5 and 99.5 %.

    Both hold more than one value, also for a constant image.
    """
    values = image.ravel()
    low, high = float(values.min()), float(values.max())
    sample = values[:: max(1, values.size // _SAMPLE)]
    dark, bright = (float(v) for v in np.percentile(sample, [0.5, 99.5]))
    if not high > low:
        high = low + 1.0
    if not bright > dark:
        dark, bright = low, high
    return (low, high), (dark, bright)
