from __future__ import annotations

import csv
import json
import threading
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from alnb.data.load import load
from alnb.errors import BadInput, ColdStart, UnknownItem
from alnb.models import volumes as inference
from alnb.models.metrics import volume_dice
from alnb.session.oracle import SimulatedOracle


def answered(session, n=6):
    session.ask(n)
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in session.pending:
        session.annotate(*oracle.annotate(slice_id))
    session.fit()
    return session


@pytest.fixture
def trained(project):
    return answered(project())


@pytest.fixture
def counted(monkeypatch):
    """Names nothing, but counts how often a volume is really predicted."""
    calls = []
    predict = inference.predict

    def count(*arguments, **settings):
        calls.append(settings)
        return predict(*arguments, **settings)

    monkeypatch.setattr(inference, "predict", count)
    return calls


def test_every_volume_is_predicted_at_its_own_size_and_names_its_model(trained):
    found = list(trained.predict())
    assert [each.name for each in found] == list(trained.cohort.volumes)
    for each in found:
        volume = trained.cohort.volumes[each.name]
        assert each.prediction.labels.shape == volume.shape
        assert each.prediction.uncertainty.shape == volume.shape
        assert each.checkpoint == trained.state.fits[-1].checkpoint
        assert each.badge == "model of round 1 · 6 slices"
        assert each.patient in getattr(trained.split, each.split)
        for index in range(len(volume)):
            proposal = trained.prediction(type(trained.queue[0])(each.name, index))
            np.testing.assert_array_equal(proposal[0], each.prediction.labels[index])


def test_volumes_are_chosen_by_name_or_patient_and_come_one_by_one(trained, counted):
    patient = trained.cohort.patients[1]
    names = [v.name for v in trained.cohort.volumes.values() if v.patient == patient]
    drawn = trained.predict(patient)
    assert not counted
    assert next(drawn).name == names[0]
    assert len(counted) == 1
    assert [each.name for each in trained.predict([names[1], patient])] == names[::-1]
    with pytest.raises(UnknownItem, match="neither a volume nor a patient"):
        trained.predict("nobody")


def test_what_a_checkpoint_said_is_held_and_another_checkpoint_is_asked_anew(trained, counted):
    first = trained.score_volumes("val")
    once = len(counted)
    assert once == len(first.volumes)
    assert trained.score_volumes("val") == first
    list(trained.predict(first.volumes))
    trained.score_volumes("val", tolerance=5.0)
    assert len(counted) == once
    trained.score_volumes("val", largest_component=True)
    assert len(counted) == 2 * once
    answered(trained, 4)
    assert trained.state.fits[-1].checkpoint != first.checkpoint
    trained.score_volumes("val")
    assert len(counted) == 3 * once


def test_few_predictions_are_held_and_the_ones_used_last_stay(trained, counted, monkeypatch):
    names = list(trained.cohort.volumes)[:3]
    size = next(trained.predict(names[0])).prediction.nbytes
    monkeypatch.setattr("alnb.session.volumes.HELD_BYTES", int(2.5 * size))
    list(trained.predict([*names, names[2]]))
    assert len(counted) == 3
    list(trained.predict(names[0]))
    assert len(counted) == 4


def test_the_mean_of_the_scores_is_what_a_training_measures(trained):
    scores = trained.score_volumes("val")
    (metrics,) = trained.round.metrics
    assert len(scores.volumes) == metrics.volumes
    means = [row.dice.mean for row in scores.summary()]
    np.testing.assert_allclose(means, [*metrics.dice, metrics.mean], atol=1e-9)
    assert {score.unit for score in scores.scores} == {"mm"}
    assert {score.split for score in scores.scores} == {"val"}


def test_scores_of_largest_components_are_of_the_tidied_maps(trained):
    scores = trained.score_volumes("test", largest_component=True)
    for each in trained.predict(scores.volumes, largest_component=True):
        volume = trained.cohort.volumes[each.name]
        dice = volume_dice(each.prediction.labels, volume.reference(), 4)
        found = [s.dice for s in scores.scores if s.volume == each.name]
        np.testing.assert_allclose(found, dice)


