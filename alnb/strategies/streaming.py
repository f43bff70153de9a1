"""What a score needs of a committee, added up member by member: memory does not grow with M.

A score is any function of probabilities (M, B, C, *S). One that needs only some means over the
members can say so, and then sees each member once::

    @streams("mean", "entropy")
    def bald(probs: Tensor | Sums) -> Tensor:
        maps = summed(probs)
        return entropy_of(maps.mean) - maps.entropy

Whoever has the members one at a time fills a `Running` with `needs_of(score)` and hands it over;
called with a tensor, the same function gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Need = Literal["mean", "entropy", "log", "spread", "votes"]
Function = TypeVar("Function", bound=Callable[..., Any])

NEEDS = frozenset({"mean", "entropy", "log", "spread", "votes"})


class Sums(Protocol):
    """Means over the members of a committee, float32 or better.

    Attributes
    ----------
    members : M.
    mean : (B, C, *S) of the probabilities.
    entropy : (B, *S) of the members' entropies.
    log : (B, C, *S) of the logarithms, where a probability counts as the least normal number.
    spread : (B, *S) of the squared distances to `mean`, summed over the classes.
    votes : (B, C, *S) share of the members to whom a class is the likeliest.
    """

    @property
    def members(self) -> int: ...
    @property
    def mean(self) -> Tensor: ...
    @property
    def entropy(self) -> Tensor: ...
    @property
    def log(self) -> Tensor: ...
    @property
    def spread(self) -> Tensor: ...
    @property
    def votes(self) -> Tensor: ...


def streams(*needs: Need) -> Callable[[Function], Function]:
    """Declare that a score, or a reduction, reads only these parts of `summed(probs)`.

    `needs_of` then finds them; nothing else about the function changes. ValueError for a name that
    no part has.
    """
    unknown = sorted(set(needs) - NEEDS)
    if unknown:
        raise ValueError(f"No part of Sums is called {unknown[0]!r}; known are {sorted(NEEDS)}.")

    def declare(function: Function) -> Function:
        function.needs = frozenset(needs)  # type: ignore[attr-defined]
        return function

    return declare


def needs_of(function: object) -> frozenset[Need] | None:
    """What `function` declared; None if it wants probabilities of all members at once."""
    needs: frozenset[Need] | None = getattr(function, "needs", None)
    return needs


def summed(probs: Tensor | Sums) -> Sums:
    """`Sums` of (M, B, C, *S) probabilities, each part computed when it is read; or as it is."""
    import torch

    return Stacked(probs) if isinstance(probs, torch.Tensor) else probs


class Stacked:
    """`Sums` of probabilities that are there as a whole."""

    def __init__(self, probs: Tensor) -> None:
        self._probs = lifted(probs)

    @property
    def members(self) -> int:
        """M."""
        return len(self._probs)

    @cached_property
    def mean(self) -> Tensor:
        """See `Sums`."""
        return self._probs.mean(0)

    @cached_property
    def entropy(self) -> Tensor:
        """See `Sums`."""
        return entropy_of(self._probs, classes=2).mean(0)

    @cached_property
    def log(self) -> Tensor:
        """See `Sums`."""
        return self._probs.log().clamp_min(least_log(self._probs)).mean(0)

    @cached_property
    def spread(self) -> Tensor:
        """See `Sums`."""
        return (self._probs - self.mean).square().sum(2).mean(0)

    @cached_property
    def votes(self) -> Tensor:
        """See `Sums`."""
        import torch

        return torch.stack([ballot(member) for member in self._probs]).mean(0)


class Running:
    """`Sums` of members that come one at a time; only the parts in `needs` are kept."""

    def __init__(self, needs: Iterable[Need]) -> None:
        self.members = 0
        self._needs = frozenset(needs)
        self._kept: dict[str, Tensor] = {}

    @classmethod
    def over(cls, members: Iterable[Tensor], needs: Iterable[Need]) -> Running:
        """All of `members`, (B, C, *S) finite log-probabilities each."""
        running = cls(needs)
        for log_probs in members:
            running.add(log_probs)
        return running

    def add(self, log_probs: Tensor) -> None:
        """Take in one member's log-probabilities (B, C, *S), which stay as they are."""
        from alnb.models.hardware import blocks

        log_probs = lifted(log_probs)
        self.members += 1
        if self.members == 1:
            self._kept = {part: self._room(part, log_probs) for part in self._parts}
        for some in blocks(log_probs):
            probs = log_probs[some].exp()
            if "votes" in self._parts:
                self._blend("votes", some, ballot(probs))
            if "log" in self._parts:
                self._blend("log", some, log_probs[some].clamp_min(least_log(log_probs)))
            if "spread" in self._parts:
                self._blend("spread", some, self._surprise(some, probs))
            if "mean" in self._parts:
                self._blend("mean", some, probs)
            if "entropy" in self._parts:
                self._blend("entropy", some, _cross(probs, log_probs[some]).neg_())

    @property
    def _parts(self) -> frozenset[str]:
        return self._needs | {"mean"} if "spread" in self._needs else self._needs

    def _room(self, part: str, like: Tensor) -> Tensor:
        import torch

        return torch.empty_like(like[:, 0] if part in ("entropy", "spread") else like)

    def _surprise(self, some: slice, probs: Tensor) -> Tensor:
        """What makes the mean of squared distances come out (Welford 1962), without cancellation.

        The squared distance to the mean of those before, which are members - 1 of members.
        """
        if self.members == 1:
            return probs.sum(1).mul_(0)
        weight = 1 - 1 / self.members
        return (probs - self._kept["mean"][some]).square_().sum(1).mul_(weight)

    def _blend(self, part: str, some: slice, value: Tensor) -> None:
        if self.members == 1:
            self._kept[part][some] = value
        else:
            self._kept[part][some].lerp_(value, 1 / self.members)

    def _part(self, name: str) -> Tensor:
        if name not in self._needs:
            declared = ", ".join(sorted(self._needs)) or "nothing"
            raise ValueError(
                f"A score reads {name!r} of the committee, but declared {declared}. "
                f"Add {name!r} to its @streams(...)."
            )
        return self._kept[name]

    @property
    def mean(self) -> Tensor:
        """See `Sums`."""
        return self._part("mean")

    @property
    def entropy(self) -> Tensor:
        """See `Sums`."""
        return self._part("entropy")

    @property
    def log(self) -> Tensor:
        """See `Sums`."""
        return self._part("log")

    @property
    def spread(self) -> Tensor:
        """See `Sums`."""
        return self._part("spread")

    @property
    def votes(self) -> Tensor:
        """See `Sums`."""
        return self._part("votes")


