"""The command line: ``alnb lab | run | doctor | export | strategies``."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import alnb
from alnb.errors import AlnbError, BadInput

if TYPE_CHECKING:
    from alnb.data.cohort import Cohort, Split
    from alnb.session.oracle import OracleKind
    from alnb.session.session import Session

QUICKSTART = "00_quickstart.ipynb"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors of alnb are printed without a traceback."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    options.rest = rest
    if rest and options.run is not _lab:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status: int = options.run(options)
    except AlnbError as error:
        print(f"alnb: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nalnb: interrupted; everything finished so far is kept.", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alnb", description="Label 3D medical images in JupyterLab with active learning."
    )
    parser.add_argument("--version", action="version", version=f"alnb {alnb.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    lab = commands.add_parser(
        "lab",
        help="open JupyterLab on the quick-start notebook",
        epilog="Other options, such as --ip or --allow-root, are handed to JupyterLab.",
    )
    lab.add_argument("project", nargs="?", default="alnb-project", help="folder; made if absent")
    lab.add_argument("--data", help="folder of images; the built-in phantom if left out")
    lab.add_argument("--port", type=int, default=8888)
    lab.add_argument("--no-browser", action="store_true", help="print the address only")
    lab.set_defaults(run=_lab)
    run = commands.add_parser("run", help="run the loop without a person and print its curve")
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
    run.add_argument("--size", type=int, help="side in pixels at which slices are learnt")
    run.add_argument("--start", choices=("warm", "scratch"), default="warm")
    for name in ("pool", "val", "test"):
        run.add_argument(f"--{name}", metavar="A-B", help=f"patients of the {name}, by number")
    run.add_argument("--project", help="folder; default alnb-runs/NAME. A run cut off goes on")
    run.add_argument("--csv", help="file for the curve; default curve.csv in the project")
    _add_preset(run)
    run.set_defaults(run=_run)
    doctor = commands.add_parser("doctor", help="versions, device, and whether widgets are whole")
    doctor.set_defaults(run=_doctor)
    export = commands.add_parser("export", help="write a project's labels as NIfTI")
    export.add_argument("project")
    export.add_argument("folder")
    export.add_argument("--data", help="the images that the project was made with")
    export.set_defaults(run=_export)
    strategies = commands.add_parser(
        "strategies", help="the strategies that have a name, as a table"
    )
    strategies.set_defaults(run=_strategies)
    return parser


def _add_preset(run: argparse.ArgumentParser) -> None:
    preset = run.add_argument_group(
        "a published protocol",
        "--preset decides what --budget, --rounds, --seed, --per-volume, --steps, --start would.",
    )
    preset.add_argument("--preset", choices=("vepa2024",), help="arXiv 2411.15763: all its numbers")
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


def starter() -> Path:
    """The quick-start notebook: in the installed package, or in the checkout it was built from."""
    home = Path(__file__).parent
    for folder in (home / "starter", home.parent / "notebooks"):
        if (folder / QUICKSTART).is_file():
            return folder / QUICKSTART
    raise BadInput(f"{QUICKSTART} is missing from this installation; install alnb again.")


def working_copy(project: Path, data: str | None) -> Path:
    """Put the quick-start notebook into `project`, never over an existing file."""
    import nbformat

    try:
        project.mkdir(parents=True, exist_ok=True)
        copy = project / QUICKSTART
        if not copy.exists():
            notebook = nbformat.read(starter(), as_version=4)
            first = next(c for c in notebook.cells if "alnb-settings" in c.metadata.get("tags", []))
            source = str(Path(data).expanduser().resolve()) if data else None
            first.source = re.sub(r"(?m)^PROJECT = .*$", 'PROJECT = "."', first.source)
            first.source = re.sub(r"(?m)^DATA = \S+", lambda _: f"DATA = {source!r}", first.source)
            nbformat.write(notebook, copy)
        elif data:
            print(f"{copy} exists and is kept; its first cell says which images it opens.")
    except OSError as error:
        raise BadInput(
            f"The project folder {project} cannot be written ({error.strerror}). Choose another."
        ) from error
    return copy


def _lab(options: argparse.Namespace) -> int:
    if options.data is not None:
        _cohort(options.data)  # a folder that cannot be read is said here, not in a notebook
    copy = working_copy(Path(options.project), options.data)
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={copy.parent.resolve()}"]
    command += [f"--ServerApp.port={options.port}", f"--Alnb.start={copy.name}"]
    command += [f"--LabApp.default_url=/lab/tree/{copy.name}"]
    command += ["--no-browser"] if options.no_browser else []
    if os.name == "nt":
        return subprocess.call([*command, *options.rest])
    # the server takes this process's place, so that stopping `alnb lab` stops it
    os.execv(command[0], [*command, *options.rest])


def _run(options: argparse.Namespace) -> int:
    plain = {"budget": "5%", "rounds": 5, "seed": 0, "per_volume": 2, "steps": None}
    plain |= {"start": "warm", "features": "pixels"}
    theirs = plain if options.preset else dict.fromkeys([*_PRESET, "scale", "encoder_epochs"])
    wrong = [name for name, default in theirs.items() if getattr(options, name) != default]
    if wrong:
        goes = "does not go with --preset" if options.preset else "needs --preset"
        raise BadInput(f"--{wrong[0].replace('_', '-')} {goes}. See alnb run --help.")
    cohort = _cohort(options.data)
    stored = all(v.has_scribble for v in cohort.volumes.values())
    kind: OracleKind = options.oracle or ("scribble" if stored else "simulated")
    return (_run_preset if options.preset else _run_once)(options, cohort, kind)


def _run_once(options: argparse.Namespace, cohort: Cohort, kind: OracleKind) -> int:
    from tqdm import tqdm

    from alnb.models.learners import SingleNet
    from alnb.session import experiment
    from alnb.session.oracle import SimulatedOracle
    from alnb.session.session import Session

    options.strategy = options.strategy or "coreset"
    learner = SingleNet(steps=options.steps, size=options.size, start=options.start)
    project = Path(options.project or Path("alnb-runs") / _run_name(options, cohort, kind))
    with Session.open(
        project,
        cohort,
        strategy=options.strategy,
        learner=learner,
        seed=options.seed,
        per_volume=options.per_volume,
        split=_split(options, cohort),
        gate=None,  # an experiment is of the strategy itself, with all that a weak model does to it
        reveal=True,
    ) as session:
        plan = experiment.budget_plan(options.budget, options.rounds, len(session.pool))
        split = session.split
        print(
            f"{cohort.name}: pool {len(session.pool)} slices of {len(split.train)} patients, "
            f"validation {len(split.val)}, test {len(split.test)}; "
            f"{options.strategy} on {options.features}, {kind} oracle, seed {options.seed}, "
            f"device {_device()}"
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
    split = replicate.split_of(cohort, _split(options, cohort))
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
    print(f"curve: {target}, every network: {folder / 'networks.csv'}, device {_device()}")
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
    return f"{cohort.name}-{options.strategy}{on}-{kind}-seed{options.seed}-{digest}"


def _doctor(_: argparse.Namespace) -> int:
    good = True
    print(f"alnb {alnb.__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name, floor in _FLOORS.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"  {name:16} missing: pip install {name!r}")
            good = False
            continue
        old = _numbers(version) < _numbers(floor)
        good &= not old
        print(f"  {name:16} {version}" + (f"  too old: at least {floor} is needed" if old else ""))
    print(f"device: {_device()}, {os.cpu_count()} processors")
    found = _extensions()
    for name in ("@jupyter-widgets/jupyterlab-manager", "ipycanvas", "anywidget", "alnb"):
        whole = name in found
        good &= whole or name == "alnb"
        missing = "not installed in this JupyterLab" + (
            "; cells must be run by hand" if name == "alnb" else ": widgets will not show"
        )
        print(f"  lab extension {name:36} {'found' if whole else missing}")
    print("all is well" if good else "something is missing: see above")
    return 0 if good else 1


# versions with known faults are below these
_FLOORS = {
    "torch": "2.10",
    "monai": "1.6.1",
    "numpy": "1.26",
    "nibabel": "5.2",
    "h5py": "3.10",
    "scikit-learn": "1.4",
    "jupyterlab": "4.5.9",
    "jupyter_server": "2.20",
    "ipykernel": "6.29",
    "ipywidgets": "8.1",
    "ipycanvas": "0.14",
    "anywidget": "0.9.21",
    "plotly": "6",
}


def _numbers(version: str) -> tuple[int, ...]:
    release, *_ = version.partition("+")
    return tuple(int(part) for part in re.findall(r"\d+", release)[:3])


def _extensions() -> set[str]:
    from jupyter_core.paths import jupyter_path

    found = set()
    for folder in map(Path, jupyter_path("labextensions")):
        for package in [*folder.glob("*/package.json"), *folder.glob("@*/*/package.json")]:
            found.add(package.parent.relative_to(folder).as_posix())
    return found


def _device() -> str:
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "CPU"


def _export(options: argparse.Namespace) -> int:
    from alnb.session.session import Session

    if not (Path(options.project) / "journal.db").is_file():
        raise BadInput(f"{options.project} holds no project (no journal.db). Check the folder.")
    with Session.open(options.project, _cohort(options.data)) as session:
        for path in session.export(options.folder):
            print(path)
    return 0


def _strategies(_: argparse.Namespace) -> int:
    from alnb.strategies.catalogue import table

    print(table())
    return 0


def _cohort(data: str | None) -> Cohort:
    if data is None:
        from alnb.data.phantom import phantom

        return phantom()
    from alnb.data.load import load

    cohort = load(data)
    for problem in cohort.problems:
        print(f"alnb: {problem}", file=sys.stderr)
    return cohort


def _split(options: argparse.Namespace, cohort: Cohort) -> Split | None:
    """The split by patient numbers, or None where none was given."""
    from alnb.data.cohort import Split

    ranges = [getattr(options, name) for name in ("pool", "val", "test")]
    if not any(ranges):
        return None
    train, val, test = (_patients(text, cohort) for text in ranges)
    if not train:
        raise BadInput("A split needs --pool A-B, the numbers of the patients that may be asked.")
    return Split(train, val, test)


def _patients(text: str | None, cohort: Cohort) -> tuple[str, ...]:
    if text is None:
        return ()
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if match is None:
        raise BadInput(f"{text!r} is not a range of patients such as 1-60.")
    low, high = int(match[1]), int(match[2])
    chosen = []
    for patient in cohort.patients:
        number = re.search(r"(\d+)\D*$", patient)
        if number is not None and low <= int(number[1]) <= high:
            chosen.append(patient)
    if not chosen:
        raise BadInput(
            f"No patient of {cohort.name!r} has a number in {text}; they are "
            f"{cohort.patients[0]} to {cohort.patients[-1]}."
        )
    return tuple(chosen)


if __name__ == "__main__":
    sys.exit(main())
