"""One door for a judge of malformed files: an image, or a label map for `nifti/ok.nii.gz`."""

from __future__ import annotations

from pathlib import Path

from alnb.data.files import regular, shown
from alnb.data.hdf5 import H5File
from alnb.data.nifti import ImageReader, LabelReader, NiftiFile, checked_image
from alnb.errors import BadInput

BUDGET = 32 << 20


def load(path: str, root: str) -> object:
    folder = Path(root)
    whole = regular(path, folder)
    if whole.suffix == ".h5":
        source = H5File(whole, folder, BUDGET)
        with source.open() as opened:
            image = source.dataset(opened, "image", "f")
            if "label" in opened and source.dataset(opened, "label", "ui").shape != image.shape:
                raise BadInput(f"{source.name}: its label is not of its image's shape.")
            return image[()]
    if not whole.name.endswith((".nii", ".nii.gz", ".hdr")):
        raise BadInput(f"{shown(path, folder)}: is not a NIfTI file.")
    file = NiftiFile(whole, folder, BUDGET)
    if whole.name.startswith("label_"):
        image = NiftiFile(folder / "nifti" / "ok.nii.gz", folder, BUDGET)
        return LabelReader(file, image, classes=2)()
    header, notes = checked_image(file)
    return ImageReader(file)(), header, notes