def entropy_of(probs: Tensor, classes: int = 1) -> Tensor:
    """Entropy over the axis `classes`; 0 log 0 is 0, and a NaN stays one.

    Written out, as `torch.special.entr` takes three times as long on a CPU.
    """
    import torch

    from alnb.models.hardware import blocks

    least = torch.finfo(probs.dtype).tiny
    parts = [
        probs[some].clamp_min(least).log_().mul_(probs[some]).sum(classes) for some in blocks(probs)
    ]
    return torch.cat(parts).neg_()


def _cross(first: Tensor, second: Tensor) -> Tensor:
    """(B, *S) sums over the classes of the products, class by class: no map of products."""
    total = first[:, 0] * second[:, 0]
    for number in range(1, first.shape[1]):
        total.addcmul_(first[:, number], second[:, number])
    return total


def lifted(values: Tensor) -> Tensor:
    """Half precision cannot hold p log p of a confident pixel, so lift it to float32."""
    import torch

    return values if values.dtype == torch.float64 else values.to(torch.float32)


def ballot(probs: Tensor) -> Tensor:
    """(B, C, *S) 1 for each pixel's likeliest class, the lower code in a tie; NaN stays NaN."""
    import torch

    best, label = probs.max(1, keepdim=True)
    return torch.zeros_like(probs).scatter_(1, label, best * 0 + 1)


def least_log(like: Tensor) -> float:
    """Logarithm of the least normal number."""
    import torch

    return math.log(torch.finfo(like.dtype).tiny)
