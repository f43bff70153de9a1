from __future__ import annotations

import numpy as np
import pytest
import torch

from alnb.errors import BadInput
from alnb.losses.contrastive import Weights, group_nt_xent, nt_xent
from alnb.panels.metric import (
    APART,
    KINDS,
    LEFT_OUT,
    PULL,
    PUSH,
    SAME_PATIENT,
    SAME_VOLUME,
    batch_of,
    cover_radii,
    difference,
    neighbours,
    settle,
    slice_index,
    verdict,
)
from alnb.rng import stream
from alnb.strategies.coreset import k_center, medoid


@pytest.fixture
def pool(fake):
    return fake(patients=4, slices=5).pool


@pytest.fixture
def batch(pool):
    """Two patients: three slices of one volume and one of the other each."""
    return batch_of(pool, np.array([0, 1, 3, 7, 10, 12, 14, 16]), 4)


def test_neighbours_are_those_of_slow_loops_and_never_the_slice_itself(pool):
    x = stream(1).normal(size=(len(pool), 3)).astype(np.float32)
    x[[5, 6, 7]] = x[4]  # twins
    asked = [4, 6, 23]
    found = neighbours(pool, x, asked, 7)
    for row, nearest in zip(asked, found.nearest.tolist(), strict=True):
        others = [other for other in range(len(pool)) if other != row]
        slow = sorted(others, key=lambda o: (np.linalg.norm(x[o].astype(float) - x[row]), o))
        assert nearest == slow[:7]


def test_kin_says_whether_volume_or_patient_is_shared(pool):
    found = neighbours(pool, stream(2).normal(size=(len(pool), 2)), range(len(pool)), 39)
    for row, nearest, kin in zip(found.rows, found.nearest, found.kin, strict=True):
        for other, how in zip(nearest, kin, strict=True):
            volume, mate = pool.ids[row].volume, pool.ids[other].volume
            same_patient = volume.split("/")[0] == mate.split("/")[0]
            assert how == (
                SAME_VOLUME if volume == mate else SAME_PATIENT if same_patient else APART
            )


@pytest.mark.parametrize(("rows", "k"), [([0], 0), ([0], 40), ([40], 3), ([-1], 3)])
def test_neighbours_that_cannot_be_had_are_refused(pool, rows, k):
    with pytest.raises(BadInput, match=r"must be"):
        neighbours(pool, np.zeros((len(pool), 2)), rows, k)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_what_a_batch_says_of_a_pair_is_the_sign_of_the_gradient_of_the_loss(batch, kind):
    # With orthogonal unit views, the derivative by entry (i, j) is that by the cosine of i and j.
    views = torch.eye(2 * len(batch.rows), requires_grad=True)
    if kind is None:
        loss = nt_xent(views)
    else:
        related = torch.from_numpy(batch.related(kind))
        loss = group_nt_xent(views, related, torch.from_numpy(batch.patient))
    loss.backward()
    slope = views.grad.numpy()
    told = np.tile(batch.acts(kind), (2, 2))
    pairs = ~np.eye(len(told), dtype=bool)
    assert (slope[pairs & (told == LEFT_OUT)] == 0).all()
    assert (slope[pairs & (told == PULL)] < 0).all()
    assert (slope[pairs & (told == PUSH)] > 0).all()
    assert (told[pairs] == LEFT_OUT).any() == (kind in ("slice", "volume"))


def test_a_batch_is_told_the_place_of_its_slices(pool, batch):
    assert batch.index.tolist() == [pool.ids[row].index for row in batch.rows]
    assert slice_index(pool).tolist() == [slice_id.index for slice_id in pool.ids]
    assert batch.related("slice")[:3, :3].tolist() == [
        [True, True, False],
        [True, True, False],
        [False, False, True],
    ]


def apart(one, other):
    """Degrees between two directions."""
    return np.abs((np.asarray(one) - other + 180) % 360 - 180)


def test_free_views_gather_by_patient_under_the_loss_of_patients(batch):
    end = settle(batch, Weights(nt=0, patient=1), rng=stream(3), steps=200).end.reshape(2, 2, 4)
    one, other = end[:, 0].ravel(), end[:, 1].ravel()
    assert apart(one, one[0]).max() < 5
    assert apart(other, other[0]).max() < 5
    assert apart(one[0], other[0]) > 170


def test_free_views_spread_evenly_by_slice_under_nt_xent(batch):
    found = settle(batch, "ntxent", rng=stream(4), steps=200)
    first, second = np.split(found.end, 2)
    assert apart(first, second).max() < 5
    gaps = np.diff(np.sort(first % 360))
    np.testing.assert_allclose(gaps, 360 / len(batch.rows), atol=5)
    again = settle(batch, "ntxent", rng=stream(4), steps=200)
    np.testing.assert_array_equal(again.end, found.end)


def test_cover_radii_are_those_of_slow_loops_and_of_the_queue():
    x = stream(5).normal(size=(30, 4))
    order = stream(6).permutation(30)
    spread = np.sqrt(np.mean([np.linalg.norm(row - x.mean(axis=0)) ** 2 for row in x]))
    slow = [
        max(min(np.linalg.norm(row - x[c]) for c in order[:n]) for row in x) / spread
        for n in range(1, 31)
    ]
    np.testing.assert_allclose(cover_radii(x, order), slow, atol=1e-12)
    np.testing.assert_allclose(cover_radii(50 * x + 7, order), slow, atol=1e-12)
    cover = k_center(x, centres=[], n=30, first=medoid(x, np.arange(30)))
    np.testing.assert_allclose(cover_radii(x, cover.rows), cover.radii / spread, atol=1e-6)
    assert cover_radii(np.ones((3, 2)), [0, 1]).tolist() == [0, 0]


def test_a_difference_counts_patients_not_slices(pool):
    good = np.eye(4)[pool.patient] + 0.01 * stream(7).normal(size=(len(pool), 4))
    noise = stream(8).normal(size=(len(pool), 4))
    found = difference(pool, good, noise)
    everything = np.arange(len(pool))
    hits = [
        pool.patient[neighbours(pool, x, everything, 1).nearest[:, 0]] == pool.patient
        for x in (good, noise)
    ]
    gains = [(hits[0] * 1.0 - hits[1])[pool.patient == p].mean() for p in range(4)]
    assert (found.one, found.other, found.patients) == (1.0, hits[1].mean(), 4)
    # with equally many slices per patient it is the standard error of the mean of patients
    np.testing.assert_allclose(found.margin, 2 * np.std(gains, ddof=1) / np.sqrt(4))
    assert found.clear


def test_a_difference_that_patients_do_not_show_is_said_to_be_none(pool):
    x = stream(9).normal(size=(len(pool), 3))
    same = difference(pool, x, x)
    assert (same.margin, same.clear) == (0, False)
    assert "cannot be told apart" in verdict(same, "acdc", "ntxent")


def test_the_verdict_names_the_better_one_whichever_is_asked_first(pool):
    good, bad = np.eye(4)[pool.patient], stream(10).normal(size=(len(pool), 4))
    there = verdict(difference(pool, good, bad), "group", "plain")
    back = verdict(difference(pool, bad, good), "plain", "group")
    for told in (there, back):
        assert "So group finds patients more often than plain" in told
    assert "+" in there.split("points")[0]
    assert "-" in back.split("points")[0]
