"""Label maps and predictions out: NIfTI in the geometry of the source, each with a sidecar."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alnb._version import __version__
from alnb.errors import BadInput
from alnb.records import IGNORE, LabelMap, Metrics, interpolated_from, pulls
from alnb.store.blobs import atomic_write

if TYPE_CHECKING:
    from alnb.data.cohort import Cohort
    from alnb.data.volume import Volume

_MEANING = (
    f"Voxels with the value {IGNORE} are unlabelled: nobody said what they are. They are not "
    "background, which is class 0. Mask them before any statistics or training."
)

_MARK = b"written by alnb"
"""Stands in the description field of what is exported, so that it may be exported again."""
_DESCRIPTION = slice(148, 228)
"""Where a NIfTI-1 header holds its description."""


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
    fields and extensions can hold patient data. BadInput if `folder` cannot be written, or holds
    a file of such a name that alnb did not write; nothing is written then.
    """
    make_export_folder(folder)
    written, files = [], file_names(slices)
    for name in slices:
        protect(folder / f"{files[name]}_labels.nii.gz")
    for name, maps in slices.items():
        volume = cohort.volumes[name]
        whole = np.full(volume.shape, IGNORE, np.uint8)
        for index, label_map in maps.items():
            whole[index] = label_map
        path = folder / f"{files[name]}_labels.nii.gz"
        write(path, _nifti(volume, whole))
        write(path.with_name(f"{files[name]}_labels.json"), _sidecar(volume, cohort, maps))
        written.append(path)
    provenance = {
        "alnb": __version__,
        "cohort": cohort.fingerprint(),
        "classes": dict(enumerate(cohort.classes)),
        "unlabelled": {"value": IGNORE, "meaning": _MEANING},
        "volumes": {name: sorted(maps) for name, maps in slices.items()},
        **history,
    }
    write(folder / "provenance.json", _json(provenance))
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


@dataclasses.dataclass(frozen=True, eq=False)
class Predicted:
    """A volume's prediction on its way to disk.

    Attributes
    ----------
    labels : (Z, H, W) uint8 class codes.
    uncertainty : (Z, H, W) float32 in 0..1, or None to write none.
    facts : for the sidecar, plain JSON values: which model, which measures.
    """

    labels: LabelMap
    uncertainty: NDArray[np.float32] | None
    facts: Mapping[str, Any]


def export_prediction(
    folder: Path, cohort: Cohort, name: str, predicted: Predicted
) -> tuple[Path, ...]:
    """Write ``NAME_prediction.nii.gz``, ``NAME_uncertainty.nii.gz`` (float32) and a sidecar.

    Geometry and header are those of `export_label_maps`. The sidecar ``NAME_prediction.json``
    comes last and holds the SHA-256 of the files, so that it is seen to belong to them. An
    uncertainty map of an earlier export is taken away where none is written. BadInput as there.
    """
    make_export_folder(folder)
    paths = prediction_paths(folder, cohort, name)
    for path in paths.values():
        protect(path)
    volume = cohort.volume(name)
    data = {"prediction": _nifti(volume, predicted.labels)}
    if predicted.uncertainty is not None:
        data["uncertainty"] = _nifti(volume, predicted.uncertainty)
    for kind, path in paths.items():
        if kind in data:
            write(path, data[kind])
        else:
            path.unlink(missing_ok=True)
    sidecar = {
        "volume": name,
        "alnb": __version__,
        "classes": dict(enumerate(cohort.classes)),
        "files": {
            paths[kind].name: {"meaning": _MEANINGS[kind], "sha256": _sha(content)}
            for kind, content in data.items()
        },
        "geometry": _geometry(volume),
        "spacing_mm": volume.spacing_mm and [float(step) for step in volume.spacing_mm],
        **predicted.facts,
    }
    beside = paths["prediction"].with_name(
        paths["prediction"].name.removesuffix(".nii.gz") + ".json"
    )
    write(beside, _json(sidecar))
    return (*(paths[kind] for kind in data), beside)


def prediction_paths(folder: Path, cohort: Cohort, name: str) -> dict[str, Path]:
    """Where the maps of a volume go; its file name does not depend on what else is exported."""
    stem = file_names(cohort.volumes)[name]
    return {kind: folder / f"{stem}_{kind}.nii.gz" for kind in _MEANINGS}


_MEANINGS = {
    "prediction": "the most probable class of every voxel, as the model says; nobody checked it",
    "uncertainty": "entropy of the class probabilities (mean over a committee) over the logarithm "
    "of the number of classes: 0 certain, 1 all classes equally probable",
}


def make_export_folder(folder: Path) -> None:
    """Make the folder; BadInput where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"The export folder {folder} cannot be made ({error.strerror}). Choose another."
        ) from error


def protect(path: Path) -> None:
    """BadInput if `path` is a file that alnb did not write: it may be somebody's only copy."""
    if path.exists() and not (_marked(path) or _exported_before_marks(path)):
        raise BadInput(
            f"{path.name} exists in the export folder and was not written by alnb. Choose an "
            "empty folder, such as one beside the images. Nothing was overwritten."
        )


def _marked(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            head = file.read(_DESCRIPTION.stop)
    except (OSError, EOFError, zlib.error):
        return False
    return head[_DESCRIPTION].rstrip(b"\0") == _MARK


def _exported_before_marks(path: Path) -> bool:
    """Whether this is a label map of alnb 0.1, whose sidecar alone says so."""
    sidecar = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
    try:
        told = json.loads(sidecar.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and {"labelled_slices", "unlabelled"} <= told.keys()


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _nifti(volume: Volume, whole: LabelMap | NDArray[np.float32]) -> bytes:
    import nibabel as nib

    array = volume.to_native(whole)
    image = nib.nifti1.Nifti1Image(array, _affine(volume), dtype=whole.dtype)
    known = volume.affine is not None or volume.spacing_mm is not None
    image.header.set_xyzt_units("mm" if known else "unknown")
    image.header["descrip"] = _MARK
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
            "geometry": _geometry(volume),
        }
    )


def _geometry(volume: Volume) -> str:
    if volume.affine is not None:
        return "affine of the source"
    return "the source has no affine; axes are in its own order"


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
                "strokes": pulls(answer.content),
                "annotator": answer.annotator,
                "seconds": answer.seconds,
                "interpolated_from": list(interpolated_from(answer.content)),
                "proposal": _plain(state.seen.get(key)),
            }
            for key, answer in state.annotations.items()
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


def write(path: Path, data: bytes) -> None:
    """Write a whole file or nothing; BadInput says why it cannot be written."""
    try:
        atomic_write(path, data)
    except OSError as error:
        raise BadInput(
            f"{path.name} cannot be written ({error.strerror or os.strerror(error.errno or 0)}). "
            "Make room or choose another folder, and export again. No label was changed."
        ) from error
