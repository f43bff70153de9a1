"""Runs the protocol of `alnb.session.vepa`: seed after seed, each in a project of its own."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alnb.data.cohort import Cohort, Split
from alnb.data.volume import Volume
from alnb.embed.train import EncoderRecipe
from alnb.errors import BadInput
from alnb.models.best_of import BestOf
from alnb.models.checkpoint import from_bytes
from alnb.models.infer import predict_volume
from alnb.models.metrics import Empties, volume_dice
from alnb.protocols import Learner
from alnb.session import experiment
from alnb.session.ledger import ledger
from alnb.session.opening import split_by_reference
from alnb.session.oracle import SimulatedOracle
from alnb.session.outcome import Measured, Outcome
from alnb.session.session import Session
from alnb.session.state import Fit
from alnb.session.vepa import MODEL_FREE, NAME, Preset
from alnb.store.blobs import atomic_write, npy
from alnb.store.journal import make_folder
from alnb.store.shelf import Shelf
from alnb.strategies.random_sampling import RandomSampling


def run(
    preset: Preset,
    cohort: Cohort,
    folder: Path,
    *,
    split: Split | None = None,
    on_stage: Callable[[str, int], None] = lambda stage, done: None,
    on_open: Callable[[Session], None] = lambda session: None,
) -> Outcome:
    """Run every seed of `preset` in `folder`; what is done is not repeated.

    The journal of each project is the truth: tables are computed from its checkpoints. A run that
    was cut off, between two acts or within a training, ends with the same numbers.

    split : of the patients; the cohort's official one, else one drawn once for all seeds.
    on_stage : told "seed 3: fit" and the rounds finished so far, over all seeds.
    on_open : told of every project when it is opened.

    BadInput if the folder holds an experiment with other settings, or if the split leaves nothing
    to validate or to test on.
    """
    runs = _Runs(preset, cohort, split_of(cohort, split), folder)
    plan = preset.counts(runs.pool)
    test = runs.held("test")
    declare(folder, facts(preset, cohort, runs.split))
    measured: list[Measured] = []
    for place, seed in enumerate(preset.seeds):
        done = place * len(plan)

        def stage(name: str, rounds: int, seed: int = seed, done: int = done) -> None:
            on_stage(f"seed {seed}: {name}", done + rounds)

        learner = runs.learner(seed)
        with runs.open(seed, learner) as session:
            on_open(session)
            if preset.strategy == NAME and NAME not in session.embeddings:
                stage("encoder", 0)
                session.learn_embedding(runs.encoder, name=NAME)
            experiment.run(
                session,
                SimulatedOracle(cohort, preset.oracle, seed),
                plan,
                first=RandomSampling() if preset.shared_start else None,
                test=False,
                on_stage=stage,
            )
            Shelf(session.folder / "networks").clear()
            stage("test", len(plan))
            measured += _measure(preset, session, learner, test)
    return Outcome(runs.title(), _notes(preset), cohort.classes, tuple(measured))


def split_of(cohort: Cohort, split: Split | None = None) -> Split:
    """`split`, else the cohort's official one, else one drawn once for all seeds."""
    return split or cohort.split or split_by_reference(cohort, 0)


def facts(preset: Preset, cohort: Cohort, split: Split) -> dict[str, str]:
    """All that decides an experiment's numbers but the seeds, of which more can follow."""
    settings = {
        each.name: str(getattr(preset, each.name))
        for each in dataclasses.fields(preset)
        if each.name not in ("seeds", "device")
    }
    return settings | {"cohort": cohort.fingerprint(), "split": split.digest()}


def declare(folder: Path, mine: Mapping[str, str]) -> None:
    """Write what is run into its folder; BadInput if something else was run there."""
    path = folder / "protocol.json"
    if not path.exists():
        make_folder(folder)
        atomic_write(path, json.dumps(mine, indent=1).encode())
        return
    before = json.loads(path.read_text())
    names = sorted(before.keys() | mine.keys())
    other = [name for name in names if before.get(name) != mine.get(name)]
    if other:
        raise BadInput(
            f"{folder.name} holds an experiment with another {other[0]}: "
            f"{before.get(other[0])}, now {mine.get(other[0])}. Choose another folder, or the "
            "settings it was begun with. Nothing was changed."
        )


def measured_on(cohort: Cohort, patients: Collection[str]) -> tuple[Volume, ...]:
    """The volumes of `patients` that have a reference."""
    volumes = cohort.volumes.values()
    return tuple(v for v in volumes if v.patient in patients and v.has_reference)


def dice_table(
    learner: Learner, volumes: Iterable[Volume], classes: int, empties: Empties = "paper"
) -> NDArray[np.float64]:
    """(V, C - 1): 3D Dice of every volume and foreground class."""
    rows = []
    for volume in volumes:
        reference = volume.reference()
        assert reference is not None, "only volumes with a reference are measured"
        predicted = predict_volume(learner, volume.image())
        rows.append(volume_dice(predicted, reference, classes, empties))
    return np.stack(rows)


