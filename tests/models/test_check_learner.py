"""The contract must pass the simplest honest learner and find out each kind of dishonest one."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from alnb.errors import ColdStart
from alnb.protocols import ignore, never
from alnb.records import IGNORE, FitReport, Step
from alnb.testing.learner import check_learner, toy_train_set


@dataclass
class ClassMeans:
    """Nearest mean intensity per class, found in three identical steps."""

    unit = "slice"
    means: torch.Tensor | None = None

    def fit(self, train, *, rng, on_step=ignore, stopped=never):
        done = 0
        while done < 3 and not stopped():
            self.means, done = self.learn(train, rng), done + 1
            on_step(Step(done, 3, 0.0))
        return FitReport(done, 0.0, 0.0, stopped=done < 3)

    def learn(self, train, rng):
        items = list(zip(train.images, train.targets, train.weight.tolist(), strict=True))
        x = torch.cat([torch.as_tensor(a).flatten().repeat(w) for a, _, w in items])
        y = torch.cat([torch.as_tensor(t).flatten().repeat(w) for _, t, w in items])
        return torch.stack([x[y == c].mean() for c in range(train.classes)])

    def probs(self, images):
        means = self.known()
        return ((-(b - means[:, None, None]).square()).softmax(1)[None] for b in images)

    def features(self, images):
        self.known()
        return (batch.mean((2, 3)) for batch in images)

    def known(self):
        if self.means is None:
            raise ColdStart("ClassMeans has no labels yet. Label a slice of each class and fit.")
        return self.means

    def state_dict(self):
        return {"means": self.known().clone()}

    def load_state_dict(self, state):
        self.means = state["means"]


class Guesses(ClassMeans):
    def known(self):
        return torch.zeros(3) if self.means is None else self.means


class Unnormalised(ClassMeans):
    def probs(self, images):
        return (p * 0.9 for p in super().probs(images))


class HearsIgnore(ClassMeans):
    """Takes what nobody labelled for background."""

    def learn(self, train, rng):
        heard = tuple(np.where(t == IGNORE, 0, t).astype(np.uint8) for t in train.targets)
        return super().learn(replace(train, targets=heard), rng)


class Random(ClassMeans):
    def learn(self, train, rng):
        return super().learn(train, rng) + torch.rand(3)


class Weightless(ClassMeans):
    def learn(self, train, rng):
        train.weight[:] = 1
        return super().learn(train, rng)


class Unstoppable(ClassMeans):
    def fit(self, train, *, rng, on_step=ignore, stopped=never):
        return super().fit(train, rng=rng, on_step=on_step)


class Forgetful(ClassMeans):
    def load_state_dict(self, state):
        self.means = state["means"].round()


class Drifting(ClassMeans):
    def probs(self, images):
        yield from super().probs(images)
        self.means = self.means + 1


class OfVolumes(ClassMeans):
    """Nearest mean per class, each voxel seen with the whole line of slices through it."""

    unit = "volume"

    def probs(self, images):
        means = self.known().view(-1, 1, 1, 1)
        for batch in images:
            x = (batch + batch.mean(2, keepdim=True)) / 2
            yield (-(x - means).square()).softmax(1)[None]

    def features(self, images):
        self.known()
        return (batch.mean((2, 3, 4)) for batch in images)


class SliceBySlice(OfVolumes):
    """Mixes up the axes of a volume."""

    def probs(self, images):
        return (p.transpose(3, 4) for p in super().probs(images))


class DeafToSlices(HearsIgnore, OfVolumes):
    """Learns as if every slice of a volume had been labelled."""


class Unknown(ClassMeans):
    unit = "pixel"


@pytest.mark.parametrize("simplest", [ClassMeans, OfVolumes])
def test_the_simplest_learner_passes(simplest):
    check_learner(simplest)


def test_volumes_of_the_toy_are_sparse_and_hold_every_class():
    train = toy_train_set(3, unit="volume")
    assert [image.shape for image in train.images] == [(10, 32, 32), (10, 32, 24), (10, 32, 32)]
    for target in train.targets:
        said = (target != IGNORE).any((1, 2))
        assert said.tolist() == [False, True] * 5
        assert set(np.unique(target)) == {0, 1, 2, IGNORE}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (Guesses, "must raise ColdStart"),
        (Unnormalised, "sum to 1"),
        (HearsIgnore, "IGNORE pixels changed"),
        (Random, "differ"),
        (Weightless, "Weight 2"),
        (Unstoppable, "Asked to stop"),
        (Forgetful, "round trip"),
        (Drifting, "changed the state"),
        (SliceBySlice, r"expected \(M"),
        (DeafToSlices, "IGNORE pixels changed"),
        (Unknown, "neither slice nor volume"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_learner_is_found_out(broken, reason):
    with pytest.raises(AssertionError, match=reason):
        check_learner(broken)
