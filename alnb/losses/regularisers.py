"""Terms for scribbles that ask no label: every pixel takes part, the unlabelled ones too.

Added to a supervised loss such as `alnb.losses.weak.partial_cross_entropy`, they say what a
segmentation looks like: sure of itself (`entropy_minimisation`), with borders where the image has
them (`gated_crf`), piecewise constant (`mumford_shah`). Logits are (B, C, H, W), images
(B, 1, H, W) with intensities in 0..1, the result is a scalar in float32, or float64 if the logits
are. Images get no gradient. Logits must be finite.

`entropy_term`, `crf_term` and `mumford_shah_term` carry the weights of WSL4MIS
(github.com/HiLab-git/WSL4MIS) and share one signature, (logits, images) -> scalar.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

ENTROPY_WEIGHT = 0.1
CRF_WEIGHT = 0.1
MUMFORD_SHAH_WEIGHT = 1e-6
"""Small, because the Mumford-Shah term is a sum over pixels and the others are means."""

_Window = tuple[int, float]
"""Radius and sigma_xy."""


def entropy_minimisation(logits: Tensor) -> Tensor:
    """``mean_v H[p_v] / ln C``: 1 for a uniform prediction, 0 for a sure one.

    It rewards a network for being sure, right or wrong; with few labels it can lock errors in.

    Source: Grandvalet and Bengio, NIPS 2004.
    """
    logs = _wide(logits).log_softmax(1)
    entropy = -(logs.exp() * logs).sum(1)
    return entropy.mean() / math.log(max(2, logits.shape[1]))


def gated_crf(
    logits: Tensor,
    images: Tensor,
    *,
    radius: int = 5,
    sigma_xy: float = 6.0,
    sigma_intensity: float = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    """Neighbours of similar intensity should be of one class.

    ``1/n Σ_i Σ_{j ≠ i} k_ij (1 - Σ_c p_ic p_jc)`` over the pixels i and the others j within
    `radius` rows and columns, with
    ``k_ij = exp(-½ (‖xy_i - xy_j‖² / sigma_xy² + (x_i - x_j)² / sigma_intensity²))``.

    What lies outside the image adds nothing. mask : (B, H, W), false for pixels that take no part,
    such as padding; n counts the others. A mask without any true pixel gives a connected 0.

    It shortens borders wherever the image does not ask for one: a structure that is small beside
    the window may vanish.

    Time is one sweep over half the offsets. Memory is a few maps of the size of the logits, also
    for the backward pass, whatever the radius.

    Source: Obukhov et al., 2019, arXiv 1906.04651.
    """
    if images.shape != (logits.shape[0], 1, *logits.shape[2:]):
        raise ValueError(
            f"Images {tuple(images.shape)} do not belong to logits {tuple(logits.shape)}; "
            "they are (B, 1, H, W) of the same B, H and W."
        )
    if radius < 1 or not (sigma_xy > 0 and sigma_intensity > 0):
        raise ValueError(
            f"radius={radius}, sigma_xy={sigma_xy}, sigma_intensity={sigma_intensity}: the radius "
            "must be at least 1, both sigmas positive."
        )
    p = _wide(logits).softmax(1)
    part = p.new_ones(p[:, :1].shape) if mask is None else mask[:, None].to(p.dtype)
    scaled = images.detach().to(p.dtype) / (math.sqrt(2) * sigma_intensity)
    total: Tensor = _PairEnergy.apply(p * part, part, scaled, (radius, sigma_xy))  # type: ignore[no-untyped-call]
    return total / part.sum().clamp(min=1)


def total_variation(p: Tensor) -> Tensor:
    """``Σ |p_{r+1,c} - p_{r,c}| + Σ |p_{r,c+1} - p_{r,c}|`` over all maps of (B, C, H, W).

    Source: Rudin, Osher and Fatemi, 1992, in its anisotropic form.
    """
    wide = _wide(p)
    return wide.diff(dim=2).abs().sum() + wide.diff(dim=3).abs().sum()


def mumford_shah(logits: Tensor, images: Tensor) -> Tensor:
    """Each class of one intensity, with short borders.

    ``Σ_c Σ_v p_cv (x_v - μ_c)² + TV(p)``, summed over the batch, with ``μ_c`` the mean intensity
    of an image under ``p_c``. p is the membership and x the intensity.

    Source: Kim and Ye, 2019, arXiv 1904.02872.
    """
    p = _wide(logits).softmax(1)
    x = images.detach().to(p.dtype)
    # held constant: μ minimises the sum, so its derivative there is zero
    held = p.detach()
    mass = held.sum((2, 3), keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
    mean = (held * x).sum((2, 3), keepdim=True) / mass
    return (p * (x - mean).square()).sum() + total_variation(p)


def entropy_term(logits: Tensor, images: Tensor) -> Tensor:
    """`ENTROPY_WEIGHT` times `entropy_minimisation`; the images have no say."""
    return ENTROPY_WEIGHT * entropy_minimisation(logits)


def crf_term(logits: Tensor, images: Tensor) -> Tensor:
    """`CRF_WEIGHT` times `gated_crf`."""
    return CRF_WEIGHT * gated_crf(logits, images)


def mumford_shah_term(logits: Tensor, images: Tensor) -> Tensor:
    """`MUMFORD_SHAH_WEIGHT` times `mumford_shah`."""
    return MUMFORD_SHAH_WEIGHT * mumford_shah(logits, images)


def _wide(values: Tensor) -> Tensor:
    """In float32 at least: sums over a slice's pixels overflow a bfloat16's mantissa."""
    return values if values.dtype == torch.float64 else values.float()


class _PairEnergy(torch.autograd.Function):
    """``Σ_i Σ_{j ≠ i} k_ij (m_i m_j - Σ_c q_ic q_jc)`` for memberships q = m p, masked by m.

    It is quadratic in q, so the sums ``Σ_j k_ij q_jc`` that its value needs are also its gradient,
    times -2: they are all that is kept, and no kernel is.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, mask: Tensor, scaled: Tensor, window: _Window) -> Tensor:
        heard = torch.empty_like(q, memory_format=torch.contiguous_format)
        total = q.new_zeros(())
        for some in _shares(q):
            # the mask is one more class, so that a prediction of a single class cancels exactly
            both = torch.cat([q[some], mask[some]], 1)
            near = _neighbour_sums(both, scaled[some], *window)
            heard[some] = near[:, :-1]
            products = both.mul_(near)
            total += (products[:, -1] - products[:, :-1].sum(1)).sum()
        ctx.save_for_backward(heard)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (heard,) = ctx.saved_tensors
        return -2 * grad * heard, None, None, None


