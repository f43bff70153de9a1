import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from alnb.data.cohort import Cohort
from alnb.data.volume import Volume
from alnb.errors import BadInput
from alnb.records import IGNORE
from alnb.session.oracle import SimulatedOracle
from alnb.store.export import file_names


def answered(session, n=5):
    session.ask(n)
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in session.pending:
        session.annotate(*oracle.annotate(slice_id))
    return session


def test_exported_maps_overlay_their_source_and_unlabelled_is_not_background(project, tmp_path):
    session = answered(project())
    written = session.export(tmp_path / "out")
    assert {p.name for p in written} == {
        f"{v.replace('/', '_')}_labels.nii.gz" for v in {s.volume for s in session.labelled}
    }
    for path in written:
        name = path.name.removesuffix("_labels.nii.gz").replace("_", "/")
        volume = session.cohort.volumes[name]
        image = nib.load(path)
        np.testing.assert_allclose(image.affine, volume.affine, rtol=1e-6)
        assert image.get_data_dtype() == np.uint8
        whole = np.full(volume.shape, IGNORE, np.uint8)
        for s in session.labelled:
            if s.volume == name:
                whole[s.index] = session.target(s)
        np.testing.assert_array_equal(np.asarray(image.dataobj), volume.to_native(whole))
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["unlabelled"]["value"] == IGNORE
        assert "not background" in sidecar["unlabelled"]["meaning"]
        assert sidecar["labelled_slices"] == [s.index for s in session.labelled if s.volume == name]
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert [r["query"] for r in provenance["rounds"]] == [[str(i) for i in session.round.query]]
    assert len(provenance["answers"]) == 5


def oblique(axes, rng):
    """A source whose axes lie at an angle, one of them reversed: its shape and its affine."""
    native_shape = [0, 0, 0]
    for storage, axis in enumerate(axes):
        native_shape[axis] = (3, 5, 7)[storage]
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, 1.25, 8.0])
    affine[:3, 3] = [10, -20, 30]
    return native_shape, affine


@pytest.mark.parametrize("axes", [(2, 1, 0), (0, 1, 2), (1, 2, 0)])
def test_oblique_flipped_and_permuted_geometry_survives(axes, tmp_path):
    from alnb.store.export import export_label_maps

    rng = np.random.default_rng(0)
    native_shape, affine = oblique(axes, rng)
    source = rng.integers(0, 3, size=native_shape).astype(np.uint8)
    storage = source.transpose(axes)
    volume = Volume("p/ED", "p", "ED", storage.shape, lambda: storage, affine=affine, axes=axes)
    cohort = Cohort("c", {"p/ED": volume}, ("background", "a", "b"))
    maps = {"p/ED": {z: storage[z] for z in range(3)}}
    (path,) = export_label_maps(tmp_path, cohort, maps, {})
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), source)
    np.testing.assert_allclose(image.affine, affine, rtol=1e-5, atol=1e-5)


def test_equal_labels_give_equal_files(project, tmp_path):
    session = answered(project())
    first = session.export(tmp_path / "a")
    second = session.export(tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_names_become_safe_file_names_and_stay_apart():
    odd = ["a b", "a?b", "../../etc/passwd", "x" * 300, "naïve", ".hidden", "a/b", "a_b", "A/B"]
    names = file_names(["patient001/ED", *odd])
    assert names["patient001/ED"] == "patient001_ED"
    assert len({name.casefold() for name in names.values()}) == len(names)
    assert all("/" not in n and not n.startswith(".") and len(n) < 100 for n in names.values())


def test_a_folder_that_cannot_be_made_is_said_in_words(project, tmp_path):
    session = answered(project())
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be made"):
        session.export(tmp_path / "file" / "out")


def test_somebody_elses_file_of_that_name_is_never_overwritten(project, tmp_path):
    session = answered(project())
    out = tmp_path / "out"
    first = session.export(out)
    session.export(out)
    foreign = nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4))
    nib.save(foreign, first[-1])
    kept, sidecar = first[-1].read_bytes(), first[-1].with_name("other.json")
    first[-1].with_name(first[-1].name.replace(".nii.gz", ".json")).rename(sidecar)
    with pytest.raises(BadInput, match="not written by alnb"):
        session.export(out)
    assert first[-1].read_bytes() == kept
    first[-1].write_bytes(b"no NIfTI at all")
    with pytest.raises(BadInput, match="not written by alnb"):
        session.export(out)


def test_an_export_of_the_first_version_which_has_no_mark_is_replaced(project, tmp_path):
    session = answered(project())
    first = session.export(tmp_path)
    for path in first:
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), path)
    again = session.export(tmp_path)
    assert again == first
    assert nib.load(again[0]).header["descrip"] == b"written by alnb"


def test_a_source_without_geometry_gives_a_file_without_a_unit(tmp_path):
    from alnb.store.export import Predicted, export_prediction

    volume = Volume("p/ED", "p", "ED", (2, 3, 4), lambda: np.zeros((2, 3, 4), np.float32))
    cohort = Cohort("c", {"p/ED": volume}, ("background", "a"))
    map_ = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 2
    path, sidecar = export_prediction(tmp_path, cohort, "p/ED", Predicted(map_, None, {}))
    assert nib.load(path).header.get_xyzt_units()[0] == "unknown"
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), map_)
    told = json.loads(sidecar.read_text())
    assert told["spacing_mm"] is None
    assert "no affine" in told["geometry"]
    (file,) = told["files"].items()
    assert file[0] == path.name
    assert file[1]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("axes", [(2, 1, 0), (0, 1, 2), (1, 2, 0)])
def test_predictions_survive_oblique_flipped_and_permuted_geometry(axes, tmp_path):
    from alnb.store.export import Predicted, export_prediction

    rng = np.random.default_rng(1)
    native_shape, affine = oblique(axes, rng)
    labels = rng.integers(0, 3, size=native_shape).astype(np.uint8)
    doubt = rng.random(native_shape).astype(np.float32)
    shape = labels.transpose(axes).shape
    volume = Volume("p/ED", "p", "ED", shape, lambda: None, affine=affine, axes=axes)
    cohort = Cohort("c", {"p/ED": volume}, ("background", "a", "b"))
    predicted = Predicted(labels.transpose(axes), doubt.transpose(axes), {})
    first, second, _ = export_prediction(tmp_path, cohort, "p/ED", predicted)
    for path, expected in ((first, labels), (second, doubt)):
        image = nib.load(path)
        np.testing.assert_array_equal(np.asarray(image.dataobj), expected)
        assert image.get_data_dtype() == expected.dtype
        np.testing.assert_allclose(image.affine, affine, rtol=1e-5, atol=1e-5)