def test_nothing_trained_or_nothing_to_measure_is_said_before_anything_is_done(project, tmp_path):
    session = project()
    for act in (
        session.predict,
        session.score_volumes,
        lambda: session.export_predictions(tmp_path / "out"),
    ):
        with pytest.raises(ColdStart, match="train: session"):
            act()
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadInput, match="val and test"):
        session.score_volumes("train")


def test_a_measurement_tells_where_it_is_and_stops_when_asked(trained):
    told = []
    scores = trained.score_volumes("val", on_volume=told.append)
    assert tuple(told) == scores.volumes
    with pytest.raises(Exception, match="stopped"):
        trained.score_volumes("test", stopped=lambda: True)


def test_inference_waits_for_nobody_who_holds_the_session(trained):
    """A view may hold the session's lock while another thread predicts, and wait for it."""
    started, done = threading.Event(), threading.Event()

    def predict():
        drawn = trained.predict()
        started.set()
        list(drawn)
        done.set()

    thread = threading.Thread(target=predict)
    with trained._lock:
        thread.start()
        # the trainer may be fetched before or after; what follows it needs no lock
        started.wait(0.2)
    assert started.wait(10)
    with trained._lock:
        assert done.wait(10)
    thread.join()


def test_exported_predictions_overlay_their_source_and_say_where_they_come_from(trained, tmp_path):
    name = next(v.name for v in trained.cohort.volumes.values() if v.patient in trained.split.val)
    written = trained.export_predictions(tmp_path / "out", name)
    stem = name.replace("/", "_")
    assert [path.name for path in written] == [
        f"{stem}_prediction.nii.gz",
        f"{stem}_uncertainty.nii.gz",
        f"{stem}_prediction.json",
        "alnb_predictions.csv",
    ]
    (each,) = trained.predict(name)
    volume = trained.cohort.volumes[name]
    for path, expected in zip(
        written, (each.prediction.labels, each.prediction.uncertainty), strict=False
    ):
        image = nib.load(path)
        assert image.get_data_dtype() == expected.dtype
        np.testing.assert_allclose(image.affine, volume.affine, rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(image.dataobj), volume.to_native(expected))
    told = json.loads(written[2].read_text())
    fit = trained.state.fits[-1]
    assert told["model"]["checkpoint"] == fit.checkpoint
    assert (told["model"]["round"], told["model"]["training"]) == (1, 1)
    assert (told["split"], told["slices_it_learnt_of_this_volume"]) == ("val", [])
    assert told["classes"] == {str(i): c for i, c in enumerate(trained.classes)}
    scores = [s for s in trained.score_volumes("val").scores if s.volume == name]
    assert [(s["name"], s["dice"], s["hd95"], s["unit"]) for s in told["scores"]] == [
        (s.name, s.dice, s.hd95, s.unit) for s in scores
    ]
    with written[3].open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["volume"], r["name"], r["split"]) for r in rows] == [
        (name, c, "val") for c in trained.classes[1:]
    ]


def test_a_training_volume_says_what_the_model_learnt_of_it(trained, tmp_path):
    name = trained.queue[0].volume
    (_, sidecar, _) = trained.export_predictions(tmp_path, name, uncertainty=False)
    told = json.loads(sidecar.read_text())
    assert told["split"] == "train"
    learnt = [s.index for s in sorted(trained.labelled) if s.volume == name]
    assert told["slices_it_learnt_of_this_volume"] == learnt


