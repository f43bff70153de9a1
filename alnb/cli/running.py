"""``alnb run``: the loop without a person, once or as a published protocol says."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alnb.cli import contests
from alnb.cli.images import cohort_of, device_name, split_of
from alnb.errors import BadInput

if TYPE_CHECKING:
    from alnb.data.cohort import Cohort
    from alnb.protocols import Learner
    from alnb.session.oracle import OracleKind
    from alnb.session.session import Session


def add_options(run: argparse.ArgumentParser) -> None:
    """The options of ``alnb run``."""
    run.add_argument("--data", help="folder of images; the built-in phantom if left out")
    run.add_argument("--strategy", help="see 'alnb strategies'; default coreset, or the preset's")
    run.add_argument(
        "--features",
        default="pixels",
        help="what distances are measured in: 'pixels', or weights of an encoder that is trained "
        "on the pool first, such as 'acdc' or 'ntxent'",
    )
    run.add_argument("--budget", default="5%", help="share of the pool ('5%%') or a number")
    run.add_argument("--rounds", type=int, default=5)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--oracle", choices=("scribble", "simulated", "mask"), help="who answers")
    run.add_argument("--per-volume", type=int, default=2, help="most slices of one volume a round")
    run.add_argument("--steps", type=int, help="training steps a round; default: by slices")
    add_learner(run)
    run.add_argument("--size", type=int, help="side in pixels at which slices are learnt")
    run.add_argument("--start", choices=("warm", "scratch"), default="warm")
    for name in ("pool", "val", "test"):
        run.add_argument(f"--{name}", metavar="A-B", help=f"patients of the {name}, by number")
    run.add_argument("--project", help="folder; default alnb-runs/NAME. A run cut off goes on")
    run.add_argument("--csv", help="file for the curve; default: in the project")
    _add_preset(run)
    contests.add_options(run)
    run.set_defaults(run=run_command)


def add_learner(command: argparse.ArgumentParser) -> None:
    """The choice of a learner, for every command that has one; see `learner_of`."""
    command.add_argument(
        "--learner",
        choices=("single", "ensemble", "dropout"),
        default="single",
        help="one network, five, or one with ten passes of dropout; committees take their time",
    )


def _add_preset(run: argparse.ArgumentParser) -> None:
    preset = run.add_argument_group(
        "a published protocol",
        "--preset decides what --budget, --rounds, --seed, --per-volume, --start would.",
    )
    preset.add_argument(
        "--preset",
        choices=("vepa2024", *contests.NAMES),
        help="all numbers of arXiv 2411.15763, or of arXiv 2101.02323 on one of its data sets",
    )
    preset.add_argument("--scale", type=float, help="share of its networks, seeds and steps")
    preset.add_argument("--networks", type=int, help="networks trained in every round")
    preset.add_argument("--seeds", type=int, help="how many times the whole is repeated")
    preset.add_argument("--budgets", help="cumulative shares of the pool, such as 1%%,2%%,5%%")
    preset.add_argument("--schedule", choices=("paper", "fixed"), help="steps by budget, or equal")
    preset.add_argument("--iterations", type=int, help="steps of a network on the whole pool")
    preset.add_argument("--fixed", type=int, help="steps of a network by --schedule fixed")
    preset.add_argument("--every", type=int, help="steps between two validations")
    preset.add_argument("--encoder-epochs", type=float, help="passes of the encoder over the pool")
    preset.add_argument(
        "--shared-start",
        action="store_true",
        default=None,
        help="begin with the same random slices",
    )


def run_command(options: argparse.Namespace) -> int:
    """``alnb run``."""
    _refuse_strangers(options)
    if options.preset in contests.NAMES:
        return contests.run(options, stage=_stage, watch=_watch)
    cohort = cohort_of(options.data)
    stored = all(v.has_scribble for v in cohort.volumes.values())
    kind: OracleKind = options.oracle or ("scribble" if stored else "simulated")
    return (_run_preset if options.preset else _run_once)(options, cohort, kind)


def _refuse_strangers(options: argparse.Namespace) -> None:
    """BadInput for an option that the kind of run, or its preset, does not know."""
    plain = {"budget": "5%", "rounds": 5, "seed": 0, "per_volume": 2, "steps": None}
    plain |= {"start": "warm", "features": "pixels", "learner": "single"}
    vepa = dict.fromkeys([*_PRESET, "encoder_epochs"])
    nath = dict.fromkeys(contests.OPTIONS)
    if options.preset is None:
        theirs, goes = vepa | nath | {"scale": None}, "needs --preset"
    elif options.preset in contests.NAMES:
        theirs = plain | vepa | {"strategy": None, "oracle": None}
        theirs = {name: theirs[name] for name in theirs if name not in ("seeds", "steps")}
        goes = f"does not go with --preset {options.preset}"
    else:
        theirs, goes = plain | nath, f"does not go with --preset {options.preset}"
    wrong = [name for name, default in theirs.items() if getattr(options, name) != default]
    if wrong:
        raise BadInput(f"--{wrong[0].replace('_', '-')} {goes}. See alnb run --help.")


def _run_once(options: argparse.Namespace, cohort: Cohort, kind: OracleKind) -> int:
    from tqdm import tqdm

    from alnb.session import experiment
    from alnb.session.oracle import SimulatedOracle
    from alnb.session.session import Session

    options.strategy = options.strategy or "coreset"
    learner = learner_of(options, steps=options.steps, size=options.size, start=options.start)
    project = Path(options.project or Path("alnb-runs") / _run_name(options, cohort, kind))
    with Session.open(
        project,
        cohort,
        strategy=options.strategy,
        learner=learner,
        seed=options.seed,
        per_volume=options.per_volume,
        split=split_of(options, cohort),
        gate=None,  # an experiment is of the strategy itself, with all that a weak model does to it
        reveal=True,
    ) as session:
        plan = experiment.budget_plan(options.budget, options.rounds, len(session.pool))
        split = session.split
        print(
            f"{cohort.name}: pool {len(session.pool)} slices of {len(split.train)} patients, "
            f"validation {len(split.val)}, test {len(split.test)}; "
            f"{options.strategy} on {options.features}, {kind} oracle, seed {options.seed}, "
            f"device {device_name()}"
        )
        with tqdm(total=len(plan), unit="round", file=sys.stderr) as bar:
            _watch(session, bar)
            if options.features not in session.embeddings:
                bar.set_description("encoder")
                session.learn_embedding(options.features)
            session.use_embedding(options.features)
            oracle = SimulatedOracle(cohort, kind, options.seed)
            rows = experiment.run(session, oracle, plan, on_stage=_stage(bar))
        print(experiment.to_table(rows, cohort.classes))
        target = Path(options.csv) if options.csv else project / "curve.csv"
        target.write_text(experiment.to_csv(rows, cohort.classes))
        print(f"curve: {target}")
    return 0


def learner_of(
    options: argparse.Namespace,
    *,
    steps: int | None = None,
    size: int | None = None,
    start: Literal["warm", "scratch"] = "warm",
) -> Learner:
    """The learner that ``--learner`` names."""
    from alnb.models.committee import DeepEnsemble, MCDropout
    from alnb.models.dropout import RATES
    from alnb.models.learners import SingleNet

    dropout = RATES if options.learner == "dropout" else ()
    network = SingleNet(steps=steps, size=size, start=start, dropout=dropout)
    if options.learner == "ensemble":
        return DeepEnsemble(base=network)
    return MCDropout(base=network) if options.learner == "dropout" else network


_PRESET = (
    "networks",
    "budgets",
    "schedule",
    "iterations",
    "fixed",
    "every",
    "shared_start",
    "seeds",
)


def _run_preset(options: argparse.Namespace, cohort: Cohort, kind: OracleKind) -> int:
    from tqdm import tqdm

    from alnb.session import replicate
    from alnb.session.vepa import vepa2024

    given = {name: getattr(options, name) for name in (*_PRESET, "strategy", "size")}
    changes = {name: value for name, value in given.items() if value is not None}
    if options.budgets is not None:
        shares = options.budgets.replace("%", "").split(",")
        changes["budgets"] = tuple(f"{share.strip()}%" for share in shares)
    if options.seeds is not None:
        changes["seeds"] = tuple(range(options.seeds))
    preset = vepa2024(scale=1.0 if options.scale is None else options.scale, oracle=kind, **changes)
    if options.encoder_epochs is not None:
        encoder = dataclasses.replace(preset.encoder, epochs=options.encoder_epochs)
        preset = dataclasses.replace(preset, encoder=encoder)
    split = replicate.split_of(cohort, split_of(options, cohort))
    told = repr(sorted(replicate.facts(preset, cohort, split).items()))
    digest = hashlib.sha256(told.encode()).hexdigest()[:8]
    name = f"{options.preset}-{cohort.name}-{preset.strategy}-{kind}-{digest}"
    folder = Path(options.project or Path("alnb-runs") / name)
    rounds = len(preset.seeds) * len(preset.budgets)
    with tqdm(total=rounds, unit="round", file=sys.stderr) as bar:
        outcome = replicate.run(
            preset,
            cohort,
            folder,
            split=split,
            on_stage=_stage(bar),
            on_open=lambda session: _watch(session, bar),
        )
    print(outcome.to_table())
    target = Path(options.csv) if options.csv else folder / "budgets.csv"
    target.write_text(outcome.to_csv())
    (folder / "networks.csv").write_text(outcome.runs_csv())
    print(f"curve: {target}, every network: {folder / 'networks.csv'}, device {device_name()}")
    return 0


def _stage(bar: Any) -> Callable[[str, int], None]:
    """Show a stage and the rounds done in a progress bar."""

    def stage(name: str, done: int) -> None:
        bar.n = done
        bar.set_description(name)
        bar.refresh()

    return stage


def _watch(session: Session, bar: Any) -> None:
    """Show a session's training steps in a progress bar."""

    def progress(_: str) -> None:
        for job in (session.job, session.embedding_job):
            step = job.progress if job and job.running else None
            if step is not None and (step.step % 25 == 0 or step.step == step.total):
                bar.set_postfix_str(f"step {step.step}/{step.total}, loss {step.loss:.3f}")

    session.watch(progress)


def _run_name(options: argparse.Namespace, cohort: Cohort, kind: str) -> str:
    """Names a run by all that decides its outcome, so that two settings never share a folder."""
    deciding = {
        key: getattr(options, key)
        for key in (
            "budget",
            "rounds",
            "per_volume",
            "steps",
            "size",
            "start",
            "pool",
            "val",
            "test",
        )
    }
    digest = hashlib.sha256(f"{cohort.fingerprint()} {deciding}".encode()).hexdigest()[:8]
    on = "" if options.features == "pixels" else f"-{options.features}"
    on += "" if options.learner == "single" else f"-{options.learner}"
    return f"{cohort.name}-{options.strategy}{on}-{kind}-seed{options.seed}-{digest}"
