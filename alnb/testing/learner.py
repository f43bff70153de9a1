"""The contract of a learner, for those of alnb and for anybody's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, get_args

import numpy as np

from alnb.errors import ColdStart
from alnb.protocols import Learner
from alnb.records import IGNORE, Floats, LabelMap, Step, TrainSet, Unit

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = 3


def toy_train_set(
    items: int = 4, *, side: int = 32, seed: int = 0, unit: Unit = "slice"
) -> TrainSet:
    """Bright discs in a grey ring on black, labelled on every other row, IGNORE between.

    Sizes alternate between (side, side) and (side, side - 8), as they do in real cohorts. Volumes
    hold balls in a shell; a third as many slices, of which every other one is labelled.
    """
    rng = np.random.default_rng(seed)
    depth = () if unit == "slice" else (side // 3,)
    pairs = [_toy_item((*depth, side, side - 8 * (item % 2)), rng) for item in range(items)]
    images, targets = zip(*pairs, strict=True)
    return TrainSet(images, targets, np.ones(items, np.int64), CLASSES)


def check_learner(
    make: Callable[[], Learner],
    *,
    supervised: bool = True,
    exact_weight: bool = True,
    tolerance: float = 1e-5,
) -> None:
    """Raise AssertionError with the reason unless `make()` gives a learner that keeps its contract.

    `make` returns a fresh learner, the same each time; give it few steps, as it is fitted some six
    times on `toy_train_set` of its unit. `supervised=False` for one that also learns from
    unlabelled pixels: it may notice an image in which nobody drew. `exact_weight=False` for one in
    which weight 2 equals the item twice only in expectation. `tolerance` on probabilities; above 0
    because some GPU kernels add in no fixed order.
    """
    learner = make()
    _require(isinstance(learner, Learner), "It lacks a member of alnb.protocols.Learner.")
    _require(
        learner.unit in get_args(Unit), f"`unit` is {learner.unit!r}, neither slice nor volume."
    )
    train = toy_train_set(unit=learner.unit)
    _check_cold_start(make(), train)
    report = learner.fit(train, rng=np.random.default_rng(0))
    _require(report.steps > 0 and not report.stopped, f"A fit to the end reported {report}.")
    _check_probs(learner, train)
    _check_reading_leaves_state(learner, train)
    _check_state(learner, make(), train, tolerance)

    def same(other: TrainSet, reason: str) -> None:
        rival = make()
        rival.fit(other, rng=np.random.default_rng(0))
        gap = _gap(_predict(learner, train), _predict(rival, train))
        _require(gap <= tolerance, f"{reason} Probabilities differ by {gap:.3g}.")

    same(train, "Two fits with the same rng differ.")
    if exact_weight:
        _check_weight(make, train, tolerance)
    if supervised:
        _check_ignore(make, train, tolerance)
    _check_stop(make(), train)


def _check_cold_start(learner: Learner, train: TrainSet) -> None:
    image = _tensor(train.images[0])
    calls: dict[str, Callable[[], object]] = {
        "probs": lambda: list(learner.probs([image])),
        "features": lambda: list(learner.features([image])),
    }
    for name, call in calls.items():
        try:
            call()
        except ColdStart:
            continue
        raise AssertionError(f"`{name}` before the first fit must raise ColdStart.")


def _check_probs(learner: Learner, train: TrainSet) -> None:
    for image, probs in zip(train.images, _predict(learner, train), strict=True):
        shape = tuple(probs.shape[1:])
        expected = (1, train.classes, *image.shape)
        _require(shape == expected, f"`probs` gave (M, *{shape}), expected (M, *{expected}).")
        off = float((probs.sum(2) - 1).abs().max())
        _require(off < 1e-4, f"Probabilities sum to 1 only within {off:.3g}.")
        _require(bool((probs >= 0).all()), "A probability is negative.")
    features = [f for image in train.images for f in learner.features([_tensor(image)])]
    widths = {tuple(f.shape) for f in features}
    _require(len(widths) == 1, f"`features` of slices of two sizes have shapes {sorted(widths)}.")


def _check_reading_leaves_state(learner: Learner, train: TrainSet) -> None:
    before = learner.state_dict()
    _predict(learner, train)
    after = learner.state_dict()
    changed = [name for name in before if not bool((before[name] == after[name]).all())]
    _require(not changed, f"`probs` changed the state: {changed[:3]}.")


def _check_state(learner: Learner, other: Learner, train: TrainSet, tolerance: float) -> None:
    from alnb.models.checkpoint import from_bytes, to_bytes

    other.load_state_dict(from_bytes(to_bytes(learner.state_dict())))
    gap = _gap(_predict(learner, train), _predict(other, train))
    _require(gap <= tolerance, f"After a state round trip probabilities differ by {gap:.3g}.")


def _check_weight(make: Callable[[], Learner], train: TrainSet, tolerance: float) -> None:
    def take(rows: list[int], weight: list[int]) -> TrainSet:
        images = tuple(train.images[row] for row in rows)
        targets = tuple(train.targets[row] for row in rows)
        return TrainSet(images, targets, np.array(weight), train.classes)

    twice, weighted = make(), make()
    twice.fit(take([0, 0, 1], [1, 1, 1]), rng=np.random.default_rng(1))
    weighted.fit(take([0, 1], [2, 1]), rng=np.random.default_rng(1))
    gap = _gap(_predict(twice, train), _predict(weighted, train))
    _require(gap <= tolerance, f"Weight 2 is not the item twice: they differ by {gap:.3g}.")


def _check_ignore(make: Callable[[], Learner], train: TrainSet, tolerance: float) -> None:
    """Nothing in a slice that is IGNORE throughout may reach a supervised learner."""
    silent = np.full_like(train.targets[0], IGNORE)
    predictions = []
    for image in (train.images[0], 1 - train.images[0] ** 2):
        learner = make()
        learner.fit(
            TrainSet(
                (*train.images[1:], image),
                (*train.targets[1:], silent),
                train.weight,
                train.classes,
            ),
            rng=np.random.default_rng(2),
        )
        predictions.append(_predict(learner, train))
    gap = _gap(*predictions)
    _require(gap <= tolerance, f"IGNORE pixels changed a probability by {gap:.3g}.")


def _check_stop(learner: Learner, train: TrainSet) -> None:
    steps: list[Step] = []
    report = learner.fit(
        train, rng=np.random.default_rng(3), on_step=steps.append, stopped=lambda: bool(steps)
    )
    _require(len(steps) <= 1, f"Asked to stop after its first step, it took {len(steps)} steps.")
    single = bool(steps) and steps[0].total <= 1
    _require(report.stopped or single, "A fit that was stopped must report stopped=True.")


def _predict(learner: Learner, train: TrainSet) -> list[Tensor]:
    return list(learner.probs(_stream(train)))


def _stream(train: TrainSet) -> Iterator[Tensor]:
    for image in train.images:
        yield _tensor(image)


def _tensor(image: Floats) -> Tensor:
    import torch

    return torch.as_tensor(image)[None, None]


def _gap(first: list[Tensor], second: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))


def _toy_item(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Floats, LabelMap]:
    """Of a slice (H, W), or a volume (Z, H, W), whose slices lie farther apart than its pixels."""
    scale = np.array([*shape[:-2], min(shape[-2:]), min(shape[-2:])])
    centre = np.array(shape) * rng.uniform(0.4, 0.6, len(shape))
    away = np.linalg.norm((np.moveaxis(np.indices(shape), 0, -1) - centre) / scale, axis=-1)
    label = np.where(away < 0.16, 2, np.where(away < 0.28, 1, 0)).astype(np.uint8)
    image = np.array([0.1, 0.5, 0.9])[label] + rng.normal(0, 0.03, label.shape)
    label[..., ::2, :] = IGNORE
    if len(shape) == 3:
        label[::2] = IGNORE
    return image.astype(np.float32), label


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise AssertionError(reason)
