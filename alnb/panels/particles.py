"""Stein variational gradient descent to watch: particles on a landscape of two dimensions.

Every step is `alnb.models.svgd.svgd_direction` itself, so what is seen here is what the members of
a committee do. `fading` measures with it what becomes of the push as dimensions grow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from alnb.errors import BadInput
from alnb.records import Floats

if TYPE_CHECKING:
    from torch import Tensor

    from alnb.models.svgd import Forces, Stein

Landscape = Literal["one hill", "two hills", "banana"]
Manner = Literal["SVGD", "without push", "each alone"]
Start = Literal["in one corner", "all around"]

WINDOW = 3.2
"""Half the side of the square that is looked at."""
FRAMES = 90
WITHIN = 3
"""Steps between two frames."""
RATE = 0.06
GRID = 81
WIDTHS = (2, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
"""Numbers of weights at which `fading` measures."""
SPREAD = 0.05
"""Standard deviation of each weight between particles."""
_DRAWS = 40


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Particles on their way; T frames, M particles, FRAMES steps of `WITHIN` each.

    Attributes
    ----------
    landscape, manner : what they climb, and what acts.
    places : (T, M, 2).
    climb, push : (T, M, 2) the two terms of the direction there; they sum to it.
    ratio : (T,) length of the push over that of the climb, mean over the particles.
    bandwidth : (T,) h.
    spread : (T,) root mean square distance of the particles to their mean.
    """

    landscape: Landscape
    manner: Manner
    places: Floats
    climb: Floats
    push: Floats
    ratio: Floats
    bandwidth: Floats
    spread: Floats


@dataclass(frozen=True, eq=False)
class Relief:
    """A landscape on a grid.

    Attributes
    ----------
    axis : (GRID,) places along both axes.
    density : (GRID, GRID) p at [y, x], largest 1.
    spread : root mean square distance of a draw from it to its mean.
    """

    axis: Floats
    density: Floats
    spread: float


@dataclass(frozen=True, eq=False)
class Fading:
    """What becomes of the push among more and more weights.

    Attributes
    ----------
    members : particles, M.
    widths : (W,) numbers of weights.
    ratio : (W,) length of the push over that of the climb, for gradients of length 1.
    kernel : (W,) middle between the least and the largest K of two particles.
    """

    members: int
    widths: Floats
    ratio: Floats
    kernel: Floats

    @property
    def limit(self) -> float:
        """What K goes to, with the median bandwidth."""
        return 1 / (self.members + 1)


def trajectory(
    landscape: Landscape = "two hills",
    manner: Manner = "SVGD",
    *,
    rng: np.random.Generator,
    members: int = 25,
    start: Start = "all around",
    frames: int = FRAMES,
) -> Trajectory:
    """Let M particles climb ln p of a landscape; the same rng state gives the same way.

    "SVGD" is the paper's rule. "without push" leaves its second term out, so that particles only
    share gradients. "each alone" leaves out all that acts between them, as a deep ensemble does.
    BadInput for a name that is none and for less than 1 particle.
    """
    _check(landscape, manner, start, members)
    import torch

    near = np.array([-1.9, 1.9]) if start == "in one corner" else np.zeros(2)
    wide = 0.3 if start == "in one corner" else 1.3
    places = torch.from_numpy(near + wide * rng.normal(size=(members, 2)))
    rule, factor = _rule(manner, members)
    kept: list[tuple[Tensor, Tensor, Tensor, Forces]] = []
    for step in range((frames - 1) * WITHIN + 1):
        climb, push, forces = _terms(landscape, places, rule, factor)
        if step % WITHIN == 0:
            kept.append((places, climb, push, forces))
        places = places + RATE * (climb + push)
    moved = torch.stack([torch.stack(k[:3]) for k in kept]).numpy()
    where, climbs, pushes = moved[:, 0], moved[:, 1], moved[:, 2]
    away = where - where.mean(axis=1, keepdims=True)
    return Trajectory(
        landscape,
        manner,
        where,
        climbs,
        pushes,
        np.array([k[3].rep_ratio for k in kept]),
        np.array([k[3].bandwidth[0] for k in kept]),
        np.sqrt((away**2).sum(axis=2).mean(axis=1)),
    )


