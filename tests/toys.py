"""Small stand-ins that obey the contracts and fit in milliseconds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from alnb.errors import ColdStart
from alnb.records import FitReport, Step


@dataclass
class ClassMeans:
    """Nearest mean intensity per class.

    `steps` and `pause` make a fit last; `fails` makes it raise in the middle.
    """

    steps: int = 1
    pause: float = 0.0
    fails: BaseException | None = None
    unit: str = "slice"
    means: torch.Tensor | None = field(default=None, compare=False)

    def fit(self, train, *, rng, on_step=lambda step: None, stopped=lambda: False):
        done = 0
        for done in range(1, self.steps + 1):
            time.sleep(self.pause)
            on_step(Step(done, self.steps, 1.0 / done, (self.steps - done) * self.pause))
            if self.fails is not None and done > self.steps // 2:
                raise self.fails
            if stopped():
                break
        x = np.concatenate([a.ravel() for a in train.images])
        y = np.concatenate([a.ravel() for a in train.targets])
        means = [x[y == c].mean() if (y == c).any() else np.inf for c in range(train.classes)]
        self.means = torch.tensor(np.array(means), dtype=torch.float32)
        return FitReport(done, 1.0 / done, done * self.pause, stopped=done < self.steps)

    def probs(self, images):
        if self.means is None:
            raise ColdStart("ClassMeans has no labels yet.")
        for batch in images:
            distance = (batch - self.means.view(1, -1, 1, 1)).abs().nan_to_num(posinf=9.0)
            yield (-8 * distance).softmax(1)[None]

    def features(self, images):
        for batch in images:
            yield torch.stack([batch.mean((1, 2, 3)), batch.std((1, 2, 3))], 1)

    def state_dict(self) -> dict[str, Any]:
        if self.means is None:
            raise ColdStart("ClassMeans has no labels yet.")
        return {"means": self.means}

    def load_state_dict(self, state) -> None:
        self.means = state["means"]


@dataclass
class VolumeMeans(ClassMeans):
    """The same over volumes; each voxel is seen with its neighbours above and below.

    So a slice alone is predicted otherwise than within its volume. Member m is m + 1 times as
    certain as the first. `seen` holds the shapes it was shown.
    """

    unit: str = "volume"
    members: int = 3
    seen: list = field(default_factory=list, compare=False)

    def probs(self, images):
        if self.means is None:
            raise ColdStart("VolumeMeans has no labels yet.")
        for batch in images:
            self.seen.append(tuple(batch.shape))
            around = (batch.roll(1, 2) + batch.roll(-1, 2)) / 2
            distance = (0.6 * batch + 0.4 * around - self.means.view(1, -1, 1, 1, 1)).abs()
            distance = distance.nan_to_num(posinf=9.0)
            yield torch.stack([(-4 * (m + 1) * distance).softmax(1) for m in range(self.members)])

    def features(self, images):
        for batch in images:
            yield torch.stack([batch.mean((1, 2, 3, 4)), batch.std((1, 2, 3, 4))], 1)

    def gradients(self, images):
        for batch in images:
            yield batch.amax((2, 3, 4))

    def __deepcopy__(self, memo):
        # copies share what they note
        return replace(self, means=self.means)


class VolumeMembers(VolumeMeans):
    """The same, one member after another, on a grid of half as many planes if coarse."""

    def log_probs(self, images, *, coarse=False):
        for batch in images:
            (stacked,) = self.probs([batch])
            logs = stacked.log().clamp_min(-80)
            yield iter(logs[:, :, :, ::2] if coarse else logs)
