"""A session's features: kept, found again, chosen, learnt."""

import threading

import numpy as np
import pytest

from alnb.embed.features import PixelFeatures
from alnb.errors import BadInput, UnknownItem
from alnb.records import SliceId
from alnb.strategies.common import mean_by_owner
from tests.toys import ClassMeans


class Counting:
    """An encoder of mean and spread that counts how often it is asked."""

    def __init__(self, name="moments", bad=None):
        self.name, self.calls, self.bad = name, 0, bad

    def __call__(self, images):
        self.calls += 1
        rows = [[float(i.mean()), float(i.std())] for i in images]
        if self.bad is not None:
            rows[self.bad][0] = np.nan
        return np.array(rows, dtype=np.float32)


def test_pixels_are_there_without_asking_and_are_what_queries_use(project):
    session = project()
    assert session.embeddings == ("pixels",)
    assert session.embedding == "pixels"
    images = [session.cohort.slice_image(s) for s in session.pool.ids]
    np.testing.assert_array_equal(session.features(), PixelFeatures()(images))
    np.testing.assert_array_equal(session.snapshot().features(), session.features("pixels"))
    with pytest.raises(ValueError, match="read-only"):
        session.features()[0, 0] = 1.0


def test_what_an_encoder_gave_is_kept_and_not_computed_again_by_the_next_opening(project):
    encoder = Counting()
    session = project(encoder=encoder)
    before = session.features().copy()
    assert session.features() is session.features("moments")
    assert session.embeddings == ("pixels", "moments")
    assert session.embedding == "moments"
    assert encoder.calls == 1
    later = Counting()
    again = project(encoder=later)
    np.testing.assert_array_equal(again.features(), before)
    assert later.calls == 0


def test_damaged_features_are_computed_again_and_it_is_said(project):
    session = project(encoder=Counting())
    before = session.features().copy()
    kept = session.state.embeddings["moments"].features
    (session.folder / "blobs" / f"{kept}.blob").write_bytes(b"rubbish")
    later = Counting()
    again = project(encoder=later)
    np.testing.assert_array_equal(again.features(), before)
    assert later.calls == 1
    assert any("moments" in problem for problem in again.problems)
    np.testing.assert_array_equal(again.blobs.get_array(kept), before)


def test_the_choice_of_features_survives_reopening_and_changes_the_query(project):
    session = project(encoder=Counting(), strategy="coreset", per_volume=None)
    session.use_embedding("pixels")
    said = []
    session.watch(said.append)
    by_pixels = session.ask(3).query
    again = project(encoder=None, strategy="coreset", per_volume=None)
    assert again.embedding == "pixels"
    again.use_embedding("pixels")  # no change, no event
    seq = again.state.seq
    again.use_embedding("pixels")
    assert again.state.seq == seq
    with pytest.raises(UnknownItem, match="pixels"):
        again.use_embedding("nonsense")
    given = project(encoder=Counting(), strategy="coreset", per_volume=None)
    assert given.embedding == "moments", "the encoder named at this opening goes first"
    assert given.ask(3).query != by_pixels


def test_features_that_are_not_numbers_name_the_slice_and_keep_nothing(project):
    session = project(encoder=Counting(bad=5))
    with pytest.raises(BadInput, match=str(session.pool.ids[5])):
        session.features()
    assert session.state.embeddings == {}


def test_features_of_a_volume_are_the_mean_over_its_slices(project):
    session = project(encoder=Counting(), unit="volume")
    item = session.pool.ids[2]
    depth = session.cohort.volumes[item.volume].shape[0]
    slices = [session.cohort.slice_image(SliceId(item.volume, z)) for z in range(depth)]
    np.testing.assert_allclose(session.features()[2], Counting()(slices).mean(0), rtol=1e-6)


def test_means_by_owner_agree_with_a_loop():
    rng = np.random.default_rng(0)
    owners = rng.integers(0, 5, 40)
    owners[:5] = np.arange(5)
    values = rng.normal(size=(40, 3, 2))
    slow = np.stack([values[owners == o].mean(0) for o in range(5)])
    np.testing.assert_allclose(mean_by_owner(values, owners, 5), slow)


def test_two_threads_that_want_features_compute_them_once(project):
    encoder = Counting()
    session = project(encoder=encoder)
    found = []
    threads = [threading.Thread(target=lambda: found.append(session.features())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 4
    assert encoder.calls == 1


def test_a_strategy_sees_what_the_learner_has_learnt(project):
    from alnb.errors import ColdStart
    from tests.session.test_fitting import answered

    session = project(learner=ClassMeans())
    with pytest.raises(ColdStart):
        session.snapshot().learned(np.arange(2))
    answered(session).fit()
    snapshot = session.snapshot()
    rows = np.array([7, 2, 11])
    learnt = snapshot.learned(rows)
    np.testing.assert_allclose(learnt[1], snapshot.learned(rows[1:2])[0])
    import torch

    image = session.cohort.slice_image(session.pool.ids[7])
    (slow,) = session.trainer.learner().features([torch.from_numpy(np.float32(image))[None, None]])
    np.testing.assert_allclose(learnt[0], slow[0].numpy(), rtol=1e-5)
