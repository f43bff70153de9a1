"""Which files of a folder belong together: images, their label maps, and whose they are.

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

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from alnb.data.files import shown
from alnb.data.nifti import NiftiFile
from alnb.data.nifti_header import Header

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


def paired(files: list[Path], root: Path, budget: int, problems: list[str]) -> list[Case]:
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


def name_cases(cases: list[Case], problems: list[str]) -> None:
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
