"""Metric learning: an encoder that learns without labels which slices belong together.

Source: Vepa et al., NeurIPS 2024, arXiv 2411.15763; its losses are in `alnb.losses.contrastive`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from alnb.embed.batches import GroupBatches
from alnb.embed.encoders import (
    Intensities,
    MetricEncoder,
    Stem,
    fill,
    load_weights,
    packed,
    squares,
    unpacked,
)
from alnb.errors import BadInput
from alnb.losses.contrastive import Variant, Weights, contrastive_loss
from alnb.models import checkpoint
from alnb.models.fit import Recipe, fit
from alnb.models.hardware import best_device
from alnb.models.resnet import backbone, features, projection
from alnb.models.views import Views, two_views
from alnb.protocols import ignore, never
from alnb.records import FitReport, Floats, Rows, Step
from alnb.rng import stream, torch_generator

__all__ = ["EncoderRecipe", "MetricEncoder", "train_encoder"]

_SMALLEST = 32
_BATCH = 24


@dataclass(frozen=True)
class EncoderRecipe:
    """How to train an encoder. The defaults suit a person who waits for one CPU core: 600 steps.

    Attributes
    ----------
    weights : of the losses, or their name in `alnb.losses.contrastive.WEIGHTS`.
    size : side of the square that slices are stretched to.
    steps : batches to train on; None is `epochs`.
    epochs : times that each slice is the anchor of a tuple.
    batch : slices per step, a multiple of the tuple's size; None is 24 or what fewer patients
        allow. More slices are more negatives, so the loss differs with it.
    rate, decay, schedule, optimiser, average, clip : see `alnb.models.fit.Recipe`.
    temperature, variant, nt_exclude_same_group : see `alnb.losses.contrastive`.
    width : of the ResNet-18; 0.25 gives D = 128 features and is eight times as fast as 1.
    views : random change of the slices.
    intensities : "slice" or "stored", see `alnb.embed.encoders.Intensities`.
    pretrained : a file or function to start from, see `alnb.embed.encoders.load_weights`.
    stem : first kernel then, "sum" of those for colours or "random".
    device : "cpu", "cuda", …; None takes the GPU if there is one.
    threads : CPU threads; None leaves one core for drawing.
    """

    weights: str | Weights = "acdc"
    size: int = 64
    steps: int | None = 600
    epochs: float = 100.0
    batch: int | None = None
    rate: float = 1e-3
    decay: float = 1e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    optimiser: Literal["adamw", "adam"] = "adamw"
    average: float = 0.9
    clip: float = 1.0
    temperature: float = 0.1
    variant: Variant = "all_views"
    nt_exclude_same_group: bool = False
    width: float = 0.25
    views: Views = field(default_factory=Views.gentle)
    intensities: Intensities = "slice"
    pretrained: str | None = None
    stem: Stem = "sum"
    device: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.size < _SMALLEST:
            raise BadInput(f"size is {self.size}; the network needs at least {_SMALLEST} pixels.")
        if self.steps is not None and self.steps < 1:
            raise BadInput(f"steps is {self.steps}; a training needs at least 1.")
        if not (math.isfinite(self.epochs) and self.epochs > 0):
            raise BadInput(f"epochs is {self.epochs}; it must be a positive number.")
        if features(self.width) < 1:
            raise BadInput(f"width is {self.width}; it must leave at least one feature.")
        if self.intensities not in ("slice", "stored"):
            raise BadInput(f"intensities is {self.intensities!r}; it can be 'slice' or 'stored'.")
        if self.pretrained is not None and self.width != 1:
            raise BadInput(f"Pretrained weights are for width 1, not {self.width}; set width=1.")
        if self.batch is not None and self.batch < 2:
            raise BadInput(f"batch is {self.batch}; only two slices or more can be told apart.")
        Weights.of(self.weights)

    @classmethod
    def paper(cls, weights: str | Weights = "acdc", **changes: Any) -> EncoderRecipe:
        """The settings of Vepa et al. 2024: 256 pixels, batches of 8 or 9, Adam, 100 epochs.

        Intensities are taken as stored, for a cohort preprocessed as theirs. The authors' program
        also started from ImageNet weights, except for the first kernel: name yours by `pretrained`
        and set ``stem="random"``.
        """
        tuples = Weights.of(weights).tuple_size
        recipe = cls(
            weights=weights,
            size=256,
            steps=None,
            epochs=100,
            batch=9 if tuples == 3 else 8,
            rate=3e-4,
            decay=1e-6,
            schedule="constant",
            optimiser="adam",
            average=0.0,
            clip=math.inf,
            temperature=0.5,
            width=1.0,
            views=Views(),
            intensities="stored",
        )
        return replace(recipe, **changes)

    @property
    def title(self) -> str:
        """Name of the loss weights."""
        return self.weights if isinstance(self.weights, str) else self.weights.name


def train_encoder(
    images: Sequence[Floats],
    patient: Rows,
    volume: Rows,
    index: Rows,
    *,
    recipe: EncoderRecipe | None = None,
    rng: np.random.Generator,
    on_step: Callable[[Step], None] = ignore,
    stopped: Callable[[], bool] = never,
    resume: bytes | None = None,
    keep: Callable[[bytes], None] = ignore,
) -> tuple[MetricEncoder, FitReport]:
    """Train on (H, W) images of any sizes; no label is looked at.

    patient, volume, index : (N,) group codes and the place of each slice along its volume.
    stopped : asked before each step; the encoder is then as good as it was.
    keep : gets, every twenty seconds or so and at the end, all that the rest of the training
        depends on, as bytes of safetensors. Passed as `resume` it goes on as if it had never
        ended: on one CPU the weights are bit for bit those of an undisturbed training. Bytes of
        other images, groups or settings are not used, and a note says so.

    The same rng state gives the same encoder on one CPU; GPU kernels may add in another order.

    BadInput if there are fewer than two slices, or names an image that cannot be used.
    FloatingPointError if it diverges before its first step. MemoryError if not even one tuple fits.
    """
    recipe = EncoderRecipe() if recipe is None else recipe
    weights = Weights.of(recipe.weights)
    codes = np.stack(_columns(len(images), patient, volume, index))
    device = torch.device(recipe.device) if recipe.device else best_device()
    cache = _cache(images, recipe, device)
    told = _digest(recipe, codes, cache)
    seed, before, notes = int(rng.integers(2**63 - 1)), None, []
    if resume is not None:
        before, note = _unfinished(resume, told)
        notes += [note] if note else []
    batches = _Batches(cache, codes, weights, recipe, seed)
    if before is not None:
        batches.restore(unpacked(before["about"]))
    notes += batches.groups.problems
    net = _network(recipe, batches.seed, weights_follow=before is not None).to(device)
    nominal = max(1, round(recipe.epochs * len(cache) / batches.per_step))
    report = fit(
        net,
        batches,
        lambda z, patient, volume, index: contrastive_loss(
            z,
            patient,
            volume,
            index,
            weights,
            temperature=recipe.temperature,
            variant=recipe.variant,
            nt_exclude_same_group=recipe.nt_exclude_same_group,
        ),
        steps=recipe.steps or nominal,
        recipe=Recipe(
            batch=batches.per_step,
            rate=recipe.rate,
            decay=recipe.decay,
            average=recipe.average,
            clip=recipe.clip,
            schedule=recipe.schedule,
            optimiser=recipe.optimiser,
            threads=recipe.threads,
        ),
        on_step=on_step,
        stopped=stopped,
        resume=before,
        # bytes that nobody keeps are not made
        keep=ignore if keep is ignore else lambda state: keep(_rest(state, told, batches)),
    )
    if not report.steps and not report.stopped:
        raise FloatingPointError(
            f"{' '.join(report.notes)} Nothing was learnt. Lower the rate, or check the images."
        )
    encoder = MetricEncoder(
        net[0], recipe.title, recipe.size, recipe.intensities, recipe.width, recipe.device
    )
    return encoder, replace(report, notes=(*notes, *report.notes))


class _Batches:
    """Two views of each slice of a batch, and its codes. `per_step` counts tuples.

    All chance is a function of the seed and of how many epochs and batches there were before, so
    these few numbers are its whole state.
    """

    def __init__(
        self, cache: Tensor, codes: Rows, weights: Weights, recipe: EncoderRecipe, seed: int
    ) -> None:
        self._cache, self._codes, self._weights = cache, codes, weights
        self._views = recipe.views
        self._on_device = torch.from_numpy(codes).to(cache.device)
        self.seed, self._epoch, self._position, self._drawn = seed, 0, 0, 0
        self.groups = self._grouped(recipe.batch or self._fitting())
        self._rows = self._begin()

    @property
    def per_step(self) -> int:
        return self.groups.batch // self.groups.tuple_size

    def __call__(self, tuples: int) -> tuple[Tensor, ...]:
        if tuples != self.per_step:
            # memory ran short: smaller batches from here on, in an epoch of their own
            self.groups = self._grouped(tuples * self.groups.tuple_size)
            self._epoch, self._position = self._epoch + 1, 0
            self._rows = self._begin()
        rows = next(self._rows, None)
        if rows is None:
            self._epoch, self._position = self._epoch + 1, 0
            self._rows = self._begin()
            rows = next(self._rows)
        self._position += 1
        self._drawn += 1
        device = self._cache.device
        chance = torch_generator(stream(self.seed, "views", self._drawn), device.type)
        where = torch.from_numpy(rows).to(device)
        views = two_views(self._cache[where].float(), self._views, chance)
        return views, *self._on_device[:, where]

    def place(self) -> dict[str, int]:
        """Where the batches stand."""
        return {
            "seed": self.seed,
            "epoch": self._epoch,
            "position": self._position,
            "drawn": self._drawn,
            "batch": self.groups.batch,
        }

    def restore(self, place: Mapping[str, int]) -> None:
        """Go on from where another's `place` was."""
        self.seed, self._epoch, self._drawn = place["seed"], place["epoch"], place["drawn"]
        if place["batch"] != self.groups.batch:
            self.groups = self._grouped(place["batch"])
        self._rows, self._position = self._begin(), place["position"]
        for _ in range(self._position):
            next(self._rows)

    def _fitting(self) -> int:
        """The largest batch up to the usual one whose tuples can be of distinct patients."""
        there = len(np.unique(self._codes[0])) if self._weights.kinds else self._codes.shape[1]
        size = self._weights.tuple_size
        return max(1, min(_BATCH // size, there)) * size

    def _grouped(self, batch: int) -> GroupBatches:
        if batch == 1:
            raise MemoryError(
                "Training stopped: out of memory with two slices per step, the fewest that can be "
                "told apart. Choose a smaller size or width for the encoder. Labels are safe."
            )
        patient, volume, index = self._codes
        return GroupBatches(patient, volume, index, self._weights.kinds, batch)

    def _begin(self) -> Iterator[Rows]:
        return self.groups.epoch(stream(self.seed, "epoch", self._epoch))


def _columns(count: int, *columns: Rows) -> list[Rows]:
    arrays = [np.asarray(column, dtype=np.int64) for column in columns]
    lengths = [len(array) for array in arrays]
    if lengths != [count] * len(arrays):
        raise BadInput(
            f"There are {count} images, and patient, volume and index have {lengths} entries; "
            "each image needs one of each."
        )
    if count < 2:
        raise BadInput(
            f"An encoder learns to tell slices apart and got {count}; give at least 2, "
            "or use the features 'pixels', which need no training."
        )
    return arrays


def _cache(images: Sequence[Floats], recipe: EncoderRecipe, device: torch.device) -> Tensor:
    """All slices, prepared once, on the device; at half precision where their range is 0..1."""
    dtype = torch.float16 if recipe.intensities == "slice" else torch.float32
    parts = squares(images, recipe.size, recipe.intensities, device)
    return torch.cat([part.to(dtype) for part in parts])


def _digest(recipe: EncoderRecipe, codes: Rows, cache: Tensor) -> str:
    """Names what a training is of; of the images, every eighth row and column."""
    some = cache[:, 0, ::8, ::8].cpu().contiguous().numpy()
    told = hashlib.sha256(repr(recipe).encode())
    told.update(codes.tobytes())
    told.update(some.tobytes())
    return told.hexdigest()


def _rest(state: Mapping[str, Tensor], told: str, batches: _Batches) -> bytes:
    """All that the rest of a training depends on."""
    about = packed({"for": told, **batches.place()})
    return checkpoint.to_bytes({**state, "about": about})


def _unfinished(data: bytes, told: str) -> tuple[dict[str, Tensor] | None, str]:
    """The state to go on from, or None and why not."""
    try:
        state = checkpoint.from_bytes(data)
        mine = unpacked(state["about"])["for"] == told
    except (BadInput, KeyError, ValueError):
        return None, "What was left of an unfinished training is damaged; it began anew."
    if not mine:
        return None, (
            "What was left of an unfinished training is of other images, groups or settings; "
            "it began anew."
        )
    return state, ""


def _network(recipe: EncoderRecipe, seed: int, *, weights_follow: bool) -> nn.Sequential:
    generator = torch_generator(stream(seed, "weights"))
    net = backbone(generator=generator, width=recipe.width)
    if recipe.pretrained is not None and not weights_follow:
        fill(net, load_weights(recipe.pretrained), recipe.stem)
    return nn.Sequential(net, projection(features(recipe.width), generator=generator))
