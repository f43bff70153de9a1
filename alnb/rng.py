"""Randomness as an argument: independent streams derived from a seed and a path."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Generator


def stream(seed: int, *path: str | int) -> np.random.Generator:
    """A generator that depends on `seed` and `path` alone.

    ``stream(0, "query", 3)`` is the same in every process and version, and adding a consumer with
    another path shifts nobody else's numbers. The path is hashed with SHA-256, because Python's
    ``hash`` differs from one process to the next.
    """
    key = "/".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in path)])
    words = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype=np.uint32)
    return np.random.default_rng(np.random.SeedSequence([int(word) for word in words]))


def torch_generator(rng: np.random.Generator, device: str = "cpu") -> Generator:
    """A torch generator on `device`, seeded by one draw from `rng` (which advances)."""
    import torch

    generator = torch.Generator(device=device)
    generator.manual_seed(int(rng.integers(2**63 - 1)))
    return generator
