"""The Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022), task by task.

======================  ===========================================================================
``imagesTr/x.nii.gz``   images to learn from
``labelsTr/x.nii.gz``   their label maps, by the same names; an image may have none
``imagesTs/x.nii.gz``   the challenge's test images, whose label maps are not published
``dataset.json``        names of the classes, and which files there should be; it may be absent
======================  ===========================================================================

Every image is a patient of its own. Names pair images with label maps, never their order. Classes
come from dataset.json, else, for hippocampus (Task04) and pancreas (Task07), from the names of the
files. Images of several channels, as Task01 and Task05 have, are named as problems.

Grey values of magnetic resonance have no common scale: of 199 hippocampi, 36 reach beyond 4 096 and
51 stay below 500. They are scaled by percentiles of each volume unless a published clip is asked
for by name, and then it is said what the clip destroys.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from alnb.data.cohort import Cohort
from alnb.data.files import PathLike, folder_at, open_regular, scan, shown
from alnb.data.folder import listed_classes
from alnb.data.nifti import BUDGET, ImageReader, LabelReader, NiftiFile, checked_image, nifti_volume
from alnb.data.pairing import CHANNEL, ENDINGS
from alnb.data.volume import ArrayCache, Volume
from alnb.errors import BadInput
from alnb.records import Floats

TASKS = {
    "hippocampus": ("background", "anterior", "posterior"),
    "pancreas": ("background", "pancreas", "tumour"),
}
"""Classes of a task by the word that its files begin with."""

CLIPS = {"nath2021_hippocampus": (0.0, 2048.0), "nath2021_pancreas": (-87.0, 199.0)}
"""Grey windows of Nath et al. (IEEE TMI 2021, arXiv 2101.02323), as stored values."""

Intensity = Literal["percentiles", "nath2021_hippocampus", "nath2021_pancreas"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClippedReader(ImageReader):
    """Reads an image with the grey values `low` and `high`, the same for all volumes, as 0 and 1.

    A voxel that is not a number gets the low one.
    """

    def __call__(self) -> Floats:
        header, voxels = self.file.voxels()
        stored = voxels.transpose(header.axes)
        scaled = np.empty(stored.shape, dtype=np.float32)
        for index, piece in enumerate(stored):
            value = piece.astype(np.float64) * header.slope + header.inter
            value[~np.isfinite(value)] = self.low
            scaled[index] = np.clip((value - self.low) / (self.high - self.low), 0, 1)
        return scaled

    def flattened(self) -> float:
        """Share of the voxels that the clip leaves at one of its two ends, the larger one."""
        scaled = self()
        return float(max((scaled == 0).mean(), (scaled == 1).mean()))


def msd(
    root: PathLike,
    *,
    classes: Sequence[str] | None = None,
    intensity: Intensity = "percentiles",
    test: bool = True,
    budget: int = BUDGET,
) -> Cohort:
    """The images of one task of the Decathlon in `root`, with label maps where there are any.

    Every file is read once, so that damage is found now. What cannot be used, what belongs to no
    image and what dataset.json promises in vain is named in `problems`. BadInput where no image is
    left, or where nothing says what the classes are.

    Parameters
    ----------
    classes : names in the order of their codes, background first, instead of those of the task.
    intensity : "percentiles" scales each volume from its 0.5th to its 99.5th percentile. A
        published clip by its name scales all volumes alike; volumes that lose more than half of
        their voxels to one end of it are counted in `problems`, and carry a note.
    test : take the images of imagesTs, which have no label maps, as well.
    budget : most bytes that one volume may take in memory.
    """
    if intensity != "percentiles" and intensity not in CLIPS:
        raise ValueError(
            f"intensity is {intensity!r}; it must be one of percentiles, {', '.join(CLIPS)}."
        )
    folder = folder_at(root)
    found = scan(folder, ENDINGS)
    problems = found.problems
    images, labels = _sorted(found.files, folder, problems, test=test)
    if not images:
        raise BadInput(
            f"{shown(folder)} holds no image of the Decathlon. Looked for imagesTr/*.nii.gz with "
            "labelsTr/*.nii.gz."
        )
    names = tuple(classes) if classes is not None else _classes(folder, images, problems)
    _missing(folder, {*images}, problems, test=test)
    cache = ArrayCache()

    def tried(who: str) -> Volume | str:
        try:
            image = NiftiFile(images[who], folder, budget)
            label = NiftiFile(labels[who], folder, budget) if who in labels else None
            return _volume(who, image, label, classes=len(names), intensity=intensity, cache=cache)
        except BadInput as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads:
        results = list(threads.map(tried, images))
    problems += [result for result in results if isinstance(result, str)]
    volumes = {result.name: result for result in results if isinstance(result, Volume)}
    if not volumes:
        raise BadInput(f"{shown(folder)} holds no image that can be used. {problems[0]}")
    _say_what_a_clip_destroys(volumes, intensity, problems)
    task = _task(images)
    name = f"MSD {task}" if task else folder.name or "MSD"
    return Cohort(name, volumes, names, problems=tuple(problems))


def is_msd(files: Iterable[Path], root: Path) -> bool:
    """Whether files, relative to the folder `root`, are a task of the Decathlon.

    Names that end in a channel, such as x_0000, are those of nnU-Net.
    """
    images = [_stem(path) for path in files if path.parts[:-1] == ("imagesTr",)]
    if not images or any(CHANNEL.search(who) for who in images):
        return False
    return _task(images) is not None or listed_classes(root, []) is not None


def _sorted(
    files: list[Path], root: Path, problems: list[str], *, test: bool
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and label maps by the name of their patient."""
    places: dict[str, dict[str, Path]] = {"imagesTr": {}, "imagesTs": {}, "labelsTr": {}}
    for path in files:
        place = places.get("/".join(path.relative_to(root).parts[:-1]))
        if place is None:
            problems.append(f"{shown(path, root)}: lies in no folder of the Decathlon.")
        elif _stem(path) in place:
            problems.append(f"{shown(path, root)}: another file has this name already.")
        else:
            place[_stem(path)] = path
    images, labels = dict(places["imagesTr"]), places["labelsTr"]
    for who, path in places["imagesTs"].items() if test else ():
        if who in images:
            problems.append(f"{shown(path, root)}: imagesTr holds an image of this name already.")
        else:
            images[who] = path
    problems += [
        f"{shown(path, root)}: belongs to no image that was found."
        for who, path in labels.items()
        if who not in places["imagesTr"]
    ]
    return images, {who: path for who, path in labels.items() if who in places["imagesTr"]}


