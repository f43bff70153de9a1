# ruff: noqa: T201 - a command line prints
"""HD95 and surface Dice of one class: cut to its box and shared, against one image at a time.

    OMP_NUM_THREADS=1 python benchmarks/surfaces.py [--shape 10 256 216] [--turns 3]

"whole" transforms the whole image twice for each of the two measures; "shared" is what
`alnb.models.metrics.surfaces` does for both together. The object is an ellipsoid whose half axes
are a tenth of the sides of the image, the prediction the same, moved. Seconds are those that the
process was given, the least of all turns; both ways must give the same numbers.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from alnb.models.metrics import surfaces

SPACING = (8.0, 1.5, 1.5)
TOLERANCE = 2.0

Mask = NDArray[np.bool_]


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(10, 256, 216))
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    pred, ref = ball(args.shape, 0.5), ball(args.shape, 0.52)
    least = {"whole": math.inf, "shared": math.inf}
    found = {}
    for _ in range(args.turns):
        for name, way in (("whole", whole), ("shared", shared)):
            found[name], seconds = timed(way, pred, ref)
            least[name] = min(least[name], seconds)
    assert np.allclose(*found.values()), found
    print(f"{tuple(args.shape)}, {int(ref.sum()):,} voxels in the object")
    for name, seconds in least.items():
        ratio = seconds / least["whole"]
        print(f"  {name:7} {1e3 * seconds:8.1f} ms a class, {ratio:5.3f} x whole")


def ball(shape: tuple[int, int, int], centre: float) -> Mask:
    """An ellipsoid, its half axes a tenth of the sides, around `centre`, a share of them."""
    places = np.meshgrid(*((np.arange(side) + 0.5) / side for side in shape), indexing="ij")
    inside: Mask = sum(((place - centre) / 0.1) ** 2 for place in places) <= 1
    return inside


def whole(pred: Mask, ref: Mask) -> tuple[float, float]:
    """Both measures by themselves, on the image as it is."""
    return float(np.percentile(distances(pred, ref), 95)), float(
        (distances(pred, ref) <= TOLERANCE).mean()
    )


def distances(pred: Mask, ref: Mask) -> NDArray[np.float64]:
    """Of every surface voxel to the other surface."""
    mine, theirs = pred & ~binary_erosion(pred), ref & ~binary_erosion(ref)
    there = distance_transform_edt(~theirs, sampling=SPACING)[mine]
    back = distance_transform_edt(~mine, sampling=SPACING)[theirs]
    return np.concatenate([there, back])


def shared(pred: Mask, ref: Mask) -> tuple[float, float]:
    """Both measures from one pair of distance transforms, within the box of both objects."""
    found = surfaces(pred, ref, SPACING)
    return found.hd95(), found.normalised_dice(TOLERANCE)


def timed(
    way: Callable[[Mask, Mask], tuple[float, float]], pred: Mask, ref: Mask
) -> tuple[tuple[float, float], float]:
    """What a way gives, and the seconds of the processor it took."""
    start = time.process_time()
    return way(pred, ref), time.process_time() - start


if __name__ == "__main__":
    main()
