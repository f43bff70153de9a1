"""What this machine is good at: the device, the number format, the number of threads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_BLOCK = 2**16
_ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the hardware multiplies it natively, else None: stay with float32.

    An emulated bfloat16 is slower than float32, so "supported" is not enough.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type != "cpu":
        return None
    # older releases cannot say
    probe = getattr(torch.cpu, "get_capabilities", None)
    abilities: Mapping[str, object] = probe() if probe else {}
    native = abilities.get("amx_bf16") or abilities.get("avx512_bf16") or abilities.get("sve_bf16")
    return torch.bfloat16 if native else None


def channels_last(images: Tensor) -> Tensor:
    """(B, C, *S) in the memory order that convolutions of its dimension want."""
    return images.contiguous(memory_format=_ORDERS[images.dim()])


def laid_out(net: nn.Module) -> nn.Module:
    """`net` itself, its weights in the memory order that goes with `channels_last`."""
    solid = any(isinstance(module, nn.Conv3d) for module in net.modules())
    return net.to(memory_format=_ORDERS[4 + solid])  # type: ignore[call-overload,no-any-return]


def blocks(values: Tensor) -> Iterator[slice]:
    """Ranges of the first axis that keep a CPU's caches warm, some 64 thousand values each.

    Several steps in a row over large maps then wait for memory once, not in each step. On other
    devices everything is one range.
    """
    each = max(1, values[:1].numel())
    rows = max(1, _BLOCK // each) if values.device.type == "cpu" else max(1, len(values))
    return (slice(start, start + rows) for start in range(0, len(values), rows))


@contextmanager
def threads(count: int | None = None) -> Iterator[None]:
    """CPU threads for the block; by default all available cores but one, which stays for drawing.

    ``torch.set_num_threads`` holds for the calling thread, so this belongs inside a worker thread.
    A smaller number set from outside (OMP_NUM_THREADS) is respected by the default.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or min(before, max(1, _cores() - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    """Cores this process may use, which under a batch system are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
