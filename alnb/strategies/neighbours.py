"""Who is near whom: exact distances and balls of a radius, in blocks of rows.

No function holds an N x N matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alnb.errors import BadInput
from alnb.records import Floats, Rows

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

_CLOSE = 1e-8
"""Squared distances below this share of the squared norms are recomputed from differences.

Above it, the expanded form |x|^2 + |y|^2 - 2 x.y keeps half of the digits of float64 or more.
"""

_BLOCK = 4_000_000
"""Numbers that a block of a distance matrix holds: 32 MB of float64."""


@dataclass(frozen=True, eq=False)
class Points:
    """(N, D) features in float64, moved to mean zero, where products lose fewest digits.

    norms : (N,) squared. half : (N, D) the same points in float32.
    """

    x: Doubles
    norms: Doubles
    half: NDArray[np.float32]

    @classmethod
    def of(cls, features: Floats) -> Points:
        """From any (N, D) array; BadInput if a feature is not finite."""
        if features.ndim != 2:
            raise BadInput(f"Features have shape {features.shape}; (rows, features) are needed.")
        x = features.astype(np.float64)
        broken = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(broken):
            raise BadInput(
                f"Row {broken[0]} has features that are not finite; encode the pool again."
            )
        x -= x.mean(axis=0) if len(x) else 0.0
        return cls(x, np.einsum("nd,nd->n", x, x), x.astype(np.float32))

    def __len__(self) -> int:
        return len(self.x)

    def squared(self, rows: Rows, others: Rows) -> Doubles:
        """(len(rows), len(others)) squared distances; exactly 0 between equal points."""
        scale = self.norms[rows][:, None] + self.norms[others]
        squared: Doubles = scale - 2.0 * (self.x[rows] @ self.x[others].T)
        a, b = np.nonzero(squared < _CLOSE * scale)
        squared[a, b] = self.pairs(rows[a], others[b])
        return np.maximum(squared, 0.0, out=squared)

    def to(self, row: int) -> Doubles:
        """(N,) squared distances of all points to one; exactly 0 to equal points."""
        scale = self.norms + self.norms[row]
        squared: Doubles = scale - 2.0 * (self.x @ self.x[row])
        close = np.flatnonzero(squared < _CLOSE * scale)
        squared[close] = self.pairs(np.full(len(close), row), close)
        return np.maximum(squared, 0.0, out=squared)

    def pairs(self, rows: Rows, others: Rows) -> Doubles:
        """(P,) squared distances of pairs, from differences; the same whichever comes first."""
        parts = np.array_split(np.arange(len(rows)), len(rows) * self.x.shape[1] // _BLOCK + 1)
        return np.concatenate([_norms(self.x[rows[part]] - self.x[others[part]]) for part in parts])

    def within(
        self, rows: Rows, others: Rows, squared_radius: float
    ) -> Iterator[tuple[int, Flags]]:
        """For each of `rows` its place, and (len(others),) whether each is nearer than the radius.

        Exact: products are taken in float32, and pairs whose distance lies within the rounding
        error of the radius are looked at again in float64, so that each pair has one answer
        whatever block it comes in.
        """
        if squared_radius == np.inf:
            yield from ((place, np.ones(len(others), dtype=np.bool_)) for place in range(len(rows)))
            return
        # Two more columns make the product -|x - y|^2 / 2, so that a comparison is left.
        away = self.norms[others].astype(np.float32)
        right = np.column_stack([self.half[others], np.ones_like(away), -away / 2])
        unit = (right.shape[1] + 8) * float(np.finfo(np.float32).eps)
        farthest = float(self.norms[others].max(initial=0.0))
        edge = -squared_radius / 2
        for part in _parts(len(rows), len(others)):
            norms = self.norms[rows[part]].astype(np.float32)
            left = np.column_stack([self.half[rows[part]], -norms / 2, np.ones_like(norms)])
            slack = unit * (self.norms[rows[part]] + farthest + squared_radius)
            for place, line, give in zip(part.tolist(), left @ right.T, slack, strict=True):
                inside: Flags = line > edge - give
                unsure = np.flatnonzero(inside & (line <= edge + give))
                if len(unsure):
                    row = np.full(len(unsure), rows[place])
                    inside[unsure] = self.pairs(row, others[unsure]) < squared_radius
                yield place, inside

    def to_other_code(self, rows: Rows, code: Rows) -> Doubles:
        """(len(rows),) squared distance to the nearest row with another `code`; inf if none."""
        nearest = np.full(len(rows), np.inf)
        everyone = np.arange(len(self))
        for part in _parts(len(rows), len(self)):
            squared = self.squared(rows[part], everyone)
            squared[code[rows[part]][:, None] == code] = np.inf
            found = squared.argmin(axis=1)
            known = np.isfinite(squared[np.arange(len(part)), found])
            nearest[part[known]] = self.pairs(rows[part[known]], found[known])
        return nearest

    def mean_distance(self, members: Rows, k: int) -> Doubles:
        """(len(members),) mean distance to the `k` nearest others of `members`; 1 <= k < len."""
        mean = np.empty(len(members))
        for part in _parts(len(members), len(members)):
            squared = self.squared(members[part], members)
            squared[np.arange(len(part)), part] = np.inf
            nearest = np.partition(squared, k - 1, axis=1)[:, :k]
            mean[part] = np.sqrt(nearest).mean(axis=1)
        return mean


def _parts(rows: int, others: int) -> Iterator[Rows]:
    """Blocks of 0..rows-1 against so many others; the last one is short, and not left out."""
    size = max(1, _BLOCK // max(1, others))
    for start in range(0, rows, size):
        yield np.arange(start, min(start + size, rows))


def _norms(x: Doubles) -> Doubles:
    norms: Doubles = np.einsum("nd,nd->n", x, x)
    return norms
