"""Encoders: networks as `Encoder`s, and weights for them from what the user names; all offline."""

from __future__ import annotations

import hashlib
import itertools
import json
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from alnb.errors import BadInput
from alnb.models import checkpoint
from alnb.models.frame import rescale
from alnb.models.hardware import best_device, fast_dtype
from alnb.models.resnet import backbone, features
from alnb.records import Floats

Intensities = Literal["slice", "stored"]
"""What a network sees: "slice" scales each slice's 0.5th to 99.5th percentile to 0..1, so that
any scanner's units will do; "stored" takes the values as they are, which is for a cohort that was
normalised as a whole."""

Stem = Literal["sum", "random"]
"""First kernel from weights for colour images: their sum over the colours, which gives what the
colour network gives for a grey image, or drawn anew."""

_BATCH = 32
_MARK = "layer1.0.conv1.weight"
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def squares(
    images: Iterable[Floats], size: int | None, intensities: Intensities, device: torch.device
) -> Iterator[Tensor]:
    """Batches (B, 1, size, size) float32 of (H, W) images, in order; None keeps their own size.

    Images are stretched to the square, linearly and with smoothing where they shrink, as Vepa et
    al. 2024 do. Without a size a batch ends early where the size of the images changes.

    BadInput names the first image that is not 2-D, is empty or holds a value that is not finite.
    """
    numbers = itertools.count()
    checked = (_checked(next(numbers), image) for image in images)
    runs: Iterable[Iterable[NDArray[np.float32]]] = [checked]
    if size is None:
        runs = (run for _, run in itertools.groupby(checked, np.shape))
    for run in runs:
        while batch := list(itertools.islice(run, _BATCH)):
            parts = [
                _scaled(torch.from_numpy(np.stack(list(same))).to(device), size, intensities)
                for _, same in itertools.groupby(batch, np.shape)
            ]
            yield torch.cat(parts)


def _checked(number: int, image: Floats) -> NDArray[np.float32]:
    array = np.asarray(image, dtype=np.float32)
    if array.ndim != 2 or not array.size:
        raise BadInput(f"Image {number} has shape {array.shape}; it must be (H, W), not empty.")
    if not np.isfinite(array).all():
        raise BadInput(f"Image {number} holds values that are not finite; check its file.")
    return array


def _scaled(images: Tensor, size: int | None, intensities: Intensities) -> Tensor:
    batch = images[:, None]
    if size is not None:
        batch = functional.interpolate(
            batch, (size, size), mode="bilinear", antialias=max(images.shape[1:]) > size
        )
    return rescale(batch) if intensities == "slice" else batch


@dataclass(frozen=True, eq=False)
class MetricEncoder:
    """A ResNet-18 as an `Encoder`: its pooled output, D = 512 at full width, for whole slices.

    Attributes
    ----------
    net : (B, 1, size, size) -> (B, D), as `alnb.models.resnet.backbone` makes it.
    title : what it was trained for; part of the name.
    size, intensities : how slices are prepared, see `squares`.
    width : of the network.
    device : "cpu", "cuda", …; None takes the GPU if there is one.
    """

    net: nn.Module
    title: str
    size: int
    intensities: Intensities = "slice"
    width: float = 1.0
    device: str | None = None
    _device: torch.device = field(init=False, repr=False)

    def __post_init__(self) -> None:
        device = torch.device(self.device) if self.device else best_device()
        object.__setattr__(self, "_device", device)
        self.net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net.eval().requires_grad_(False)

    @cached_property
    def name(self) -> str:
        """Changes with the weights and with every setting that the features depend on."""
        return f"{self.title}-{self.size}-{hashlib.sha256(self.to_bytes()).hexdigest()[:12]}"

    def __call__(self, images: Iterable[Floats]) -> Floats:
        """(H, W) arrays of any sizes -> (N, D) float32, as pooled: rows are not of unit length.

        Streams: a few slices at a time are in memory. BadInput names the first image that is not
        2-D, is empty or holds a value that is not finite.
        """
        dtype = fast_dtype(self._device)
        rows = [np.empty((0, features(self.width)), dtype=np.float32)]
        for batch in squares(images, self.size, self.intensities, self._device):
            cast = torch.autocast(self._device.type, dtype, enabled=dtype is not None)
            with torch.no_grad(), cast:
                pooled = self.net(batch.contiguous(memory_format=torch.channels_last))
            rows.append(pooled.float().cpu().numpy())
        return np.concatenate(rows)

    def to_bytes(self) -> bytes:
        """Weights and settings, as safetensors; equal encoders give equal bytes."""
        state = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        return checkpoint.to_bytes({**state, "about": packed(self._about())})

    @classmethod
    def from_bytes(cls, data: bytes, *, device: str | None = None) -> MetricEncoder:
        """The encoder whose `to_bytes` this was; BadInput if the bytes are something else."""
        state = checkpoint.from_bytes(data)
        try:
            about = unpacked(state["about"])
            net = backbone(generator=torch.Generator(), width=about["width"])
            net.load_state_dict({n[4:]: v for n, v in state.items() if n.startswith("net.")})
            return cls(net, device=device, **about)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BadInput(
                f"These {len(data)} bytes hold no encoder of this version ({error}). "
                "Train it again; labels do not depend on it."
            ) from error

    def _about(self) -> dict[str, Any]:
        names = ("title", "size", "intensities", "width")
        return {name: getattr(self, name) for name in names}


