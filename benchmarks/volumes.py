# ruff: noqa: T201 - a command line prints
"""Whole volumes, all of them labelled: what the learner of volumes comes to on each fifth.

    OMP_NUM_THREADS=1 python benchmarks/volumes.py --data $ALNB_DATA/hippocampus [--folds 0 1]

Five networks, each trained on four fifths of the volumes and measured on the other one. No label of
a fifth is used before the end, and nothing is chosen by it. Dice is 3D, per region, at the volumes'
own size, and the mean over volumes.
"""

from __future__ import annotations

import argparse
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
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--coarse", action="store_true", help="the default strides")
    args = parser.parse_args()
    cohort = msd(args.data, test=False)
    volumes = [volume for volume in cohort.volumes.values() if volume.has_reference]
    order = stream(0, "fifths").permutation(len(volumes)).tolist()
    fine = {} if args.coarse else {"channels": (8, 16, 32, 64, 128), "strides": (1, 2, 2, 2)}
    found = []
    for fold in args.folds:
        held = [volumes[place] for place in order[fold::5]]
        rest = [volumes[place] for number, place in enumerate(order) if number % 5 != fold]
        learner = VolumeNet(steps=args.steps, **fine)
        train = taught(rest, len(cohort.classes))
        report = learner.fit(train, rng=stream(0, "fit", fold))
        dice = np.mean([scored(learner, volume, len(cohort.classes)) for volume in held], axis=0)
        found.append(dice)
        regions = ", ".join(
            f"{name} {value:.4f}" for name, value in zip(cohort.classes[1:], dice, strict=True)
        )
        print(
            f"fold {fold}, {len(rest)} volumes to learn from, {len(held)} held out: {regions}, "
            f"mean {dice.mean():.4f}; {args.steps} steps in {report.seconds:.0f} s on "
            f"{best_device().type}",
            flush=True,
        )
    means = np.array(found).mean(axis=1)
    print(f"mean {means.mean():.4f}, standard deviation over folds {means.std(ddof=1):.4f}")


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
