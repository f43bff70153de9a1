"""ClaSP PE: class-stratified, scheduled, power-noised predictive entropy.

Source: Lüth, Traub et al., "Finally outshining the random baseline: a simple and effective solution
for active learning in 3D biomedical imaging", TMLR 2026, arXiv 2601.13677, where units are 3D
patches; here they are rows: slices, or volumes.

Of the members' mean p and its entropy PE, each row has C scores, means over its pixels:

- A_c = mean p_c PE for each foreground class c = 1..C-1: how unsure the model is where it sees c;
- A_0 = mean PE, without regard to classes.

Of n rows, floor(0.66 n) are shared out among the foreground classes, evenly, and a remainder goes
to classes drawn at random, one each. The others are chosen by A_0. Classes take their rows in a
random order, then A_0 takes its own, each the largest of ln A_c + Gumbel(0, 1/beta) that are not
taken yet; the noise is independent per class and row (see `alnb.strategies.power`). The batch is
then mixed, so that whoever stops early has seen every share of it.

beta grows with the queries, from variety to exploitation: 100^(t / (T-1)) in a plan of T trainings,
t = 0 at the first query with a model. T trainings make T - 1 queries, so that 100 itself is reached
only by a session that goes on beyond its plan, and is held from there.

Deviations. Public code keeps a limited number of units per image and class before it chooses, and
lets them block others even if they are not chosen in the end; here the choice is made over all
candidates at once. Which goes first, classes or A_0, and the form of the sigmoid schedule (an
ablation of the paper) are assumed.

Cost: one pass of the model over the candidates, and O(C K log K). Cold start: ColdStart until a
model is fitted. The source begins with a foreground-random set that holds every class at least
twice: ``WarmStart(ForegroundRandom(), ClaspPE())`` in a simulated experiment. In a live session
nobody knows yet where foreground is; begin with `Strided`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from alnb.errors import BadSelection
from alnb.protocols import Snapshot
from alnb.records import Floats, Rows, Selection
from alnb.strategies.common import candidates_for
from alnb.strategies.power import gumbel_order, log_power
from alnb.strategies.streaming import Sums, entropy_of, streams, summed

if TYPE_CHECKING:
    from torch import Tensor

Schedule = Literal["exp", "sigmoid", "constant"]

_STEEP = 10.0
"""Slope of the sigmoid schedule in its middle: it climbs mainly in the middle third of the plan."""


@streams("mean")
def class_scores(probs: Tensor | Sums) -> Tensor:
    """(M, B, C, H, W) -> (B, C): mean entropy, and per foreground class that weighted by p_c."""
    import torch

    weight = summed(probs).mean
    unsure = entropy_of(weight)
    weight = torch.cat([torch.ones_like(weight[:, :1]), weight[:, 1:]], dim=1)
    return (weight * unsure[:, None]).flatten(2).mean(dim=2)


def beta_at(
    t: int,
    trainings: int,
    schedule: Schedule = "exp",
    *,
    first: float = 1.0,
    last: float = 100.0,
) -> float:
    """beta of query t = 0, 1, ... in a plan of `trainings`: first (last / first)^s.

    The progress s goes from 0 at t = 0 to 1 at t = trainings - 1 and stays there. It is
    t / (trainings - 1) for "exp", its logistic curve rescaled to the same ends for "sigmoid", and
    0 for "constant". A plan of one training has s = 0.
    """
    if schedule == "constant" or trainings == 1:
        return first
    x = min(t / (trainings - 1), 1.0)
    if schedule == "sigmoid":
        # tanh is the logistic function of twice its argument, moved and stretched to -1..1.
        x = 0.5 + 0.5 * math.tanh(_STEEP / 2 * (x - 0.5)) / math.tanh(_STEEP / 4)
    return float(first * (last / first) ** x)


def quotas(n: int, classes: int, share: float = 0.66, *, rng: np.random.Generator) -> Rows:
    """(C,) how many rows each class may take, and at 0 how many are chosen without classes.

    floor(share n) are shared out among the C - 1 foreground classes; a remainder is given to
    classes drawn from `rng`, one each. They sum to n.
    """
    foreground = classes - 1
    # A product such as 0.29 x 100 falls short of the whole number it stands for.
    stratified = math.floor(share * n + 1e-9) if foreground else 0
    each, left = divmod(stratified, max(foreground, 1))
    quota = np.full(classes, each, dtype=np.int64)
    quota[0] = n - stratified
    quota[1 + rng.choice(foreground, size=left, replace=False)] += 1
    return quota


def stratified_picks(
    scores: Floats, quota: Rows, beta: float, *, rng: np.random.Generator
) -> tuple[Rows, Rows]:
    """Positions 0..K-1, all different, and for each the column of `scores` it was chosen by.

    scores : (K, C), at least 0. quota : (C,) summing to K or less. Foreground columns, 1 and up,
    take their rows in an order drawn from `rng`; column 0 comes last.
    """
    free = np.ones(len(scores), dtype=np.bool_)
    picks, columns = [], []
    for column in [*(1 + rng.permutation(scores.shape[1] - 1)), 0]:
        own = scores[:, column]
        order = gumbel_order(log_power(own), own, beta, rng=rng)
        taken = order[free[order]][: quota[column]]
        free[taken] = False
        picks.append(taken)
        columns.append(np.full(len(taken), column, dtype=np.int64))
    return np.concatenate(picks), np.concatenate(columns)


def mixed(columns: Rows, *, rng: np.random.Generator) -> Rows:
    """An order of positions 0..n-1 in which columns alternate by chance, each in its own order.

    Any prefix then holds the columns in their proportions, give or take chance: a person may stop
    early, and a cap per volume may cut the batch short and ask again, without starving a column.
    """
    order = np.empty(len(columns), dtype=np.int64)
    order[np.argsort(rng.permutation(columns), kind="stable")] = np.argsort(columns, kind="stable")
    return order


@dataclass(frozen=True)
class ClaspPE:
    """Rows shared out among the classes, drawn by entropy, more and more strictly.

    Attributes
    ----------
    trainings : T, how often the model is to be trained in all; the schedule is laid out over it.
    schedule : how beta grows: "exp" is the method, "sigmoid" an ablation, "constant" stays at
        `first_beta`.
    share : of a batch that is shared out among the foreground classes.
    first_beta, last_beta : ends of the schedule; infinity in both is without noise.
    start_rounds : queries that gave the start set, made by another strategy before a model was
        there. A session's round number `start_rounds` is t = 0.

    A row that was chosen for the sake of a class has the origin "class 2", say; its score is A_2.
    """

    trainings: int = 5
    schedule: Schedule = "exp"
    share: float = 0.66
    first_beta: float = 1.0
    last_beta: float = 100.0
    start_rounds: int = 1

    def __post_init__(self) -> None:
        if self.trainings < 1:
            raise ValueError(f"trainings is {self.trainings}; a plan needs at least 1.")
        if self.schedule not in ("exp", "sigmoid", "constant"):
            raise ValueError(f"schedule is {self.schedule!r}; use 'exp', 'sigmoid' or 'constant'.")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; it must lie between 0 and 1.")
        if not 0 < self.first_beta <= self.last_beta:
            raise ValueError(
                f"beta goes from {self.first_beta} to {self.last_beta}; it must be above 0 and "
                "never fall."
            )
        if self.start_rounds < 0:
            raise ValueError(f"start_rounds is {self.start_rounds}; it must be 0 or more.")

    def beta(self, rounds: int) -> float:
        """beta of the query before which there were `rounds`."""
        if math.isinf(self.first_beta):
            return self.first_beta
        return beta_at(
            max(rounds - self.start_rounds, 0),
            self.trainings,
            self.schedule,
            first=self.first_beta,
            last=self.last_beta,
        )

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates, classes mixed; each has the score it was chosen by, without noise."""
        rows = candidates_for(snapshot, n)
        if not n:
            return Selection(rows=rows[:0], scores=np.empty(0))
        scores = snapshot.reduce(class_scores, rows)
        if not np.isfinite(scores).all():
            broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
            raise BadSelection(
                f"The scores of {len(broken)} of {len(rows)} candidates are not numbers, first "
                f"{snapshot.pool.ids[rows[broken[0]]]}. The model's outputs are broken: train it "
                "again, or ask with a strategy that needs no model."
            )
        quota = quotas(n, scores.shape[1], self.share, rng=rng)
        picks, columns = stratified_picks(scores, quota, self.beta(snapshot.rounds), rng=rng)
        order = mixed(columns, rng=rng)
        picks, columns = picks[order], columns[order]
        return Selection(
            rows=rows[picks],
            scores=scores[picks, columns],
            origin=tuple(f"class {column}" if column else "" for column in columns.tolist()),
        )
