"""The command line: ``alnb lab | run | predict | doctor | export | strategies``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import alnb
from alnb.cli import predicting, running
from alnb.cli.doctor import examine
from alnb.cli.images import cohort_of
from alnb.cli.lab import open_lab
from alnb.errors import AlnbError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors of alnb are printed without a traceback."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    options.rest = rest
    if rest and options.run is not open_lab:
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
    lab.set_defaults(run=open_lab)
    running.add_options(commands.add_parser("run", help="run the loop without a person"))
    predicting.add_options(
        commands.add_parser("predict", help="a project's model on whole volumes: NIfTI and scores")
    )
    doctor = commands.add_parser("doctor", help="versions, device, and whether widgets are whole")
    doctor.set_defaults(run=examine)
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


def _export(options: argparse.Namespace) -> int:
    from alnb.session.session import Session

    project = predicting.existing_project(options.project)
    with Session.open(project, cohort_of(options.data)) as session:
        for path in session.export(options.folder):
            print(path)
    return 0


def _strategies(_: argparse.Namespace) -> int:
    from alnb.strategies.catalogue import table

    print(table())
    return 0
