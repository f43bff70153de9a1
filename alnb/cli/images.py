"""Which images, patients and processor a command works with."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from typing import TYPE_CHECKING, Any

from alnb.errors import BadInput

if TYPE_CHECKING:
    from alnb.data.cohort import Cohort, Split


def cohort_of(data: str | None) -> Cohort:
    """The images in a folder, or the phantom; problems go to standard error."""
    if data is None:
        from alnb.data.phantom import phantom

        return phantom()
    from alnb.data.load import load

    cohort = load(data)
    for problem in cohort.problems:
        print(f"alnb: {problem}", file=sys.stderr)
    return cohort


def split_of(options: argparse.Namespace, cohort: Cohort) -> Split | None:
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


def device_name() -> str:
    """The processor that trains."""
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "CPU"
