# ruff: noqa: T201 - a command line prints
"""Ways of asking for whole volumes, side by side: Nath et al. 2021 on hippocampi, made smaller.

    OMP_NUM_THREADS=1 python benchmarks/hippocampus.py --data $ALNB_DATA/hippocampus --out FOLDER

runs the arms of `hippocampus.toml`, all arms of a seed before the next seed, through sessions of
the package (`alnb.session.contest`). Everything done lies in FOLDER and is not repeated: a run that
was cut off goes on. Several processes may share the work, each with a share of the seeds or arms
(``--seeds 0``, ``--arms random full``), once one of them has begun. ``--report`` trains nothing and
prints what there is; so does every call at its end. FOLDER then holds the report and its tables.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from alnb.cli.contests import write
from alnb.session import contest
from alnb.session.nath import Preset, preset
from alnb.session.study import Trained
from alnb.session.study_report import to_table

SPECIFICATION = Path(__file__).with_suffix(".toml")


def specified(path: Path) -> Preset:
    """The preset that a file describes: its name, and what of it is changed."""
    spec: dict[str, Any] = tomllib.loads(path.read_text())
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in spec["settings"].items()
    }
    return preset(spec["preset"], **changes)


def main() -> None:
    """Run what is missing, then print the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=Path, help="folder of the Decathlon's Task04")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--specification", type=Path, default=SPECIFICATION)
    parser.add_argument("--seeds", type=int, nargs="+", help="only these")
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args()
    whole = specified(options.specification)
    mine = replace(
        whole,
        arms=tuple(options.arms or whole.arms),
        seeds=tuple(options.seeds or whole.seeds),
    )
    cohort = whole.cohort(options.data)
    began = time.monotonic()

    def stage(name: str, done: int) -> None:
        print(f"{(time.monotonic() - began) / 60:7.1f} min  {name}, {done} done", file=sys.stderr)

    def trained(each: Trained) -> None:
        print(
            f"{each.arm}, seed {each.seed}, training {each.training + 1}: {each.unique} volumes, "
            f"Dice {each.mean:.4f}, {each.seconds:.0f} s",
            file=sys.stderr,
        )

    if not options.report:
        contest.run(mine, cohort, options.out, on_stage=stage, on_trained=trained)
    study = contest.read(whole, cohort, options.out)
    write(study, options.out)
    print(to_table(study))


if __name__ == "__main__":
    main()
