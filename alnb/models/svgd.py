"""Stein variational gradient descent: particles that climb together and keep each other apart.

With M particles Θ (M, d), G_j = ∇ ln p(θ_j), K_ij = exp(-‖θ_i - θ_j‖² / h) and Dg = diag(K·1)::

    φ(θ_i) = 1/M Σ_j [ K_ij G_j + ∇_{θ_j} K_ij ]        Φ = 1/M [ K G + (2/h) (Dg Θ - K Θ) ]

The first term climbs along gradients that are shared between near particles, the second pushes
them apart; h counts as a constant. Φ is computed exactly, in blocks of columns that fit into a
processor's caches, and always in the precision of Θ.

The push is all but lost among many parameters: with the median bandwidth every K_ij between two
networks goes to 1 / (M + 1), and the push to a small share of the climb. `Forces` says how small.

Source: Liu and Wang, NeurIPS 2016, arXiv 1608.04471. Kernels over predictions: Wang et al., ICLR
2019, arXiv 1902.09754; D'Angelo and Fortuin, NeurIPS 2021, arXiv 2106.11642.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alnb.errors import BadInput

LEAST = 1e-12
"""Least bandwidth, and the squared distance up to which two particles count as one."""
_COLUMNS = 2**14
"""Columns of a block on a CPU: five rows of it, and what is made of them, stay in its caches."""

Pull = Callable[[Tensor], Tensor]
"""(M, p) -> (M, d): row m, a direction for the predictions of particle m, times the Jacobian of
these predictions in its parameters."""


@dataclass(frozen=True)
class Stein:
    """How particles act on each other.

    Attributes
    ----------
    bandwidth : h. "median" is the median of the squared distances over ln(M + 1).
    include_diagonal : whether the median is over all M² squared distances, zeros to oneself too; at
        M = 5 that is the fourth smallest of the ten between two particles. Otherwise over these.
    kernel_drive : "rbf" shares gradients by K; "identity" leaves everyone its own, which keeps
        their variance from collapsing, but no longer leads to samples of the posterior.
    repulsion_scale : factor of the second term; 1 is exact.
    """

    bandwidth: float | Literal["median"] = "median"
    include_diagonal: bool = True
    kernel_drive: Literal["rbf", "identity"] = "rbf"
    repulsion_scale: float = 1.0

    def __post_init__(self) -> None:
        h = self.bandwidth
        if h != "median" and not (isinstance(h, float | int) and math.isfinite(h) and h > 0):
            raise ValueError(f"bandwidth is {h!r}; it can be 'median' or a positive number.")
        if self.kernel_drive not in ("rbf", "identity"):
            raise ValueError(f"kernel_drive is {self.kernel_drive!r}; it can be 'rbf', 'identity'.")
        if not (math.isfinite(self.repulsion_scale) and self.repulsion_scale >= 0):
            raise ValueError(
                f"repulsion_scale is {self.repulsion_scale}; it must be a number of at least 0."
            )


PAPER = Stein()


@dataclass(frozen=True, eq=False)
class Forces:
    """What acted between the particles in one step.

    Attributes
    ----------
    kernel : (L, M, M), K of each of L groups of columns; L is 1 for one kernel over everything.
    bandwidth : (L,) h.
    distances : (M, M) Euclidean, over all that the kernels look at.
    rep_ratio : length of the push over that of the climb, mean over the particles; infinite where
        only the push is left.
    collapsed : whether two particles are in one place, where they would stay for ever.
    """

    kernel: NDArray[np.float64]
    bandwidth: NDArray[np.float64]
    distances: NDArray[np.float64]
    rep_ratio: float
    collapsed: bool

    @property
    def off_diagonal(self) -> tuple[float, float]:
        """Least and largest K between two particles; NaN of a single one."""
        apart = self.kernel[:, ~np.eye(self.kernel.shape[1], dtype=bool)]
        return (float(apart.min()), float(apart.max())) if apart.size else (math.nan, math.nan)


def svgd_direction(
    theta: Tensor,
    grad: Tensor,
    rule: Stein = PAPER,
    *,
    groups: Sequence[int] | None = None,
    at: Tensor | None = None,
    pull: Pull | None = None,
) -> tuple[Tensor, Forces]:
    """Φ (M, d), along which particles step, and what acted. One particle just climbs: Φ is `grad`.

    theta, grad : (M, d) float32 or float64, the particles and ∇ ln p there.
    groups : widths of groups of columns with a kernel each, such as the layers of a network.
    at, pull : (M, p) predictions of the particles, for a kernel over predictions, and `Pull`. The
        push is the one between predictions, and each particle follows it by its own Jacobian; where
        all have the same one, that is exact.

    BadInput for shapes that do not match and for half precision, in which near particles coincide.
    """
    out = torch.empty_like(grad)
    return out, _act(theta, grad, rule, out=out, sign=1.0, groups=groups, at=at, pull=pull)


def svgd_descent(
    theta: Tensor,
    slope: Tensor,
    rule: Stein = PAPER,
    *,
    groups: Sequence[int] | None = None,
    at: Tensor | None = None,
    pull: Pull | None = None,
) -> Forces:
    """Turn `slope`, the gradient of a loss -ln p, into -Φ in place, for an optimiser to descend.

    Otherwise as `svgd_direction`.
    """
    return _act(theta, slope, rule, out=slope, sign=-1.0, groups=groups, at=at, pull=pull)


def squared_distances(x: Tensor) -> Tensor:
    """(M, d) -> (M, M) float64 on the CPU, by direct differences.

    ‖a‖² + ‖b‖² - 2ab would be one product of matrices, but cancels: of a million parameters, in
    float32, half of it is wrong where particles differ by a five-hundredth of their weights.
    """
    members = len(x)
    rows, cols = torch.triu_indices(members, members, 1).unbind()
    pairs = torch.zeros(len(rows), dtype=torch.float64, device=x.device)
    for some in _blocks(x, 0, x.shape[1]):
        part = x[:, some]
        apart = [(part[row + 1 :] - part[row]).square_().sum(1) for row in range(members - 1)]
        if apart:
            pairs += torch.cat(apart)
    squared = torch.zeros(members, members, dtype=torch.float64)
    squared[rows, cols] = squared[cols, rows] = pairs.cpu()
    return squared


def rbf(squared: Tensor, rule: Stein = PAPER) -> tuple[Tensor, float]:
    """K (M, M) and h of squared distances (M, M) float64."""
    members = len(squared)
    if rule.bandwidth != "median":
        h = float(rule.bandwidth)
    elif members == 1:
        h = LEAST
    else:
        apart = ~torch.eye(members, dtype=torch.bool)
        counted = squared.numpy() if rule.include_diagonal else squared[apart].numpy()
        # torch's median of an even number takes the lower one of the two in the middle
        h = max(float(np.median(counted)) / math.log(members + 1), LEAST)
    return torch.exp(-squared / h), h


@torch.no_grad()
def _act(
    theta: Tensor,
    grad: Tensor,
    rule: Stein,
    *,
    out: Tensor,
    sign: float,
    groups: Sequence[int] | None,
    at: Tensor | None,
    pull: Pull | None,
) -> Forces:
    """Write K `grad` / M + `sign` push to `out`, which may be `grad`."""
    _check(theta, grad, groups, at, pull)
    # a trainer may be multiplying in bfloat16, which is not for distances
    with torch.autocast(theta.device.type, enabled=False):
        if at is not None and pull is not None:
            return _through_predictions(grad, rule, at, pull, out=out, sign=sign)
        members, columns = theta.shape
        kernels, bandwidths = [], []
        total = torch.zeros(members, members, dtype=torch.float64)
        climbs, pushes = torch.zeros(2, members, dtype=torch.float64)
        start = 0
        for width in groups or (columns,):
            squared = squared_distances(theta[:, start : start + width])
            kernel, h = rbf(squared, rule)
            climb, push = _matrices(kernel, h, rule)
            own, apart, gram = climb.to(theta), push.to(theta), _square(grad)
            for some in _blocks(theta, start, start + width):
                given = grad[:, some]
                gram += given @ given.T
                # rows of `push` sum to 0, so that any origin does, and a near one is exact
                away = apart @ (theta[:, some] - theta[:1, some])
                torch.add(own @ given, away, alpha=sign, out=out[:, some])
            climbs = climbs + _lengths(climb, gram)
            # |Σ_j a_j θ_j|² is -½ Σ_jk a_j a_k |θ_j - θ_k|² where the a_j sum to 0
            pushes = pushes - 0.5 * ((push @ squared) * push).sum(1)
            total += squared
            kernels.append(kernel)
            bandwidths.append(h)
            start += width
    return _forces(kernels, bandwidths, total, pushes, climbs)


def _through_predictions(
    grad: Tensor, rule: Stein, at: Tensor, pull: Pull, *, out: Tensor, sign: float
) -> Forces:
    squared = squared_distances(at)
    kernel, h = rbf(squared, rule)
    climb, push = _matrices(kernel, h, rule)
    away = pull(push.to(at) @ (at - at[:1]))
    own, gram = climb.to(grad), _square(grad)
    for some in _blocks(grad, 0, grad.shape[1]):
        given = grad[:, some]
        gram += given @ given.T
        torch.add(own @ given, away[:, some], alpha=sign, out=out[:, some])
    pushes = away.norm(dim=1).double().cpu().square()
    return _forces([kernel], [h], squared, pushes, _lengths(climb, gram))


def _square(like: Tensor) -> Tensor:
    return torch.zeros(len(like), len(like), dtype=torch.float64, device=like.device)


def _lengths(climb: Tensor, gram: Tensor) -> Tensor:
    """(M,) squared lengths of `climb` times the rows whose products are `gram`."""
    return ((climb @ gram.cpu()) * climb).sum(1)


def _matrices(kernel: Tensor, h: float, rule: Stein) -> tuple[Tensor, Tensor]:
    """What multiplies the gradients, and what multiplies the particles."""
    members = len(kernel)
    shared = kernel if rule.kernel_drive == "rbf" else torch.eye(members, dtype=kernel.dtype)
    away = torch.diag(kernel.sum(1)) - kernel
    return shared / members, rule.repulsion_scale * 2 / h * away / members


def _forces(
    kernels: list[Tensor], bandwidths: list[float], squared: Tensor, pushes: Tensor, climbs: Tensor
) -> Forces:
    up, apart = climbs.sqrt().numpy(), pushes.clamp(min=0).sqrt().numpy()
    alone = np.where(apart > 0, np.inf, 0.0)
    ratio = np.divide(apart, up, out=alone, where=up > 0)
    between = squared[~torch.eye(len(squared), dtype=torch.bool)]
    return Forces(
        torch.stack(kernels).numpy(),
        np.array(bandwidths),
        squared.sqrt().numpy(),
        float(ratio.mean()),
        bool((between <= LEAST).any()),
    )


def _blocks(x: Tensor, start: int, stop: int) -> Iterator[slice]:
    """Ranges of the columns from `start` to `stop`; elsewhere than on a CPU all of them at once."""
    width = _COLUMNS if x.device.type == "cpu" else max(1, stop - start)
    return (slice(at, min(at + width, stop)) for at in range(start, stop, width))


def _check(
    theta: Tensor,
    grad: Tensor,
    groups: Sequence[int] | None,
    at: Tensor | None,
    pull: Pull | None,
) -> None:
    shapes: tuple[Any, ...] = tuple(theta.shape), tuple(grad.shape)
    if theta.dim() != 2 or not len(theta) or shapes[0] != shapes[1]:
        raise BadInput(
            f"Particles {shapes[0]} and gradients {shapes[1]} must both be (M, d), M at least 1."
        )
    if theta.dtype not in (torch.float32, torch.float64) or grad.dtype != theta.dtype:
        raise BadInput(
            f"Particles are {theta.dtype}, gradients {grad.dtype}; both must be float32 or float64."
        )
    if groups is not None and (sum(groups) != theta.shape[1] or min(groups, default=1) < 1):
        raise BadInput(
            f"Groups of {sum(groups)} columns do not make up the {theta.shape[1]} of the particles."
        )
    if (at is None) != (pull is None) or (at is not None and groups is not None):
        raise BadInput("A kernel over predictions needs both `at` and `pull`, and has no groups.")
    if at is not None and (at.dim() != 2 or len(at) != len(theta)):
        raise BadInput(f"Predictions {tuple(at.shape)} must be (M, p) with M = {len(theta)}.")
