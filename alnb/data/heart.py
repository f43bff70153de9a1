"""The geometry and the tissues of a beating heart in short-axis view, drawn from formulas.

Lengths are in mm. In a slice, x points to the patient's left and y downwards; z runs from the base
of the left ventricle to its apex, and `u` is the same as a fraction, 0 base to 1 apex. Contours are
star-shaped: a radius for every direction, so that "inside" is one comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alnb.records import Floats, LabelMap

Field = NDArray[np.floating[Any]]
"""Float32 throughout; numpy's stubs cannot follow that through arithmetic with plain numbers."""

RV, MYOCARDIUM, LV = 1, 2, 3
CAVITY_ENDS = 0.97


@dataclass(frozen=True)
class Anatomy:
    """One patient's thorax: sizes in mm at end-diastole, angles in radians.

    Attributes
    ----------
    group : "normal", "dilated", "hypertrophic", "infarct" or "right dilated".
    cavity, wall, length : radius of the LV cavity at the base, wall thickness, base to apex.
    septum : how much thicker the septum is than the free wall, as a share.
    squeeze, shortening : radius and length at end-systole, as shares.
    scar : direction, half width, depth (u) and severity of an infarct; severity 0 is none.
    rv : width of the RV beyond the LV at the base; rv_squeeze is its share at end-systole.
    turn : rotation of the heart in the slice; centre is (x, y) of the LV in the picture.
    lean : drift of the LV centre from base to apex; tilt is that of the valve plane.
    wobble : amplitudes and phases of the second and third harmonic of the LV outline.
    skin : direction towards the chest wall, its distance, thickness of the fat.
    dome, stomach, aorta : where liver, stomach and descending aorta lie.
    """

    group: str
    cavity: float
    wall: float
    length: float
    septum: float
    squeeze: float
    shortening: float
    scar: tuple[float, float, float, float]
    rv: float
    rv_squeeze: float
    turn: float
    centre: tuple[float, float]
    lean: tuple[float, float]
    tilt: tuple[float, float]
    wobble: tuple[float, float, float, float]
    skin: tuple[float, float, float]
    dome: tuple[float, float]
    stomach: tuple[float, float, float]
    aorta: tuple[float, float, float]
    pericardial_fat: float


GROUPS = ("normal", "dilated", "hypertrophic", "infarct", "right dilated")

# group: cavity, wall, septum, squeeze, rv, rv_squeeze
TYPICAL = {
    "normal": (24.0, 8.5, 0.08, 0.64, 31.0, 0.64),
    "dilated": (31.5, 7.8, 0.02, 0.88, 29.0, 0.80),
    "hypertrophic": (22.0, 13.0, 0.35, 0.55, 28.0, 0.62),
    "infarct": (27.5, 8.3, 0.05, 0.78, 29.0, 0.70),
    "right dilated": (22.5, 8.2, 0.00, 0.68, 43.0, 0.78),
}


def draw_anatomy(group: str, rng: np.random.Generator) -> Anatomy:
    """A patient of `group`; sizes follow what cine MRI of adults shows, roughly."""
    cavity, wall, septum, squeeze, rv, rv_squeeze = TYPICAL[group]

    def about(value: float, spread: float) -> float:
        return float(value * (1 + spread * np.clip(rng.normal(), -2, 2)))

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    cavity, wall, rv = about(cavity, 0.07), about(wall, 0.09), about(rv, 0.1)
    weak = group == "dilated"
    return Anatomy(
        group=group,
        cavity=cavity,
        wall=wall,
        length=between(78, 98) if weak else between(72, 92),
        septum=septum * between(0.6, 1.4),
        squeeze=about(squeeze, 0.05),
        shortening=between(0.93, 0.96) if weak else between(0.86, 0.91),
        scar=(
            between(-np.pi, np.pi),
            between(0.6, 0.95),
            between(0.35, 0.8),
            between(0.5, 0.65) if group == "infarct" else 0.0,
        ),
        rv=rv,
        rv_squeeze=about(rv_squeeze, 0.05),
        turn=between(0.05, 0.6),
        centre=(between(8, 22), between(-6, 10)),
        lean=(between(2, 12), between(-2, 8)),
        tilt=(between(-0.05, 0.05), between(-0.05, 0.05)),
        wobble=(between(0, 0.05), between(-np.pi, np.pi), between(0, 0.02), between(-np.pi, np.pi)),
        skin=(between(-2.45, -1.9), cavity + wall + 0.8 * rv + between(2, 14), between(5, 18)),
        dome=(between(-50, -15), cavity + wall + between(9, 20)),
        stomach=(between(25, 55), cavity + wall + between(34, 48), between(18, 30)),
        aorta=(between(48, 62), between(42, 62), between(9, 11.5)),
        pericardial_fat=between(1.5, 6.0),
    )


