"""VAAL: ask for images that a discriminator can tell from the labelled ones.

Source: Sinha, Ebrahimi and Darrell, "Variational adversarial active learning", ICCV 2019, arXiv
1904.00370.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from alnb.errors import ColdStart
from alnb.protocols import Snapshot
from alnb.records import Floats, Pool, Rows, Selection
from alnb.rng import torch_generator
from alnb.strategies.common import as_asked, candidates_for, in_order, made_once, mean_by_owner

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor, nn

_SCORED = 64


@dataclass(frozen=True)
class VAAL:
    """The n candidates that look least as if they were labelled.

    A variational autoencoder sees labelled and other images; a discriminator on its latent means
    learns which are labelled (target 1) and which are not (target 0), while the encoder tries to
    make all of them pass for labelled. Per iteration the autoencoder takes two steps and the
    discriminator one. What the discriminator still finds unlike the labelled ones is asked for.

    - autoencoder: MSE + `beta` KL on either set, + `adversary` (BCE(D(labelled), 1) +
      BCE(D(others), 1)).
    - discriminator, 512-512-1: BCE(D(labelled), 1) + BCE(D(others), 0).

    The default is what a person can wait for on a CPU: 64 x 64 pixels, 4 stages. `VAAL.paper()`
    has the published sizes and needs a GPU: 1000 slices take some 6 · 10^15 operations, by count of
    its convolutions.

    Where a public reimplementation differs: it trains the discriminator with target 1 for others
    as well, so that it learns nothing. Where the original differs: it encodes the two sets in
    batches of their own, whose batch statistics give the set away; here they go together. It also
    sums the KL over batch and dimensions but averages the MSE over pixels (kl = "sum"), which
    drowns the image; with "mean" both are per pixel, as in the evidence bound.

    Cost: trains both networks from scratch within the query, `epochs` N / `batch` iterations;
    images of the whole pool lie in memory at `size`^2 x 2 bytes. Under a wrapper that asks again
    for the rest of a batch they are trained once. ColdStart while nothing is labelled. Chance
    draws weights, batches and noise. The score is 1 - D, for a volume the mean over its slices.
    """

    size: int = 64
    channels: tuple[int, ...] = (16, 32, 64, 128)
    latent: int = 16
    width: int = 512
    epochs: int = 10
    batch: int = 64
    rate: float = 5e-4
    beta: float = 1.0
    adversary: float = 1.0
    kl: Literal["sum", "mean"] = "mean"
    device: str | None = None

    def __post_init__(self) -> None:
        step = 2 ** len(self.channels)
        if self.size < 2 * step or self.size % step:
            raise ValueError(f"Size {self.size} must be a multiple of {step}, at least {2 * step}.")
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(f"epochs {self.epochs} and batch {self.batch} must be at least 1.")
        if self.kl not in ("sum", "mean"):
            raise ValueError(f"kl is {self.kl!r}; it can be 'sum' or 'mean'.")

    @classmethod
    def paper(cls) -> VAAL:
        """256 x 256 pixels, five stages to 1024 channels, latent 32, 50 epochs, batches of 128."""
        return cls(256, (64, 128, 256, 512, 1024), 32, 512, 50, 128, kl="sum")

    def select(self, snapshot: Snapshot, n: int, *, rng: np.random.Generator) -> Selection:
        """n candidates, least like the labelled ones first."""
        candidates = candidates_for(snapshot, n)
        scores = made_once(snapshot, self, lambda: self._scores(as_asked(snapshot), rng))
        scores = scores[candidates]
        order = np.lexsort((rng.permutation(len(candidates)), -scores))[:n]
        return Selection(rows=candidates[order], scores=scores[order])

    def _scores(self, snapshot: Snapshot, rng: np.random.Generator) -> Floats:
        """(N,) of the whole pool."""
        if not len(snapshot.labelled):
            raise ColdStart(
                "VAAL learns what labelled slices look like, and none is labelled. Wrap it: "
                "WarmStart(Strided(), VAAL())."
            )
        rows = in_order(snapshot.pool, np.arange(len(snapshot.pool)))
        images = _framed(snapshot, rows, self.size)
        owner = _owners(snapshot.pool, rows)
        known = np.isin(rows, snapshot.labelled)[owner]
        scores = np.empty(len(rows))
        scores[rows] = mean_by_owner(
            unlike_labelled(images, known, self, rng=rng), owner, len(rows)
        )
        return scores


def unlike_labelled(
    images: Tensor, labelled: NDArray[np.bool_], settings: VAAL, *, rng: np.random.Generator
) -> Floats:
    """(S,) 1 - D of images (S, 1, size, size) in 0..1, after training on which are `labelled`."""
    import torch
    from torch.nn import functional

    from alnb.models.hardware import best_device

    where = torch.device(settings.device) if settings.device else best_device()
    generator = torch_generator(rng)
    encoder, decoder = _autoencoder(settings, generator, where)
    judge = _judge(settings, generator, where)
    coding = [*encoder.parameters(), *decoder.parameters()]
    coder = torch.optim.Adam(coding, lr=settings.rate)
    judging = torch.optim.Adam(judge.parameters(), lr=settings.rate)
    noise = torch_generator(rng, where.type)
    sets = [torch.from_numpy(np.flatnonzero(part)) for part in (labelled, ~labelled)]
    sets = [part for part in sets if len(part)]

    def batch() -> tuple[Tensor, Tensor]:
        """Images of both sets and their targets.

        They pass the encoder together: batch normalisation of each set on its own would tell the
        discriminator which is which.
        """
        drawn = [p[torch.randperm(len(p), generator=generator)[: settings.batch]] for p in sets]
        known = torch.cat([torch.full((len(p), 1), 1.0 - i) for i, p in enumerate(drawn)])
        return images[torch.cat(drawn)].to(where).float(), known.to(where)

    def verdict(mu: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """Sum of each set's mean BCE to `target`."""
        each = functional.binary_cross_entropy_with_logits(judge(mu), target, reduction="none")
        parts = [each[known == one].mean() for one in (1.0, 0.0) if bool((known == one).any())]
        return torch.stack(parts).sum()

    for _ in range(math.ceil(settings.epochs * len(images) / settings.batch)):
        for _ in range(2):
            real, known = batch()
            mu, spread = encoder(real).chunk(2, dim=1)
            shift = torch.randn(mu.shape, generator=noise, device=where)
            again = decoder(mu + shift * (spread / 2).exp())
            kl = (mu * mu + spread.exp() - 1 - spread).sum() / 2
            kl = kl if settings.kl == "sum" else kl / real.numel()
            loss = functional.mse_loss(again, real) + settings.beta * kl
            loss = loss + settings.adversary * verdict(mu, torch.ones_like(known), known)
            coder.zero_grad()
            loss.backward()
            coder.step()
        real, known = batch()
        with torch.no_grad():
            mu, _ = encoder(real).chunk(2, dim=1)
        loss = verdict(mu, known, known)
        judging.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        judging.step()
    encoder.eval()
    with torch.no_grad():
        parts = [
            judge(encoder(part.to(where).float()).chunk(2, dim=1)[0]).double().neg().sigmoid()
            for part in images.split(_SCORED)  # type: ignore[no-untyped-call]
        ]
    found: Floats = torch.cat(parts)[:, 0].cpu().numpy()
    return found


