"""Numbers as text: columns that line up, and CSV that a spreadsheet can be trusted with."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence


def aligned(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Lines with right-aligned columns: `head`, a rule, and one for each of `body`."""
    rows = [list(head), *(list(line) for line in body)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def shown(value: float, digits: int = 3) -> str:
    """`value` with that many digits; a dash where it is not a number."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def quoted(names: Iterable[str]) -> list[str]:
    """Names that a spreadsheet would run as formulas are quoted."""
    return [f"'{name}" if name[:1] in "=+-@" else name for name in names]


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """One line per row below `head`; floats with four digits, those that are no numbers empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow([_number(value) for value in row])
    return buffer.getvalue()


def _number(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.4f}"
