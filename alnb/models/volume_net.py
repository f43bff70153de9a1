"""The learner of volumes: one 3D U-Net over whole volumes on one grid, or over patches of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from alnb.errors import BadInput, ColdStart
from alnb.models.augment3d import VolumeAugment
from alnb.models.course import Course, Loss, found_loss, outcome
from alnb.models.fit import Recipe
from alnb.models.hardware import best_device
from alnb.models.network import log_probs, probs
from alnb.models.stored import refuse_others, with_weights
from alnb.models.unet import unet
from alnb.models.volume_network import VolumeModel, VolumeNetwork, features
from alnb.models.volume_samples import Shape, VolumeKind, VolumeSamples
from alnb.protocols import ignore, never
from alnb.records import FitReport, Step, TrainSet
from alnb.rng import torch_generator

CHANNELS = (16, 32, 64, 128)
MOST = 64**3
"""Voxels of the largest grid that is chosen without being asked for."""
GENTLE = VolumeAugment()
STEADY = Recipe(batch=4, rate=3e-3)


@dataclass
class VolumeNet:
    """One 3D U-Net over volumes; learns from any mixture of labelled and unlabelled voxels.

    Volumes are stretched to one grid, `size`, and what the network says is stretched back; or, with
    `patch`, it sees patches of their own voxels, half of them around foreground, and slides over
    the volume to predict. Intensities are taken as they come; those of cohorts lie in 0..1.

    Publishing follows the rules of `SingleNet`: a fit trains a copy, and one that was stopped
    before its end is published only if it continued an earlier model or there is none yet.

    Attributes
    ----------
    size : (Z, H, W) of the grid; None is the median shape of the first training set, each axis up
        to a multiple of the network's strides, with the longest cut until `MOST` voxels do.
    patch : (Z, H, W) voxels, in the place of a grid.
    overlap : of neighbouring patches when a volume is predicted, as a share of their side.
    steps : training steps.
    start : "warm" continues from the weights of the fit before, "scratch" draws new ones.
    augment, recipe : random change of the training volumes; batch size, rate and averaging.
    loss : (logits (B, C, Z, H, W), target (B, Z, H, W), whole (B,)) -> scalar, or where to find one
        as "package.module:function".
    channels, residual_units : of the U-Net.
    strides : from each level to the next one; 2 each unless given. A first one of 1 looks at
        single voxels: it pays for structures a few voxels thick, and takes three times as long.
    device : "cpu", "cuda", …; None takes the GPU if there is one.
    """

    size: Shape | None = None
    patch: Shape | None = None
    overlap: float = 0.5
    steps: int = 600
    start: Literal["warm", "scratch"] = "warm"
    augment: VolumeAugment = GENTLE
    recipe: Recipe = STEADY
    loss: str | Loss = "alnb.losses.mixed:mixed_loss"
    channels: tuple[int, ...] = CHANNELS
    residual_units: int = 0
    strides: tuple[int, ...] = ()
    device: str | None = None
    unit: Literal["volume"] = field(default="volume", init=False)
    _model: VolumeModel | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.size is not None and self.patch is not None:
            raise ValueError(
                f"size {self.size} and patch {self.patch} exclude each other: whole volumes on a "
                "grid, or patches of their voxels. Give one of them."
            )
        if self.strides and len(self.strides) != len(self.channels) - 1:
            raise ValueError(
                f"{len(self.strides)} strides do not lead through {len(self.channels)} levels; "
                "give one less than channels."
            )
        step = self._stride
        for name, sides in (("size", self.size), ("patch", self.patch)):
            if sides is not None and (len(sides) != 3 or any(s < step or s % step for s in sides)):
                raise ValueError(f"{name} is {sides}; it must be three multiples of {step}.")
        if self.steps < 1:
            raise ValueError(f"A fit needs at least 1 step, not {self.steps}.")
        if self.start not in ("warm", "scratch"):
            raise ValueError(f"start is {self.start!r}; it can be 'warm' or 'scratch'.")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap is {self.overlap}; it must be at least 0 and below 1.")

    def fit(
        self,
        train: TrainSet,
        *,
        rng: np.random.Generator,
        on_step: Callable[[Step], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> FitReport:
        """Learn from volumes (Z, H, W) of any sizes; `stopped` is honoured within one step.

        A volume without any labelled voxel takes no part.

        ColdStart if no voxel is labelled. FloatingPointError if it diverges before its first step.
        BadInput for slices.
        """
        course = self.course(train, rng=rng)
        course.advance(course.total, on_step=on_step, stopped=stopped)
        return course.end()

    def course(
        self, train: TrainSet, *, rng: np.random.Generator, like: Course | None = None
    ) -> Course:
        """A fit to be taken in turns. `like` is another course over the same training set.

        Its prepared volumes are then shared if they are of the same kind.
        """
        flat = next((image.shape for image in train.images if image.ndim != 3), None)
        if flat is not None:
            raise BadInput(
                f"VolumeNet learns from volumes (Z, H, W) and was given an image of {flat}. Take "
                "SingleNet for slices."
            )
        before, device = self._before(train), self._device()
        if before is not None:
            model = replace(before, net=copy.deepcopy(before.net))
        else:
            net = self._unet(train.classes, torch_generator(rng))
            size = None if self.patch else self.size or self._grid(train)
            model = VolumeModel(
                net, train.classes, size, self.patch, self.channels, self.residual_units
            )
        kind = VolumeKind(model.size, model.patch, device)
        mine = like.samples if like is not None else None
        samples = (
            mine.again()
            if isinstance(mine, VolumeSamples) and mine.kind == kind
            else VolumeSamples.prepare(train, kind)
        )
        generator = torch_generator(rng, device.type)
        return Course(
            self, model, before is not None, samples, rng, generator, None, self.steps, None
        )

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, Z, H, W) -> (1, B, C, Z, H, W) float32, summing to 1 over C."""
        return probs(self.networks(), images)

    def log_probs(
        self, images: Iterable[Tensor], *, coarse: bool = False
    ) -> Iterator[Iterator[Tensor]]:
        """See `alnb.models.infer.member_log_probs`; this is a committee of one."""
        return log_probs(self.networks(), images, coarse=coarse)

    def networks(self) -> tuple[VolumeNetwork, ...]:
        """The published network, as the only member of a committee. ColdStart if there is none."""
        return (VolumeNetwork(self._published(), self.overlap),)

    def features(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, Z, H, W) -> (B, D) float32: the mean of the deepest activation over the volume."""
        model = self._published()
        return (features(model, batch) for batch in images)

    def state_dict(self) -> dict[str, Tensor]:
        """The published weights as ``net.*`` and the shape of the network as ``volume_config``."""
        model = self._published()
        weights = {f"net.{name}": value for name, value in model.net.state_dict().items()}
        weights["volume_config"] = torch.tensor(model.config)
        weights["strides"] = torch.tensor(self._strides)
        return {name: value.detach().cpu().clone() for name, value in weights.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Publish a stored model. BadInput if it does not belong to a network of this shape."""
        if "volume_config" not in state:
            raise BadInput("This checkpoint holds no VolumeNet: it has no entry 'volume_config'.")
        classes, units, patches, z, h, w, *channels = (
            int(value) for value in state["volume_config"]
        )
        size, patch = (None, (z, h, w)) if patches else ((z, h, w), None)
        theirs = {"channels": tuple(channels), "residual_units": units, "patch": patch}
        mine = {name: getattr(self, name) for name in theirs}
        theirs["strides"], mine["strides"] = tuple(state["strides"].tolist()), self._strides
        if self.size is not None:
            theirs["size"], mine["size"] = size, self.size
        refuse_others(theirs, mine)
        # the weights drawn here are all replaced by the stored ones
        net = with_weights(self._unet(classes, torch.Generator()), state, self._device())
        self._model = VolumeModel(net, classes, size, patch, self.channels, self.residual_units)

    @property
    def _strides(self) -> tuple[int, ...]:
        return self.strides or (2,) * (len(self.channels) - 1)

    @property
    def _stride(self) -> int:
        return math.prod(self._strides)

    def _device(self) -> torch.device:
        return torch.device(self.device) if self.device else best_device()

    def _loss(self) -> Loss:
        return found_loss(self.loss)

    def _before(self, train: TrainSet) -> VolumeModel | None:
        """The published model if a fit would go on from it."""
        model = self._model
        if model is None or self.start == "scratch" or model.classes != train.classes:
            return None
        return model if self.patch or self.size in (None, model.size) else None

    def _grid(self, train: TrainSet) -> Shape:
        """The median shape, within `MOST` voxels, in multiples of the strides."""
        shapes = np.array([image.shape for image in train.images])
        # weight 2 is the volume twice
        sides = np.median(shapes.repeat(train.weight, axis=0), axis=0)
        # the longest axes give way first: slices are few, and each was worth scanning
        longest = sides.max()
        while True:
            z, h, w = (self._stride * math.ceil(min(s, longest) / self._stride) for s in sides)
            if z * h * w <= MOST or longest <= self._stride:
                return z, h, w
            longest *= 0.95

    def _unet(self, classes: int, generator: torch.Generator) -> nn.Module:
        return unet(
            classes,
            generator=generator,
            channels=self.channels,
            residual_units=self.residual_units,
            dims=3,
            strides=self._strides,
        )

    def _publish(self, model: VolumeModel, report: FitReport, *, warm: bool) -> FitReport:
        kept, report = outcome("model", report, warm=warm, before=self._model is not None)
        if kept:
            self._model = model
        return report

    def _published(self) -> VolumeModel:
        if self._model is None:
            raise ColdStart("VolumeNet has learnt nothing yet. Label a volume, then fit.")
        return self._model
