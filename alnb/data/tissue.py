"""What a bright-blood cine MRI shows of the chest around and inside a drawn heart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from alnb.data.heart import Anatomy, Beat, Field
from alnb.records import Floats

Weave = Callable[[float], Field]

BLOOD, MUSCLE, FAT, LUNG, LIVER = 0.80, 0.27, 0.72, 0.05, 0.36


def texture(rng: np.random.Generator, shape: tuple[int, ...], grain: float) -> Field:
    """(Z, H, W) smooth random field of zero mean and unit variance, `grain` pixels wide.

    Slices next to each other share half of their pattern.
    """
    count, height, width = shape
    columns = [_bumps(side, grain) for side in (height, width)]
    coarse = rng.standard_normal(
        (count + 1, columns[0].shape[1], columns[1].shape[1]), dtype=np.float32
    )
    shared = (coarse[1:] + coarse[:-1]) * np.float32(np.sqrt(0.5))
    field: Field = columns[0] @ shared @ columns[1].T
    return field


def _bumps(side: int, grain: float) -> Field:
    knots = np.arange(-grain, side + grain, grain)
    rows = np.exp(-0.5 * ((np.arange(side)[:, None] - knots) / (0.7 * grain)) ** 2)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def paint_chest(who: Anatomy, beat: Beat, pixel: float, rng: np.random.Generator) -> Field:
    """(Z, H, W) signal of heart and surroundings, before coil, noise and blurring."""

    def weave(grain: float) -> Field:
        """Texture of `grain` mm."""
        return texture(rng, beat.u.shape, max(grain / pixel, 1.0))

    signal = _lung(beat, weave)
    _belly(signal, who, beat, weave)
    _aorta(signal, who, beat)
    _wall(signal, who, beat, weave)
    _heart(signal, who, beat, weave)
    return signal


def _over(signal: Field, inside: Floats, value: Floats | float, blur: Floats | float = 0.6) -> None:
    """Lay a tissue over what is there: `inside` is its signed depth in mm, `blur` its edge."""
    share = np.clip(0.5 + inside / (2 * np.asarray(blur, np.float32)), 0, 1).astype(np.float32)
    signal += share * (value - signal)


def _lung(beat: Beat, weave: Weave) -> Field:
    vessels = np.clip(weave(3.5) - 1.2, 0, 1.2) * 0.28
    lung: Field = LUNG + 0.015 * weave(6) + vessels * (1 + 0.3 * weave(25))
    return np.clip(lung, 0.01, None)


def _belly(signal: Field, who: Anatomy, beat: Beat, weave: Weave) -> None:
    """Liver under the right side of the heart, stomach under the left; they rise to the apex."""
    rise = 26 * np.clip(beat.level, -0.1, 1.1)
    left, top = who.dome
    liver = beat.y - (top - rise) - 0.0055 * (beat.x - left) ** 2 + 0.8 * weave(30)
    vein = np.clip(1 - np.abs(weave(16)) / 0.16, 0, 1)
    tone = LIVER + 0.02 * weave(4) + 0.05 * weave(40) + 0.22 * vein
    middle, low, radius = who.stomach
    stomach = radius - np.hypot((beat.x - middle) / 1.7, beat.y - (low - 0.9 * rise))
    content = 0.42 + 0.16 * weave(9)
    _over(signal, stomach + 2.5, MUSCLE * 0.9)
    _over(signal, stomach, np.clip(content, 0.05, 0.9))
    _over(signal, liver + 2.2, 0.5 + 0.1 * weave(12))
    _over(signal, liver, tone)


def _aorta(signal: Field, who: Anatomy, beat: Beat) -> None:
    across, down, radius = who.aorta
    inside = radius - np.hypot(beat.x - across, beat.y - down)
    _over(signal, inside + 2.5, MUSCLE * 0.8)
    _over(signal, inside, BLOOD * 0.95)


def _wall(signal: Field, who: Anatomy, beat: Beat, weave: Weave) -> None:
    """Muscle, ribs and fat between the lung and the air in front of the chest."""
    heading, distance, fat = who.skin
    far = 130.0
    across = beat.x - who.centre[0] + (far - distance) * np.cos(heading)
    down = beat.y - who.centre[1] + (far - distance) * np.sin(heading)
    # distance is measured to the inner side of the wall
    outside = np.hypot(across, down) - far
    along = np.arctan2(down, across) * far
    rib = 4.2 - np.hypot(outside - 6, (along + 8 * np.sin(along / 40)) % 30 - 15) / 1.25
    muscle = MUSCLE * 0.85 + 0.04 * weave(3) + 0.12 * np.clip(weave(8), 0, 1)
    _over(signal, outside, muscle, 0.8)
    _over(signal, rib + 1.3, 0.08)
    _over(signal, rib, 0.5 + 0.06 * weave(4))
    _over(signal, outside - 12, FAT + 0.03 * weave(10), 0.9)
    _over(signal, outside - 12 - fat, 0.35)
    _over(signal, outside - 13.6 - fat, 0.012)


def _heart(signal: Field, who: Anatomy, beat: Beat, weave: Weave) -> None:
    """Pericardium and its fat, then both ventricles, or the atria above the valve plane."""
    level = beat.level
    left = beat.outer - beat.rho
    beyond = np.clip((level - 1) / 0.02, 0, 60)
    left = left - beyond
    whole = np.maximum(left, beat.rv + 2.8)
    rim = who.pericardial_fat * (1 + 0.55 * weave(22)) + 3.5 * np.clip(0.3 - beat.u, 0, 0.4)
    _over(signal, whole + np.clip(rim, 0.6, None) + 1.6, 0.16)
    _over(signal, whole + np.clip(rim, 0.6, None), FAT * 0.86 + 0.07 * weave(5))
    flow = weave(7)
    blood = BLOOD * (1 + 0.045 * flow)
    ridges = np.clip(weave(3.2) - 0.75, 0, 1.2) * np.clip(1.1 - beat.rv / 9, 0, 1)
    _over(signal, beat.rv + 2.8, MUSCLE * 1.05, beat.blur)
    _over(
        signal, beat.rv, blood * 0.96 - 0.42 * ridges * np.clip(0.3 + 1.3 * beat.u, 0, 1), beat.blur
    )
    muscle = MUSCLE * (1 + 0.09 * weave(4))
    _over(signal, left, muscle, beat.blur)
    cavity = beat.inner - beat.rho
    # trabeculae roughen the inner side of the wall; they belong to the cavity
    rough = np.clip(weave(3) - 0.5, 0, 1.5) * np.clip(1 - cavity / 4.5, 0, 1) * 0.30
    _over(signal, cavity, blood - rough, beat.blur)
    for heading, size in ((-1.05, 4.6), (1.75, 5.0)):
        _papillary(signal, beat, heading, size, cavity)
    _base(signal, beat, blood)


def _papillary(signal: Field, beat: Beat, heading: float, size: float, cavity: Field) -> None:
    place = 0.66 * beat.inner.mean(axis=(1, 2), keepdims=True)
    gap = np.hypot(
        beat.rho * np.cos(beat.theta - heading) - place,
        0.9 * beat.rho * np.sin(beat.theta - heading),
    )
    depth = beat.level
    grown = (
        size * np.clip(1 - ((depth - 0.45) / 0.33) ** 2, 0, 1) ** 0.5 * np.clip(place / 14, 0.3, 1)
    )
    inside = np.where(grown > 1.5, np.minimum(grown - gap, cavity + 1.5), np.float32(-9))
    _over(signal, inside, MUSCLE * 1.12, 1.3)


def _base(signal: Field, beat: Beat, blood: Field) -> None:
    """Above the valve plane: left atrium and aortic root, thin-walled and bright."""
    above = np.clip(-beat.u / 0.04, 0, 1)
    if not above.any():
        return
    scale = beat.inner.mean(axis=(1, 2), keepdims=True)
    px, py = beat.rho * np.cos(beat.theta), beat.rho * np.sin(beat.theta)
    atrium = 0.92 * scale - np.hypot(px - 5, (py - 8) / 0.9)
    root = 13.5 - np.hypot(px + 6, py + 15)
    inside = np.where(above > 0, np.maximum(atrium, root), np.float32(-20))
    ring = np.where(above > 0, beat.outer - beat.rho, np.float32(-20))
    _over(signal, ring, FAT * 0.7)
    _over(signal, inside + 2.0, MUSCLE)
    _over(signal, np.where(above > 0, root, np.float32(-20)) + 1.8, MUSCLE)
    _over(signal, inside, blood * 0.97)
    _over(signal, np.where(above > 0, 1.6 - np.abs(root), np.float32(-20)), MUSCLE * 1.2, 0.9)


def acquire(signal: Field, who: Anatomy, beat: Beat, rng: np.random.Generator) -> Field:
    """What the scanner makes of it: coil shading, finite resolution, noise, and a window to 0..1.

    Noise is Rician, as the magnitude of a complex signal is. The window clips at the 99th
    percentile and scales to [0, 1], like the published preprocessing of cardiac cine sets.
    """
    from scipy.ndimage import gaussian_filter

    heading, distance, _ = who.skin
    near = (beat.x - who.centre[0]) * np.cos(heading) + (beat.y - who.centre[1]) * np.sin(heading)
    strength = float(rng.uniform(0.15, 0.5))
    shade = np.exp(strength * near / distance + 0.09 * texture(rng, signal.shape, 45.0))
    seen = gaussian_filter(signal * shade, (0, 0.6, 0.6), truncate=3.0)
    noise = np.float32(rng.uniform(0.012, 0.035))
    real, other = rng.standard_normal((2, *signal.shape), dtype=np.float32) * noise
    seen = np.hypot(seen + real, other)
    top, low = np.percentile(seen, 99), seen.min()
    scaled: Field = np.clip((seen - low) / (top - low), 0, 1).astype(np.float32)
    return scaled
