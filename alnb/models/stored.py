"""Stored networks: what their checkpoints have in common."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from alnb.errors import BadInput
from alnb.models.hardware import laid_out


def part(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """The entries whose names begin with `start`, without it."""
    return {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}


def refuse_others(theirs: Mapping[str, object], mine: Mapping[str, object]) -> None:
    """BadInput if a checkpoint was made with other settings than the learner's."""
    for name, value in mine.items():
        if theirs[name] != value:
            raise BadInput(
                f"This checkpoint was made with {name}={theirs[name]}, this learner has "
                f"{name}={value}. Build the learner with the checkpoint's value."
            )


def with_weights(net: nn.Module, state: Mapping[str, Tensor], device: torch.device) -> nn.Module:
    """`net` with the entries ``net.*`` of `state`, ready to predict on `device`.

    BadInput if they do not fit.
    """
    try:
        net.load_state_dict(part(state, "net."))
    except RuntimeError as error:
        raise BadInput(f"This checkpoint does not fit its own config: {error}") from error
    return laid_out(net.to(device)).eval()