def _autoencoder(
    settings: VAAL, generator: Generator, where: torch.device
) -> tuple[nn.Module, nn.Module]:
    """Images to mean and log variance (B, 2 latent), and a code (B, latent) to images."""
    import torch
    from torch import nn

    widths = (1, *settings.channels)
    side = settings.size // 2 ** len(settings.channels)
    flat = widths[-1] * side**2
    with torch.device("meta"):  # no weight is drawn yet, so global random state stays
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            down += [nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        for wide, narrow in pairwise(widths[:0:-1]):
            up += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False)]
            up += [nn.BatchNorm2d(narrow), nn.ReLU()]
        encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, 2 * settings.latent))
        decoder = nn.Sequential(
            nn.Linear(settings.latent, flat),
            nn.Unflatten(1, (widths[-1], side, side)),
            *up,
            nn.ConvTranspose2d(widths[1], 1, 4, 2, 1),
        )
    return _drawn(encoder, generator, where), _drawn(decoder, generator, where)


def _judge(settings: VAAL, generator: Generator, where: torch.device) -> nn.Module:
    import torch
    from torch import nn

    with torch.device("meta"):
        judge = nn.Sequential(
            nn.Linear(settings.latent, settings.width),
            nn.ReLU(),
            nn.Linear(settings.width, settings.width),
            nn.ReLU(),
            nn.Linear(settings.width, 1),
        )
    return _drawn(judge, generator, where)


def _drawn(net: nn.Module, generator: Generator, where: torch.device) -> nn.Module:
    """He initialisation from `generator`, zero biases, neutral normalisation."""
    from torch import nn

    net = net.to_empty(device="cpu")
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    return net.to(where)


def _framed(snapshot: Snapshot, rows: Rows, size: int) -> Tensor:
    """(S, 1, size, size) float16 in 0..1: every slice of `rows`, row by row."""
    import torch

    from alnb.models.frame import Frame

    parts = [
        Frame(int(batch.shape[2]), int(batch.shape[3]), size).images(batch).half()
        for batch in snapshot.images(rows)
    ]
    return torch.cat(parts)


def _owners(pool: Pool, rows: Rows) -> Rows:
    """(S,) position within `rows` of each of their slices."""
    return np.repeat(np.arange(len(rows)), [len(pool.slices[row]) for row in rows.tolist()])
