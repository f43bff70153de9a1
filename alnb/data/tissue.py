"""What a bright-blood cine MRI shows of the chest around and inside a drawn heart."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np

from alnb.data.heart import Anatomy, Beat, Field, norm, wrapped

BLOOD, MUSCLE, FAT, LUNG, LIVER, AIR = 0.80, 0.26, 0.62, 0.045, 0.36, 0.01
NOWHERE = -50.0
# mm beyond the ventricles up to which the heart changes the picture
REACH = 18.0

Window = tuple[slice, slice, slice]
Fields = TypeVar("Fields", Beat, "Weave")


@dataclass(frozen=True, eq=False)
class Weave:
    """Smooth random patterns of zero mean and unit variance, by their grain; tissues share them.

    fine, middle, coarse, broad : (Z, H, W) with a grain of 3, 7, 16 and 36 mm.
    """

    fine: Field
    middle: Field
    coarse: Field
    broad: Field


def weave(rng: np.random.Generator, shape: tuple[int, int, int], pixel: float) -> Weave:
    """The patterns of one patient; `pixel` is the size of a pixel in mm."""
    fields = (texture(rng, shape, max(grain / pixel, 1.0)) for grain in (3.0, 7.0, 16.0, 36.0))
    return Weave(*fields)


def texture(rng: np.random.Generator, shape: tuple[int, int, int], grain: float) -> Field:
    """(Z, H, W) smooth random field of zero mean and unit variance, `grain` pixels wide.

    Slices next to each other share half of their variance.
    """
    count, height, width = shape
    down, across = _bumps(height, grain), _bumps(width, grain)
    size = (count + 1, down.shape[1], across.shape[1])
    coarse = rng.standard_normal(size, dtype=np.float32)
    shared = (coarse[1:] + coarse[:-1]) * np.float32(np.sqrt(0.5))
    field: Field = np.matmul(down, shared @ across.T, dtype=np.float32)
    return field


def _bumps(side: int, grain: float) -> Field:
    knots = np.arange(-grain, side + grain, grain)
    rows = np.exp(-0.5 * ((np.arange(side)[:, None] - knots) / (0.7 * grain)) ** 2)
    # what is left of a bump far away would only slow down the products: such floats are subnormal
    rows[rows < 1e-7] = 0
    unit: Field = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def paint_chest(who: Anatomy, beat: Beat, cloth: Weave) -> Field:
    """(Z, H, W) signal of heart and surroundings, before coil, noise and blurring."""
    vessels = np.clip(cloth.fine + 0.5 * cloth.middle - 1.7, 0, 1.2)
    signal: Field = np.maximum(LUNG + 0.012 * cloth.middle + 0.30 * vessels, AIR)
    _aorta(signal, who, beat)
    _belly(signal, who, beat, cloth)
    _wall(signal, who, beat, cloth)
    window = _around(beat)
    heart = signal[window].copy()
    _paint_heart(heart, who, _cut(beat, window), _cut(cloth, window))
    signal[window] = heart
    return signal


def _paint_heart(signal: Field, who: Anatomy, beat: Beat, cloth: Weave) -> None:
    shell = beat.outer - beat.rho
    shell[beat.level.ravel() >= 1] = NOWHERE
    _sac(signal, who, beat, cloth, shell)
    _right(signal, beat, cloth)
    _left(signal, beat, cloth, shell)
    above = int((beat.u < 0).any(axis=(1, 2)).sum())
    if above:
        top = slice(above), slice(None), slice(None)
        _base(signal[top], _cut(beat, top), _cut(cloth, top))


def _around(beat: Beat) -> Window:
    """The rows and columns of all slices in which the heart changes anything."""
    depth: Field = np.maximum(beat.outer - beat.rho, beat.rv).max(axis=0)
    near = depth > -REACH
    sides = (np.flatnonzero(near.any(axis=axis)) for axis in (1, 0))
    rows, cols = (slice(int(side[0]), int(side[-1]) + 1) for side in sides)
    return slice(None), rows, cols


def _cut(record: Fields, window: Window) -> Fields:
    """The fields of `record` within a window, those that broadcast along an axis left so."""
    parts = {}
    for item in fields(record):
        value = getattr(record, item.name)
        part = tuple(
            cut if side > 1 else slice(None) for cut, side in zip(window, value.shape, strict=True)
        )
        parts[item.name] = np.ascontiguousarray(value[part])
    return replace(record, **parts)


def _over(signal: Field, inside: Field, value: Field | float, blur: Field | float = 0.7) -> None:
    """Lay a tissue over what is there: `inside` is its signed depth in mm, `blur` its edge."""
    share = inside * (0.5 / blur)
    share += 0.5
    np.clip(share, 0, 1, out=share)
    change = value - signal
    change *= share
    signal += change


def _belly(signal: Field, who: Anatomy, beat: Beat, cloth: Weave) -> None:
    """Liver under the right side of the heart, stomach under the left; they rise to the apex."""
    rise = 20 * np.clip(beat.level, -0.1, 1.1)
    left, top = who.dome
    liver = beat.y - (top - rise) - 0.0042 * (beat.x - left) ** 2 + 1.2 * cloth.broad
    veins = np.clip(1 - np.abs(cloth.coarse) / 0.14, 0, 1) * np.clip(0.4 + cloth.broad, 0, 1)
    tone = LIVER + 0.018 * cloth.fine + 0.04 * cloth.broad + 0.2 * veins
    middle, low, radius = who.stomach
    stomach = radius - norm((beat.x - middle) / 1.7, beat.y - (low - 0.9 * rise))
    stomach += 1.5 * cloth.coarse
    _over(signal, stomach + 2.5, MUSCLE * 0.9)
    _over(signal, stomach, np.clip(0.36 + 0.13 * cloth.middle + 0.1 * cloth.broad, 0.05, 0.8))
    _over(signal, liver + 2.4, 0.42 + 0.1 * cloth.middle)
    _over(signal, liver, tone)


def _aorta(signal: Field, who: Anatomy, beat: Beat) -> None:
    across, down, radius = who.aorta
    inside = radius - norm(beat.x - across, 0.93 * (beat.y - down))
    _over(signal, inside + 4.0, FAT * 0.5, 1.5)
    _over(signal, inside + 1.8, MUSCLE * 0.8)
    _over(signal, inside, BLOOD * 0.88, 1.0)


def _wall(signal: Field, who: Anatomy, beat: Beat, cloth: Weave) -> None:
    """Muscle, ribs and fat between the lung and the air in front of the chest."""
    heading, distance, fat = who.skin
    far = 130.0
    across = beat.x - (who.centre[0] + (distance - far) * math.cos(heading))
    down = beat.y - (who.centre[1] + (distance - far) * math.sin(heading))
    # depth counts outwards from the inner side of the chest wall, which is part of a circle
    depth = norm(across, down) - far + 0.6 * cloth.coarse
    along = np.arctan2(down, across) * far + 5 * cloth.broad
    rib = 4.0 - norm(depth - 6, wrapped(along - 17, 34.0) / 1.6)
    muscle = MUSCLE * 0.9 + 0.03 * cloth.fine + 0.14 * np.clip(cloth.middle, 0, 1)
    _over(signal, depth, muscle, 0.8)
    _over(signal, rib + 1.4, 0.1)
    _over(signal, rib, 0.4 + 0.05 * cloth.fine)
    _over(signal, depth - 12, FAT * (1 + 0.05 * cloth.middle), 1.0)
    _over(signal, depth - 12 - fat, 0.3)
    _over(signal, depth - 13.8 - fat, AIR)


def _sac(signal: Field, who: Anatomy, beat: Beat, cloth: Weave, shell: Field) -> None:
    """The pericardium and the fat inside it, most of it near the valves."""
    whole = np.maximum(shell, beat.rv + 2.8)
    grooves = np.clip(1.0 - 3 * beat.level, 0, 1)
    rim = who.pericardial_fat * (0.55 + 0.6 * grooves) * (1 + 0.5 * cloth.coarse)
    whole += np.clip(rim, 0.5, 12)
    _over(signal, whole + 1.7, 0.13)
    _over(signal, whole, FAT * (0.92 + 0.1 * cloth.middle), 0.9)


def _right(signal: Field, beat: Beat, cloth: Weave) -> None:
    ridges = np.clip(cloth.fine - 0.7, 0, 1.2) * np.clip(1.1 - beat.rv / 9, 0, 1)
    ridges *= np.clip(0.3 + 1.3 * beat.level, 0, 1)
    _over(signal, beat.rv + 2.6, MUSCLE * 1.05, beat.blur)
    _over(signal, beat.rv, BLOOD * (0.95 + 0.045 * cloth.middle) - 0.4 * ridges, beat.blur)


def _left(signal: Field, beat: Beat, cloth: Weave, shell: Field) -> None:
    _over(signal, shell, MUSCLE * (1 + 0.08 * cloth.fine), beat.blur)
    cavity = beat.inner - beat.rho
    cavity[beat.level.ravel() >= 1] = NOWHERE
    # trabeculae roughen the inner side of the wall; readers count them to the cavity
    rough = np.clip(cloth.fine - 0.4, 0, 1.5) * np.clip(1 - cavity / 4.5, 0, 1)
    _over(signal, cavity, BLOOD * (1 + 0.04 * cloth.middle) - 0.3 * rough, beat.blur)
    size = beat.inner.mean(axis=(1, 2), keepdims=True)
    grown = np.clip(1 - ((beat.level - 0.45) / 0.36) ** 2, 0, 1) ** 0.5 * np.clip(size / 20, 0.4, 1)
    for heading, radius in ((-1.05, 4.4), (1.75, 4.9)):
        cos, sin = math.cos(heading), math.sin(heading)
        along = cos * beat.dx + sin * beat.dy - 0.68 * size
        aside = cos * beat.dy - sin * beat.dx
        muscle = radius * grown - norm(0.8 * along, aside) + 0.7 * cloth.fine
        muscle = np.minimum(muscle, cavity + 1.5)
        muscle[grown.ravel() <= 0.3] = NOWHERE
        _over(signal, muscle, MUSCLE * 1.1, 1.4)


def _base(signal: Field, beat: Beat, cloth: Weave) -> None:
    """Above the valve plane: left atrium and aortic root instead of the left ventricle."""
    above = np.clip(-beat.u / 0.05, 0, 1)
    size = beat.inner.mean(axis=(1, 2), keepdims=True)
    px, py = beat.dx, beat.dy
    atrium = 1.0 * size - norm(0.9 * (px - 5), py - 6) + 1.2 * cloth.coarse
    root = 12.0 - norm(px + 0.35 * size, py + 0.5 * size)
    blood = BLOOD * (0.96 + 0.05 * cloth.middle)
    upper = signal.copy()
    _over(upper, beat.outer - beat.rho, FAT * (0.8 + 0.12 * cloth.middle), 1.2)
    _over(upper, atrium + 1.8, MUSCLE * 1.3, 1.2)
    _over(upper, atrium, blood, 1.2)
    _over(upper, root + 2.0, MUSCLE * 1.2, 1.2)
    _over(upper, root, blood, 1.2)
    signal += above * (upper - signal)


def acquire(signal: Field, who: Anatomy, beat: Beat, rng: np.random.Generator) -> Field:
    """What the scanner makes of it: coil shading, finite resolution, noise, and a window to 0..1.

    Noise is Rician, as the magnitude of a complex signal is. The window clips at the 99th
    percentile and scales to [0, 1], like the published preprocessing of cardiac cine sets.
    """
    from scipy.ndimage import gaussian_filter

    heading, distance, _ = who.skin
    near = (beat.x - who.centre[0]) * math.cos(heading)
    near = near + (beat.y - who.centre[1]) * math.sin(heading)
    strength = float(rng.uniform(0.05, 0.3)) / distance
    shade = np.exp(strength * near + 0.08 * texture(rng, beat.u.shape, 0.3 * signal.shape[1]))
    seen: Field = gaussian_filter(signal * shade, (0, 0.55, 0.55), truncate=3.0)
    noise = float(rng.uniform(0.012, 0.035))
    real, other = rng.standard_normal((2, *signal.shape), dtype=np.float32)
    seen = norm(seen + noise * real, noise * other)
    low, high = float(seen.min()), float(np.percentile(seen[:, ::2, ::2], 99))
    scaled: Field = np.clip((seen - low) / (high - low), 0, 1)
    return scaled
