# ruff: noqa: T201 - a command line prints
"""Live proposals on ACDC: Dice and time while an expert's scribble is drawn stroke by stroke.

    python benchmarks/live.py --data $ALNB_DATA/acdc [--slices 60] [--size 256 512] [--network]

The connected strokes of a slice's scribble are added in a random order; then `--corrections` times
a dot of radius 2 in the right class is put into the middle of the largest wrong region. Every
method sees the same strokes in the same order, and answers in turn.

ours           `LiveProposer`.
ours, network  the same with the probabilities of a network trained on 22 scribbled slices of other
               patients (``--network``).
random walker  `skimage.segmentation.random_walker` with its own `beta`, conjugate gradients.
watershed      `skimage.segmentation.watershed` on the gradient, from the strokes.

The last two are given the background beyond the strokes, or the slice's frame where none is drawn
yet, without which they would fill the slice. Dice is the mean over the structures that the slice
holds, so an undrawn one counts 0.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_gradient_magnitude, label, zoom

from alnb.data.acdc import CLASSES, acdc
from alnb.models.live import LiveProposer
from alnb.models.live_features import greys_of
from alnb.models.prior import with_far_background
from alnb.records import IGNORE, Floats, LabelMap, TrainSet
from alnb.rng import stream

warnings.filterwarnings("ignore", category=UserWarning)
C = len(CLASSES)
Prepare = Callable[[Floats, Any], Any]
Propose = Callable[[Any, LabelMap], LabelMap]


@dataclass(frozen=True, eq=False)
class Case:
    """One slice with its reference and the strokes in the order in which they are drawn."""

    image: Floats
    reference: LabelMap
    strokes: tuple[tuple[int, np.ndarray], ...]


def cases(root: Path, slices: int) -> list[Case]:
    """Random slices of patients 21 to 60 with at least two classes drawn."""
    cohort, rng = acdc(root, patients=range(21, 61)), stream(0, "live")
    places = [(volume, z) for volume in cohort.volumes.values() for z in range(volume.shape[0])]
    found: list[Case] = []
    for place in rng.permutation(len(places)):
        volume, z = places[place]
        image, reference = volume.image()[z], volume.reference()[z]
        strokes = connected(volume.scribble()[z])
        if not reference.any() or len({code for code, _ in strokes}) < 2:
            continue
        order = rng.permutation(len(strokes))
        found.append(Case(image, reference, tuple(strokes[at] for at in order)))
        if len(found) == slices:
            break
    return found


def connected(scribble: LabelMap) -> list[tuple[int, np.ndarray]]:
    """The strokes of a scribble: connected parts of a class of 3 pixels or more."""
    strokes = []
    for code in range(C):
        numbered, count = label(scribble == code, np.ones((3, 3)))
        parts = [numbered == number for number in range(1, count + 1)]
        strokes += [(code, part) for part in parts if part.sum() >= 3]
    return strokes


def resized(case: Case, size: int) -> Case:
    """The case as it would be with pixels of 256 / size; strokes grow with it."""
    by = size / 256
    if by == 1:
        return case

    def nearest(array: np.ndarray) -> np.ndarray:
        return zoom(array.astype(np.uint8), by, order=0)

    strokes = tuple((code, nearest(part) > 0) for code, part in case.strokes)
    return Case(zoom(case.image, by, order=1), nearest(case.reference), strokes)


def mean_dice(made: LabelMap, reference: LabelMap) -> float:
    """Mean over the structures that the slice holds."""
    present = [code for code in range(1, C) if (reference == code).any()]
    return float(np.mean([dice(made == code, reference == code) for code in present]))


def dice(made: np.ndarray, truth: np.ndarray) -> float:
    """2 |P ∩ G| / (|P| + |G|)."""
    return float(2 * (made & truth).sum() / (made.sum() + truth.sum()))


def corrected(made: LabelMap, reference: LabelMap, labels: LabelMap) -> LabelMap:
    """The strokes with one more: a dot in the middle of the largest wrong region."""
    largest, where, code = 0, None, 0
    for candidate in range(C):
        numbered, _ = label((made != reference) & (reference == candidate))
        sizes = np.bincount(numbered.ravel())[1:]
        if sizes.size and sizes.max() > largest:
            largest, code = int(sizes.max()), candidate
            where = numbered == sizes.argmax() + 1
    if where is None:
        return labels
    depth = distance_transform_edt(np.pad(where, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    rows, columns = np.indices(labels.shape)
    more = labels.copy()
    more[((rows - row) ** 2 + (columns - column) ** 2 <= 4) & where] = code
    return more


def markers(labels: LabelMap) -> np.ndarray:
    """Strokes and assumed background as skimage wants them: 0 is open, class + 1 is a marker."""
    seeds = with_far_background(labels)
    if not (seeds == 0).any():
        frame = np.ones(seeds.shape, dtype=bool)
        frame[1:-1, 1:-1] = False
        seeds = np.where(frame & (seeds == IGNORE), 0, seeds)
    return np.where(seeds == IGNORE, 0, seeds.astype(np.int64) + 1)


def watershed(gradient: Floats, labels: LabelMap) -> LabelMap:
    """The classes of the basins that the strokes flood."""
    from skimage.segmentation import watershed as flood

    return (flood(gradient, markers(labels)) - 1).astype(np.uint8)


def random_walker(grey: Floats, labels: LabelMap) -> LabelMap:
    """The class that a walker from each pixel meets first; all one where one is marked."""
    from skimage.segmentation import random_walker as walker

    marks = markers(labels)
    codes = np.unique(marks[marks > 0])
    if len(codes) == 1:
        return np.full(labels.shape, codes[0] - 1, np.uint8)
    packed = np.where(marks > 0, np.searchsorted(codes, marks) + 1, 0)
    return (codes[walker(grey, packed, mode="cg_j") - 1] - 1).astype(np.uint8)


def ours(prepared: Any, labels: LabelMap) -> LabelMap:
    """The labels of the live proposal."""
    made = PROPOSER.propose(prepared, labels)
    assert made is not None
    return made.labels


PROPOSER = LiveProposer(C)
METHODS: dict[str, tuple[Prepare, Propose]] = {
    "ours": (lambda image, _: PROPOSER.prepare(image), ours),
    "ours, network": (lambda image, prior: PROPOSER.prepare(image, prior=prior), ours),
    "random walker": (lambda image, _: greys_of(image), random_walker),
    "watershed": (lambda image, _: gaussian_gradient_magnitude(image, 1.0), watershed),
}


def network(root: Path, steps: int) -> Any:
    """A small network trained on 22 scribbled slices of patients 1 to 20."""
    from alnb.models.learners import SingleNet

    cohort, rng = acdc(root, patients=range(1, 21)), stream(0, "live", "network")
    places = [(volume, z) for volume in cohort.volumes.values() for z in range(volume.shape[0])]
    chosen = [places[place] for place in rng.choice(len(places), 22, replace=False)]
    images = tuple(volume.image()[z] for volume, z in chosen)
    targets = tuple(volume.scribble()[z] for volume, z in chosen)
    learner = SingleNet(steps=steps)
    begin = time.perf_counter()
    learner.fit(TrainSet(images, targets, np.ones(22, np.int64), C), rng=rng)
    print(f"Network: {steps} steps on 22 slices, {time.perf_counter() - begin:.0f} s.\n")
    return learner


def drawn(case: Case, name: str, prior: Any, corrections: int, into: dict[Any, Any]) -> None:
    """Draw one case with one method; Dice by step, and milliseconds, are appended to `into`."""
    prepare, propose = METHODS[name]

    def timed(kind: str, call: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        out = call()
        into[kind].append(1000 * (time.perf_counter() - begin))
        return out

    prepared = timed("prepare", lambda: prepare(case.image, prior))
    labels = np.full(case.image.shape, IGNORE, np.uint8)
    if prior is not None and name != "ours":
        into[0].append(mean_dice(prior.argmax(axis=0), case.reference))
    made = labels
    for count, (code, part) in enumerate(case.strokes, start=1):
        labels[part] = code
        made = timed("update", lambda: propose(prepared, labels))
        if count <= 3:
            into[count].append(mean_dice(made, case.reference))
    into["all"].append(mean_dice(made, case.reference))
    for count in range(1, corrections + 1):
        labels = corrected(made, case.reference, labels)
        made = timed("update", lambda: propose(prepared, labels))  # noqa: B023 - called at once
        into[f"+{count}"].append(mean_dice(made, case.reference))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the ACDC volumes")
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--corrections", type=int, default=3)
    parser.add_argument("--network", action="store_true", help="train one, for one more row")
    parser.add_argument("--steps", type=int, default=300, help="of its training")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), help="names of methods")
    options = parser.parse_args()
    chosen = cases(options.data, options.slices)
    learner = network(options.data, options.steps) if options.network else None
    names = [name for name in options.only or METHODS if learner or name != "ours, network"]
    steps = [1, 2, 3, "all", *(f"+{count}" for count in range(1, options.corrections + 1))]
    print(f"{len(chosen)} slices, Dice after k strokes, after all, and after k corrections.\n")
    print("| method | size | prepare ms | p50 ms | p95 ms | " + " | ".join(map(str, steps)) + " |")
    print("|" + "---|" * (5 + len(steps)))
    alone: dict[int, float] = {}
    for size in options.size:
        tables: dict[str, dict[Any, Any]] = {name: defaultdict(list) for name in names}
        for case in (resized(case, size) for case in chosen):
            for name in names:
                drawn(case, name, _prior(learner, name, case), options.corrections, tables[name])
        for name, table in tables.items():
            p50, p95 = np.percentile(table["update"], [50, 95])
            row = [
                name,
                f"{size}",
                f"{np.median(table['prepare']):.0f}",
                f"{p50:.0f}",
                f"{p95:.0f}",
            ]
            print("| " + " | ".join(row + [f"{np.mean(table[step]):.3f}" for step in steps]) + " |")
            if table[0]:
                alone[size] = float(np.mean(table[0]))
    for size, value in alone.items():
        print(f"\nThe network alone, nothing drawn, at {size}: {value:.3f}.")


def _prior(learner: Any, name: str, case: Case) -> Any:
    """The network's probabilities where the method takes them."""
    if name != "ours, network":
        return None
    from alnb.models.infer import volume_probs

    return volume_probs(learner, case.image[None])[0]


if __name__ == "__main__":
    main()
