"""``alnb predict``: a project's model on whole volumes, as files and as scores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alnb.cli.images import cohort_of
from alnb.cli.running import add_learner, learner_of
from alnb.errors import BadInput

if TYPE_CHECKING:
    from alnb.session.session import Session

PREDICTIONS = "predictions"


def add_options(predict: argparse.ArgumentParser) -> None:
    """The options of ``alnb predict``."""
    predict.add_argument("project")
    predict.add_argument("--data", help="the images that the project was made with")
    predict.add_argument(
        "--volumes", nargs="+", metavar="NAME", help="volumes or patients; all if left out"
    )
    predict.add_argument(
        "--out",
        metavar="FOLDER",
        help="write label and uncertainty maps as NIfTI in source geometry; default "
        f"PROJECT/{PREDICTIONS}, or nothing with --scores",
    )
    predict.add_argument("--no-uncertainty", action="store_true", help="write label maps alone")
    predict.add_argument(
        "--scores",
        choices=("val", "test"),
        help="3D Dice, HD95 and surface Dice on these patients, where they have reference masks",
    )
    predict.add_argument("--csv", metavar="FILE", help="file for the scores of every volume")
    predict.add_argument(
        "--tolerance",
        type=float,
        help="what surface Dice forgives, in mm (px where the images give no spacing); default 2",
    )
    predict.add_argument(
        "--largest-component",
        action="store_true",
        help="keep one piece of each class; the rest goes to the class around it",
    )
    add_learner(predict)
    predict.set_defaults(run=predict_command)


def predict_command(options: argparse.Namespace) -> int:
    """``alnb predict``."""
    from alnb.session.scores import TOLERANCE
    from alnb.session.session import Session

    if options.tolerance is None:
        options.tolerance = TOLERANCE
    if options.csv and not options.scores:
        raise BadInput("--csv needs --scores val or --scores test. See alnb predict --help.")
    if options.volumes and options.scores and not options.out:
        raise BadInput(
            "--volumes says what is written and needs --out; scores are of a whole split. "
            "See alnb predict --help."
        )
    project = existing_project(options.project)
    with Session.open(project, cohort_of(options.data), learner=learner_of(options)) as session:
        if options.scores:
            _score(session, options)
        if options.out or not options.scores:
            _export(session, options, Path(options.out or project / PREDICTIONS))
    return 0


def existing_project(path: str) -> Path:
    """The folder of a project; BadInput where there is none, which is not made then."""
    folder = Path(path)
    if not (folder / "journal.db").is_file():
        raise BadInput(f"{path} holds no project (no journal.db). Check the folder.")
    return folder


def _score(session: Session, options: argparse.Namespace) -> None:
    from alnb.store.export import write

    with _progress("measuring") as told:
        scores = session.score_volumes(
            options.scores,
            tolerance=options.tolerance,
            largest_component=options.largest_component,
            on_volume=told,
        )
    print(scores.to_table())
    if options.csv:
        write(Path(options.csv), scores.to_csv().encode())
        print(f"scores: {options.csv}")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str], None]]:
    """A line on standard error that counts volumes and names the one at work."""
    from tqdm import tqdm

    with tqdm(desc=what, unit="volume", file=sys.stderr) as bar:

        def told(volume: str) -> None:
            bar.set_postfix_str(volume)
            bar.update()

        yield told


def _export(session: Session, options: argparse.Namespace, folder: Path) -> None:
    with _progress("predicting") as told:
        written = session.export_predictions(
            folder,
            options.volumes,
            uncertainty=not options.no_uncertainty,
            largest_component=options.largest_component,
            tolerance=options.tolerance,
            on_volume=told,
        )
    for path in written:
        print(path)