class TensorEncoder:
    """Any function (B, 1, H, W) -> (B, D) as an `Encoder`, say a network from another package.

    Parameters
    ----------
    function : gets float32 batches on `device`, without gradients. A module is put into evaluation
        mode and moved there first. It sees one channel: a network for colours is given
        ``lambda x: net(normalise(x.expand(-1, 3, -1, -1)))``.
    name : tells these weights from others; features are cached by it and by the settings.
    size : side of the square that slices are stretched to; None gives each at its own size.
    normalise : whether rows are scaled to unit length.
    intensities : see `Intensities`.
    device : "cpu", "cuda", …; None takes the GPU if there is one.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        name: str,
        size: int | None,
        normalise: bool = False,
        *,
        intensities: Intensities = "slice",
        device: str | None = None,
    ) -> None:
        if size is not None and size < 1:
            raise BadInput(f"size is {size}; a slice needs at least 1 pixel, or None for its own.")
        self._device = torch.device(device) if device else best_device()
        self._function = function
        if isinstance(function, nn.Module):
            function.to(self._device).eval()
        self._size, self._normalise, self._intensities = size, normalise, intensities
        self._name = name

    @property
    def name(self) -> str:
        """The name given, and the settings that the features depend on."""
        unit = "-unit" if self._normalise else ""
        return f"{self._name}-{self._size or 'own'}-{self._intensities}{unit}"

    def __call__(self, images: Iterable[Floats]) -> Floats:
        """(H, W) arrays of any sizes -> (N, D) float32.

        BadInput names the first image that cannot be used, or says what the function gave instead
        of (B, D) finite numbers.
        """
        rows = [
            self._rows(batch)
            for batch in squares(images, self._size, self._intensities, self._device)
        ]
        widths = {part.shape[1] for part in rows}
        if len(widths) > 1:
            raise BadInput(
                f"{self._name} gave rows of lengths {sorted(widths)}. Pool its output over the "
                "image, or set a size."
            )
        return np.concatenate(rows) if rows else np.empty((0, 0), dtype=np.float32)

    def _rows(self, batch: Tensor) -> NDArray[np.float32]:
        with torch.no_grad():
            out = self._function(batch)
            if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(batch):
                what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise BadInput(
                    f"{self._name} gave {what} for {len(batch)} images; it must give (B, D)."
                )
            out = out.float()
            if not bool(out.isfinite().all()):
                raise BadInput(
                    f"{self._name} gave values that are not finite; check its weights and the "
                    "range of intensities that it expects."
                )
            return (functional.normalize(out) if self._normalise else out).cpu().numpy()


def pretrained(
    source: str | Path,
    *,
    size: int = 256,
    intensities: Intensities = "slice",
    device: str | None = None,
) -> MetricEncoder:
    """A frozen ResNet-18 with weights from `source`, see `load_weights`; nothing is trained."""
    net = backbone(generator=torch.Generator())
    fill(net, load_weights(source))
    return MetricEncoder(net, "pretrained", size, intensities, device=device)


def load_weights(source: str | Path) -> dict[str, Tensor]:
    """The tensors of a local file, or of what a function gives; nothing is ever downloaded here.

    source : a safetensors file, or one of ``torch.save`` that holds tensors alone (it is read
        without running code from it); or "package.module:function", which is called without
        arguments and gives a module or a mapping of names to tensors.

    BadInput if it is missing or holds no weights, with the way out.
    """
    text = str(source)
    if _FUNCTION.fullmatch(text) and not Path(text).exists():
        return _tensors(_called(text), text)
    path = Path(source).expanduser()
    if not path.is_file():
        raise BadInput(
            f"There is no file {text!r}. Weights are not downloaded: fetch the file yourself and "
            "give its path, or name a function as 'package.module:function'."
        )
    if path.suffix == ".safetensors":
        return _tensors(checkpoint.from_bytes(path.read_bytes()), path.name)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch documents no set of classes for a damaged file
        raise BadInput(
            f"{path.name} cannot be read as weights alone ({str(error).splitlines()[0][:200]}). "
            "Save the network's state_dict() as .safetensors or with torch.save."
        ) from error
    return _tensors(found, path.name)


def fill(net: nn.Module, weights: Mapping[str, Tensor], stem: Stem = "sum") -> None:
    """Put weights under torchvision's names into a `backbone`; a final layer is left out.

    A common prefix ("module.", "backbone.") is understood. `stem` says what becomes of a first
    kernel for several channels. BadInput names what is missing, foreign or of another shape.
    """
    prefix = next((name[: -len(_MARK)] for name in weights if name.endswith(_MARK)), None)
    if prefix is None:
        first = ", ".join(list(weights)[:3])
        raise BadInput(f"These are no weights of a ResNet: no {_MARK} among {first}, ….")
    given = {n[len(prefix) :]: v for n, v in weights.items() if n.startswith(prefix)}
    own = net.state_dict()
    new = {n: v for n, v in given.items() if not n.startswith("fc.")}
    kernel = new.get("conv1.weight")
    if stem == "random":
        new["conv1.weight"] = own["conv1.weight"]
    elif kernel is not None and kernel.ndim == 4:
        new["conv1.weight"] = kernel.sum(1, keepdim=True)
    for name in own:
        if name.endswith("num_batches_tracked"):
            new.setdefault(name, own[name])
    wrong = [f"{name} is missing" for name in own if name not in new]
    # another head than torchvision's may lie beside the layers, but nothing may lie inside them
    wrong += [f"{name} is foreign" for name in new if name not in own and name[:5] == "layer"]
    wrong += [
        f"{name} is {tuple(new[name].shape)} and must be {tuple(value.shape)}"
        for name, value in own.items()
        if name in new and new[name].shape != value.shape
    ]
    if wrong:
        raise BadInput(
            f"These weights do not fit a ResNet-18 of this width: {'; '.join(wrong[:3])}"
            f"{f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''}. "
            "Give those of a ResNet-18, and train at width 1."
        )
    net.load_state_dict({name: new[name] for name in own})


def packed(about: Mapping[str, Any]) -> Tensor:
    """Settings as a tensor of bytes, for a file that holds tensors alone."""
    return torch.tensor(list(json.dumps(dict(about), sort_keys=True).encode()), dtype=torch.uint8)


def unpacked(data: Tensor) -> dict[str, Any]:
    """What `packed` was given."""
    return dict(json.loads(bytes(data.tolist())))


def _called(text: str) -> object:
    try:
        function = pkgutil.resolve_name(text)
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"{text!r} cannot be found ({error}). Install its package, or check the spelling: "
            "'package.module:function'."
        ) from error
    return function()


def _tensors(found: object, where: str) -> dict[str, Tensor]:
    if isinstance(found, nn.Module):
        found = found.state_dict()
    if isinstance(found, Mapping):
        inner = found.get("state_dict", found.get("model", found))
        found = inner if isinstance(inner, Mapping) else found
        tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise BadInput(f"{where} holds no tensors by name; it must give the state of a network.")
