"""The one call that opens a data set, whatever its layout."""

from __future__ import annotations

from pathlib import Path

from alnb.data.acdc import acdc, is_acdc
from alnb.data.cohort import Cohort
from alnb.data.dicom import ENDING, dicom
from alnb.data.files import PathLike, folder_at, scan, shown
from alnb.data.folder import folder
from alnb.data.msd import is_msd, msd
from alnb.data.pairing import ENDINGS, FOLDER, SPLITS
from alnb.errors import BadInput


def load(path: PathLike) -> Cohort:
    """The cohort in the folder `path`, whatever its layout.

    ACDC in HDF5 or NIfTI, a task of the Decathlon, any NIfTI images, or DICOM series.

    BadInput says what was looked for; where `path` holds data sets instead of being one, it names
    them.
    """
    root = folder_at(path)
    found = [file.relative_to(root) for file in scan(root, (".h5", ENDING, *ENDINGS)).files]
    files = [file for file in found if file.suffix.lower() != ENDING]
    if found and not files:
        return dicom(root)
    if is_acdc(files):
        return acdc(root)
    if is_msd(files, root):
        return msd(root)
    inside = _data_sets(files)
    if inside:
        raise BadInput(
            f"{shown(root)} holds {len(inside)} data set{'s' * (len(inside) > 1)}, and is none "
            f"itself. Open one of them: {', '.join(inside[:8])}."
        )
    return folder(root)


def _data_sets(files: list[Path]) -> list[str]:
    """Subfolders that are data sets by themselves: ACDC, or with a folder of images."""
    below: dict[str, list[Path]] = {}
    for file in files:
        if len(file.parts) > 1:
            below.setdefault(file.parts[0], []).append(Path(*file.parts[1:]))
    return [
        shown(name)
        for name, inner in below.items()
        if name.lower() not in SPLITS
        and not FOLDER.fullmatch(name)
        and (is_acdc(inner) or any(map(_in_image_folder, inner)))
    ]


def _in_image_folder(file: Path) -> bool:
    return any((match := FOLDER.fullmatch(part)) and match["image"] for part in file.parts[:-1])