def _stem(path: Path) -> str:
    return path.name[: -len(".nii.gz" if path.name.lower().endswith(".gz") else ".nii")]


def _task(patients: Iterable[str]) -> str | None:
    """The word that all names begin with, if it is a task whose classes are known."""
    words = {who.partition("_")[0].lower() for who in patients}
    return next(iter(words)) if len(words) == 1 and words <= TASKS.keys() else None


def _classes(root: Path, images: Iterable[str], problems: list[str]) -> tuple[str, ...]:
    names = listed_classes(root, problems) or TASKS.get(_task(images) or "")
    if names is None:
        raise BadInput(
            f"Nothing says what the classes of {shown(root)} are: dataset.json has no labels, and "
            "the files are of no task that is known. Name them: msd(path, classes=[...])."
        )
    return names


def _missing(root: Path, images: set[str], problems: list[str], *, test: bool) -> None:
    """Name what dataset.json lists and the folder does not hold."""
    path = root / "dataset.json"
    if not path.exists():
        return
    try:
        with open_regular(path, root) as stream:
            listing = json.loads(stream.read(1 << 20))
        files = [entry["image"] for entry in listing.get("training", [])]
        files += listing.get("test", []) if test else []
        listed = [_stem(Path(str(file))) for file in files]
    except (BadInput, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # whoever reads the classes from it has named the file already
        return
    away = [who for who in listed if who not in images]
    if away:
        problems.append(
            f"dataset.json: lists {len(listed)} images, of which {len(away)} are not here, first "
            f"{shown(away[0])}."
        )


def _volume(
    who: str,
    image: NiftiFile,
    label: NiftiFile | None,
    *,
    classes: int,
    intensity: Intensity,
    cache: ArrayCache,
) -> Volume:
    header, notes = checked_image(image)
    reader = ImageReader(image)
    metadata: dict[str, float] = {}
    if intensity in CLIPS:
        clipped = ClippedReader(image, *CLIPS[intensity])
        metadata["flattened"] = share = clipped.flattened()
        if share > 0.5:
            notes = (*notes, f"loses {share:.0%} of its voxels to one end of {intensity}'s clip.")
        reader = clipped
    reference = None
    if label is not None:
        reference = LabelReader(label, image, classes)
        reference.check(reference.values())
    return nifti_volume(
        reader,
        name=shown(who),
        patient=shown(who),
        phase="",
        cache=cache,
        header=header,
        notes=notes,
        reference=reference,
        metadata={"set": image.path.parent.name, **metadata},
    )


def _say_what_a_clip_destroys(
    volumes: dict[str, Volume], intensity: Intensity, problems: list[str]
) -> None:
    shares = [volume.metadata.get("flattened", 0.0) for volume in volumes.values()]
    most, constant = sum(share > 0.5 for share in shares), sum(share == 1 for share in shares)
    if not most:
        return
    low, high = CLIPS[intensity]
    problems.append(
        f"The clip of {intensity}, {low:g} to {high:g}, leaves more than half of the voxels of "
        f"{most} of {len(volumes)} volumes at one value, and makes {constant} constant. "
        "intensity='percentiles' keeps them all."
    )
    _log.warning("%s", problems[-1])
