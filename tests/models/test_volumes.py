from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from alnb.models.infer import predict_volume
from alnb.models.volumes import VolumePrediction, largest_components, predict

SPACING = (8.0, 1.5, 1.5)


class Fixed:
    """Members whose probabilities depend on the pixel alone; (M, C) mixed by its grey value."""

    unit = "slice"

    def __init__(self, members=3, classes=4, *, seed=0):
        rng = np.random.default_rng(seed)
        self.low, self.high = torch.tensor(rng.normal(size=(2, members, 1, classes, 1, 1)) * 3)
        self.asked = []

    def probs(self, images):
        for batch in images:
            self.asked.append(tuple(batch.shape))
            yield (self.low + (self.high - self.low) * batch[None]).softmax(2)


class Streamed(Fixed):
    """The same, one member after another."""

    def log_probs(self, images, *, coarse=False):
        for stacked in self.probs(images):
            yield (member.log() for member in stacked)


def image(shape=(7, 6, 5)):
    return np.random.default_rng(1).random(shape).astype(np.float32)


def expected(learner, volume):
    """Entropy of the mean and mutual information, voxel by voxel, over ln C."""
    whole, shared = np.empty(volume.shape), np.empty(volume.shape)
    for at in np.ndindex(volume.shape):
        x = torch.full((1, 1, 1, 1), float(volume[at]), dtype=torch.float32)
        (probs,) = learner.probs([x])
        rows = probs[:, 0, :, 0, 0].double().numpy()
        bits = [-sum(p * math.log(p) for p in row) for row in [rows.mean(0), *rows]]
        whole[at], shared[at] = bits[0], bits[0] - np.mean(bits[1:])
    return whole / math.log(rows.shape[1]), shared / math.log(rows.shape[1])


@pytest.mark.parametrize("kind", [Fixed, Streamed])
def test_uncertainty_and_information_agree_with_voxel_by_voxel_sums(kind):
    volume = image((3, 4, 3))
    found = predict(kind(), volume)
    whole, shared = expected(kind(), volume)
    np.testing.assert_allclose(found.uncertainty, whole, atol=1e-6)
    np.testing.assert_allclose(found.information, shared, atol=1e-6)
    assert found.uncertainty.dtype == found.information.dtype == np.float32
    assert (found.information <= found.uncertainty).all()


@pytest.mark.parametrize("kind", [Fixed, Streamed])
def test_the_labels_are_those_of_the_measurement_and_come_in_batches(kind):
    learner = kind()
    found = predict(learner, image(), batch=3)
    assert [shape[0] for shape in learner.asked] == [3, 3, 1]
    np.testing.assert_array_equal(found.labels, predict_volume(kind(), image(), batch=3))
    assert found.labels.dtype == np.uint8


@pytest.mark.parametrize("kind", [Fixed, Streamed])
def test_one_member_has_no_information_and_equal_members_have_none_of_it(kind):
    assert predict(kind(members=1), image()).information is None
    same = kind(members=2)
    same.low[1], same.high[1] = same.low[0], same.high[0]
    np.testing.assert_allclose(predict(same, image()).information, 0, atol=1e-6)


def test_uncertainty_runs_from_certain_to_all_classes_alike():
    class Even:
        unit = "slice"

        def __init__(self, probs):
            self.row = torch.tensor(probs)

        def probs(self, images):
            for batch in images:
                yield self.row.view(1, 1, -1, 1, 1).expand(1, len(batch), -1, *batch.shape[2:])

    assert (predict(Even([0.25] * 4), image()).uncertainty == 1).all()
    assert (predict(Even([0.0, 1.0, 0.0]), image()).uncertainty == 0).all()


def slow_components(labels, classes, keep, spacing):
    """Flood fill, and a search over all voxels that stay for each that goes."""
    steps = [s for s in np.ndindex(3, 3, 3) if s != (1, 1, 1)]
    gone = set()
    for label in range(1, classes):
        left = [tuple(at) for at in np.argwhere(labels == label)]
        waiting, pieces = set(left), []
        for seed in left:
            if seed not in waiting:
                continue
            piece, edge = {seed}, [seed]
            waiting.discard(seed)
            while edge:
                at = edge.pop()
                for step in steps:
                    other = tuple(a + s - 1 for a, s in zip(at, step, strict=True))
                    if other in waiting:
                        waiting.discard(other)
                        piece.add(other)
                        edge.append(other)
            pieces.append(piece)
        pieces.sort(key=len, reverse=True)
        for piece in pieces[keep:]:
            gone |= piece
    stays = np.array([at for at in np.ndindex(labels.shape) if at not in gone])
    answers = {}
    for at in gone:
        away = np.linalg.norm((stays - at) * spacing, axis=1)
        near = stays[np.isclose(away, away.min())]
        answers[at] = {int(labels[tuple(other)]) for other in near}
    return answers


@pytest.mark.parametrize(("seed", "keep"), [(0, 1), (1, 2), (2, 1)])
def test_components_agree_with_flood_fill_and_a_search_for_the_nearest(seed, keep):
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, size=(4, 9, 8), p=[0.85, 0.05, 0.05, 0.05]).astype(np.uint8)
    before = labels.copy()
    found = largest_components(labels, 4, keep=keep, spacing_mm=SPACING)
    answers = slow_components(labels, 4, keep, np.array(SPACING))
    assert answers
    for at in np.ndindex(labels.shape):
        assert found[at] in answers.get(at, {labels[at]})
    np.testing.assert_array_equal(labels, before)


def test_a_speck_inside_muscle_becomes_muscle_and_a_second_heart_becomes_background():
    labels = np.zeros((3, 24, 24), np.uint8)
    labels[:, 4:12, 4:12] = 2
    labels[:, 6:9, 6:9] = 3
    clean = labels.copy()
    labels[1, 10, 10] = 3
    labels[1, 17:22, 17:22] = 2
    labels[1, 19, 19] = 3
    np.testing.assert_array_equal(largest_components(labels, 4), clean)


def test_pieces_that_meet_at_a_corner_are_one_and_two_organs_may_stay():
    labels = np.zeros((2, 6, 6), np.uint8)
    labels[0, :3, :3] = labels[1, 3:5, 3:5] = 1
    np.testing.assert_array_equal(largest_components(labels, 2), labels)
    labels[1, 3:5, 3:5] = 0
    labels[1, 4:, 4:] = 1
    assert (largest_components(labels, 2) == 1).sum() == 9
    np.testing.assert_array_equal(largest_components(labels, 2, keep=2), labels)


def test_components_leave_whole_maps_alone_and_refuse_to_wipe_a_class_out():
    empty = np.zeros((2, 3, 4), np.uint8)
    np.testing.assert_array_equal(largest_components(empty, 3), empty)
    full = np.ones((2, 3, 4), np.uint8)
    np.testing.assert_array_equal(largest_components(full, 3), full)
    with pytest.raises(ValueError, match="1 piece or more"):
        largest_components(full, 3, keep=0)


def test_post_processing_is_counted_and_leaves_the_uncertainty_alone():
    plain = predict(Fixed(), image((6, 9, 9)))
    tidy = predict(Fixed(), image((6, 9, 9)), largest_component=True, spacing_mm=SPACING)
    assert isinstance(tidy, VolumePrediction)
    assert tidy.removed == (tidy.labels != plain.labels).sum() > 0
    np.testing.assert_array_equal(
        tidy.labels, largest_components(plain.labels, 4, spacing_mm=SPACING)
    )
    np.testing.assert_array_equal(tidy.uncertainty, plain.uncertainty)
