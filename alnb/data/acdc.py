"""The ACDC challenge set (Bernard et al., IEEE TMI 2018), in both of its layouts.

======================  ===========================================================================
volumes in HDF5         ``patientNNN_frameFF.h5`` with ``image`` (Z, H, W) float32 in [0, 1],
                        ``label`` uint8 and ``scribble`` uint16, as published with WSL4MIS; it
                        carries neither spacing nor affine
original NIfTI          ``training/patientNNN/patientNNN_frameFF.nii.gz``, ``…_gt.nii.gz``,
                        ``Info.cfg``; ``testing/`` likewise; ``…_scribble.nii.gz`` where there
======================  ===========================================================================

Codes are 0 background, 1 right ventricle, 2 myocardium, 3 left ventricle; scribbles (Valvano et
al., IEEE TMI 2021) have 4 for unlabelled. The first frame of a patient is end-diastole (ED), the
second end-systole (ES).
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alnb.data.cohort import Cohort, Split, natural
from alnb.data.files import PathLike, folder_at, open_regular, scan, shown
from alnb.data.hdf5 import H5File
from alnb.data.nifti import BUDGET, ImageReader, LabelReader, NiftiFile, checked_image, nifti_volume
from alnb.data.volume import ArrayCache, Shape, Volume
from alnb.errors import BadInput
from alnb.records import IGNORE, Floats, LabelMap

CLASSES = ("background", "RV", "myocardium", "LV")
UNLABELLED = 4
# whole names: a slice file (…_slice_7.h5) is no volume, and every digit counts
H5_NAME = re.compile(r"patient(\d+)_frame(\d+)\.h5")
NIFTI_NAME = re.compile(r"patient(\d+)_frame(\d+)(_gt|_scribble)?\.nii(\.gz)?")
TRAIN_UNTIL, VAL_UNTIL = 80, 100


def acdc(root: PathLike, *, patients: Container[int] | None = None, budget: int = BUDGET) -> Cohort:
    """The ACDC volumes in `root`, in either layout.

    HDF5 opens by its headers alone; NIfTI files are read once, so that damage is found now. What
    cannot be used is left out and named in `problems`. BadInput where nothing is left.

    Parameters
    ----------
    patients : numbers to take, such as ``range(1, 61)``; all where None.
    budget : most bytes that one volume may take in memory.
    """
    folder = folder_at(root)
    found = scan(folder, (".h5", ".nii", ".nii.gz"))
    frames = _frames(found.files, patients)
    if not frames:
        raise BadInput(
            f"{shown(folder)} holds no ACDC volume. Looked for patientNNN_frameFF.h5 or "
            "patientNNN/patientNNN_frameFF.nii.gz"
            + (" of the patients asked for." if patients is not None else ".")
        )
    cache = ArrayCache()
    asked = [
        _Files(folder, f"patient{number:03d}", phase, frame, by_frame[frame], budget)
        for number, by_frame in sorted(frames.items())
        for frame, phase in _phases(by_frame)
    ]

    def tried(files: _Files) -> Volume | str:
        try:
            return _volume(files, cache)
        except BadInput as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads:
        results = list(threads.map(tried, asked))
    problems = [*found.problems, *(result for result in results if isinstance(result, str))]
    volumes = {result.name: result for result in results if isinstance(result, Volume)}
    if not volumes:
        raise BadInput(f"{shown(folder)} holds no ACDC volume that can be used. {problems[0]}")
    return Cohort("ACDC", volumes, CLASSES, _split(volumes), tuple(problems))


def is_acdc(files: Iterable[Path]) -> bool:
    """Whether files, relative to their folder, are laid out as ACDC is."""
    return any(
        H5_NAME.fullmatch(path.name)
        if len(path.parts) == 1
        else NIFTI_NAME.fullmatch(path.name)
        and len(path.parts) <= 3
        and re.fullmatch(r"patient\d+", path.parent.name)
        for path in files
    )


@dataclass(frozen=True)
class _Files:
    """One frame of one patient: its files by kind ("h5", "image", "_gt", "_scribble")."""

    root: Path
    patient: str
    phase: str
    frame: int
    paths: dict[str, Path]
    budget: int


def _phases(frames: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Frames in order of time: ED, ES, and any further one by its number."""
    for place, frame in enumerate(sorted(frames)):
        yield frame, ("ED", "ES")[place] if place < 2 else f"frame{frame:02d}"


