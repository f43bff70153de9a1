"""What a learner may assume about pixels that nobody labelled; never stored, never shown."""

from __future__ import annotations

import numpy as np

from alnb.records import IGNORE, LabelMap

NEARER = 0.8
"""Below this ratio of distances, to a background stroke and to any other, a pixel is background."""


def with_near_background(target: LabelMap, nearer: float = NEARER) -> LabelMap:
    """A copy in which IGNORE pixels much nearer to a background stroke than to others are it too.

    target: (H, W). Pixels with ``d(background) < nearer * d(nearest other stroke)`` become class 0,
    where a person drew background and something else.

    Why: a stroke in a thin structure lies close to its border, a stroke in the background around
    lies far from it. A network that hears only strokes puts the border half way between the two,
    and every structure comes out too thick. Among foreground classes the rule would be wrong: there
    strokes lie at any distance from the border between them.
    """
    from scipy.ndimage import distance_transform_edt

    background = target == 0
    others = (target != 0) & (target != IGNORE)
    filled = target.copy()
    if not background.any() or not others.any():
        return filled
    near = distance_transform_edt(~background) < nearer * distance_transform_edt(~others)
    filled[near & (target == IGNORE)] = 0
    return filled


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
