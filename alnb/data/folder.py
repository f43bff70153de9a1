"""Any folder of NIfTI images, with masks, with scribbles or with neither.

Accepted, and mixed as needed:

======================================  ==========================================================
images alone                            ``anything/*.nii`` or ``*.nii.gz``
folders side by side                    ``images/x.nii.gz`` + ``labels/x.nii.gz`` (``masks`` …)
Medical Segmentation Decathlon          ``imagesTr/x.nii.gz`` + ``labelsTr/x.nii.gz``
names side by side                      ``x.nii.gz`` + ``x_gt.nii.gz`` (``_seg``, ``_mask``,
                                        ``_label``, ``_manual``), and ``x_scribble.nii.gz``
======================================  ==========================================================

Images and label maps are paired by subject key, never by their place in a listing.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alnb.data.cohort import Cohort, Split
from alnb.data.files import PathLike, folder_at, open_regular, scan, shown
from alnb.data.nifti import (
    BUDGET,
    ImageReader,
    LabelReader,
    NiftiFile,
    checked_image,
    nifti_volume,
)
from alnb.data.nifti_header import Header
from alnb.data.volume import ArrayCache, Volume
from alnb.errors import BadInput
from alnb.records import IGNORE

ENDINGS = (".nii", ".nii.gz")
NAMED = re.compile(r"_(gt|seg|segmentation|mask|labels?|manual|scribbles?)$", re.IGNORECASE)
FOLDER = re.compile(
    r"(?:(?P<image>images?|imgs?|scans?)|(?P<scribble>scribbles?)"
    r"|(?P<reference>labels?|masks?|segs?|segmentations?|gt|annotations?))(?P<set>tr|ts)?",
    re.IGNORECASE,
)
CHANNEL = re.compile(r"_(\d{4})$")
NUMBER = re.compile(r"\d+")
SPLITS = {
    "train": "train", "training": "train", "trainset": "train",
    "val": "val", "valid": "val", "validation": "val", "valset": "val",
    "test": "test", "testing": "test", "testset": "test",
}  # fmt: skip
MOST_CODES = 64
EXPECTED = (
    "NIfTI images (.nii, .nii.gz) alone, images/ with labels/, imagesTr/ with labelsTr/, or "
    "x.nii.gz with x_gt.nii.gz (_seg, _mask, _label, _manual, _scribble)"
)

Key = tuple[tuple[str, ...], str]


@dataclass
class Case:
    """An image, the label maps that belong to it, and what became of them.

    Attributes
    ----------
    folders, stem : its subject key: folders that are neither a role nor a split, and file name.
    split : "train", "val", "test" or "", as its folder says.
    codes, drawn : codes that occur in the reference and in the scribble, most frequent first.
    problem : why it is left out.
    """

    folders: tuple[str, ...]
    stem: str
    split: str
    image: NiftiFile
    reference: NiftiFile | None = None
    scribble: NiftiFile | None = None
    name: str = ""
    patient: str = ""
    phase: str = ""
    header: Header | None = None
    notes: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    drawn: tuple[int, ...] = ()
    problem: str = ""


@dataclass
class _Sorted:
    """Files by role and key."""

    image: dict[Key, Path] = field(default_factory=dict)
    reference: dict[Key, Path] = field(default_factory=dict)
    scribble: dict[Key, Path] = field(default_factory=dict)


def folder(
    path: PathLike,
    *,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    verify: bool = True,
    budget: int = BUDGET,
) -> Cohort:
    """The NIfTI images below `path`, with the masks and scribbles that belong to them.

    Intensities are clipped at the 0.5th and 99.5th percentile of each volume and scaled to [0, 1].
    Slices lie along the axis of clearly largest spacing, else along the last. The patient is the
    folder of an image where several folders carry numbers, else the leading subject key of its
    file name ("subject12" of subject12_DE.nii.gz). Folders called train, val and test give the
    split. A volume that cannot be used is left out and named in `problems`; links are not
    followed. BadInput where no image is left.

    Parameters
    ----------
    classes : names in the order of their codes, background first. Without them they come from
        dataset.json, else one is made for each code up to the highest in any mask.
    verify : read every file once now, so that damage is found before the work begins. With False
        only headers are read, and damage shows as BadInput when a volume is first looked at.
    budget : most bytes that one volume may take in memory.
    """
    root = folder_at(path)
    found = scan(root, ENDINGS)
    problems = found.problems
    cases = _cases(found.files, root, budget, problems)
    if not cases:
        raise BadInput(_nothing(root, problems))
    _name(cases, problems)
    names = tuple(classes) if classes is not None else _listed_classes(root, problems)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads:
        list(threads.map(lambda case: _open(case, verify, names is None), cases))
    if names is None:
        names = _invented_classes(cases)
    cache = ArrayCache()
    volumes: dict[str, Volume] = {}
    kept: list[Case] = []
    for case in cases:
        volume = _volume(case, names, cache)
        if case.problem:
            problems.append(case.problem)
        elif volume is not None:
            volumes[volume.name] = volume
            kept.append(case)
    if not volumes:
        raise BadInput(_nothing(root, problems))
    return Cohort(name or root.name or "images", volumes, names, _split(kept), tuple(problems))


def _nothing(root: Path, problems: list[str]) -> str:
    """What was looked for, and the first files that were passed over."""
    passed = "".join(f" {problem}" for problem in problems[:3])
    more = f" ({len(problems) - 3} more.)" if len(problems) > 3 else ""
    return f"{shown(root)} holds no image that can be used. Looked for {EXPECTED}.{passed}{more}"


def _cases(files: list[Path], root: Path, budget: int, problems: list[str]) -> list[Case]:
    """Images with the label maps of the same key; what stays alone is named in `problems`."""
    by_role = _Sorted()
    splits: dict[Key, str] = {}
    for path in files:
        role, key, split = _role(path.relative_to(root))
        same = getattr(by_role, role)
        if key in same:
            problems.append(
                f"{shown(path, root)}: {shown(same[key], root)} is used already for this image."
            )
            continue
        same[key] = path
        splits[key] = split
    _join_channels(by_role, root, problems)
    for role in ("reference", "scribble"):
        for key, path in getattr(by_role, role).items():
            if key not in by_role.image:
                problems.append(f"{shown(path, root)}: belongs to no image that was found.")

    def file(of: dict[Key, Path], key: Key) -> NiftiFile | None:
        return NiftiFile(of[key], root, budget) if key in of else None

    return [
        Case(
            folders=tuple(part for part in key[0] if part.lower() not in SPLITS),
            stem=key[1],
            split=splits.get(key, ""),
            image=NiftiFile(path, root, budget),
            reference=file(by_role.reference, key),
            scribble=file(by_role.scribble, key),
        )
        for key, path in by_role.image.items()
    ]


def _role(relative: Path) -> tuple[str, Key, str]:
    """What a file is, judged by its folder and the end of its name; its key; its split."""
    stem = (
        relative.name[: -len(".nii.gz")]
        if relative.name.lower().endswith(".gz")
        else (relative.name[: -len(".nii")])
    )
    role, folders, split = "", [], ""
    for part in relative.parts[:-1]:
        match = FOLDER.fullmatch(part)
        split = SPLITS.get(part.lower(), split)
        if match is None:
            folders.append(part)
            continue
        role = next(kind for kind in ("image", "scribble", "reference") if match[kind])
        if match["set"]:
            folders.append(match["set"].lower())
    ending = NAMED.search(stem)
    if ending and role != "image" and ending.start():
        role = "scribble" if ending[1].lower().startswith("scribble") else "reference"
        stem = stem[: ending.start()]
    return role or "image", (tuple(folders), stem), split


def _join_channels(by_role: _Sorted, root: Path, problems: list[str]) -> None:
    """An image x_0000 with a label map x is the first of several channels of x."""
    joined: dict[Key, Path] = {}
    for key, path in by_role.image.items():
        match = CHANNEL.search(key[1])
        plain = (key[0], key[1][: match.start()]) if match else key
        if plain == key or key in by_role.reference or plain not in by_role.reference:
            joined[key] = path
        elif plain not in joined and plain not in by_role.image:
            joined[plain] = path
        else:
            problems.append(f"{shown(path, root)}: is a further channel; the first one is used.")
    by_role.image = joined


def _name(cases: list[Case], problems: list[str]) -> None:
    """Give every case patient, phase and a unique name."""
    places = {case.folders for case in cases}
    varying = _varying([case.stem for case in cases])
    for case in cases:
        subject = _leading(case.stem, varying)
        if len(places) > 1 and case.folders and NUMBER.search(case.folders[-1]):
            case.patient = "/".join(case.folders)
            rest = case.stem.removeprefix(case.folders[-1])
        else:
            above = case.folders if len(places) > 1 else ()
            case.patient = "/".join((*above, subject))
            rest = case.stem[len(subject) :]
        case.phase = shown(rest.strip("_-. "))
    where: dict[str, set[str]] = {}
    for case in cases:
        where.setdefault(case.patient, set()).add(case.split)
    repeated = sorted(who for who, splits in where.items() if len(splits) > 1)
    if repeated:
        problems.append(
            f"{shown(repeated[0])}: stands in more than one of train, val and test; patients carry "
            "the name of their folder, so check that nobody is in two."
        )
    for case in cases:
        if repeated and case.split:
            case.patient = f"{case.split}/{case.patient}"
        case.patient = shown(case.patient)
        case.name = f"{case.patient}/{case.phase}" if case.phase else case.patient
    often = Counter(case.name for case in cases)
    for case in cases:
        if often[case.name] > 1:
            case.name = case.image.name


def _varying(stems: list[str]) -> int:
    """Which number in the file names, counted from 0, differs first between files."""
    numbers = [NUMBER.findall(stem) for stem in stems]
    for place in range(max((len(found) for found in numbers), default=0)):
        if len({found[place] for found in numbers if len(found) > place}) > 1:
            return place
    return 0


def _leading(stem: str, place: int) -> str:
    """A file name up to and with its number at `place`, or all of it."""
    matches = list(NUMBER.finditer(stem))
    return stem[: matches[place].end()] if len(matches) > place else stem


def _listed_classes(root: Path, problems: list[str]) -> tuple[str, ...] | None:
    """Class names from dataset.json, as the Decathlon or nnU-Net writes it."""
    path = root / "dataset.json"
    if not path.exists():
        return None
    try:
        with open_regular(path, root) as stream:
            labels: dict[str, Any] = json.loads(stream.read(1 << 20))["labels"]
        pairs = [(int(k), v) if k.isdecimal() else (int(v), k) for k, v in labels.items()]
        names = tuple(str(label)[:64] for _, label in sorted(pairs))
        if sorted(code for code, _ in pairs) != list(range(len(pairs))) or len(names) < 2:
            raise ValueError("its codes are not 0, 1, 2 and so on")
    except BadInput as error:
        problems.append(str(error))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problems.append(f"dataset.json: its class names are not used ({error}).")
    else:
        return names
    return None


def _open(case: Case, verify: bool, list_codes: bool) -> None:
    """Read what has to be known now; a file that cannot be used leaves its case out."""
    try:
        if verify:
            case.header, case.notes = checked_image(case.image)
        else:
            case.header = case.image.header()
            case.notes = case.header.notes
        if verify or list_codes:
            if case.reference:
                case.codes = LabelReader(case.reference, case.image, None).values()
            if case.scribble:
                case.drawn = LabelReader(case.scribble, case.image, None).values()
    except BadInput as error:
        case.problem = str(error)


def _invented_classes(cases: list[Case]) -> tuple[str, ...]:
    """A name for each code up to the highest that occurs."""
    usable = [case for case in cases if not case.problem]
    for case in usable:
        high = max((code for code in case.codes if code != IGNORE), default=0)
        if high >= MOST_CODES and case.reference:
            case.problem = (
                f"{case.reference.name}: has value {high}; without class names, codes up to "
                f"{MOST_CODES - 1} are taken. Name the classes: folder(path, classes=[...])."
            )
    masks = {code for case in usable if not case.problem for code in case.codes}
    if masks and masks <= {0, IGNORE} and IGNORE in masks:
        raise BadInput(
            f"The masks hold the values 0 and {IGNORE} alone, and {IGNORE} means unlabelled. "
            "Save the object as 1."
        )
    top = max(masks - {IGNORE}, default=0)
    scribbles = Counter(case.drawn[0] for case in usable if case.drawn)
    if not masks and scribbles:
        # nearly all of a scribbled image is unlabelled, by the code after that of the last class
        highest = max((code for case in usable for code in case.drawn if code != IGNORE), default=0)
        silent = scribbles.most_common(1)[0][0]
        top = highest - 1 if silent == highest else highest
    if top < 1:
        return ("background", "foreground")
    return ("background", *(f"class {code}" for code in range(1, top + 1)))


def _volume(case: Case, names: tuple[str, ...], cache: ArrayCache) -> Volume | None:
    """The volume of a case, or None with `case.problem` set."""
    if case.problem or case.header is None:
        return None
    reference = scribble = None
    try:
        if case.reference:
            reference = LabelReader(case.reference, case.image, len(names))
            reference.check(case.codes)
        if case.scribble:
            scribble = LabelReader(case.scribble, case.image, len(names), unlabelled=len(names))
            scribble.check(case.drawn)
    except BadInput as error:
        case.problem = str(error)
        return None
    return nifti_volume(
        ImageReader(case.image),
        name=case.name,
        patient=case.patient,
        phase=case.phase,
        cache=cache,
        header=case.header,
        notes=case.notes,
        reference=reference,
        scribble=scribble,
    )


def _split(cases: list[Case]) -> Split | None:
    """The split that the folders state, if every image is in one and there is one to learn from."""
    sets: dict[str, dict[str, None]] = {"train": {}, "val": {}, "test": {}}
    for case in cases:
        if not case.split:
            return None
        sets[case.split][case.patient] = None
    if not sets["train"] or not (sets["val"] or sets["test"]):
        return None
    return Split(tuple(sets["train"]), tuple(sets["val"]), tuple(sets["test"]))
