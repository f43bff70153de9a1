"""Runs the arms of `alnb.session.nath` beside each other, each arm and seed in its own project.

What is done lies in a folder and is not repeated: a run that was cut off anywhere, within a
training too, ends with the same numbers. Several processes may share the work by arms and seeds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from alnb.data.cohort import Cohort, Split
from alnb.data.volume import Volume
from alnb.errors import BadInput
from alnb.models.checkpoint import from_bytes, to_bytes
from alnb.models.metrics import Empties
from alnb.models.svgd_committee import Moment, SVGDCommittee
from alnb.protocols import ignore, never
from alnb.records import FitReport, Step, TrainSet
from alnb.rng import stream
from alnb.session import experiment
from alnb.session.arms import ARMS
from alnb.session.ledger import draws
from alnb.session.nath import Preset
from alnb.session.oracle import SimulatedOracle
from alnb.session.replicate import declare, dice_table, measured_on
from alnb.session.session import Session
from alnb.session.state import Fit
from alnb.session.study import Study, Trained
from alnb.store.shelf import LooseShelf, Shelf
from alnb.strategies.random_sampling import RandomSampling

EMPTIES: Empties = "one"
"""A class that is empty in both prediction and reference counts 1, in one of them 0."""


def run(
    preset: Preset,
    cohort: Cohort,
    folder: Path,
    *,
    split: Split | None = None,
    on_stage: Callable[[str, int], None] = lambda stage, done: None,
    on_open: Callable[[Session], None] = lambda session: None,
    on_trained: Callable[[Trained], None] = lambda trained: None,
) -> Study:
    """Run every seed and arm of `preset` in `folder`, all arms of a seed before the next one.

    split : of the patients; `preset.split` of the cohort unless given.
    on_stage : told "svgd_mi, seed 3: fit" and the trainings finished so far, of all.
    on_open : told of every project when it is opened.
    on_trained : told of every training once it is measured, also of those of an earlier call.

    BadInput if the folder holds an experiment with other settings, or if the split leaves nothing
    to test on.
    """
    runs = _Runs.of(preset, cohort, split or preset.split(cohort), folder)
    runs.declare()
    done = 0
    for seed in preset.seeds:
        for arm in preset.arms:
            told = _Told(on_stage, on_open, on_trained, done)
            done += runs.carry_out(arm, seed, told)
    return runs.study()


def read(preset: Preset, cohort: Cohort, folder: Path, *, split: Split | None = None) -> Study:
    """What `run` has measured in `folder` so far; nothing is trained.

    BadInput if that is nothing, or of other settings.
    """
    runs = _Runs.of(preset, cohort, split or preset.split(cohort), folder)
    runs.declare()
    return runs.study()


def project(
    preset: Preset,
    cohort: Cohort,
    folder: Path,
    arm: str,
    seed: int,
    *,
    split: Split | None = None,
) -> Session:
    """The project of one arm and seed, to be looked at or gone on with; close it when done.

    ProjectBusy while a run is at work on it.
    """
    return _Runs.of(preset, cohort, split or preset.split(cohort), folder).open(arm, seed)


@dataclass
class Repeatable(SVGDCommittee):
    """A committee whose training depends on what it learns from and on `seed`, on nothing else.

    So a training that was cut off and begun again gives what it would have given. Trainings on up
    to `start` volumes, which all arms of a seed share, are kept on `shelf` and not repeated.
    """

    seed: int = 0
    start: int = 0
    shelf: Shelf | None = None

    def fit(
        self,
        train: TrainSet,
        *,
        rng: np.random.Generator,
        on_step: Callable[[Step], None] = ignore,
        stopped: Callable[[], bool] = never,
    ) -> FitReport:
        """See `SVGDCommittee.fit`; `rng` is not used."""
        told = repr(sorted(zip(train.names, train.weight.tolist(), strict=True)))
        mine = stream(self.seed, "committee", told)
        shelf = self.shelf if len(train.names) <= self.start else None
        control = self.control or "stein"
        key = f"{control}-{hashlib.sha256(told.encode()).hexdigest()[:32]}"
        if shelf is not None and f"{key}.weights" in shelf:
            self.load_state_dict(from_bytes(shelf[f"{key}.weights"]))
            known = json.loads(shelf[f"{key}.report"])
            return FitReport(**known | {"notes": tuple(known["notes"])})
        report = super().fit(train, rng=mine, on_step=on_step, stopped=stopped)
        if shelf is not None and not report.stopped:
            shelf[f"{key}.report"] = json.dumps(dataclasses.asdict(report)).encode()
            shelf[f"{key}.weights"] = to_bytes(self.state_dict())
        return report


@dataclass(frozen=True)
class _Told:
    """Who is told what; `before` trainings were finished before this arm and seed."""

    stage: Callable[[str, int], None]
    open: Callable[[Session], None]
    trained: Callable[[Trained], None]
    before: int


@dataclass(frozen=True, eq=False)
class _Runs:
    """What all arms and seeds of a study have in common."""

    preset: Preset
    cohort: Cohort
    split: Split
    folder: Path
    volumes: int
    test: tuple[Volume, ...]

    @classmethod
    def of(cls, preset: Preset, cohort: Cohort, split: Split, folder: Path) -> _Runs:
        volumes = len(cohort.pool("volume", split.train))
        test = measured_on(cohort, split.test)
        if not test:
            raise BadInput(
                "The split holds no test volume with a reference mask, on which arms are compared. "
                "Give patients to it."
            )
        # whoever does not look at validation volumes has no use for them in the project
        shown = split if preset.validate else replace(split, val=())
        return cls(preset, cohort, shown, folder, volumes, test)

    def declare(self) -> None:
        """Hold the folder to these settings, see `replicate.declare`."""
        # an arm can be measured with and without validation: the networks are the same
        parts = (replace(self.split, val=()).digest(), self.cohort.fingerprint())
        facts = self.preset.settings | {"split": parts[0], "cohort": parts[1]}
        declare(self.folder, facts)

    def place(self, arm: str, seed: int) -> Path:
        return self.folder / f"seed{seed}" / arm

    def carry_out(self, arm: str, seed: int, told: _Told) -> int:
        """All trainings of one arm and seed; returns how many there are."""
        plan = self.preset.plan(arm, self.volumes)
        known = self.known(arm, seed)[: len(plan)]
        for each in known:
            told.trained(each)
        if len(known) == len(plan):
            return len(plan)
        with self.open(arm, seed) as session:
            told.open(session)

            def stage(name: str, rounds: int) -> None:
                told.stage(f"{arm}, seed {seed}: {name}", told.before + rounds)
                if name == "done" and rounds > len(known):
                    told.trained(self.measure(session, arm, seed, rounds - 1))

            experiment.run(
                session,
                SimulatedOracle(self.cohort, "mask", seed),
                plan,
                first=RandomSampling(),
                test=False,
                on_stage=stage,
            )
            for number in range(len(self.known(arm, seed)), len(plan)):
                # a table that was lost; its networks are those of the journal
                self.measure(session, arm, seed, number)
        return len(plan)

    def open(self, arm: str, seed: int) -> Session:
        return Session.open(
            self.place(arm, seed),
            self.cohort,
            strategy=self.preset.strategy(arm, LooseShelf(self.folder / "information")),
            learner=self.learner(arm, seed),
            unit="volume",
            seed=seed,
            keep_labelled=ARMS[arm].keep,
            per_volume=None,
            split=self.split,
            gate=None,
            annotator="oracle",
            reveal=True,
        )

    def learner(self, arm: str, seed: int) -> Repeatable:
        """The committee of an arm, with the streams of a seed."""
        plain = self.preset.committee(arm)
        fields = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain) if f.init}
        shelf = Shelf(self.folder / f"seed{seed}" / "start")
        return Repeatable(**fields, seed=seed, start=self.preset.initial, shelf=shelf)

    # ------------------------------------------------------------------ measuring

    def measure(self, session: Session, arm: str, seed: int, number: int) -> Trained:
        """Training `number` on the test volumes, by the networks that the journal names."""
        fit = [f for f in session.state.fits if f.round == number and f.checkpoint][-1]
        found = session.trainer.model()
        if found is not None and found[0].number == fit.number:
            learner = cast("SVGDCommittee", found[1])
        else:
            learner = self.learner(arm, seed)
            learner.load_state_dict(from_bytes(session.blobs.get(str(fit.checkpoint))))
        facts = self._facts(session, fit, learner)
        Shelf(session.folder / "measured")[_key(number)] = json.dumps(facts).encode()
        return self._trained(arm, seed, facts)

    def _facts(self, session: Session, fit: Fit, learner: SVGDCommittee) -> dict[str, Any]:
        times = draws(session, fit.round)
        dice = dice_table(learner, self.test, len(session.classes), EMPTIES)
        asked = session.state.rounds[fit.round]
        metrics = [m.mean for m in asked.metrics if m.split == "val"]
        moments: tuple[Moment, ...] = learner.diagnostics
        ratios = [m.forces.rep_ratio for m in moments]
        return {
            "training": fit.round,
            "draws": sum(times.values()),
            "unique": len(times),
            "dice": dice.tolist(),
            "seconds": fit.report.seconds if fit.report else None,
            "validation": metrics[-1] if metrics else None,
            "rep_ratio": float(np.median(ratios)) if ratios else None,
            "disagreement": moments[-1].disagreement if moments else None,
        }

    def _trained(self, arm: str, seed: int, facts: dict[str, Any]) -> Trained:
        values: dict[str, Any] = {n: math.nan if v is None else v for n, v in facts.items()}
        dice = np.array(values.pop("dice"), dtype=np.float64)
        start = self.preset.initial
        return Trained(arm=arm, seed=seed, start=start, pool=self.volumes, dice=dice, **values)

    def known(self, arm: str, seed: int) -> list[Trained]:
        """What was measured of an arm and seed so far, from the first training on."""
        shelf = Shelf(self.place(arm, seed) / "measured")
        found: list[Trained] = []
        while _key(len(found)) in shelf:
            found.append(self._trained(arm, seed, json.loads(shelf[_key(len(found))])))
        return found

    # ------------------------------------------------------------------ telling

    def study(self) -> Study:
        """Everything that was measured so far. BadInput if that is nothing."""
        trained = [
            each
            for arm in self.preset.arms
            for seed in self.preset.seeds
            for each in self.known(arm, seed)[: len(self.preset.plan(arm, self.volumes))]
        ]
        if not trained:
            raise BadInput(f"{self.folder.name} holds no measured training yet. Run the study.")
        return Study(self.title(), self.notes(), self.cohort.classes, tuple(trained))

    def title(self) -> str:
        preset = self.preset
        return (
            f"{preset.name} protocol on {self.cohort.name}: {self.volumes} volumes that can be "
            f"labelled, {preset.initial} to begin with, {preset.queries} more a query; "
            f"{preset.members} members, {preset.steps} steps a training; {len(self.test)} test "
            f'volumes, 3D Dice of the members\' mean, empty classes "{EMPTIES}"'
        )

    def notes(self) -> tuple[str, ...]:
        """Sentences that belong beside the numbers."""
        preset, changed = self.preset, "; ".join(self.preset.reduced)
        plans = [preset.plan(arm, self.volumes) for arm in preset.arms if ARMS[arm].asks != "all"]
        notes = [
            "unique: different labelled volumes; of all: of the volumes that can be labelled, the "
            "start included; of asked: without the start on both sides. A repeat is a draw that "
            "costs nothing. run std: over seeds; 2 boot SE: over test volumes; 95 %: of the mean "
            "difference over seeds, by Student's t. disagree: share of voxels on which two members "
            "differ after a training; push/climb: what keeps members apart over what they learn, "
            "of a deep ensemble what it would have been."
        ]
        if plans:
            most = plans[0][-1]
            notes.append(
                f"By the plan no arm can label more than {most} of {self.volumes} volumes "
                f"({most / self.volumes:.1%}), whatever it asks for."
            )
        if plans and len(plans[0]) < preset.trainings:
            notes.append(
                f"Trainings ended after {len(plans[0])} of {preset.trainings}: the pool was asked "
                "out."
            )
        if self._everywhere():
            notes.append(
                "Every volume of the pool holds every class, so foreground_random is chance under "
                "other draws: what it differs from random by is chance."
            )
        return (
            *notes,
            f"Not as published or assumed: {changed}." if changed else "All settings as published.",
            f"{len(preset.assumed)} constants are stated nowhere and assumed: alnb run --preset "
            f"{preset.name} --assumed lists them.",
            "An independent implementation of arXiv 2101.02323; its deviations are listed in "
            "alnb.session.nath.",
        )

    def _everywhere(self) -> bool:
        classes = set(range(len(self.cohort.classes)))
        references = (v.reference() for v in measured_on(self.cohort, self.split.train))
        return all(r is not None and classes <= set(np.unique(r).tolist()) for r in references)


def _key(training: int) -> str:
    return f"{training:03d}.json"