def relief(landscape: Landscape) -> Relief:
    """The density of a landscape on a grid."""
    import torch

    axis = np.linspace(-WINDOW, WINDOW, GRID)
    grid = torch.from_numpy(np.stack(np.meshgrid(axis, axis), axis=-1))
    density = _LANDSCAPES[landscape](grid).exp().numpy()
    share = density / density.sum()
    x, y = axis[None, :], axis[:, None]
    variance = sum(
        (share * (along - (share * along).sum()) ** 2).sum() for along in (x + 0 * y, y + 0 * x)
    )
    return Relief(axis, density / density.max(), float(np.sqrt(variance)))


def fading(*, rng: np.random.Generator, members: int = 5, widths: Sequence[int] = WIDTHS) -> Fading:
    """Measure the push between M random vectors of more and more weights.

    Each weight differs by `SPREAD` between particles, and gradients have length 1 and random
    directions. It is the situation of networks at their beginning, without any network.
    """
    import torch

    from alnb.models.svgd import svgd_direction

    ratio, kernel = np.empty((2, len(widths)))
    for place, width in enumerate(widths):
        found = []
        for _ in range(max(1, min(_DRAWS, _DRAWS * 100 // width))):
            theta, grad = (
                torch.from_numpy(rng.standard_normal((members, width), dtype=np.float32))
                for _ in range(2)
            )
            forces = svgd_direction(SPREAD * theta, grad / grad.norm(dim=1, keepdim=True))[1]
            found.append((forces.rep_ratio, np.mean(forces.off_diagonal)))
        # with few weights one draw says little
        ratio[place], kernel[place] = np.median(np.array(found), axis=0)
    return Fading(members, np.array(widths, dtype=np.float64), ratio, kernel)


def _check(landscape: str, manner: str, start: str, members: int) -> None:
    for value, known in ((landscape, Landscape), (manner, Manner), (start, Start)):
        if value not in get_args(known):
            names = ", ".join(repr(name) for name in get_args(known))
            raise BadInput(f"{value!r} is not known here; it can be {names}.")
    if members < 1:
        raise BadInput(f"There are {members} particles; at least 1 is needed.")


def _rule(manner: Manner, members: int) -> tuple[Stein, float]:
    """How particles act on each other, and what takes off a factor 1/M that is of no use."""
    from alnb.models.svgd import Stein

    if manner == "each alone":
        return Stein(kernel_drive="identity", repulsion_scale=0.0), float(members)
    return Stein(repulsion_scale=float(manner == "SVGD")), 1.0


def _terms(
    landscape: Landscape, places: Tensor, rule: Stein, factor: float
) -> tuple[Tensor, Tensor, Forces]:
    """Climb and push of each particle, and what acted."""
    import torch

    from alnb.models.svgd import svgd_direction

    at = places.clone().requires_grad_()
    (slope,) = torch.autograd.grad(_LANDSCAPES[landscape](at).sum(), at)
    whole, forces = svgd_direction(places, slope, rule)
    push = svgd_direction(places, torch.zeros_like(slope), rule)[0]
    return factor * (whole - push), factor * push, forces


def _one_hill(at: Tensor) -> Tensor:
    x, y = at[..., 0], at[..., 1]
    across, along = (x - y) / 2**0.5, (x + y) / 2**0.5
    return -0.5 * ((along / 1.2) ** 2 + (across / 0.5) ** 2)


def _two_hills(at: Tensor) -> Tensor:
    import torch

    x, y = at[..., 0], at[..., 1]
    left, right = (-0.5 * ((x - side) ** 2 + y**2) / 0.6**2 for side in (-1.4, 1.4))
    return torch.logaddexp(left, right)


def _banana(at: Tensor) -> Tensor:
    x, y = at[..., 0], at[..., 1]
    return -0.5 * ((x / 1.2) ** 2 + ((y - 0.6 * x**2 + 1.2) / 0.45) ** 2)


_LANDSCAPES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "one hill": _one_hill,
    "two hills": _two_hills,
    "banana": _banana,
}
