"""CoreGCN: a graph network learns to tell labelled slices from others; k-center on what it learns.

Source: Caramalau, Bhattarai and Kim, "Sequential graph convolutional network for active learning",
CVPR 2021, arXiv 2006.10219.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alnb.errors import ColdStart
from alnb.protocols import Snapshot
from alnb.records import Floats, Selection
from alnb.rng import torch_generator
from alnb.strategies.common import as_asked, candidates_for, in_order, made_once
from alnb.strategies.coreset import k_center

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, eq=False)
class Similarity:
    """The graph's matrix A = S diag(1 / c) + I, as products with the features that it is made of.

    S is the cosine of each pair, 0 on the diagonal, and c its column sums. With rows X of length 1
    (or 0), S = X X^T - diag(|x|^2), so that A h costs O(N D) for a column h, and no N x N matrix
    is ever formed.

    A column sum below `floor` counts as that. Cosines can cancel, and a node whose sum is nearly 0
    would outweigh all others; with 1 no neighbour weighs more than a node itself does.
    """

    x: Tensor
    own: Tensor
    sums: Tensor

    @classmethod
    def of(cls, features: Tensor, *, floor: float = 1.0) -> Similarity:
        """From (N, D) features."""
        length = features.norm(dim=1, keepdim=True)
        x = features / length.masked_fill(length == 0, 1.0)
        own = (x * x).sum(dim=1, keepdim=True)
        sums = x @ x.sum(dim=0)[:, None] - own
        return cls(x, own, sums.clamp_min(floor))

    def __matmul__(self, h: Tensor) -> Tensor:
        """A h for (N, F)."""
        share = h / self.sums
        return self.x @ (self.x.T @ share) - self.own * share + h


def graph_features(
    features: Floats,
    labelled: NDArray[np.bool_],
    *,
    rng: np.random.Generator,
    hidden: int = 128,
    dropout: float = 0.3,
    steps: int = 200,
    rate: float = 1e-3,
    decay: float = 5e-4,
    balance: float = 1.2,
    device: str | None = None,
) -> Floats:
    """(N, hidden) first-layer activations of a trained two-layer graph network.

    s = sigmoid(A relu(A X W1 + b1) W2 + b2), trained to be 1 on `labelled` rows and 0 on others:
    the loss is -mean ln s over the former - `balance` mean ln(1 - s) over the latter, by Adam.
    """
    import torch
    from torch.nn import functional

    from alnb.models.hardware import best_device

    where = torch.device(device) if device else best_device()
    generator = torch_generator(rng)
    wide = torch.from_numpy(np.asarray(features, dtype=np.float64)).to(where)
    graph = Similarity.of(wide)
    # the inputs never change, so that their products with A are formed once, in double precision
    inputs = (graph @ graph.x).float()
    graph = Similarity(graph.x.float(), graph.own.float(), graph.sums.float())
    mask = torch.from_numpy(labelled).to(where)

    parameters = [
        _uniform(shape, bound, generator).to(where).requires_grad_()
        for shape, bound in (
            ((inputs.shape[1], hidden), hidden**-0.5),
            ((hidden,), hidden**-0.5),
            ((hidden, 1), 1.0),
            ((1,), 1.0),
        )
    ]
    first, first_bias, second, second_bias = parameters
    optimiser = torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    chance = torch_generator(rng, where.type)
    for _ in range(steps):
        activations = (inputs @ first + first_bias).relu()
        kept = torch.rand(activations.shape, generator=chance, device=where) >= dropout
        logits = graph @ ((activations * kept / (1 - dropout)) @ second) + second_bias
        loss = functional.softplus(-logits[mask]).mean()
        if not bool(mask.all()):
            loss = loss + balance * functional.softplus(logits[~mask]).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        found: Floats = (inputs @ first + first_bias).relu().cpu().numpy()
    return found


@dataclass(frozen=True)
class CoreGCN:
    """Farthest-first over the hidden features of a graph network trained on labelled or not.

    Nodes are all rows of the pool with the fitted learner's pooled features; constants are those
    published. Labelled rows are the centres of the k-center that follows.

    Where the authors' code differs: it draws a subset of 10 000 rows and, in a later reuse of it,
    returns positions in that subset as if they were rows; here nodes are rows from end to end. It
    holds the N x N matrix, see `Similarity`, and adds a guard to logarithms that softplus does not
    need.

    Cost: a forward pass over the pool, 200 steps of O(N D hidden), and the k-center, O(n N hidden).
    ColdStart until a model is fitted and something is labelled. Chance draws weights and dropout.
    The score is the distance to the nearest centre.
    """

    hidden: int = 128
    dropout: float = 0.3
    steps: int = 200
    rate: float = 1e-3
    decay: float = 5e-4
    balance: float = 1.2
    device: str | None = None

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.steps < 0:
            raise ValueError(
                f"hidden is {self.hidden} and steps {self.steps}; they must be at least 1 and 0."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates in farthest-first order; scores are distances."""
        candidates = candidates_for(snapshot, n)
        features = made_once(snapshot, self, lambda: self._features(as_asked(snapshot), rng))
        cover = k_center(features, centres=snapshot.labelled, candidates=candidates, n=n)
        return Selection(rows=cover.rows, scores=cover.distances)

    def _features(self, snapshot: Snapshot, rng: np.random.Generator) -> Floats:
        order = in_order(snapshot.pool, np.arange(len(snapshot.pool)))
        labelled = np.isin(order, snapshot.labelled)
        if not labelled.any():
            raise ColdStart(
                "CoreGCN learns to tell labelled slices from others, and none is labelled. Wrap "
                "it: WarmStart(Strided(), CoreGCN())."
            )
        found = np.empty((len(order), self.hidden), dtype=np.float32)
        found[order] = graph_features(
            snapshot.learned(order),
            labelled,
            rng=rng,
            hidden=self.hidden,
            dropout=self.dropout,
            steps=self.steps,
            rate=self.rate,
            decay=self.decay,
            balance=self.balance,
            device=self.device,
        )
        return found


def _uniform(shape: tuple[int, ...], bound: float, generator: Generator) -> Tensor:
    import torch

    return (2 * torch.rand(shape, generator=generator) - 1) * bound
