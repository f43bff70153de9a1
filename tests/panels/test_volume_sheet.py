from __future__ import annotations

import re

import numpy as np
import pytest

from alnb.data.volume import Volume
from alnb.errors import BadInput
from alnb.models.volumes import VolumePrediction
from alnb.panels.volume_sheet import heat, outlines, sheet_of, volume_data, volume_sheet
from alnb.session.oracle import SimulatedOracle
from alnb.session.volumes import PredictedVolume

CLASSES = ("background", "RV", "LV")


def area(path):
    """What a path encloses, by the shoelace formula."""
    total = 0.0
    for loop in path.split("Z")[:-1]:
        points = np.array(
            [[float(v) for v in p.split(",")] for p in loop.strip().removeprefix("M").split("L")]
        )
        x, y = points.T
        total += 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
    return abs(total)


def predicted(shape=(8, 20, 30), spacing=(8.0, 1.5, 1.0)):
    labels = np.zeros(shape, np.uint8)
    labels[2:6, 5:12, 8:18] = 1
    labels[2:6, 7:10, 10:14] = 2
    truth = np.roll(labels, 1, axis=2)
    doubt = np.random.default_rng(0).random(shape).astype(np.float32)
    image = np.random.default_rng(1).random(shape).astype(np.float32)
    volume = Volume("p/ED", "p", "ED", shape, lambda: image, lambda: truth, spacing_mm=spacing)
    found = PredictedVolume(
        "p/ED", "p", "val", VolumePrediction(labels, doubt), 0, 0, "ab", "model of round 1"
    )
    return found, volume


def test_an_outline_encloses_the_pixels_of_its_class_and_holes_are_left_out():
    labels = np.zeros((12, 12), np.uint8)
    labels[2:9, 3:11] = 1
    labels[4:6, 5:7] = 2
    paths = outlines(labels, 3)
    assert set(paths) == {1, 2}
    # a contour cuts the corner pixels: an eighth of a pixel at each
    assert area(paths[2]) == pytest.approx(4 - 4 / 8)
    assert area(paths[1]) == pytest.approx(7 * 8 - 4 - 4 / 8 + 4 / 8)
    numbers = [float(v) for v in re.findall(r"[\d.]+", paths[2])]
    assert (min(numbers), max(numbers)) == (4.0, 7.0)


def test_outlines_close_at_the_border_of_the_image():
    path = outlines(np.ones((4, 6), np.uint8), 2)[1]
    assert area(path) == pytest.approx(24 - 4 / 8)


def test_heat_is_clear_where_the_model_is_certain_and_lighter_where_it_doubts_more():
    scale = heat(np.linspace(0, 1, 101, dtype=np.float32)[None])[0].astype(int)
    assert scale[0, 3] == 0
    assert (np.diff(scale[:, 3]) >= 0).all()
    assert scale[-1, 3] == 255
    light = scale[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).mean() > 0.95


def test_slices_with_foreground_are_shown_evenly_and_cut_around_it():
    data = volume_data(*predicted(), CLASSES)
    assert [each.index for each in data.slices] == [2, 3, 4, 5]
    assert data.pixel == (1.5, 1.0)
    for each in data.slices:
        # eleven columns of foreground in all leave a rim of four pixels
        assert each.image.shape == (7 + 2 * 4, 11 + 2 * 4)
        assert each.heat.shape == (*each.image.shape, 4)
        assert set(each.outlines) == set(each.reference) == {1, 2}
    whole = volume_data(*predicted(), CLASSES, [0, 3], zoom=False, reference=False)
    assert [each.index for each in whole.slices] == [0, 3]
    assert [each.image.shape for each in whole.slices] == [(20, 30)] * 2
    assert not whole.slices[1].reference
    assert not whole.slices[0].outlines


def test_the_numbers_below_a_slice_are_its_own():
    found, volume = predicted()
    data = volume_data(found, volume, CLASSES, [4], zoom=False)
    assert data.slices[0].doubt == pytest.approx(found.prediction.uncertainty[4].mean())
    with pytest.raises(BadInput, match="9 is none"):
        volume_data(found, volume, CLASSES, [9])


def test_pixels_keep_their_proportions_in_millimetres():
    found, volume = predicted()
    markup = sheet_of(volume_data(found, volume, CLASSES, [3], zoom=False))._repr_html_()
    # 20 rows of 1.5 mm are as long as 30 columns of 1 mm
    assert re.search(r'<svg width="150" height="150" viewBox="0 0 30 20"', markup)


def test_a_session_shows_a_volume_and_every_name_is_text(project):
    session = project()
    session.ask(6)
    oracle = SimulatedOracle(session.cohort, "mask")
    for slice_id in session.pending:
        session.annotate(*oracle.annotate(slice_id))
    session.fit()
    name = next(iter(session.cohort.volumes))
    markup = volume_sheet(session, name)._repr_html_()
    assert name in markup
    assert "model of round 1" in markup
    assert markup.count("<svg") == markup.count("</svg>") > 4
    found, volume = predicted()
    wild = volume_data(found, volume, ("background", "<script>", "LV"))
    assert "<script>" not in sheet_of(wild)._repr_html_()