def _shares(values: Tensor) -> Iterator[slice]:
    """One image at a time on a CPU, whose caches then hold all that a sweep reads."""
    step = 1 if values.device.type == "cpu" else max(1, len(values))
    return (slice(start, start + step) for start in range(0, len(values), step))


def _neighbour_sums(values: Tensor, scaled: Tensor, radius: int, sigma_xy: float) -> Tensor:
    """(B, K, H, W) -> ``Σ_{j ≠ i} k_ij values_j``, for intensities (B, 1, H, W) over √2 σ.

    Rows are padded by `radius` columns of value 0. Then an offset is one shift of the flattened
    map, and what would wrap into the next row meets a 0.
    """
    height, width = values.shape[2:]
    pitch = width + radius
    flat = functional.pad(values, (0, radius)).flatten(2)
    x = functional.pad(scaled, (0, radius)).flatten(2)
    sums = torch.zeros_like(flat)
    room = torch.empty_like(x)
    length = height * pitch
    for rows, columns in _half(min(radius, height - 1), min(radius, width - 1)):
        shift = rows * pitch + columns
        weight = math.exp(-0.5 * (rows * rows + columns * columns) / sigma_xy**2)
        kernel = room[..., : length - shift]
        torch.sub(x[..., shift:], x[..., : length - shift], out=kernel)
        kernel.square_().neg_().exp_()
        # each unordered pair once, heard on both sides
        sums[..., : length - shift].addcmul_(kernel, flat[..., shift:], value=weight)
        sums[..., shift:].addcmul_(kernel, flat[..., : length - shift], value=weight)
    return sums.view(*values.shape[:3], pitch)[..., :width]


def _half(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Offsets (down, right) of which each, or its opposite, is in the window; never both."""
    yield from ((0, right) for right in range(1, columns + 1))
    for down in range(1, rows + 1):
        yield from ((down, right) for right in range(-columns, columns + 1))