def _frames(
    files: list[Path], patients: Container[int] | None
) -> dict[int, dict[int, dict[str, Path]]]:
    """Patient number -> frame number -> kind -> file; what has no image is dropped."""
    frames: dict[int, dict[int, dict[str, Path]]] = {}
    for path in files:
        match, kind = H5_NAME.fullmatch(path.name), "h5"
        if match is None:
            match = NIFTI_NAME.fullmatch(path.name)
            kind = (match[3] or "image") if match else ""
        if match is None or (patients is not None and int(match[1]) not in patients):
            continue
        frames.setdefault(int(match[1]), {}).setdefault(int(match[2]), {})[kind] = path
    return {
        number: kept
        for number, by_frame in frames.items()
        if (kept := {at: kinds for at, kinds in by_frame.items() if {"h5", "image"} & {*kinds}})
    }


def _volume(files: _Files, cache: ArrayCache) -> Volume:
    if "h5" in files.paths:
        return _from_h5(files, H5File(files.paths["h5"], files.root, files.budget), cache)
    image = NiftiFile(files.paths["image"], files.root, files.budget)
    header, notes = checked_image(image)
    labels = {}
    for kind, unlabelled in (("_gt", None), ("_scribble", UNLABELLED)):
        if kind in files.paths:
            file = NiftiFile(files.paths[kind], files.root, files.budget)
            labels[kind] = LabelReader(file, image, len(CLASSES), unlabelled)
            labels[kind].check(labels[kind].values())
    return nifti_volume(
        ImageReader(image, low=0.0, high=99.0),
        name=f"{files.patient}/{files.phase}",
        patient=files.patient,
        phase=files.phase,
        cache=cache,
        header=header,
        notes=notes,
        reference=labels.get("_gt"),
        scribble=labels.get("_scribble"),
        metadata={"frame": files.frame, **_info(files)},
    )


def _info(files: _Files) -> dict[str, str]:
    """Group and phases from the patient's Info.cfg; height and weight stay where they are."""
    path = files.paths["image"].parent / "Info.cfg"
    if not path.exists():
        return {}
    with open_regular(path, files.root) as stream:
        lines = stream.read(1 << 16).decode("utf-8", "replace").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key.lower(): facts[key].strip()[:40] for key in ("ED", "ES", "Group") if key in facts}


def _split(volumes: dict[str, Volume]) -> Split | None:
    """Patients 1-80, 81-100 and 101-150, where the folder reaches beyond the first set."""
    sets: tuple[list[str], list[str], list[str]] = ([], [], [])
    for who in sorted({volume.patient for volume in volumes.values()}, key=natural):
        number = int(who.removeprefix("patient"))
        sets[(number > TRAIN_UNTIL) + (number > VAL_UNTIL)].append(who)
    if not sets[0] or not (sets[1] or sets[2]):
        return None
    return Split(tuple(sets[0]), tuple(sets[1]), tuple(sets[2]))


def _from_h5(files: _Files, source: H5File, cache: ArrayCache) -> Volume:
    with source.open() as file:
        shape: Shape = source.dataset(file, "image", "f").shape
        readers: dict[str, H5LabelReader] = {}
        for key in ("label", "scribble"):
            if key in file:
                own = source.dataset(file, key, "ui").shape
                if own != shape:
                    raise BadInput(f"{source.name}: its {key} is {own}, its image {shape}.")
                readers[key] = H5LabelReader(source, key)
    return Volume(
        name=f"{files.patient}/{files.phase}",
        patient=files.patient,
        phase=files.phase,
        shape=shape,
        read_image=H5ImageReader(source),
        read_reference=readers.get("label"),
        read_scribble=readers.get("scribble"),
        metadata={"frame": files.frame, "file": source.name},
        cache=cache,
    )


@dataclass(frozen=True)
class H5ImageReader:
    """Reads the image as it is stored; voxels that are not numbers get the lowest that is."""

    source: H5File

    def __call__(self) -> Floats:
        with self.source.open() as file:
            image: Floats = self.source.dataset(file, "image", "f")[()].astype(np.float32)
        finite = np.isfinite(image)
        if not finite.any():
            raise BadInput(f"{self.source.name}: holds nothing but voxels that are not numbers.")
        if not finite.all():
            image[~finite] = image[finite].min()
        return image


@dataclass(frozen=True)
class H5LabelReader:
    """Reads `label` or `scribble`; in a scribble, 4 becomes IGNORE."""

    source: H5File
    key: str

    def __call__(self) -> LabelMap:
        with self.source.open() as file:
            codes: Any = self.source.dataset(file, self.key, "ui")[()]
        silent = codes == (UNLABELLED if self.key == "scribble" else IGNORE)
        strange = codes[~silent & ((codes < 0) | (codes >= len(CLASSES)))]
        if strange.size:
            raise BadInput(
                f"{self.source.name}: its {self.key} has value {strange.flat[0]}; classes are 0 "
                f"to {len(CLASSES) - 1}."
            )
        label: LabelMap = codes.astype(np.uint8)
        label[silent] = IGNORE
        return label
