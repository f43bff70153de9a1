"""A proposer in a few lines, which a test can hold up, break and count."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from alnb.records import IGNORE


@dataclass
class Grown:
    labels: np.ndarray
    confidence: np.ndarray


@dataclass
class Columns:
    """Every pixel takes the label drawn nearest in its row order: the last one drawn, all over.

    What is drawn stays. `gate` holds a proposal up while it is cleared; `fails` is raised.
    """

    fails: Exception | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    prepared: list = field(default_factory=list)
    proposed: list = field(default_factory=list)

    def __post_init__(self):
        self.gate.set()

    def prepare(self, image, features=None, prior=None):
        self.prepared.append((image, prior))
        return image, prior

    def propose(self, prepared, labels):
        self.proposed.append(labels.copy())
        self.begun.set()
        assert self.gate.wait(10)
        if self.fails is not None:
            raise self.fails
        known = labels[labels != IGNORE]
        if not known.size:
            return None
        grown = np.where(labels == IGNORE, known.max(), labels).astype(np.uint8)
        return Grown(grown, np.full(labels.shape, 0.5, np.float32))
