# ruff: noqa: T201 - a command line prints
"""Whole volumes, all of them labelled: what the learner of volumes comes to on a held-out fifth.

    OMP_NUM_THREADS=1 python benchmarks/volumes.py --data $ALNB_DATA/hippocampus [--steps 1500]

One split for all seeds; no label of the fifth is used before the end, and nothing is chosen by it.
Dice is 3D, per region, at the volumes' own size, and the mean over volumes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from alnb.data.msd import msd
from alnb.data.volume import Volume
from alnb.models.hardware import best_device
from alnb.models.infer import predict_volume
from alnb.models.metrics import volume_dice
from alnb.models.volume_net import VolumeNet
from alnb.records import TrainSet
from alnb.rng import stream


def main() -> None:
    """Print a line per seed, then mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, type=Path, help="folder of the Decathlon's task")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    cohort = msd(args.data, test=False)
    volumes = [volume for volume in cohort.volumes.values() if volume.has_reference]
    order = stream(0, "held-out fifth").permutation(len(volumes))
    held = [volumes[place] for place in order[: len(volumes) // 5]]
    train = taught([volumes[place] for place in order[len(held) :]], len(cohort.classes))
    print(f"{len(train.images)} volumes to learn from, {len(held)} held out, {args.steps} steps")
    found = []
    for seed in args.seeds:
        learner = VolumeNet(steps=args.steps)
        began = time.monotonic()
        report = learner.fit(train, rng=stream(seed, "fit"))
        dice = np.mean([scored(learner, volume, len(cohort.classes)) for volume in held], axis=0)
        found.append(dice)
        regions = ", ".join(
            f"{name} {value:.4f}" for name, value in zip(cohort.classes[1:], dice, strict=True)
        )
        print(
            f"seed {seed}: {regions}, mean {dice.mean():.4f}; trained in {report.seconds:.0f} s on "
            f"{best_device().type}, {time.monotonic() - began:.0f} s with the test",
            flush=True,
        )
    means = np.array(found).mean(axis=1)
    print(f"mean {means.mean():.4f}, standard deviation over seeds {means.std(ddof=1):.4f}")


def taught(volumes: list[Volume], classes: int) -> TrainSet:
    """All of these volumes, with all of their labels."""
    references = [volume.reference() for volume in volumes]
    return TrainSet(
        images=tuple(volume.image() for volume in volumes),
        targets=tuple(labels for labels in references if labels is not None),
        weight=np.ones(len(volumes), np.int64),
        classes=classes,
    )


def scored(learner: VolumeNet, volume: Volume, classes: int) -> list[float]:
    """Dice of each region."""
    reference = volume.reference()
    assert reference is not None, "only volumes with a reference are held out"
    return [
        float(d) for d in volume_dice(predict_volume(learner, volume.image()), reference, classes)
    ]


if __name__ == "__main__":
    main()
