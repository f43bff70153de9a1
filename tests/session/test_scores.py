from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from alnb.errors import BadInput
from alnb.models.metrics import hd95, normalised_surface_dice, volume_dice
from alnb.records import IGNORE
from alnb.session.scores import ClassScore, VolumeScores, class_scores, spread

CLASSES = ("background", "RV", "LV")
SPACING = (8.0, 1.5, 1.5)


def maps(seed=0, shape=(4, 8, 8)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, (2, *shape)).astype(np.uint8)


def scored(predicted, reference, spacing=SPACING, volume="p1/ED", tolerance=2.0):
    patient = volume.split("/")[0]
    return class_scores(
        predicted,
        reference,
        CLASSES,
        spacing,
        volume=volume,
        patient=patient,
        split="val",
        tolerance=tolerance,
    )


def table(*volumes, tolerance=2.0):
    scores = tuple(score for volume in volumes for score in volume)
    return VolumeScores("val", CLASSES, scores, "model of round 1", "ab", tolerance, False)


def test_a_score_is_the_metrics_of_one_class():
    predicted, reference = maps()
    for label, score in enumerate(scored(predicted, reference), start=1):
        mine, theirs = predicted == label, reference == label
        assert score.dice == pytest.approx(volume_dice(predicted, reference, 3)[label - 1])
        assert score.hd95 == pytest.approx(hd95(mine, theirs, SPACING))
        assert score.nsd == pytest.approx(normalised_surface_dice(mine, theirs, SPACING, 2.0))
        assert (score.label, score.name, score.unit) == (label, CLASSES[label], "mm")


def test_without_a_spacing_distances_are_pixels_and_never_millimetres():
    predicted, reference = maps()
    mm, px = scored(predicted, reference), scored(predicted, reference, None, "p2/ED")
    assert [s.unit for s in px] == ["px", "px"]
    cubes = scored(predicted, reference, (1.0, 1.0, 1.0))
    assert [s.hd95 for s in px] == [s.hd95 for s in cubes]
    text = table(px).to_table()
    assert "HD95 (px)" in text
    assert "NSD at 2 px" in text
    assert "mm" not in text.replace("not millimetres", "")
    both = table(mm, px).summary()
    assert [(row.name, row.unit, row.dice.count) for row in both] == [
        *(("RV", "mm", 1), ("LV", "mm", 1), ("mean", "mm", 1)),
        *(("RV", "px", 1), ("LV", "px", 1), ("mean", "px", 1)),
    ]


def test_what_nobody_said_has_no_surface_but_the_rest_has_a_dice():
    predicted, reference = maps()
    reference[2, :3] = IGNORE
    for score in scored(predicted, reference):
        assert score.hd95 is None
        assert score.nsd is None
        assert score.dice == pytest.approx(volume_dice(predicted, reference, 3)[score.label - 1])


def test_a_missed_class_is_counted_and_one_that_nobody_has_is_no_distance():
    reference = np.zeros((3, 6, 6), np.uint8)
    reference[1, 2:4, 2:4] = 1
    rv, lv = scored(np.zeros_like(reference), reference)
    assert (rv.missed, rv.dice, rv.nsd) == (True, 0.0, 0.0)
    assert rv.hd95 == pytest.approx(np.linalg.norm([24.0, 9.0, 9.0]))
    assert (lv.missed, lv.dice, lv.hd95, lv.nsd) == (False, 1.0, None, None)
    found = table([rv, lv])
    assert [row.missed for row in found.summary()] == [1, 0, 1]
    assert "diagonal" in found.to_table()


def test_the_worst_slice_has_most_wrong_voxels_or_most_of_the_class():
    reference = np.zeros((4, 6, 6), np.uint8)
    reference[1, :2] = reference[2, :4] = 1
    right, _ = scored(reference, reference)
    assert right.worst == 2
    wrong = reference.copy()
    wrong[3, :3] = 1
    wrong[1, 0] = 0
    assert scored(wrong, reference)[0].worst == 3


def test_the_summary_is_over_volumes_and_the_mean_over_the_classes_of_each():
    scores = [scored(*maps(seed), volume=f"p{seed}/ED") for seed in range(4)]
    rows = table(*scores).summary()
    dice = np.array([[s.dice for s in volume] for volume in scores])
    hd = np.array([[s.hd95 for s in volume] for volume in scores])
    for row, column in zip(rows, [*dice.T, dice.mean(1)], strict=True):
        assert row.dice.mean == pytest.approx(column.mean())
        assert row.dice.std == pytest.approx(column.std(ddof=1))
    assert rows[-1].hd95.mean == pytest.approx(hd.mean())
    assert rows[-1].hd95.std == pytest.approx(hd.mean(1).std(ddof=1))
    assert spread([None, 2.0]).std is None
    assert spread([None]).mean is None


def test_the_csv_holds_every_score_and_no_formula():
    score = ClassScore("=p1", "p1", "val", 1, "RV", 0.5, None, 0.25, "px", False, 3)
    (row,) = csv.DictReader(io.StringIO(table([score]).to_csv()))
    assert row["volume"] == "'=p1"
    assert (row["dice"], row["hd95"], row["nsd"], row["unit"]) == ("0.5000", "", "0.2500", "px")
    assert (row["worst"], row["missed"], row["tolerance"], row["split"]) == ("3", "0", "2", "val")


def test_a_tolerance_that_is_no_distance_is_refused():
    with pytest.raises(BadInput, match="distance of 0 or more"):
        scored(*maps(), tolerance=-1.0)
