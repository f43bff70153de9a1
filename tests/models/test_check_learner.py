"""The contract must pass the simplest honest learner and find out each kind of dishonest one."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from alnb.errors import ColdStart
from alnb.protocols import ignore, never
from alnb.records import IGNORE, FitReport, Step
from alnb.testing.learner import check_learner


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


def test_the_simplest_learner_passes():
    check_learner(ClassMeans)


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
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_learner_is_found_out(broken, reason):
    with pytest.raises(AssertionError, match=reason):
        check_learner(broken)
