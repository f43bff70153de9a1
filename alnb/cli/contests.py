"""``alnb run --preset nath2021_…``: ways of asking for whole volumes, side by side."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alnb.cli.images import device_name, split_of
from alnb.errors import BadInput

if TYPE_CHECKING:
    from alnb.session.nath import Preset
    from alnb.session.session import Session
    from alnb.session.study import Study

NAMES = ("nath2021_hippocampus", "nath2021_pancreas")
OPTIONS = ("arms", "members", "trainings", "validate", "assumed")
"""Options that speak of these presets alone."""


def add_options(run: argparse.ArgumentParser) -> None:
    """Those of `OPTIONS`."""
    group = run.add_argument_group(
        "ways of asking for whole volumes",
        f"with --preset {' or '.join(NAMES)}, beside --scale, --seeds, --steps and --size; --data "
        "is then the folder of that task of the Decathlon, with imagesTr and labelsTr.",
    )
    group.add_argument("--arms", help="names with commas between, see --assumed; nine if left out")
    group.add_argument("--members", type=int, help="networks of a committee")
    group.add_argument("--trainings", type=int, help="of each arm; between them are the queries")
    group.add_argument(
        "--validate",
        action="store_true",
        default=None,
        help="measure the validation volumes after each training; they choose nothing",
    )
    group.add_argument(
        "--assumed",
        action="store_true",
        default=None,
        help="print the constants that no source states, and the arms, instead of running",
    )


def run(
    options: argparse.Namespace,
    *,
    stage: Callable[[Any], Callable[[str, int], None]],
    watch: Callable[[Session, Any], None],
) -> int:
    """The command; `stage` and `watch` show progress in a bar."""
    preset = preset_of(options)
    if options.assumed:
        from alnb.session.arms import ARMS
        from alnb.session.assumed import assumed_table

        print(assumed_table(preset.assumed))
        print(f"arms: {', '.join(ARMS)}; run unless named: {', '.join(preset.arms)}")
        return 0
    from tqdm import tqdm

    from alnb.session import contest, study_report

    cohort = preset.cohort(options.data)
    for problem in cohort.problems:
        print(f"alnb: {problem}", file=sys.stderr)
    split = split_of(options, cohort) or preset.split(cohort)
    told = repr((sorted(preset.settings.items()), cohort.fingerprint(), split.digest()))
    digest = hashlib.sha256(told.encode()).hexdigest()[:8]
    folder = Path(options.project or Path("alnb-runs") / f"{preset.name}-{cohort.name}-{digest}")
    volumes = len(cohort.pool("volume", split.train))
    total = len(preset.seeds) * sum(len(preset.plan(arm, volumes)) for arm in preset.arms)
    with tqdm(total=total, unit="training", file=sys.stderr) as bar:
        study = contest.run(
            preset,
            cohort,
            folder,
            split=split,
            on_stage=stage(bar),
            on_open=lambda session: watch(session, bar),
        )
    print(study_report.to_table(study))
    write(study, folder, Path(options.csv) if options.csv else None)
    print(f"tables: {folder}, device {device_name()}")
    return 0


def preset_of(options: argparse.Namespace) -> Preset:
    """The preset that the options describe. BadInput lists what there is."""
    from alnb.session.nath import preset

    names = ("members", "trainings", "validate", "steps", "size")
    given = {name: getattr(options, name) for name in names}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if options.arms is not None:
        changes["arms"] = tuple(arm.strip() for arm in options.arms.split(","))
    if options.seeds is not None:
        changes["seeds"] = tuple(range(options.seeds))
    if options.preset == NAMES[1] and options.size is not None:
        raise BadInput(f"--size does not go with --preset {NAMES[1]}, which learns patches.")
    return preset(options.preset, scale=1.0 if options.scale is None else options.scale, **changes)


def write(study: Study, folder: Path, points: Path | None = None) -> None:
    """The report and its tables; Dice against the share of labels in `points`."""
    from alnb.session import study_report

    (folder / "report.txt").write_text(study_report.to_table(study) + "\n")
    (points or folder / "points.csv").write_text(study_report.points_csv(study))
    (folder / "trainings.csv").write_text(study_report.trainings_csv(study))
    (folder / "needs.csv").write_text(study_report.needs_csv(study))
