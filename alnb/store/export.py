"""Label maps out: NIfTI in the geometry of the source, with a sidecar that says what is known."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alnb._version import __version__
from alnb.errors import BadInput
from alnb.records import IGNORE, LabelMap, Metrics
from alnb.store.blobs import atomic_write

if TYPE_CHECKING:
    from alnb.data.cohort import Cohort
    from alnb.data.volume import Volume

_MEANING = (
    f"Voxels with the value {IGNORE} are unlabelled: nobody said what they are. They are not "
    "background, which is class 0. Mask them before any statistics or training."
)


def export_label_maps(
    folder: Path,
    cohort: Cohort,
    slices: Mapping[str, Mapping[int, LabelMap]],
    history: Mapping[str, Any],
) -> list[Path]:
    """Write one ``NAME_labels.nii.gz`` and sidecar per volume, and ``provenance.json``.

    slices : per volume name, per slice index, the (H, W) label map.
    history : what the journal knows, put into provenance.json as it is.

    The header is made afresh: of the source only affine and spacing are kept, since description
    fields and extensions can hold patient data. BadInput if `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"The export folder {folder} cannot be made ({error.strerror}). Choose another."
        ) from error
    written, files = [], file_names(slices)
    for name, maps in slices.items():
        volume = cohort.volumes[name]
        whole = np.full(volume.shape, IGNORE, np.uint8)
        for index, label_map in maps.items():
            whole[index] = label_map
        path = folder / f"{files[name]}_labels.nii.gz"
        _write(path, _nifti(volume, whole))
        _write(path.with_name(f"{files[name]}_labels.json"), _sidecar(volume, cohort, maps))
        written.append(path)
    provenance = {
        "alnb": __version__,
        "cohort": cohort.fingerprint(),
        "classes": dict(enumerate(cohort.classes)),
        "unlabelled": {"value": IGNORE, "meaning": _MEANING},
        "volumes": {name: sorted(maps) for name, maps in slices.items()},
        **history,
    }
    _write(folder / "provenance.json", _json(provenance))
    return written


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Volume names as file names that differ, also where upper and lower case are the same.

    A name of plain characters keeps them, with "_" for "/". Any other gets a hash behind it, and so
    do two that would meet, "a/b" and "a_b".
    """
    safe = {name: re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:80] for name in names}
    uses = Counter(short.casefold() for short in safe.values())
    return {
        name: short
        if short == name.replace("/", "_") and uses[short.casefold()] == 1
        else f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, short in safe.items()
    }


def _nifti(volume: Volume, whole: LabelMap) -> bytes:
    import nibabel as nib

    array = volume.to_native(whole)
    image = nib.nifti1.Nifti1Image(array, _affine(volume), dtype=np.uint8)
    image.header.set_xyzt_units("mm")
    # a fixed time and no name in the gzip header: equal labels give equal files
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as packed:
        packed.write(image.to_bytes())
    return buffer.getvalue()


def _affine(volume: Volume) -> Any:
    if volume.affine is not None:
        return volume.affine
    native = [1.0, 1.0, 1.0]
    for axis, step in zip(volume.axes, volume.spacing_mm or native, strict=True):
        native[axis] = step
    return np.diag([*native, 1.0])


def _sidecar(volume: Volume, cohort: Cohort, maps: Mapping[int, LabelMap]) -> bytes:
    return _json(
        {
            "volume": volume.name,
            "classes": dict(enumerate(cohort.classes)),
            "unlabelled": {"value": IGNORE, "meaning": _MEANING},
            "labelled_slices": sorted(maps),
            "slices": volume.shape[0],
            "partly_labelled_slices": sorted(i for i, m in maps.items() if (m == IGNORE).any()),
            "geometry": "affine of the source"
            if volume.affine is not None
            else "the source has no affine; axes are in its own order",
        }
    )


def rounds_of(state: Any) -> dict[str, Any]:
    """The rounds, answers and trainings of a session state, as plain JSON values.

    Why a slice was skipped stays out: a free note can hold what identifies a patient.
    """
    return {
        "created": _plain(state.created),
        "rounds": [_plain(r) for r in state.rounds],
        "answers": [
            {
                "slice": str(answer.slice_id),
                "kind": type(answer.content).__name__.lower(),
                "strokes": len(answer.content.strokes),
                "annotator": answer.annotator,
                "seconds": answer.seconds,
            }
            for answer in state.annotations.values()
        ],
        "skipped": [str(slice_id) for slice_id, _ in state.skipped],
        "trainings": [
            {
                "number": fit.number,
                "round": fit.round,
                "slices": len(fit.taught),
                "checkpoint": fit.checkpoint,
                "report": _plain(fit.report),
                "error": fit.error,
            }
            for fit in state.fits
        ],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Metrics):
        return {**dataclasses.asdict(value), "mean": value.mean}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        if {f.name for f in fields} <= {"volume", "index"}:
            return str(value)
        return {f.name: _plain(getattr(value, f.name)) for f in fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _write(path: Path, data: bytes) -> None:
    try:
        atomic_write(path, data)
    except OSError as error:
        raise BadInput(
            f"{path.name} cannot be written ({error.strerror or os.strerror(error.errno or 0)}). "
            "Make room or choose another folder, and export again. No label was changed."
        ) from error
