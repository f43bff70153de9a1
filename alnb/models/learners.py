"""Learners: what turns a training set into probabilities."""

from __future__ import annotations

import copy
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from alnb.errors import BadInput, ColdStart
from alnb.models.augment import Augment, apply
from alnb.models.dropout import Fixed, Fresh, dropping
from alnb.models.fit import Recipe, fit
from alnb.models.frame import Frame
from alnb.models.gradients import last_layer_gradients
from alnb.models.hardware import best_device, blocks, fast_dtype
from alnb.models.prior import with_far_background
from alnb.models.unet import CHANNELS, bottleneck, unet
from alnb.protocols import ignore, never
from alnb.records import IGNORE, FitReport, Step, TrainSet
from alnb.rng import torch_generator

if TYPE_CHECKING:
    from torch import Generator

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (B, C, H, W), target (B, H, W), whole (B,) bool) -> scalar."""


@dataclass(frozen=True)
class _Model:
    """One published network. Never edited, so any thread may run it while the next one trains."""

    net: nn.Module
    classes: int
    size: int
    channels: tuple[int, ...]
    residual_units: int
    masks: int = 0
    """Seed of what Monte Carlo passes drop; drawn by a fit with dropout."""

    @cached_property
    def ready(self) -> tuple[nn.Module, torch.dtype | None]:
        """The network to predict with, and what its input must be; None: leave that to autocast.

        On a CPU that multiplies bfloat16 the convolutions' weights are converted once, instead of
        by autocast in every call: the same numbers, an eighth faster on batches of 16 at 128².
        """
        device = next(self.net.parameters()).device
        dtype = fast_dtype(device)
        if device.type != "cpu" or dtype is None:
            return self.net, None
        net = copy.deepcopy(self.net)
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.to(dtype)
        return net, dtype

    @property
    def config(self) -> tuple[int, ...]:
        return (self.classes, self.size, self.residual_units, *self.channels)


@dataclass
class SingleNet:
    """One 2D U-Net over slices; learns from scribbles, masks and any mixture of the two.

    A fit trains a copy and publishes it in one assignment at its end: `probs` on another thread
    goes on with the model before it. A fit that was stopped before its end is published only if it
    continued an earlier model or there is none yet.

    Attributes
    ----------
    size : side of the square in which slices are learnt; None is 128 on a CPU, 192 on a GPU.
    steps : training steps; None is `interactive_steps` of the number of slices.
    start : "warm" continues from the weights of the fit before, "scratch" draws new ones.
    far_background : assume background outside the strokes' hull, see `with_far_background`.
    augment, recipe : random change of the training slices; batch size, rate and averaging.
    loss : `Loss`, or where to find one as "package.module:function".
    channels, residual_units : of the U-Net.
    dropout : rate per level of the encoder while it learns, such as `alnb.models.dropout.RATES`;
        predictions drop nothing, unless `MCDropout` makes them.
    device : "cpu", "cuda", …; None takes the GPU if there is one.
    """

    size: int | None = None
    steps: int | None = None
    start: Literal["warm", "scratch"] = "warm"
    far_background: bool = True
    augment: Augment = field(default_factory=Augment)
    recipe: Recipe = field(default_factory=Recipe)
    loss: str | Loss = "alnb.losses.mixed:mixed_loss"
    channels: tuple[int, ...] = CHANNELS
    residual_units: int = 2
    dropout: tuple[float, ...] = ()
    device: str | None = None
    unit: Literal["slice"] = field(default="slice", init=False)
    _model: _Model | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        step = 2 ** (len(self.channels) - 1)
        if self.size is not None and (self.size < 2 * step or self.size % step):
            raise ValueError(f"Size {self.size} must be a multiple of {step}, at least {2 * step}.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"A fit needs at least 1 step, not {self.steps}.")
        if self.start not in ("warm", "scratch"):
            raise ValueError(f"start is {self.start!r}; it can be 'warm' or 'scratch'.")

    @classmethod
    def patient(cls) -> SingleNet:
        """The settings for a benchmark that nobody waits for: 2000 steps, each from scratch."""
        return cls(steps=2000, start="scratch")

    def fit(
        self,
        train: TrainSet,
        *,
        rng: np.random.Generator,
        on_step: Callable[[Step], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> FitReport:
        """Learn from slices (H, W) of any sizes; `stopped` is honoured within one step.

        A slice without any labelled pixel takes no part: batch statistics would let it be heard.

        ColdStart if no pixel is labelled. FloatingPointError if it diverges before its first step.
        """
        course = self.course(train, rng=rng)
        course.advance(course.total, on_step=on_step, stopped=stopped)
        return course.end()

    def course(
        self, train: TrainSet, *, rng: np.random.Generator, like: Course | None = None
    ) -> Course:
        """A fit to be taken in turns. `like` is another course over the same training set.

        Its framed slices are then shared, as far as they are of the same kind.
        """
        before, device = self._model, self._device()
        warm = before is not None and self.start == "warm" and self._continues(before, train)
        model = self._copy(before) if warm and before is not None else self._fresh(train, rng)
        kind = (model.size, device, self.far_background)
        samples = (
            replace(like.samples, queue=[])
            if like is not None and like.kind == kind
            else _Samples.prepare(train, *kind)
        )
        generator = torch_generator(rng, device.type)
        drops = None
        if self.dropout:
            model = replace(model, masks=int(rng.integers(2**31)))
            drops = Fresh(torch_generator(rng, device.type))
        steps = self.steps or interactive_steps(len(train.images))
        return Course(self, model, warm, kind, samples, rng, generator, drops, steps)

    def probs(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (1, B, C, H, W) float32 at the images' own size, summing to 1 over C."""
        return probs(self.networks(), images)

    def log_probs(
        self, images: Iterable[Tensor], *, coarse: bool = False
    ) -> Iterator[Iterator[Tensor]]:
        """See `alnb.models.infer.member_log_probs`; this is a committee of one."""
        return log_probs(self.networks(), images, coarse=coarse)

    def networks(self) -> tuple[Network, ...]:
        """The published network, as the only member of a committee. ColdStart if there is none."""
        return (Network(self._published()),)

    def features(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (B, D) float32: the mean of the deepest activation over the slice."""
        model = self._published()
        return (_features(model, batch) for batch in images)

    def gradients(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (B, G) float32, see `last_layer_gradients`; the loss is at full size."""
        model = self._published()
        return (_gradients(model, batch) for batch in images)

    def state_dict(self) -> dict[str, Tensor]:
        """The published weights as ``net.*`` and the shape of the network as ``config``."""
        model = self._published()
        weights = {f"net.{name}": value for name, value in model.net.state_dict().items()}
        weights["config"] = torch.tensor(model.config)
        if self.dropout:
            weights["masks"] = torch.tensor(model.masks)
        return {name: value.detach().cpu().clone() for name, value in weights.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Publish a stored model. BadInput if it does not belong to a network of this shape."""
        if "config" not in state:
            raise BadInput("This checkpoint holds no SingleNet: it has no entry 'config'.")
        classes, size, units, *channels = (int(value) for value in state["config"])
        theirs = {"size": size, "channels": tuple(channels), "residual_units": units}
        mine = {"channels": self.channels, "residual_units": self.residual_units}
        mine |= {} if self.size is None else {"size": self.size}
        for name, value in mine.items():
            if theirs[name] != value:
                raise BadInput(
                    f"This checkpoint was made with {name}={theirs[name]}, this learner has "
                    f"{name}={value}. Build the learner with the checkpoint's value."
                )
        # the weights drawn here are all replaced by the stored ones
        net = unet(
            classes,
            generator=torch.Generator(),
            channels=self.channels,
            residual_units=self.residual_units,
            dropout=self.dropout,
        )
        weights = {name[4:]: value for name, value in state.items() if name.startswith("net.")}
        try:
            net.load_state_dict(weights)
        except RuntimeError as error:
            raise BadInput(f"This checkpoint does not fit its own config: {error}") from error
        net = net.to(self._device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
        masks = int(state.get("masks", 0))
        self._model = _Model(net.eval(), classes, size, self.channels, self.residual_units, masks)

    def _device(self) -> torch.device:
        return torch.device(self.device) if self.device else best_device()

    def _loss(self) -> Loss:
        found: Loss = pkgutil.resolve_name(self.loss) if isinstance(self.loss, str) else self.loss
        return found

    def _continues(self, before: _Model, train: TrainSet) -> bool:
        return before.classes == train.classes and self.size in (None, before.size)

    def _copy(self, before: _Model) -> _Model:
        return replace(before, net=copy.deepcopy(before.net))

    def _fresh(self, train: TrainSet, rng: np.random.Generator) -> _Model:
        size = self.size or (192 if self._device().type == "cuda" else 128)
        net = unet(
            train.classes,
            generator=torch_generator(rng),
            channels=self.channels,
            residual_units=self.residual_units,
            dropout=self.dropout,
        )
        return _Model(net, train.classes, size, self.channels, self.residual_units)

    def _publish(self, model: _Model, report: FitReport, *, warm: bool) -> FitReport:
        if report.steps and (warm or self._model is None or not report.stopped):
            self._model = model
            return report
        if not report.steps and not report.stopped:
            raise FloatingPointError(
                f"{' '.join(report.notes)} Nothing was learnt. Check the images and the loss."
            )
        kept = "the model before it is kept" if self._model else "there is no model yet"
        note = f"Stopped after {report.steps} steps: {kept}."
        return replace(report, notes=(*report.notes, note))

    def _published(self) -> _Model:
        if self._model is None:
            raise ColdStart("SingleNet has learnt nothing yet. Label a few slices, then fit.")
        return self._model


def interactive_steps(slices: int) -> int:
    """Steps of a fit that a person waits for: 300 to 600, about 30 to 60 s on one CPU core.

    Scribbled ACDC slices, test Dice: 22 slices gave .61, .72, .73 after 200, 400, 800 steps, 55
    slices .70, .75 after 400, 800.
    """
    return int(np.clip(300 + 5 * slices, 300, 600))


@dataclass(eq=False)
class Course:
    """One fit of a `SingleNet`, taken in as many turns as one likes: bit for bit the same fit.

    Made by `SingleNet.course`. `done` of `total` steps are taken; `over` when no other will be.
    """

    learner: SingleNet
    model: _Model
    warm: bool
    kind: tuple[int, torch.device, bool]
    samples: _Samples
    rng: np.random.Generator
    generator: Generator
    drops: Fresh | None
    total: int
    done: int = field(default=0, init=False)
    over: bool = field(default=False, init=False)
    report: FitReport = field(default_factory=lambda: FitReport(0, float("nan"), 0.0), init=False)
    _state: dict[str, Tensor] | None = field(default=None, init=False, repr=False)

    def advance(
        self,
        steps: int,
        *,
        on_step: Callable[[Step], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> None:
        """Take up to `steps` further steps; asked to stop, the course is over."""
        goal, asked = min(self.total, self.done + steps), False

        def step(taken: Step) -> None:
            self.done = taken.step
            on_step(taken)

        def paused() -> bool:
            nonlocal asked
            if self.done < goal:
                asked = stopped()
            return asked or self.done >= goal

        with dropping(self.drops):
            report = fit(
                self.model.net.to(self.kind[1]),
                lambda batch: self.samples.draw(
                    batch, self.learner.augment, self.rng, self.generator
                ),
                self.learner._loss(),
                steps=self.total,
                recipe=self.learner.recipe,
                on_step=step,
                stopped=paused,
                resume=self._state,
                keep=ignore if goal == self.total else self._keep,
            )
        notes = (*self.report.notes, *report.notes)
        self.report = replace(report, stopped=asked, notes=notes)
        self.over = asked or self.done < goal or self.done == self.total

    def end(self) -> FitReport:
        """Publish what was learnt, by the rules of `SingleNet.fit`."""
        return self.learner._publish(self.model, self.report, warm=self.warm)

    def _keep(self, state: dict[str, Tensor]) -> None:
        self._state = {name: value.clone() for name, value in state.items()}


@dataclass(frozen=True)
class _Samples:
    """The training set on the device, framed once: images, targets, and which are whole masks.

    `rows` names each item as often as it was chosen, so weight 2 is the item twice.
    """

    images: Tensor
    targets: Tensor
    whole: Tensor
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    queue: list[int] = field(default_factory=list)

    @classmethod
    def prepare(
        cls, train: TrainSet, size: int, device: torch.device, far_background: bool
    ) -> _Samples:
        drawn = [
            row
            for row, (target, weight) in enumerate(zip(train.targets, train.weight, strict=True))
            if weight > 0 and (target != IGNORE).any()
        ]
        if not drawn:
            raise ColdStart(f"None of the {len(train.targets)} training slices has a label.")
        images, targets, whole = [], [], []
        for row in drawn:
            image, target = train.images[row], train.targets[row]
            frame = Frame(target.shape[0], target.shape[1], size)
            known = bool((target != IGNORE).all())
            label = frame.target(target)
            images.append(frame.images(torch.as_tensor(image)[None, None])[0])
            targets.append(with_far_background(label) if far_background and not known else label)
            whole.append(known)
        return cls(
            torch.stack(images).to(device),
            torch.from_numpy(np.stack(targets)).to(device),
            torch.tensor(whole),
            np.repeat(np.arange(len(drawn)), train.weight[drawn]),
        )

    def draw(
        self, batch: int, augment: Augment, rng: np.random.Generator, generator: Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next items of an endless shuffle, augmented: images, targets and whole."""
        while len(self.queue) < batch:
            self.queue.extend(rng.permutation(self.rows).tolist())
        rows = torch.tensor(self.queue[:batch])
        del self.queue[:batch]
        index = rows.to(self.images.device)
        images, targets = self.images[index], self.targets[index]
        change = augment.draw(tuple(images.shape), generator)  # type: ignore[arg-type]
        return *apply(images, targets, change), self.whole[rows].to(index.device)


@dataclass(frozen=True)
class Network:
    """One member of a committee, a function of the image alone; thinned if `drops` is given."""

    model: _Model
    drops: Fixed | None = None

    @property
    def kind(self) -> tuple[int, torch.device]:
        """Networks of one kind see a slice in the same frame, on the same device."""
        return self.model.size, next(self.model.net.parameters()).device

    @torch.no_grad()
    def probs(self, frame: Frame, framed: Tensor) -> Tensor:
        """(B, 1, S, S) that `frame` made -> (B, C, H, W) float32, at the slices' own size."""
        return frame.logits(_plain(self._logits(framed))).softmax(1)

    @torch.no_grad()
    def log_probs(self, frame: Frame, framed: Tensor, *, coarse: bool) -> Tensor:
        """The logarithms of `probs`; if `coarse`, on the network's grid instead."""
        logits = self._logits(framed)
        height, width = frame.inner if coarse else (frame.height, frame.width)
        logs = torch.empty((*logits.shape[:2], height, width), device=logits.device)
        for some in blocks(logs):
            part = _plain(logits[some])
            part = frame.inside(part) if coarse else frame.logits(part)
            torch.log_softmax(part, 1, out=logs[some])
        return logs

    def _logits(self, framed: Tensor) -> Tensor:
        net, dtype = self.model.ready
        with dropping(self.drops), _fast(framed.device) if dtype is None else nullcontext():
            logits: Tensor = net(framed if dtype is None else framed.to(dtype))
        return logits


def _plain(logits: Tensor) -> Tensor:
    """In float32, channels first; otherwise resampling and softmax take far longer on a CPU."""
    return torch.empty(logits.shape, device=logits.device).copy_(logits)


def probs(networks: Sequence[Network], images: Iterable[Tensor]) -> Iterator[Tensor]:
    """(B, 1, H, W) -> (M, B, C, H, W) float32, summing to 1 over C, on the images' device."""
    for batch in images:
        members = [network.probs(*given) for network, given in _framed(networks, batch)]
        yield torch.stack([member.to(batch.device) for member in members])


def log_probs(
    networks: Sequence[Network], images: Iterable[Tensor], *, coarse: bool = False
) -> Iterator[Iterator[Tensor]]:
    """Per batch, each network's (B, C, H, W) log-probabilities, on the networks' device.

    If `coarse`, H and W are the slice's on the network's grid.
    """
    return (
        (network.log_probs(*given, coarse=coarse) for network, given in _framed(networks, batch))
        for batch in images
    )


def _framed(
    networks: Sequence[Network], batch: Tensor
) -> Iterator[tuple[Network, tuple[Frame, Tensor]]]:
    """Each network with its frame and the batch in it, made once for all of a kind."""
    framed: dict[tuple[int, torch.device], tuple[Frame, Tensor]] = {}
    for network in networks:
        size, device = kind = network.kind
        if kind not in framed:
            frame = Frame(int(batch.shape[2]), int(batch.shape[3]), size)
            square = frame.images(batch.to(device))
            framed[kind] = frame, square.contiguous(memory_format=torch.channels_last)
        yield network, framed[kind]


@torch.no_grad()
def _features(model: _Model, batch: Tensor) -> Tensor:
    frame = Frame(int(batch.shape[2]), int(batch.shape[3]), model.size)
    deepest = _run(model, frame, batch, lambda images: bottleneck(model.net, images))
    return deepest.float().mean((2, 3)).to(batch.device)


def _gradients(model: _Model, batch: Tensor) -> Tensor:
    frame = Frame(int(batch.shape[2]), int(batch.shape[3]), model.size)
    device = next(model.net.parameters()).device
    found = last_layer_gradients(
        model.net, frame.images(batch.to(device)), lambda net, x: frame.logits(net(x))
    )
    return found.to(batch.device)


def _run(model: _Model, frame: Frame, batch: Tensor, net: Callable[[Tensor], Tensor]) -> Tensor:
    device = next(model.net.parameters()).device
    with _fast(device):
        return net(frame.images(batch.to(device)).contiguous(memory_format=torch.channels_last))


def _fast(device: torch.device) -> torch.autocast:
    dtype = fast_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
