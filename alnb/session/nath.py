"""Presets `nath2021_hippocampus` and `nath2021_pancreas`: Nath et al., IEEE TMI 2021.

"Diminishing Uncertainty within the Training Pool: Active Learning for Medical Image Segmentation",
IEEE Transactions on Medical Imaging 40(10), arXiv 2101.02323. An independent implementation: no
code of the paper is known, no number of it is copied, and none is claimed to be reproduced.

Protocol
--------
One project per arm and seed; an arm is a way of asking. The items are whole volumes. A few random
ones begin, the same for all arms of a seed. A committee of networks is trained on all that is
labelled, from new weights and without augmentation, for a fixed number of steps; whichever volumes
the arm asks for are then answered with whole masks; and so on, 40 trainings with 39 queries between
them. In arms that keep what is labelled ("NoDelete"), a labelled volume may be asked for again: it
costs nothing and weighs more in the next training. The arm "full" trains once, on the whole pool.

Test Dice is 3D, per volume at its own size, of the mean over the committee; it is measured after
every training and chooses nothing. Validation volumes take no part in training, and are measured
only with `validate`, since their labels cost as well.

The arms are those of `alnb.session.arms`. A training of the published committee leaves about
100 MB on disk.

Deviations
----------
* The published subjects of the hippocampus sum to 263, more than the 260 that were released. With
  fewer cases than published, pool, validation and test shrink alike (the start does not); with
  more, those left over are not used. The split is drawn once and is the same for all arms and
  seeds.
* Batches come from an endless shuffle of the labelled volumes, each as often as it was chosen.
* With M = 1 there would be no committee: `scale` leaves at least two members.
* A run ends early where the pool has no volume left that was not asked for.
* Where every volume of a pool holds every structure, as each hippocampus does,
  "foreground_random" is chance under other draws: it shows how far apart two arms of chance can
  lie.
* The published clip of hippocampi to 0..2048 is kept, although it makes constants of some volumes,
  whose grey values have another scale; loading says of how many. ``intensity="percentiles"`` keeps
  them all.
* The shares that the paper prints count differently from one data set to the other, so each share
  here is printed twice: of all volumes that can be labelled, the start included; and of those that
  were asked for, the start left out on both sides.

What no available source says is assumed: `Preset.assumed` lists it with its value and the reason
for it, and so does ``alnb run --preset nath2021_hippocampus --assumed``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from alnb.data.cohort import Cohort, Split, natural
from alnb.data.files import PathLike
from alnb.data.msd import CLIPS, TASKS, Intensity, msd
from alnb.data.phantom import phantom
from alnb.data.preprocess import isotropic
from alnb.errors import BadInput
from alnb.protocols import Strategy
from alnb.rng import stream
from alnb.session.arms import ARMS, COMPARED
from alnb.session.assumed import Assumption, assumptions

if TYPE_CHECKING:
    from alnb.models.svgd_committee import SVGDCommittee
    from alnb.strategies.common import Cache


@dataclass(frozen=True)
class Preset:
    """The protocol of this module; `PUBLISHED` holds the published ones by name.

    Attributes
    ----------
    name : of the published protocol that this one is, or is less of.
    arms : names out of `ARMS`, in the order in which they run.
    members, seeds, trainings, steps, batch, rate, queries : of the committee; one project per arm
        and seed; trainings of each, between which there are queries; optimiser steps of a training;
        volumes per step; learning rate; volumes asked for between two trainings.
    initial, pool, val, test : subjects that are labelled to begin with, may be asked for, and are
        held out. 0 for `val` holds none out.
    size : side of the cube to which a whole volume is stretched, in voxels.
    patch : side of the cubes of voxels that are learnt instead; None for whole volumes.
    voxel_mm : to which volumes are resampled, label maps with them; None leaves them as they are.
    intensity : how grey values are scaled, see `alnb.data.msd`.
    likelihood, epsilon, kernel, bandwidth : see `alnb.models.svgd_committee`.
    clip, decay, optimiser, schedule : of the gradient's length; the Gaussian prior; see `Recipe`.
    channels, strides, residual_units : of the network's encoder, finest first; from each level to
        the next, 2 unless given; and of each level.
    reduce, bins, grid, mask, aggregate, include_self, repeats, alpha, hat : of the score, see
        `alnb.strategies.nath` and `alnb.strategies.redundancy`.
    validate : measure the validation volumes after every training; decided when a project begins.
    device, threads : "cpu", "cuda", …, None takes the GPU if there is one; of a CPU.
    """

    name: str
    arms: tuple[str, ...] = COMPARED
    members: int = 5
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    trainings: int = 40
    steps: int = 1500
    batch: int = 8
    rate: float = 1e-3
    queries: int = 1
    initial: int = 10
    pool: int = 153
    val: int = 50
    test: int = 50
    size: int = 64
    patch: int | None = None
    voxel_mm: float | None = None
    intensity: Intensity = "nath2021_hippocampus"
    likelihood: str = "neg_log_dice_loss"
    epsilon: float = 1e-5
    kernel: Literal["global", "per_layer", "function_space"] = "global"
    bandwidth: float | Literal["median"] = "median"
    clip: float = 1.0
    decay: float = 0.0
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["constant", "cosine"] = "constant"
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    strides: tuple[int, ...] = ()
    residual_units: int = 2
    reduce: Literal["sum", "mean", "fg_mean", "topk_mean"] = "sum"
    bins: int = 32
    grid: int = 64
    mask: Literal["none", "body"] = "none"
    aggregate: Literal["mean", "max", "sum"] = "mean"
    include_self: bool = True
    repeats: Literal["count", "once"] = "count"
    alpha: float = 1.0
    hat: Literal["minmax", "zscore", "rank"] = "minmax"
    validate: bool = False
    device: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        known = ", ".join(ARMS)
        wrong = [arm for arm in self.arms if arm not in ARMS]
        if wrong or not self.arms or len(set(self.arms)) != len(self.arms):
            raise BadInput(
                f"arms are {', '.join(self.arms) or 'none'}; each must be one of {known}, and no "
                "two the same."
            )
        counts = {
            name: getattr(self, name)
            for name in ("members", "trainings", "steps", "batch", "queries", "initial", "test")
        }
        if min(counts.values()) < 1 or min(self.pool, self.val) < 0:
            told = ", ".join(f"{name}={value}" for name, value in counts.items())
            raise BadInput(
                f"{told}, pool={self.pool}, val={self.val}: all but the last two must "
                "be at least 1, and these at least 0."
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise BadInput(f"seeds are {self.seeds}; at least one is needed, and no two the same.")
        if self.intensity not in get_args(Intensity):
            raise BadInput(
                f"intensity is {self.intensity!r}; it can be {', '.join(get_args(Intensity))}."
            )
        if self.name not in CLIPS:
            raise BadInput(f"name is {self.name!r}; it can be {', '.join(CLIPS)}.")
        self.strategy("svgd_mi", None)  # refuses settings of the score that mean nothing

    # ------------------------------------------------------------------ who and how many

    def cohort(self, folder: PathLike | None) -> Cohort:
        """The images of the Decathlon's task in `folder`, prepared; of the phantom for None.

        BadInput for the images of the other task; one's own in the same layout are taken.
        """
        found = phantom() if folder is None else msd(folder, intensity=self.intensity, test=False)
        mine = self.name.removeprefix("nath2021_")
        others = [task for task in TASKS if task != mine and found.name == f"MSD {task}"]
        if others:
            raise BadInput(
                f"The folder holds the task {others[0]}, and {self.name} is of {mine}. Take "
                f"nath2021_{others[0]}, or the folder of {mine}."
            )
        return found if self.voxel_mm is None else isotropic(found, self.voxel_mm)

    def split(self, cohort: Cohort) -> Split:
        """The patients of pool (with the start), validation and test: one draw for everything.

        Of patients all of whose volumes have a reference. BadInput where they are too few.
        """
        blind = {v.patient for v in cohort.volumes.values() if not v.has_reference}
        known = sorted(set(cohort.patients) - blind, key=natural)
        train, val, test = self.subjects(len(known))
        order = [known[place] for place in stream(0, self.name, "split").permutation(len(known))]
        held = order[:test], order[test : test + val], order[test + val : test + val + train]
        parts = [tuple(sorted(part, key=natural)) for part in held]
        return Split(train=parts[2], val=parts[1], test=parts[0])

    def subjects(self, available: int) -> tuple[int, int, int]:
        """How many of `available` patients are for training (the start included), val and test.

        As published where there are enough, else in the same proportions: rounded down, what is
        left going to the largest remainders.
        """
        wanted = [self.initial + self.pool, self.val, self.test]
        total = sum(wanted)
        if available >= total:
            return wanted[0], wanted[1], wanted[2]
        whole = [available * each // total for each in wanted]
        remainders = sorted(range(3), key=lambda part: -(available * wanted[part] % total))
        for part in remainders[: available - sum(whole)]:
            whole[part] += 1
        if min(part for part, each in zip(whole, wanted, strict=True) if each) < 1:
            raise BadInput(
                f"{available} patients with reference masks are too few to train, validate and "
                f"test on in the proportions {wanted[0]} : {wanted[1]} : {wanted[2]}. Use more "
                "images, or set val to 0."
            )
        return whole[0], whole[1], whole[2]

    def plan(self, arm: str, volumes: int) -> tuple[int, ...]:
        """Draws until each training, the start included, in a pool of `volumes`.

        It ends early where the next query would go beyond the pool, in all arms alike.
        """
        if ARMS[arm].asks == "all":
            return (volumes,)
        wanted = [self.initial + number * self.queries for number in range(self.trainings)]
        plan = tuple(total for total in wanted if total <= volumes)
        if not plan:
            raise BadInput(
                f"The pool holds {volumes} volumes, fewer than the {self.initial} that begin. "
                "Use more images, or a smaller start."
            )
        return plan

    # ------------------------------------------------------------------ what asks and learns

    def strategy(self, arm: str, cache: Cache | None) -> Strategy:
        """The strategy of `arm`; `cache` keeps the mutual information of pairs of images."""
        from alnb.strategies.foreground import ForegroundRandom
        from alnb.strategies.max_cover import SuggestiveAnnotation
        from alnb.strategies.mutual_information import Quantiser
        from alnb.strategies.nath import EntropyMinusMI
        from alnb.strategies.random_sampling import RandomSampling
        from alnb.strategies.redundancy import Redundancy
        from alnb.strategies.uncertainty import bald, entropy

        asks = ARMS[arm].asks
        if asks in ("random", "all"):
            return RandomSampling()
        if asks == "foreground":
            return ForegroundRandom()
        if asks == "max_cover":
            return SuggestiveAnnotation()
        redundancy = Redundancy(
            Quantiser(bins=self.bins, depth=self.grid, mask=self.mask),
            aggregate=self.aggregate,
            include_self=self.include_self,
            repeats=self.repeats,
            cache=cache,
        )
        return EntropyMinusMI(
            uncertainty=bald if asks == "jsd" else entropy,
            reduce=self.reduce,
            redundancy=redundancy if asks == "redundancy" else None,
            alpha=self.alpha,
            hat=self.hat,
        )

    def committee(self, arm: str) -> SVGDCommittee:
        """The committee of `arm`, not fitted yet."""
        from alnb.losses.log_dice import MinusLog
        from alnb.models.augment3d import VolumeAugment
        from alnb.models.fit import Recipe
        from alnb.models.svgd import Stein
        from alnb.models.svgd_committee import SVGDCommittee
        from alnb.models.volume_net import VolumeNet

        recipe = Recipe(
            batch=self.batch,
            rate=self.rate,
            decay=self.decay,
            average=0.0,
            clip=self.clip,
            schedule=self.schedule,
            optimiser=self.optimiser,
            threads=self.threads,
        )
        network = VolumeNet(
            size=(self.size,) * 3 if self.patch is None else None,
            patch=None if self.patch is None else (self.patch,) * 3,
            steps=self.steps,
            start="scratch",
            augment=VolumeAugment(share=0.0),
            recipe=recipe,
            loss=MinusLog(self.likelihood, self.epsilon),  # type: ignore[arg-type]
            channels=self.channels,
            strides=self.strides,
            residual_units=self.residual_units,
            device=self.device,
        )
        return SVGDCommittee(
            members=self.members,
            base=network,
            likelihood=None,
            stein=Stein(bandwidth=self.bandwidth),
            kernel=self.kernel,
            control="ensemble" if ARMS[arm].ensemble else None,
        )

    # ------------------------------------------------------------------ what is said of it

    @property
    def reduced(self) -> tuple[str, ...]:
        """A phrase for everything that is not as published, or not as assumed."""
        published, told = PUBLISHED[self.name], []
        for each in dataclasses.fields(self):
            mine, theirs = getattr(self, each.name), getattr(published, each.name)
            if each.name == "arms" or mine == theirs or each.name in _OUTSIDE:
                continue
            if each.name == "seeds":
                if len(mine) == len(theirs):
                    continue
                mine, theirs = len(mine), len(theirs)
            told.append(f"{each.name} {mine} instead of {theirs}")
        return tuple(told)

    @property
    def settings(self) -> dict[str, str]:
        """All that decides the numbers of one arm and seed, but the data; without empty ones."""
        free = {"arms", "seeds", "trainings", *_OUTSIDE}
        fields = (each.name for each in dataclasses.fields(self) if each.name not in free)
        values = {name: getattr(self, name) for name in fields}
        return {name: str(value) for name, value in values.items() if value != ()}

    @property
    def assumed(self) -> tuple[Assumption, ...]:
        """What the published protocol leaves open, as it is here, and why."""
        return assumptions(self)


_OUTSIDE = ("device", "threads", "validate")
"""Settings that change no number of the test volumes but by rounding."""

PUBLISHED = {
    preset.name: preset
    for preset in (
        Preset("nath2021_hippocampus"),
        Preset(
            "nath2021_pancreas",
            steps=10_000,
            rate=4e-4,
            queries=5,
            initial=20,
            pool=201,
            val=30,
            test=30,
            patch=48,
            voxel_mm=4.0,
            intensity="nath2021_pancreas",
        ),
    )
}


def nath2021_hippocampus(*, scale: float = 1.0, **overrides: Any) -> Preset:
    """The published protocol on hippocampi (Decathlon, Task04), or less of it; see `preset`."""
    return preset("nath2021_hippocampus", scale=scale, **overrides)


def nath2021_pancreas(*, scale: float = 1.0, **overrides: Any) -> Preset:
    """The published protocol on pancreas and tumour (Task07), or less of it; see `preset`."""
    return preset("nath2021_pancreas", scale=scale, **overrides)


def preset(name: str, *, scale: float = 1.0, **overrides: Any) -> Preset:
    """The published protocol `name`, or less of it.

    `scale` in (0, 1] multiplies the numbers of members, seeds, trainings and steps; at least two
    members and trainings stay, and one of the others. `overrides` are fields of `Preset` and go
    before it.
    """
    if name not in PUBLISHED:
        raise BadInput(f"No preset is called {name!r}; there are {', '.join(PUBLISHED)}.")
    if not 0 < scale <= 1:
        raise BadInput(f"scale is {scale}; it must be above 0 and at most 1.")
    p = PUBLISHED[name]

    def less(value: int, least: int = 1) -> int:
        return max(least, round(value * scale))

    small: dict[str, Any] = {
        "members": less(p.members, 2),
        "seeds": p.seeds[: less(len(p.seeds))],
        "trainings": less(p.trainings, 2),
        "steps": less(p.steps),
    }
    return replace(p, **(small | overrides))
