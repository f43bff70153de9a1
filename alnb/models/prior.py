"""What a learner may assume about pixels that nobody labelled; never stored, never shown."""

from __future__ import annotations

import numpy as np

from alnb.records import IGNORE, LabelMap


def with_far_background(target: LabelMap) -> LabelMap:
    """A copy in which IGNORE pixels outside the hull of all strokes are background.

    target: (H, W). It holds where a person drew background at all, and a pixel is filled only when
    the stroke nearest to it is background too, so a structure whose own stroke is the outermost one
    is not cut off.

    Why: a person draws background near the structures and leaves the far field untouched. A small
    network that only hears the strokes is free there, and paints it with foreground; its volumes
    then score near 0. Strokes on a line, or fewer than three, enclose nothing and change nothing.
    """
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import ConvexHull, QhullError

    drawn = target != IGNORE
    filled = target.copy()
    if drawn.all() or not (target == 0).any():
        return filled
    points = np.argwhere(drawn)
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):
        return filled
    rows, columns = np.indices(target.shape)
    reach = np.full(target.shape, -np.inf)
    for a, b, c in hull.equations:  # a·row + b·column + c <= 0 inside
        np.maximum(reach, a * rows + b * columns + c, out=reach)
    nearest = distance_transform_edt(~drawn, return_distances=False, return_indices=True)
    filled[(reach > 1e-6) & ~drawn & (target[tuple(nearest)] == 0)] = 0
    return filled