@dataclass(frozen=True, eq=False)
class Validation:
    """Mean over volumes and classes of `dice_table`: what checkpoints and networks are chosen by.

    All copies of a learner share it, since it holds volumes and never changes.
    """

    volumes: tuple[Volume, ...]
    classes: int

    def __call__(self, learner: Learner) -> float:
        return float(dice_table(learner, self.volumes, self.classes).mean())

    def __deepcopy__(self, memo: object) -> Validation:
        return self


@dataclass(frozen=True, eq=False)
class _Runs:
    """What all seeds of an experiment have in common."""

    preset: Preset
    cohort: Cohort
    split: Split
    folder: Path

    @property
    def pool(self) -> int:
        return len(self.cohort.pool("slice", self.split.train))

    @property
    def stored(self) -> bool:
        """Whether intensities can be taken as they are: only ACDC is prepared as published."""
        return self.cohort.name == "ACDC"

    @property
    def encoder(self) -> EncoderRecipe:
        recipe = self.preset.encoder
        return recipe if self.stored else replace(recipe, intensities="slice")

    def held(self, name: str) -> tuple[Volume, ...]:
        """The volumes of "val" or "test" that have a reference."""
        held = measured_on(self.cohort, getattr(self.split, name))
        if not held:
            raise BadInput(
                f"The split holds no {name} volume with a reference mask; this protocol chooses "
                "networks by validation and reports on a test set. Give patients to both."
            )
        return held

    def learner(self, seed: int) -> BestOf:
        validate = Validation(self.held("val"), len(self.cohort.classes))
        return BestOf(
            self.preset.network(self.pool, validate, stored=self.stored),
            validate,
            networks=self.preset.networks,
            answers="best" if self.preset.strategy in MODEL_FREE else "all",
            seed=seed,
            shelf=Shelf(self.folder / f"seed{seed}" / "networks"),
        )

    def open(self, seed: int, learner: BestOf) -> Session:
        return Session.open(
            self.folder / f"seed{seed}",
            self.cohort,
            strategy=self.preset.chooser(),
            learner=learner,
            seed=seed,
            per_volume=None,
            split=self.split,
            gate=None,
            annotator="oracle",
            reveal=True,
        )

    def title(self) -> str:
        preset, split = self.preset, self.split
        return (
            f"{NAME} protocol on {self.cohort.name}: strategy {preset.strategy}, {preset.oracle} "
            f"oracle, schedule {preset.schedule}; pool {self.pool} slices of {len(split.train)} "
            f"patients, validation {len(split.val)}, test {len(split.test)} patients; 3D test Dice "
            'at native size, empty classes "paper"'
        )


def _measure(
    preset: Preset, session: Session, learner: BestOf, volumes: tuple[Volume, ...]
) -> list[Measured]:
    """Every round's networks on the test volumes; a table once computed lies in the project."""
    shelf = Shelf(session.folder / "measured")
    rows = []
    for number, (budget, steps) in enumerate(zip(preset.budgets, preset.steps(), strict=True)):
        fit = [f for f in session.state.fits if f.round == number and f.checkpoint][-1]
        validation, dice = _table(session, learner, fit, volumes, shelf)
        spent = ledger(session, number)
        share = spent.slices / len(session.pool)
        rows.append(
            Measured(
                session.seed, number, budget, share, spent.slices, steps, validation, dice, spent
            )
        )
    return rows


def _table(
    session: Session, learner: BestOf, fit: Fit, volumes: tuple[Volume, ...], shelf: Shelf
) -> tuple[tuple[float, ...], NDArray[np.float64]]:
    """Validation score (M,) and test Dice (M, V, C - 1) of the networks of one training."""
    assert fit.checkpoint is not None, "only trainings that ended well are measured"
    key = fit.checkpoint[:32]
    if key not in shelf:
        networks = replace(learner)
        networks.load_state_dict(from_bytes(session.blobs.get(fit.checkpoint)))
        classes = len(session.classes)
        dice = np.stack([dice_table(n, volumes, classes) for n in networks.committee])
        scores = np.array(networks.scores)[:, None, None].repeat(len(volumes), 1)
        shelf[key] = npy(np.concatenate([scores, dice], 2))
    both = np.load(io.BytesIO(shelf[key]), allow_pickle=False)
    return tuple(both[:, 0, 0].tolist()), both[:, :, 1:]


def _notes(preset: Preset) -> tuple[str, ...]:
    changed = "; ".join(preset.reduced)
    return (
        'Dice: the network of best validation Dice; "all nets": the mean over all networks. '
        "run std: over seeds; 2 boot SE: over test volumes.",
        f"Not as published: {changed}." if changed else "All settings as published.",
        "An independent implementation of arXiv 2411.15763; its deviations are listed in "
        "alnb.session.vepa.",
    )
