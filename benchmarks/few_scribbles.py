# ruff: noqa: T201 - a command line prints
"""What the default learner makes of few scribbled slices: the whole loop on ACDC, by an oracle.

    OMP_NUM_THREADS=1 python benchmarks/few_scribbles.py --data $ALNB_DATA/acdc --out FOLDER

runs `few_scribbles.toml` through sessions of the package: ask, answer, train, measure. Everything
done lies in FOLDER and is not repeated. Several processes may share the work: give each one a
share of the seeds or arms (``--seeds 0``, ``--arms stratified``); a last call without either prints
the whole table.

3D Dice of each volume at native size, mean over volumes, then over classes; a class empty in both
counts 1, in one 0. "plain" is the learner's own prediction. "averaged" is the mean over five views
of each slice, turned back, and the largest piece of each class in the volume.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alnb.cli.images import split_of
from alnb.data.acdc import acdc
from alnb.data.cohort import Cohort, Split
from alnb.data.volume import Volume
from alnb.models.averaging import Averaged
from alnb.models.checkpoint import from_bytes
from alnb.models.learners import BOLD, FAST, SingleNet
from alnb.models.metrics import volume_dice
from alnb.models.volumes import predict
from alnb.protocols import Learner
from alnb.session import experiment
from alnb.session.oracle import SimulatedOracle
from alnb.session.session import Session
from alnb.session.state import Fit
from alnb.store.blobs import atomic_write

SPECIFICATION = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Run:
    """One seed of one arm; `learner` are settings of `SingleNet` that differ from its defaults."""

    name: str
    strategy: str
    oracle: str
    seed: int
    budgets: tuple[str, ...]
    learner: dict[str, Any]

    @property
    def arm(self) -> str:
        return f"{self.name}, {self.oracle}s"

    @property
    def folder(self) -> str:
        return f"{self.name.replace(' ', '-')}-{self.oracle}-seed{self.seed}"

    def network(self) -> SingleNet:
        """The learner; ``recipe`` and ``augment`` are changes of the default ones."""
        given = dict(self.learner)
        recipe = replace(FAST, threads=1, **given.pop("recipe", {}))
        augment = replace(BOLD, **given.pop("augment", {}))
        return SingleNet(recipe=recipe, augment=augment, **given)


def runs(spec: dict[str, Any]) -> Iterator[Run]:
    """Every seed of every arm."""
    for arm in spec["arm"]:
        learner = spec["learner"] | arm.get("learner", {})
        name = arm.get("name", arm["strategy"])
        for seed in arm.get("seeds", spec["seeds"]):
            budgets = tuple(arm["budgets"])
            yield Run(name, arm["strategy"], arm["oracle"], seed, budgets, learner)


def carry_out(run: Run, cohort: Cohort, split: Split, out: Path) -> None:
    """The loop of one run, and its measurements after every round."""
    began = time.monotonic()

    def stage(name: str, rounds: int) -> None:
        minutes = (time.monotonic() - began) / 60
        print(f"{run.folder}: {name}, {rounds} rounds done, {minutes:.1f} min", file=sys.stderr)

    with Session.open(
        out / run.folder,
        cohort,
        strategy=run.strategy,
        learner=run.network(),
        seed=run.seed,
        split=split,
        gate=None,
        annotator="oracle",
    ) as session:
        plan = experiment.budget_counts(run.budgets, len(session.pool))
        oracle = SimulatedOracle(cohort, run.oracle, run.seed)  # type: ignore[arg-type]
        experiment.run(session, oracle, plan, test=False, on_stage=stage)
        for number, budget in enumerate(run.budgets):
            target = out / run.folder / f"measured-{budget.rstrip('%')}.json"
            if not target.exists():
                stage(f"test at {budget}", len(plan))
                fit = [f for f in session.state.fits if f.round == number and f.checkpoint][-1]
                learner = run.network()
                assert fit.checkpoint is not None, "only trainings that ended well are measured"
                learner.load_state_dict(from_bytes(session.blobs.get(fit.checkpoint)))
                atomic_write(target, json.dumps(measured(learner, cohort, split, fit)).encode())


def measured(learner: Learner, cohort: Cohort, split: Split, fit: Fit) -> dict[str, Any]:
    """Dice per volume and class on validation and test, both ways of predicting."""
    result: dict[str, Any] = {
        "slices": len(fit.taught),
        "seconds": fit.report.seconds if fit.report else None,
    }
    for name in ("val", "test"):
        held = [v for v in cohort.volumes.values() if v.patient in getattr(split, name)]
        result[name] = {
            "plain": [dice(learner, v, len(cohort.classes), False) for v in held],
            "averaged": [dice(Averaged(learner), v, len(cohort.classes), True) for v in held],
        }
    return result


def dice(learner: Learner, volume: Volume, classes: int, largest: bool) -> list[float]:
    """3D Dice of one volume, per foreground class."""
    reference = volume.reference()
    assert reference is not None, "every ACDC volume has a reference"
    found = predict(learner, volume.image(), largest_component=largest)
    return [float(d) for d in volume_dice(found.labels, reference, classes)]


def table(all_runs: list[Run], out: Path, classes: tuple[str, ...]) -> str:
    """Mean ± standard deviation over seeds, as Markdown; a run that is not done is left out."""
    head = ["arm", "labelled", "slices", "seeds", "test", *classes[1:], "test, plain", "val"]
    lines = [head, ["---"] * len(head)]
    for arm in dict.fromkeys(run.arm for run in all_runs):
        mine = [run for run in all_runs if run.arm == arm]
        for budget in mine[0].budgets:
            paths = [out / r.folder / f"measured-{budget.rstrip('%')}.json" for r in mine]
            done = [json.loads(path.read_text()) for path in paths if path.exists()]
            if done:
                means = _means(done)
                test = means("test", "averaged")
                lines.append(
                    [
                        arm,
                        budget,
                        str(done[0]["slices"]),
                        str(len(done)),
                        _spread(test.mean(1)),
                        *(_spread(column) for column in test.T),
                        _spread(means("test", "plain").mean(1)),
                        _spread(means("val", "averaged").mean(1)),
                    ]
                )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _means(done: list[dict[str, Any]]) -> Callable[[str, str], np.ndarray[Any, Any]]:
    """(split, way of predicting) -> (seeds, classes), the mean over volumes."""
    return lambda split, how: np.array([np.mean(each[split][how], 0) for each in done])


def _spread(values: np.ndarray[Any, Any]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=Path, help="folder of ACDC")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--specification", type=Path, default=SPECIFICATION)
    parser.add_argument("--seeds", type=int, nargs="+", help="only these")
    parser.add_argument(
        "--arms", nargs="+", help="only those whose folder begins with one of these"
    )
    options = parser.parse_args()
    spec = tomllib.loads(options.specification.read_text())
    cohort = acdc(options.data)
    ranges = {name: spec[name] for name in ("pool", "val", "test")}
    split = split_of(argparse.Namespace(**ranges), cohort)
    assert split is not None, "the specification names the patients"
    every = list(runs(spec))
    for run in every:
        wanted = not options.seeds or run.seed in options.seeds
        if wanted and (not options.arms or run.folder.startswith(tuple(options.arms))):
            carry_out(run, cohort, split, options.out)
    print(table(every, options.out, cohort.classes))


if __name__ == "__main__":
    main()