def test_an_export_replaces_its_own_files_and_nobody_elses(trained, tmp_path):
    one, two, *_ = trained.cohort.volumes
    first = trained.export_predictions(tmp_path, [one, two])
    before = {path: path.read_bytes() for path in first if path.suffix == ".gz"}
    trained.export_predictions(tmp_path, [one, two])
    assert {path: path.read_bytes() for path in before} == before
    trained.export_predictions(tmp_path, [one], uncertainty=False)
    assert not (tmp_path / f"{one.replace('/', '_')}_uncertainty.nii.gz").exists()
    foreign = tmp_path / f"{two.replace('/', '_')}_prediction.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), foreign)
    kept = foreign.read_bytes()
    left = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(BadInput, match="not written by alnb"):
        trained.export_predictions(tmp_path, [one, two])
    assert foreign.read_bytes() == kept
    assert {path.name for path in tmp_path.iterdir()} == left


def test_without_a_reference_maps_are_written_and_scores_are_none(project, hearts, tmp_path):
    volumes = {
        name: replace(volume, read_reference=None) if name in list(hearts.volumes)[-2:] else volume
        for name, volume in hearts.volumes.items()
    }
    session = answered(project(cohort=replace(hearts, volumes=volumes)), 3)
    *_, sidecar, table = session.export_predictions(tmp_path / "out", list(volumes)[-1])
    assert json.loads(sidecar.read_text())["scores"] is None
    assert len(table.read_text().splitlines()) == 1


def read_back(path, source):
    """The exported array, once its geometry is that of the source file."""
    image, original = nib.load(path), nib.load(source)
    assert image.shape == original.shape
    np.testing.assert_allclose(image.affine, original.affine, atol=1e-4)
    np.testing.assert_allclose(image.header.get_zooms(), original.header.get_zooms(), rtol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"
    return np.asarray(image.dataobj)


@pytest.mark.data
@pytest.mark.slow
def test_a_real_hippocampus_is_predicted_in_the_geometry_of_its_file(data_root, project, tmp_path):
    cohort = load(data_root / "hippocampus")
    session = answered(project(cohort=cohort, folder=tmp_path / "hippocampus"), 8)
    name = next(v.name for v in cohort.volumes.values() if v.patient in session.split.val)
    labels, uncertainty, sidecar, _ = session.export_predictions(tmp_path / "out", name)
    source = data_root / "hippocampus" / cohort.volumes[name].metadata["file"]
    mask = nib.load(source.parent.parent / "labelsTr" / source.name)
    (each,) = session.predict(name)
    predicted = read_back(labels, source)
    assert 0 <= read_back(uncertainty, source).min() <= read_back(uncertainty, source).max() <= 1
    # measured in the files' own axes, the Dice is the one that the sidecar tells
    told = json.loads(sidecar.read_text())["scores"]
    expected = volume_dice(predicted, np.asarray(mask.dataobj).astype(np.uint8), 3)
    np.testing.assert_allclose([score["dice"] for score in told], expected)
    assert {score["unit"] for score in told} == {"mm"}
    assert each.prediction.labels.shape == cohort.volumes[name].shape


@pytest.mark.data
def test_a_real_heart_without_a_spacing_is_measured_in_pixels(acdc_root, project, tmp_path):
    from alnb.data.cohort import Split

    cohort = load(acdc_root)
    split = Split(cohort.patients[:2], cohort.patients[2:3], cohort.patients[3:4])
    session = answered(project(cohort=cohort, split=split, folder=tmp_path / "acdc"), 4)
    scores = session.score_volumes("val")
    assert {score.unit for score in scores.scores} == {"px"}
    assert "HD95 (px)" in scores.to_table()
    name = scores.volumes[0]
    labels, uncertainty, sidecar, _ = session.export_predictions(tmp_path / "out", name)
    volume = cohort.volumes[name]
    for path in (labels, uncertainty):
        image = nib.load(path)
        assert image.shape == volume.shape  # stored as (Z, H, W), and so it is written
        np.testing.assert_array_equal(image.affine, np.eye(4))
        assert image.header.get_xyzt_units()[0] == "unknown"
    told = json.loads(sidecar.read_text())
    assert told["spacing_mm"] is None
    expected = volume_dice(np.asarray(nib.load(labels).dataobj), volume.reference(), 4)
    np.testing.assert_allclose([score["dice"] for score in told["scores"]], expected)
