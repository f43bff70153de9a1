from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from alnb.errors import ColdStart
from alnb.panels.votes import differing, votes, votes_sheet
from alnb.session.oracle import SimulatedOracle
from tests.toys import ClassMeans


def test_the_share_of_pairs_that_differ_is_that_of_a_loop():
    labels = np.random.default_rng(0).integers(0, 3, size=(4, 5, 6))
    expected = np.zeros((5, 6))
    for i in range(4):
        for j in range(i):
            expected += labels[i] != labels[j]
    np.testing.assert_allclose(differing(labels), expected / 6)
    assert not differing(labels[:1]).any()


@dataclass
class Voters(ClassMeans):
    """Three members, each of which sees brighter pixels than the one before."""

    def probs(self, images):
        for batch in images:
            shifted = [next(iter(super(Voters, self).probs([batch + s]))) for s in (0, 0.02, 0.05)]
            yield torch.cat(shifted)


@pytest.fixture
def session(project):
    found = project(learner=Voters())
    found.ask(4)
    oracle = SimulatedOracle(found.cohort, "mask", name="me")
    for slice_id in found.pending:
        found.annotate(*oracle.annotate(slice_id))
    found.fit()
    return found


def test_every_member_votes_on_every_slice(session):
    slices = session.pool.ids[:3]
    found = votes(session, slices)
    assert [each.slice_id for each in found] == list(slices)
    learner = session.trainer.model()[1]
    for each in found:
        image = torch.from_numpy(np.asarray(session.cohort.slice_image(each.slice_id)))
        labels = next(iter(learner.probs([image[None, None]])))[:, 0].argmax(1).numpy()
        assert each.disagreement == pytest.approx(differing(labels).mean())
        seen = [set(np.unique(one)) - {0} for one in labels]
        assert [set(paths) for paths in each.members] == seen
        assert each.differ.shape == each.image.shape


def test_the_sheet_shows_those_first_that_members_dispute_most(session):
    slices = session.pool.ids[:4]
    markup = votes_sheet(session, slices).markup
    shares = [float(s) for s in re.findall(r"<span>([\d.]+)%</span>", markup)]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 4
    assert markup.count("<svg") == 8
    assert "all 3 members" in markup


def test_nobody_votes_before_the_first_training(project):
    with pytest.raises(ColdStart, match="train"):
        votes(project(), ())
