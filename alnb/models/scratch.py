"""ScratchNet: one network of the published experiments, trained from scratch each time."""

from __future__ import annotations

import copy
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from alnb.errors import BadInput, ColdStart
from alnb.models.course import outcome
from alnb.models.dual import CHANNELS, DualUNet, dual_unet
from alnb.models.frame import rescale
from alnb.models.hardware import best_device, fast_dtype
from alnb.models.poly import Poly, fit_poly
from alnb.models.stored import with_weights
from alnb.models.turns import Turns
from alnb.protocols import Learner, ignore, never
from alnb.records import IGNORE, FitReport, Rows, Step, TrainSet
from alnb.rng import torch_generator

Loss = Callable[..., Tensor]
"""Two decoders: (main, auxiliary, target, beta) -> scalar, with beta drawn from U(0, 1) for every
step. One decoder: (logits, target) -> scalar."""

Term = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, C, S, S), images (B, 1, S, S)) -> scalar, added to a loss; it holds its weight."""

Steps = int | Callable[[int], int]
"""Training steps, or what gives them for a number of labelled slices."""

Scribbles = Literal["pce", "pce+entropy", "pce+crf", "pce+ms", "dmpls"]
"""Losses of `scribbles` by name."""

_TERMS: Mapping[str, str | None] = {
    "pce": None,
    "pce+entropy": "alnb.losses.regularisers:entropy_term",
    "pce+crf": "alnb.losses.regularisers:crf_term",
    "pce+ms": "alnb.losses.regularisers:mumford_shah_term",
}

Validate = Callable[[Learner], float]
"""Scores a learner on volumes that are held out; higher is better."""


@dataclass
class ScratchNet:
    """A 2D U-Net of the WSL4MIS family over slices stretched to a square.

    Every fit starts from new weights and ends with those that `validate` scored best, or the last
    ones without it. A fit trains apart and publishes in one assignment at its end, so `probs` on
    another thread goes on with the model before it. A fit that was stopped is published only if
    there is no model yet.

    Use `scribbles` or `dmpls` for scribbles and `masks` for whole masks.

    Attributes
    ----------
    loss : `Loss`, or where to find one as "package.module:function".
    dual : whether there is a second decoder. It trains; it never answers and is not stored.
    size : side of the square; a multiple of ``2 ** (len(channels) - 1)``.
    steps : `Steps` of a fit.
    recipe, augment : rate, batch and validation interval; random change of the training slices.
    stored : take intensities as they are stored, which is meant for volumes scaled to 0..1; else
        every slice is scaled to 0..1 by its percentiles.
    validate : `Validate`; asked during the fit.
    channels : of the encoder, finest first.
    device : "cpu", "cuda", …; None takes the GPU if there is one.
    term : `Term` on the main decoder's logits and the images as the network sees them, or where to
        find one; such as those of `alnb.losses.regularisers`, which want intensities in 0..1.
    """

    loss: str | Loss
    dual: bool
    size: int = 256
    steps: Steps = 6000
    recipe: Poly = field(default_factory=Poly)
    augment: Turns = field(default_factory=Turns)
    stored: bool = True
    validate: Validate | None = field(default=None, compare=False, repr=False)
    channels: tuple[int, ...] = CHANNELS
    device: str | None = None
    term: str | Term | None = None
    unit: Literal["slice"] = field(default="slice", init=False)
    _net: DualUNet | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        step = 2 ** (len(self.channels) - 1)
        if not 2 <= len(self.channels) <= len(CHANNELS):
            raise ValueError(f"channels are {self.channels}; 2 to {len(CHANNELS)} levels exist.")
        if self.size < 2 * step or self.size % step:
            raise ValueError(f"Size {self.size} must be a multiple of {step}, at least {2 * step}.")
        if isinstance(self.steps, int) and self.steps < 1:
            raise ValueError(f"A fit needs at least 1 step, not {self.steps}.")

    def fit(
        self,
        train: TrainSet,
        *,
        rng: np.random.Generator,
        on_step: Callable[[Step], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> FitReport:
        """Learn from slices (H, W) of any sizes; `stopped` is honoured within one step.

        A slice without any labelled pixel takes no part. ColdStart if there is no other.
        FloatingPointError if it diverges before its first step.
        """
        device = self._device()
        samples = _Samples.prepare(train, self, device)
        net = self._fresh(train.classes, torch_generator(rng)).to(device)
        generator = torch_generator(rng, device.type)
        loss: Loss = _found(self.loss)
        term: Term | None = _found(self.term)
        probe = copy.copy(self)
        probe._net = net
        validate = self.validate

        def step_loss(batch: int) -> Tensor:
            images, target = self.augment(*samples.draw(batch, rng), generator)
            beta = [float(rng.random())] if self.dual else []
            outputs = _forward(net, images, generator)
            value = loss(*outputs, target, *beta)
            return value if term is None else value + term(outputs[0], images)

        report = fit_poly(
            net,
            step_loss,
            steps=self.steps if isinstance(self.steps, int) else self.steps(len(train.images)),
            recipe=self.recipe,
            validate=None if validate is None else lambda: validate(probe),
            on_step=on_step,
            stopped=stopped,
        )
        return self._publish(net, report)

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (1, B, C, H, W) float32, by nearest neighbour from the square."""
        net = self._published()
        return (self._probs(net, batch) for batch in images)

    def features(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (B, D) float32: the mean of the deepest activation over the slice."""
        net = self._published()
        return (self._features(net, batch) for batch in images)

    def state_dict(self) -> dict[str, Tensor]:
        """Encoder and main decoder as ``net.*``, and the shape of the network as ``config``."""
        net = self._published()
        weights = {
            f"net.{name}": value.detach().cpu().clone()
            for name, value in net.state_dict().items()
            if not name.startswith("auxiliary.")
        }
        classes = net.main.out.out_channels
        return weights | {"config": torch.tensor([classes, self.size, *self.channels])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Publish a stored model. BadInput if it does not belong to a network of this shape."""
        if "config" not in state:
            raise BadInput("This checkpoint holds no ScratchNet: it has no entry 'config'.")
        classes, size, *channels = (int(value) for value in state["config"])
        if (size, tuple(channels)) != (self.size, self.channels):
            raise BadInput(
                f"This checkpoint was made with size {size} and channels {tuple(channels)}, this "
                f"learner has {self.size} and {self.channels}. Build the learner with the "
                "checkpoint's values."
            )
        net = dual_unet(classes, generator=torch.Generator(), channels=self.channels, dual=False)
        with_weights(net, state, self._device())
        self._net = net

    def _device(self) -> torch.device:
        return torch.device(self.device) if self.device else best_device()

    def _fresh(self, classes: int, generator: torch.Generator) -> DualUNet:
        return dual_unet(classes, generator=generator, channels=self.channels, dual=self.dual)

    def _publish(self, net: DualUNet, report: FitReport) -> FitReport:
        kept, report = outcome("model", report, warm=False, before=self._net is not None)
        if kept:
            self._net = net
        return report

    def _published(self) -> DualUNet:
        if self._net is None:
            raise ColdStart("ScratchNet has learnt nothing yet. Label a few slices, then fit.")
        return self._net

    def square(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) of any intensities -> (B, 1, size, size), by nearest neighbour."""
        finite = torch.nan_to_num(images.float(), posinf=0.0, neginf=0.0)
        stretched = nearest(finite, self.size, self.size)
        return stretched if self.stored else rescale(stretched)

    @torch.no_grad()
    def _probs(self, net: DualUNet, batch: Tensor) -> Tensor:
        device = next(net.parameters()).device
        (logits,) = _forward(net, self.square(batch.to(device)))
        probs = logits.float().softmax(1)
        return nearest(probs, batch.shape[2], batch.shape[3])[None].to(batch.device)

    @torch.no_grad()
    def _features(self, net: DualUNet, batch: Tensor) -> Tensor:
        device = next(net.parameters()).device
        deepest = net.bottleneck(self.square(batch.to(device)))
        return deepest.float().mean((2, 3)).to(batch.device)


def dmpls(**settings: object) -> ScratchNet:
    """The learner for scribbles: two decoders and their mixed pseudo-labels (arXiv 2203.02106)."""
    return ScratchNet("alnb.losses.pseudo:dmpls_loss", dual=True, **settings)  # type: ignore[arg-type]


def scribbles(loss: Scribbles = "dmpls", **settings: object) -> ScratchNet:
    """A learner for scribbles by the name of its loss; the weights are those of WSL4MIS.

    ==================  ===========================================================================
    "pce"               partial cross-entropy alone (Tang et al., CVPR 2018)
    "pce+entropy"       and 0.1 entropy minimisation (Grandvalet and Bengio 2004)
    "pce+crf"           and 0.1 gated CRF (Obukhov et al. 2019)
    "pce+ms"            and 1e-6 Mumford-Shah (Kim and Ye 2019)
    "dmpls"             two decoders and their mixed pseudo-labels (Luo et al. 2022), see `dmpls`
    ==================  ===========================================================================

    All but the last have one decoder. ValueError for another name.
    """
    if loss == "dmpls":
        return dmpls(**settings)
    if loss not in _TERMS:
        known = ", ".join(f"'{name}'" for name in get_args(Scribbles))
        raise ValueError(f"A loss {loss!r} for scribbles is not known; there are {known}.")
    pce = "alnb.losses.weak:partial_cross_entropy"
    return ScratchNet(pce, dual=False, term=_TERMS[loss], **settings)  # type: ignore[arg-type]


def masks(**settings: object) -> ScratchNet:
    """The learner for whole masks: half cross-entropy, half Dice, one decoder."""
    return ScratchNet("alnb.losses.full:mask_loss", dual=False, **settings)  # type: ignore[arg-type]


def nearest(x: Tensor, height: int, width: int) -> Tensor:
    """(…, H, W) -> (…, height, width): the value under each new pixel's centre."""
    rows = ((torch.arange(height, device=x.device) + 0.5) * x.shape[-2] / height).long()
    columns = ((torch.arange(width, device=x.device) + 0.5) * x.shape[-1] / width).long()
    return x[..., rows[:, None], columns]


def _found(named: Any) -> Any:
    return pkgutil.resolve_name(named) if isinstance(named, str) else named


def _forward(
    net: DualUNet, images: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, ...]:
    dtype = fast_dtype(images.device)
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        outputs: tuple[Tensor, ...] = net(images, generator)
    return outputs


@dataclass(frozen=True)
class _Samples:
    """The training set on the device, stretched once; `rows` names an item `weight` times."""

    images: Tensor
    targets: Tensor
    rows: Rows
    queue: list[int] = field(default_factory=list)

    @classmethod
    def prepare(cls, train: TrainSet, learner: ScratchNet, device: torch.device) -> _Samples:
        drawn = [
            row
            for row, (target, weight) in enumerate(zip(train.targets, train.weight, strict=True))
            if weight > 0 and (target != IGNORE).any()
        ]
        if not drawn:
            raise ColdStart(f"None of the {len(train.targets)} training slices has a label.")
        size = learner.size
        images = [learner.square(torch.as_tensor(train.images[r])[None, None])[0] for r in drawn]
        targets = [nearest(torch.as_tensor(train.targets[r]), size, size) for r in drawn]
        return cls(
            torch.stack(images).to(device),
            torch.stack(targets).to(device),
            np.repeat(np.arange(len(drawn)), train.weight[drawn]),
        )

    def draw(self, batch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The next items of an endless shuffle: images (B, 1, S, S) and targets (B, S, S)."""
        while len(self.queue) < batch:
            self.queue.extend(rng.permutation(self.rows).tolist())
        index = torch.tensor(self.queue[:batch], device=self.images.device)
        del self.queue[:batch]
        return self.images[index], self.targets[index]
