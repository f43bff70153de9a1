"""What the shape of a stroke says about the shape of its structure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alnb.records import IGNORE, LabelMap

Field = NDArray[np.float32]


def slim(found: Field, strokes: LabelMap, girth: float) -> Field:
    """Probabilities (C, h, w) that fade to background far outside a structure's own girth.

    People draw along the middle of a structure, so its border is about as far from the stroke on
    one side as on the other. How far it is, the walk has found where there is an edge; a part that
    lies more than `girth` times as far from the stroke has leaked through a gap.
    """
    from scipy.ndimage import distance_transform_edt

    believed, out = found.argmax(axis=0), found.copy()
    for code in range(1, len(found)):
        stroke = strokes == code
        if not stroke.any():
            continue
        region = np.pad((believed == code) | stroke, 1)
        depth = distance_transform_edt(region)[1:-1, 1:-1][stroke]
        usual = float(np.quantile(depth, 0.7)) + 1
        away = distance_transform_edt(~stroke)
        within = 1 / (1 + np.exp(np.clip((away - girth * usual) / 1.5, -30, 30)))
        out[code] *= within
    out[0] += np.clip(1 - out.sum(axis=0), 0, None)
    return out


def touching(probs: Field, labels: LabelMap) -> Field:
    """Probabilities in which a part that touches no stroke of its class is what lies next to it."""
    from scipy.ndimage import distance_transform_edt, label

    found = np.where(labels != IGNORE, labels, probs.argmax(axis=0))
    loose = np.zeros(labels.shape, dtype=bool)
    for code in range(1, len(probs)):
        region = found == code
        if not region.any():
            continue
        numbered, count = label(region, np.ones((3, 3), dtype=int))
        held = np.zeros(count + 1, dtype=bool)
        held[numbered[labels == code]] = True
        loose |= region & ~held[numbered]
    if not loose.any() or loose.all():
        return probs
    near = distance_transform_edt(loose, return_distances=False, return_indices=True)
    out: Field = probs[:, near[0], near[1]]
    return out
