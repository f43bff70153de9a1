"""How much memory is left, and how much some work needs at its worst moment."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_UNLIMITED = 2**60
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that may still be taken on `device`; None where the system does not say.

    On a CPU the least of what the machine has available and what the process's control group, as of
    a container or a batch job, leaves it. File caches that can be dropped count as free.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + int(kept)
    if device.type != "cpu":
        return None
    found = [_available(Path("/proc/meminfo")), *_groups(Path("/proc/self/cgroup"))]
    known = [value for value in found if value is not None]
    return min(known) if known else None


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:  # not Linux
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _groups(membership: Path, mount: Path = Path("/sys/fs/cgroup")) -> Iterator[int | None]:
    """What each control group that the process is in, up to the root, has left."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root = mount / kinds if kinds else mount
        folder = root / path.strip("/")
        # inside a container the path may be that of the host; its root is then the group itself
        for place in (folder, *folder.parents):
            if place == root or root in place.parents:
                yield _left(place)


def _left(group: Path) -> int | None:
    for most, used, dropped in _CGROUP_FILES:
        try:
            limit, usage = (group / most).read_text().strip(), int((group / used).read_text())
            stat = (group / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):
            continue
        if not limit.isdigit() or int(limit) >= _UNLIMITED:
            return None
        cache = sum(int(line.split()[1]) for line in stat if line.split()[0] == dropped)
        return max(0, int(limit) - usage + cache)
    return None


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, on its thread, adds up the bytes of the tensors that operations make.

    `peak` is the largest sum so far. Scratch space inside a kernel is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation, then count the storages that it made."""
        given = {x.untyped_storage()._cdata for x in tree_leaves(args) if _real(x)}
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if _real(value):
                storage = value.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self._seen:
                    self._count(storage)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


@contextmanager
def peak_bytes(device: torch.device) -> Iterator[Callable[[], int]]:
    """Gives a function that says by how much memory has grown at the worst moment of the block."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: int(torch.cuda.max_memory_allocated(device)) - before
    else:
        with Peak() as mode:
            yield lambda: mode.peak


def _real(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type != "meta"
