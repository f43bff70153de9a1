from __future__ import annotations

import numpy as np

from alnb.records import SliceId
from alnb.widgets.imaging import Imaging


def test_a_view_keeps_grey_values_to_a_65535th_of_the_range(cohort):
    name = next(iter(cohort.volumes))
    view = Imaging(cohort).view(SliceId(name, 1))
    low, high = view.bounds
    restored = low + view.pixels * ((high - low) / 65535)
    image = cohort.slice_image(SliceId(name, 1))
    assert np.abs(restored - image).max() <= (high - low) / 65535
    assert view.pixels.dtype == np.dtype("<u2")


def test_the_range_belongs_to_the_volume_so_that_slices_compare(cohort):
    name = next(iter(cohort.volumes))
    imaging = Imaging(cohort)
    first, second = imaging.view(SliceId(name, 0)), imaging.view(SliceId(name, 1))
    assert (first.bounds, first.window) == (second.bounds, second.window)
    assert first.bounds[0] <= first.window[0] < first.window[1] <= first.bounds[1]
