"""The learner of a session: one 2D U-Net, or two where the structures fill a part of the slice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from alnb.errors import BadInput, ColdStart
from alnb.models.augment import Augment
from alnb.models.course import Course, Loss, found_loss, outcome
from alnb.models.dropout import Fresh
from alnb.models.fit import Recipe
from alnb.models.hardware import best_device
from alnb.models.network import Model, Network, features, gradients, log_probs, probs
from alnb.models.prior import NEARER
from alnb.models.samples import Kind, Samples
from alnb.models.stored import part, refuse_others, with_weights
from alnb.models.unet import CHANNELS, unet
from alnb.models.window import Window
from alnb.protocols import ignore, never
from alnb.records import FitReport, Step, TrainSet
from alnb.rng import torch_generator

BOLD = Augment(rotate=45.0, scale=1.4, warp=0.02, gamma=2.0, noise=0.1)
"""Strong changes: a few slices are soon known by heart."""
FAST = Recipe(rate=1e-2)
"""A high rate, which forgets what is particular to a slice."""
SCOUT = 64
"""Side of the square in which the scout sees a whole slice."""


@dataclass
class SingleNet:
    """One 2D U-Net over slices; learns from scribbles, masks and any mixture of the two.

    A fit trains a copy and publishes it in one assignment at its end: `probs` on another thread
    goes on with the model before it. A fit that was stopped before its end is published only if it
    continued an earlier model or there is none yet.

    Attributes
    ----------
    size : side of the square in which slices are learnt; None is 128 on a CPU and 192 on a GPU,
        for a window 96 and 160.
    window : look only at the part of a slice that holds the structures, which a small network, the
        scout, finds first. It is made where the strokes say that it pays, see `Window.around`.
    scout_steps : training steps of the scout, which come on top of `steps`: of its first fit, and
        of one that continues.
    steps : training steps; None is `interactive_steps` of the number of slices.
    start : "warm" continues from the weights of the fit before, "scratch" draws new ones.
    far_background : assume background outside the strokes' hull, see `with_far_background`.
    near_background : assume background where its strokes are nearer than others by this factor, see
        `with_near_background`; 0 does not.
    augment, recipe : random change of the training slices; batch size, rate and averaging.
    loss : `Loss`, or where to find one as "package.module:function".
    channels, residual_units : of the U-Net.
    dropout : rate per level of the encoder while it learns, such as `alnb.models.dropout.RATES`;
        predictions drop nothing, unless `MCDropout` makes them.
    device : "cpu", "cuda", …; None takes the GPU if there is one.
    """

    size: int | None = None
    window: bool = True
    scout_steps: tuple[int, int] = (300, 100)
    steps: int | None = None
    start: Literal["warm", "scratch"] = "warm"
    far_background: bool = True
    near_background: float = NEARER
    augment: Augment = BOLD
    recipe: Recipe = FAST
    loss: str | Loss = "alnb.losses.mixed:mixed_loss"
    channels: tuple[int, ...] = CHANNELS
    residual_units: int = 2
    dropout: tuple[float, ...] = ()
    device: str | None = None
    unit: Literal["slice"] = field(default="slice", init=False)
    _model: Model | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        step = 2 ** (len(self.channels) - 1)
        if self.size is not None and (self.size < 2 * step or self.size % step):
            raise ValueError(f"Size {self.size} must be a multiple of {step}, at least {2 * step}.")
        if min(self.scout_steps if self.steps is None else (self.steps, *self.scout_steps)) < 1:
            raise ValueError(
                f"A fit needs at least 1 step, not {self.steps}; a scout's, not {self.scout_steps}."
            )
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
        before, device = self._before(train), self._device()
        window = self._window(train, before)
        size = self._size(window)
        if before is not None:
            # the weights do for any size; the scout's are replaced at the end of its own course
            net = copy.deepcopy(before.net)
            model = replace(before, net=net, size=size, window=window, scout=None)
        else:
            net = self._unet(train.classes, torch_generator(rng))
            shape = self.channels, self.residual_units
            model = Model(net, train.classes, size, *shape, window=window)
        kind = Kind(size, device, self.far_background, self.near_background, window)
        mine = like.samples if like is not None else None
        samples = (
            mine.again()
            if isinstance(mine, Samples) and mine.kind == kind
            else Samples.prepare(train, kind)
        )
        scout = None
        if window is not None:
            base = self._scout(before)
            scout = base.course(train, rng=rng, like=None if like is None else like.scout)
        generator = torch_generator(rng, device.type)
        drops = None
        if self.dropout:
            model = replace(model, masks=int(rng.integers(2**31)))
            drops = Fresh(torch_generator(rng, device.type))
        steps = self.steps or interactive_steps(len(train.images))
        warm = before is not None
        return Course(self, model, warm, samples, rng, generator, drops, steps, scout)

    def searches(self, train: TrainSet) -> int:
        """Steps that a fit would take before its own to find the structures; 0 if it need not."""
        before = self._before(train)
        first, later = self.scout_steps
        if self._window(train, before) is None:
            return 0
        return first if before is None or before.scout is None else later

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
        return (features(model, batch) for batch in images)

    def gradients(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 1, H, W) -> (B, G) float32, see `last_layer_gradients`; the loss is at full size."""
        model = self._published()
        return (gradients(model, batch) for batch in images)

    def state_dict(self) -> dict[str, Tensor]:
        """The published weights as ``net.*`` and the shape of the network as ``config``."""
        model = self._published()
        weights = {f"net.{name}": value for name, value in model.net.state_dict().items()}
        weights["config"] = torch.tensor(model.config)
        if self.dropout:
            weights["masks"] = torch.tensor(model.masks)
        if model.window is not None and model.scout is not None:
            window = model.window
            weights["window"] = torch.tensor(
                [window.side, window.row, window.col], dtype=torch.float64
            )
            theirs = self._scout(model).state_dict()
            weights |= {f"scout.{name}": value for name, value in theirs.items()}
        return {name: value.detach().cpu().clone() for name, value in weights.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Publish a stored model. BadInput if it does not belong to a network of this shape."""
        if "config" not in state:
            raise BadInput("This checkpoint holds no SingleNet: it has no entry 'config'.")
        classes, size, units, *channels = (int(value) for value in state["config"])
        theirs = {"size": size, "channels": tuple(channels), "residual_units": units}
        mine = {"channels": self.channels, "residual_units": self.residual_units}
        mine |= {} if self.size is None else {"size": self.size}
        refuse_others(theirs, mine)
        # the weights drawn here are all replaced by the stored ones
        net = with_weights(self._unet(classes, torch.Generator()), state, self._device())
        window, scout = None, None
        if "window" in state:
            side, row, col = state["window"].tolist()
            window = Window(side, row, col, size)
            finder = self._scout(None)
            finder.load_state_dict(part(state, "scout."))
            scout = finder._published()
        masks = int(state.get("masks", 0))
        shape = self.channels, self.residual_units
        self._model = Model(net, classes, size, *shape, masks, window, scout)

    def _device(self) -> torch.device:
        return torch.device(self.device) if self.device else best_device()

    def _loss(self) -> Loss:
        return found_loss(self.loss)

    def _before(self, train: TrainSet) -> Model | None:
        """The published model if a fit would go on from it."""
        model = self._model
        if model is None or self.start == "scratch" or model.classes != train.classes:
            return None
        return model if self.size in (None, model.size) else None

    def _window(self, train: TrainSet, before: Model | None) -> Window | None:
        """Where to look; the window of the model that goes on is kept while it does."""
        if not self.window:
            return None
        size = self.size or (160 if self._device().type == "cuda" else 96)
        # weight 2 is the slice twice
        rows = np.repeat(np.arange(len(train.targets)), train.weight)
        window = Window.around((train.targets[row] for row in rows), size)
        kept = before.window if before is not None else None
        return kept if kept is not None and window is not None and kept.holds(window) else window

    def _size(self, window: Window | None) -> int:
        if window is not None:
            return window.size
        return self.size or (192 if self._device().type == "cuda" else 128)

    def _scout(self, model: Model | None) -> SingleNet:
        """The learner of a model's scout, which sees whole slices and has a level less."""
        scout = replace(
            self,
            size=SCOUT,
            window=False,
            channels=self.channels[: max(2, len(CHANNELS) - 1)],
            dropout=(),
        )
        scout._model = None if model is None else model.scout
        scout.steps = self.scout_steps[scout._model is not None]
        return scout

    def _unet(self, classes: int, generator: torch.Generator) -> nn.Module:
        return unet(
            classes,
            generator=generator,
            channels=self.channels,
            residual_units=self.residual_units,
            dropout=self.dropout,
        )

    def _publish(self, model: Model, report: FitReport, *, warm: bool) -> FitReport:
        kept, report = outcome("model", report, warm=warm, before=self._model is not None)
        if kept:
            self._model = model
        return report

    def _published(self) -> Model:
        if self._model is None:
            raise ColdStart("SingleNet has learnt nothing yet. Label a few slices, then fit.")
        return self._model


def interactive_steps(slices: int) -> int:
    """Steps of a fit that a person waits for: 300 to 600, the scout's not counted."""
    return int(np.clip(300 + 5 * slices, 300, 600))