@dataclass(frozen=True)
class Beat:
    """The heart of a volume as fields over (Z, H, W), or what broadcasts to that.

    Attributes
    ----------
    x, y : (1, 1, W) and (1, H, 1) mm from the middle of the picture.
    level, u : place between base and apex, below 0 the atria: (Z, 1, 1) of the slice, and of
        every pixel under a tilted valve plane.
    dx, dy : mm from the LV's middle along the heart's own axes; rho is the distance.
    inner, outer : radius of the LV cavity and of the myocardium's outer side.
    rv : signed distance to the RV's outline, positive inside, before the LV is taken out.
    blur : (Z, 1, 1) mm over which an outline smears, through the thickness of a slice.
    """

    x: Field
    y: Field
    level: Field
    u: Field
    dx: Field
    dy: Field
    rho: Field
    inner: Field
    outer: Field
    rv: Field
    blur: Field

    def labels(self) -> LabelMap:
        """(Z, H, W): RV 1, myocardium 2, LV 3, in ventricles only."""
        ventricle = (self.u >= 0) & (self.u < 1)
        label = np.zeros(self.u.shape, dtype=np.uint8)
        label[(self.level >= 0) & (self.rv > 0) & (self.rho >= self.outer)] = RV
        label[ventricle & (self.rho < self.outer)] = MYOCARDIUM
        label[ventricle & (self.rho < self.inner)] = LV
        return label


def beat(who: Anatomy, systole: bool, *, z: Floats, y: Floats, x: Floats) -> Beat:
    """The heart at end-diastole or end-systole, on the grid of slices `z` and pixels `y`, `x`.

    z : (Z,) mm from the valve plane at end-diastole; y, x : (H,), (W,) mm from the middle.
    """
    thickness = float(z[1] - z[0]) if len(z) > 1 else 8.0
    length = who.length * (who.shortening if systole else 1.0)
    depth = ((z - (who.length - length)) / length).astype(np.float32)[:, None, None]
    level = np.clip(depth, -0.2, 1.1)
    x, y = x.astype(np.float32)[None, None, :], y.astype(np.float32)[None, :, None]
    plane_x = x - (who.centre[0] - who.lean[0] * level)
    plane_y = y - (who.centre[1] - who.lean[1] * level)
    cos, sin = math.cos(who.turn), math.sin(who.turn)
    dx, dy = cos * plane_x + sin * plane_y, cos * plane_y - sin * plane_x
    u = depth - (who.tilt[0] / length * dx + who.tilt[1] / length * dy)
    inner, outer = _ventricle(who, systole, u, np.arctan2(dy, dx))
    rv = _right(who, systole, level, (dx, dy), outer)
    slope = np.clip(depth, 0, 1) ** 3 * (who.cavity / length)
    blur = 0.5 + 0.35 * thickness * slope
    return Beat(
        x=x,
        y=y,
        level=depth,
        u=u,
        dx=dx,
        dy=dy,
        rho=norm(dx, dy),
        inner=inner,
        outer=outer,
        rv=rv,
        blur=blur,
    )


def _ventricle(who: Anatomy, systole: bool, u: Field, theta: Field) -> tuple[Field, Field]:
    """Inner and outer radius of the LV in every direction.

    The muscle keeps its volume, so a cavity that closes makes the wall thicker; a scar is thin
    and does not move.
    """
    second, phase2, third, phase3 = who.wobble
    outline = 1 + second * np.cos(2 * theta + phase2) + third * np.cos(3 * theta + phase3)
    inside = np.clip(u, 0, CAVITY_ENDS) / CAVITY_ENDS
    inner: Field = who.cavity * np.sqrt(1 - inside**2.3) * outline
    towards_septum = np.exp(-0.5 / 0.8**2 * np.square(np.abs(theta) - math.pi))
    thick = who.wall * (1 - 0.3 * np.clip(u, 0, 1)) * (1 + who.septum * towards_septum)
    thick *= np.sqrt(np.clip((1 - u) / 0.05, 0, 1))
    heading, half_width, deep, severity = who.scar
    squeeze: Field | float = who.squeeze
    if severity:
        off = np.square(wrapped(theta - heading, 2 * math.pi) / half_width)
        scar = severity * np.exp(-0.5 * np.square(off) - np.square((u - deep) / 0.35))
        thick *= 1 - scar
        squeeze = who.squeeze + (0.98 - who.squeeze) * np.clip(1.6 * scar, 0, 1)
    muscle = thick * (2 * inner + thick)
    if systole:
        inner *= squeeze
        muscle /= who.shortening
    outer: Field = np.sqrt(np.square(inner) + muscle)
    return inner, outer


def _right(
    who: Anatomy, systole: bool, level: Field, at: tuple[Field, Field], outer: Field
) -> Field:
    """Signed distance to an ellipse that reaches beyond the LV and shrinks to its apex."""
    rim = outer.mean(axis=(1, 2), keepdims=True)
    width = who.rv * (who.rv_squeeze if systole else 1.0)
    reach = width * (1 - np.clip(np.clip(level, 0, None) / 0.86, 0, 1) ** 2.0) - 1.5
    half_width = np.maximum(0.45 * rim + reach, 1.0)
    half_height = np.maximum(0.78 * rim + 0.5 * reach, 1.0)
    # the outflow leans the RV to the front
    across = (at[0] + 0.55 * rim) / half_width
    down = (at[1] + 0.14 * reach - 0.12 * at[0]) / half_height
    distance: Field = (1 - norm(across, down)) * np.minimum(half_width, half_height)
    distance[reach.ravel() <= 1.0] = -50.0
    return distance


def norm(x: Field, y: Field) -> Field:
    """Length of (x, y): like hypot, but several times as fast, for numbers of ordinary size."""
    length: Field = np.sqrt(x * x + y * y)
    return length


def wrapped(value: Field, period: float) -> Field:
    """`value` less the multiple of `period` that lies nearest."""
    nearest: Field = value - period * np.rint(value / period)
    return nearest
