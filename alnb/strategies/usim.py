"""Uncertain and unlike what is known: uncertainty less redundancy, picked one at a time.

An embedding-space relative of entropy minus mutual information (Nath et al., IEEE TMI 2021, arXiv
2101.02323). The idea of weighing uncertainty against a submodular mutual information on the
network's features is Föllmer et al.'s (USIM, MIDL 2024); this is not an implementation of their
method, whose objective differs, and is named only like it.

With u a row's uncertainty, min-max scaled over the candidates, and s its largest cosine to a
labelled or already chosen row, in the learner's features, each pick is the candidate with the
largest

- "additive"        u - weight (s - low) / (1 - low), low being the least s of any candidate when
  the query began: 0 is the least redundant candidate, 1 is a duplicate of something known;
- "multiplicative"  u (1 - s).

Both only fall as rows are chosen, so that scores never rise from pick to pick.

Cost: the base's, features of candidates and labelled rows (one more pass of the learner), and
O((n + labelled) K D). Cold start: ColdStart until a model is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from alnb.protocols import Snapshot, Strategy
from alnb.records import Floats, Rows, Selection
from alnb.strategies.common import Narrowed, as_asked, candidates_for
from alnb.strategies.max_cover import Matrix, directions
from alnb.strategies.scoring import descending, scores_of
from alnb.strategies.uncertainty import TopScore

Form = Literal["additive", "multiplicative"]

_TIE = 1e-12
"""Objectives that differ by less are equal, so that rounding breaks no tie."""


def min_max(values: Floats) -> Floats:
    """Values moved and stretched to 0..1; all 0 if they are equal."""
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    scaled: Floats = (values - low) / (high - low) if high > low else np.zeros(len(values))
    return scaled


def unlike(
    unsure: Floats,
    unit: Matrix,
    *,
    known: Matrix,
    taken: Matrix,
    free: Rows,
    n: int,
    form: Form = "additive",
    weight: float = 1.0,
) -> tuple[Rows, Floats]:
    """n positions out of `free`, and the objective of each when it was picked.

    unsure : (K,) scaled to 0..1. unit : (K, D) directions of the candidates. known, taken : (L, D),
    (T, D) directions of the labelled rows and of those that are in the batch already. free :
    positions that may be picked, in the order in which ties are broken.
    """
    nearest = (unit @ known.T).max(axis=1, initial=-1.0) if len(known) else np.zeros(len(unit))
    low = min(float(nearest.min(initial=1.0)), 1.0 - _TIE)
    if len(taken):
        np.maximum(nearest, (unit @ taken.T).max(axis=1), out=nearest)
    left = np.array(free)
    picks, objectives = np.empty(n, dtype=np.int64), np.empty(n)
    for turn in range(n):
        if form == "additive":
            value = unsure - weight * (nearest - low) / (1.0 - low)
        else:
            value = unsure * (1.0 - nearest)
        place = int(np.argmax(value[left] >= value[left].max() - _TIE))
        pick = left[place]
        picks[turn], objectives[turn] = pick, value[pick]
        left = np.delete(left, place)
        np.maximum(nearest, unit @ unit[pick], out=nearest)
    return picks, np.minimum.accumulate(objectives)


@dataclass(frozen=True)
class UsimLike:
    """Uncertainty less the likeness to what is labelled or chosen.

    base : any strategy that scores each row. form : "additive" or "multiplicative". weight : of
    the likeness in the additive form; 0 is the base's plain top n.

    Under `PerVolume` the answer is the greedy one under the cap: scales are those of the whole
    query, and rows that are already taken count as chosen.
    """

    base: Strategy = field(default_factory=TopScore)
    form: Form = "additive"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.form not in ("additive", "multiplicative"):
            raise ValueError(f"form is {self.form!r}; use 'additive' or 'multiplicative'.")
        if not self.weight >= 0:
            raise ValueError(f"weight is {self.weight}; it must be 0 or more.")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates in the order of picking; scores are the objective, never rising."""
        rows = candidates_for(snapshot, n)
        if not n:
            return Selection(rows=rows[:0], scores=np.empty(0))
        asked = as_asked(snapshot)
        # Through the narrowed snapshot, which remembers what the model said of each row.
        whole = Narrowed.of(snapshot).to(asked.candidates)
        scores = scores_of(self.base, whole, rng=rng)
        taken = np.setdiff1d(snapshot.labelled, asked.labelled)
        everything = np.unique(np.concatenate([asked.candidates, asked.labelled, taken]))
        unit = directions(snapshot.learned(everything))

        def of(some: Rows) -> Matrix:
            return unit[np.searchsorted(everything, some)]

        order = descending(scores, rng=rng)
        picks, objectives = unlike(
            min_max(scores),
            of(asked.candidates),
            known=of(asked.labelled),
            taken=of(taken),
            free=order[np.isin(asked.candidates[order], rows)],
            n=n,
            form=self.form,
            weight=self.weight,
        )
        return Selection(rows=asked.candidates[picks], scores=objectives)
