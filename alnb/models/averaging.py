"""A learner that looks at each slice several times, turned and scaled, and answers by the mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from alnb.errors import BadInput
from alnb.models.learners import SingleNet
from alnb.protocols import GradientLearner, Learner, ignore, never
from alnb.records import FitReport, Step, TrainSet, Unit


@dataclass(frozen=True)
class Pose:
    """How a slice is shown: turned about its middle, and magnified from there.

    Attributes
    ----------
    degrees : counter-clockwise as seen, where pixels are as wide as high.
    zoom : factor of size; beyond 1 the slice's border is out of sight.
    """

    degrees: float = 0.0
    zoom: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.degrees) and 0 < self.zoom < math.inf):
            raise ValueError(f"{self}: degrees must be a number, and zoom one above 0.")

    @property
    def still(self) -> bool:
        """Whether it shows the slice as it is."""
        return self.degrees == 0 and self.zoom == 1

    @property
    def whole(self) -> bool:
        """Whether nothing of a slice of any size is out of sight."""
        return self.degrees == 0 and self.zoom <= 1

    def show(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) -> the same size, interpolated linearly and continued by the edge."""
        if self.still:
            return images
        images = images.float()
        return _sampled(images, self._grid(images, back=False))

    def undo(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, H, W) of what `show` gave, as maps of the slices themselves.

        And (H, W), 1 where a pixel's centre was in sight and 0 elsewhere, where the maps are
        continued by their edge.
        """
        if self.still:
            return maps, maps.new_ones(maps.shape[2:])
        grid = self._grid(maps, back=True)
        seen = (grid[0].abs() <= 1).all(2).to(maps.dtype)
        return _sampled(maps, grid), seen

    def _grid(self, images: Tensor, *, back: bool) -> Tensor:
        """(1, H, W, 2) of what was or will be shown at each pixel, or, `back`, the inverse."""
        height, width = images.shape[2:]
        angle = math.radians(-self.degrees if back else self.degrees)
        zoom = self.zoom if back else 1 / self.zoom
        cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
        # coordinates run from -1 to 1 along either side, however long it is
        rows = [[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]
        theta = torch.tensor([rows], dtype=images.dtype, device=images.device)
        return functional.affine_grid(theta, [1, 1, height, width], align_corners=False)


POSES = (Pose(), Pose(degrees=12.0), Pose(degrees=-12.0), Pose(zoom=1.12), Pose(zoom=0.9))
"""Small enough that a learner which was taught with random turns and zooms knows them."""


@dataclass
class Averaged:
    """Answers for every slice by the mean over several poses of it; learns as `base` does.

    Probabilities of a pose are taken back to the slice before they are averaged, each member's
    apart. A pixel that was out of sight in a pose takes no part in its mean. Predictions take as
    many times longer as there are poses, one of which is held at a time.

    Attributes
    ----------
    base : any learner of slices.
    poses : at least one of them shows the whole slice.

    Source: Wang et al., Neurocomputing 2019, arXiv 1807.07356 (test-time augmentation).
    """

    base: Learner = field(default_factory=SingleNet)
    poses: tuple[Pose, ...] = POSES

    def __post_init__(self) -> None:
        if not any(pose.whole for pose in self.poses):
            raise ValueError(
                f"Of these {len(self.poses)} poses none shows a whole slice, so that pixels may be "
                "in no sight at all. Add Pose()."
            )
        if self.base.unit != "slice":
            raise ValueError(
                f"{type(self.base).__name__} is a learner of {self.base.unit}s; poses are of "
                "slices. Take a base of unit 'slice'."
            )

    @property
    def unit(self) -> Unit:
        """That of `base`."""
        return self.base.unit

    def fit(
        self,
        train: TrainSet,
        *,
        rng: np.random.Generator,
        on_step: Callable[[Step], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> FitReport:
        """That of `base`."""
        return self.base.fit(train, rng=rng, on_step=on_step, stopped=stopped)

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (M, B, C, H, W), summing to 1 over C. ColdStart as `base`."""
        return (self._mean(batch) for batch in images)

    def features(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """Those of `base`, of the slices as they are."""
        return self.base.features(images)

    def gradients(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """Those of `base`, of the slices as they are. BadInput if it has none."""
        if not isinstance(self.base, GradientLearner):
            raise BadInput(
                f"The base is {type(self.base).__name__} and gives no gradients. Choose a strategy "
                "that needs none, or a base with a method gradients."
            )
        return self.base.gradients(images)

    def state_dict(self) -> dict[str, Tensor]:
        """That of `base`."""
        return self.base.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Publish a stored state of `base`."""
        self.base.load_state_dict(state)

    @torch.no_grad()
    def _mean(self, batch: Tensor) -> Tensor:
        total, seen = None, None
        for pose in self.poses:
            found = next(iter(self.base.probs([pose.show(batch)])))
            maps, weight = pose.undo(found.flatten(0, 1))
            maps = maps.reshape(*found.shape[:2], *maps.shape[1:]) * weight
            total = maps if total is None else total.add_(maps)
            seen = weight if seen is None else seen + weight
        assert total is not None, "there is a pose"
        assert seen is not None, "there is a pose"
        mean: Tensor = total.div_(seen)
        return mean


def _sampled(values: Tensor, grid: Tensor) -> Tensor:
    """(B, C, H, W) at one grid for all of them."""
    grid = grid.expand(len(values), -1, -1, -1)
    return functional.grid_sample(values, grid, padding_mode="border", align_corners=False)
