"""Any folder of NIfTI images, with masks, with scribbles or with neither.

The layouts that are understood stand in `alnb.data.pairing`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alnb.data.cohort import Cohort, Split
from alnb.data.files import PathLike, folder_at, open_regular, scan, shown
from alnb.data.nifti import BUDGET, ImageReader, LabelReader, checked_image, nifti_volume
from alnb.data.pairing import ENDINGS, Case, name_cases, paired
from alnb.data.volume import ArrayCache, Volume
from alnb.errors import BadInput
from alnb.records import IGNORE

MOST_CODES = 64
EXPECTED = (
    "NIfTI images (.nii, .nii.gz) alone, images/ with labels/, imagesTr/ with labelsTr/, or "
    "x.nii.gz with x_gt.nii.gz (_seg, _mask, _label, _manual, _scribble); without any of these, "
    "alnb.load opens DICOM series (.dcm)"
)


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
    cases = paired(found.files, root, budget, problems)
    if not cases:
        raise BadInput(_nothing(root, problems))
    name_cases(cases, problems)
    names = tuple(classes) if classes is not None else listed_classes(root, problems)
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


def listed_classes(root: Path, problems: list[str]) -> tuple[str, ...] | None:
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
