# ruff: noqa: T201 - a command line prints
"""The gated CRF loss, beside the way it is usually written: all shifted copies at once.

    OMP_NUM_THREADS=1 python benchmarks/losses.py [--batch 2] [--size 256] [--radius 5] [--device …]

Both sides compute value and gradient of the same loss on the same logits, in turns, in one run.
"Unfolded" is the common implementation: `unfold` makes every neighbour a channel, kernels and
products are computed for all of them at once, autograd keeps what it needs. Memory is the largest
sum of live tensors during value and gradient, beyond what was there before; scratch space inside
a kernel is not counted. Both numbers of a row are minima over `--turns`, or, for memory, of one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from alnb.losses.regularisers import gated_crf
from alnb.models.memory import Peak

SIGMA_XY, SIGMA_INTENSITY = 6.0, 0.1


def unfolded(logits: Tensor, images: Tensor, radius: int) -> Tensor:
    """The same loss with all (2 radius + 1)² shifted copies in memory."""
    size, _, height, width = logits.shape
    side = 2 * radius + 1
    p = logits.softmax(1)

    def shifted(values: Tensor) -> Tensor:
        copies = functional.unfold(values, side, padding=radius)
        return copies.view(size, values.shape[1], side * side, height, width)

    reach = torch.arange(-radius, radius + 1, device=logits.device)
    far = (reach[:, None].square() + reach.square()).flatten() / SIGMA_XY**2
    unlike = (shifted(images) - images.unsqueeze(2)) / SIGMA_INTENSITY
    kernel = torch.exp(-0.5 * (far.view(1, 1, -1, 1, 1) + unlike.square()))
    inside = shifted(torch.ones_like(images))
    inside[:, :, side * side // 2] = 0
    same = (shifted(p) * p.unsqueeze(2)).sum(1, keepdim=True)
    return (kernel * inside * (1 - same)).sum() / (size * height * width)


def main() -> None:
    """Print time and memory of both, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--radius", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, args.classes, args.size, args.size)
    logits = torch.randn(shape, generator=generator).to(args.device)
    images = torch.rand((args.batch, 1, *shape[2:]), generator=generator).to(args.device)

    def ours() -> tuple[Tensor, Tensor]:
        return with_gradient(logits, lambda x: gated_crf(x, images, radius=args.radius))

    def theirs() -> tuple[Tensor, Tensor]:
        return with_gradient(logits, lambda x: unfolded(x, images, args.radius))

    for a, b in zip(ours(), theirs(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    times: dict[str, list[float]] = {"one sweep": [], "unfolded": []}
    for _ in range(args.turns):
        for name, work in (("one sweep", ours), ("unfolded", theirs)):
            times[name].append(seconds(work, args.device))
    best = {name: min(values) for name, values in times.items()}
    bytes_ = {"one sweep": peak(ours), "unfolded": peak(theirs)}
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads")
    print(f"gated CRF, logits {shape}, radius {args.radius}: value and gradient, both the same")
    for name, value in best.items():
        print(f"  {name:10} {1e3 * value:9.1f} ms {bytes_[name] / 2**20:9.1f} MiB")
    ratios = [side["unfolded"] / side["one sweep"] for side in (best, bytes_)]
    print(f"  unfolded / one sweep: {ratios[0]:.1f} x the time, {ratios[1]:.1f} x the memory")


def with_gradient(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The loss and its gradient."""
    given = logits.detach().requires_grad_()
    value = loss(given)
    (gradient,) = torch.autograd.grad(value, given)
    return value.detach(), gradient


def seconds(work: Callable[[], Any], device: str) -> float:
    """Of one call, the device's queue emptied before and after."""
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak(work: Callable[[], Any]) -> int:
    """Bytes of live tensors at the worst moment of `work`."""
    with Peak() as mode:
        work()
    return mode.peak


if __name__ == "__main__":
    main()
