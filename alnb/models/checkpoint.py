"""A learner's state as bytes and back: safetensors, which holds numbers and cannot run code."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from alnb.errors import BadInput


def to_bytes(state: Mapping[str, Tensor]) -> bytes:
    """The tensors of `state`; equal states give equal bytes, so a hash can name a checkpoint."""
    from safetensors.torch import save

    ordered = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    return bytes(save(ordered))


def from_bytes(content: bytes) -> dict[str, Tensor]:
    """The state that `to_bytes` was given; BadInput if the bytes are cut or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(content))
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadInput(
            f"This checkpoint of {len(content)} bytes is damaged ({error}). "
            "Use the one before it, or fit again; labels do not depend on it."
        ) from error
