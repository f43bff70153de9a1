"""The loop without a person: a session answered by an oracle, round after round."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from alnb.errors import BadInput
from alnb.protocols import Oracle, Strategy
from alnb.records import Metrics, Round
from alnb.session.session import Session


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One point of a curve.

    items : unique slices labelled; share : of all slices of the pool; seconds : wall clock of the
        training.
    dice : per foreground class, mean over the volumes of `split`; mean : over these classes.
    """

    round: int
    items: int
    share: float
    split: str
    dice: tuple[float | None, ...]
    mean: float | None
    seconds: float | None


def budget_plan(budget: str, rounds: int, pool: int) -> tuple[int, ...]:
    """Cumulative numbers of items after each of `rounds` rounds.

    budget : "5%" of `pool`, or a number of items. Shares are exact fractions before they are
        rounded down, so that 29 % of 100 is 29. BadInput if a round would get no item.
    """
    try:
        share = Fraction(budget[:-1]) / 100 * pool if budget.endswith("%") else Fraction(budget)
    except (ValueError, ZeroDivisionError):
        raise BadInput(f'Budget {budget!r} is neither a share such as "5%" nor a number.') from None
    plan = tuple(int(share * step / rounds) for step in range(1, rounds + 1))
    if rounds < 1 or share > pool or min(a - b for a, b in zip(plan, (0, *plan), strict=False)) < 1:
        raise BadInput(
            f"A budget of {budget} in {rounds} rounds over a pool of {pool} gives {list(plan)} "
            f"items. Every round needs at least one more, and at most {pool} exist. Choose a "
            "larger budget, or fewer rounds."
        )
    return plan


def budget_counts(budgets: Sequence[str], pool: int) -> tuple[int, ...]:
    """Cumulative numbers of items at `budgets`, such as ("1%", "2%", "5%") of `pool`.

    Shares are exact fractions before they are rounded down. BadInput unless every budget brings at
    least one item more than the one before it.
    """
    try:
        shares = [Fraction(budget.removesuffix("%")) / 100 for budget in budgets]
    except (ValueError, ZeroDivisionError):
        raise BadInput(f'Budgets {list(budgets)} are not all shares such as "5%".') from None
    counts = tuple(int(share * pool) for share in shares)
    if not counts or counts[-1] > pool or any(np.diff((0, *counts)) < 1):
        raise BadInput(
            f"Budgets of {', '.join(budgets)} of a pool of {pool} are {list(counts)} items. Each "
            f"must be at least one more than the one before it, and at most {pool} exist. Choose "
            "larger budgets, or budgets farther apart."
        )
    return counts


def run(
    session: Session,
    oracle: Oracle,
    plan: Sequence[int],
    *,
    first: Strategy | None = None,
    test: bool = True,
    on_stage: Callable[[str, int], None] = lambda stage, done: None,
) -> list[ResultRow]:
    """Ask, answer, train and measure until `plan` is done; what is done already is not repeated.

    plan : cumulative numbers of items, one per round (`budget_plan`, `budget_counts`).
    first : chooses the first round in the place of the session's strategy. The choice depends on
        the session's seed alone where `first` sees neither model nor features, so all strategies
        of one seed can share their start.
    on_stage : told "ask", "answer", "fit", "val", "test" or "done" and the rounds finished so far.
    """
    for number, total in enumerate(plan):
        if len(session.state.rounds) <= number:
            on_stage("ask", number)
            asked = sum(len(r.query) for r in session.state.rounds)
            session.ask(total - asked, strategy=None if number else first)
        if number < len(session.state.rounds) - 1:
            continue  # finished before this run
        on_stage("answer", number)
        for slice_id in session.pending:
            session.annotate(*oracle.annotate(slice_id))
        if not any(f.round == number and f.checkpoint for f in session.state.fits):
            on_stage("fit", number)
            session.fit()
        for split in ("val", "test") if test else ("val",):
            # "val" only where the run was cut off between a training and its measurement
            measured = _latest(session.state.rounds[number], split) is not None
            if not measured and session.trainer.measurable(split):
                on_stage(split, number)
                session.evaluate(split)
        on_stage("done", number + 1)
    return curve(session)


def curve(session: Session) -> list[ResultRow]:
    """The learning curve that a session's journal holds."""
    rows = []
    for number, asked in enumerate(session.state.rounds):
        fits = [f for f in session.state.fits if f.round == number and f.report is not None]
        for split in ("val", "test", "new"):
            metrics = _latest(asked, split)
            if metrics is not None:
                seconds = fits[-1].report.seconds if fits and fits[-1].report else None
                share = metrics.labelled / sum(map(len, session.pool.slices))
                rows.append(
                    ResultRow(
                        number + 1,
                        metrics.labelled,
                        share,
                        split,
                        metrics.dice,
                        metrics.mean,
                        seconds,
                    )
                )
    return rows


def to_csv(rows: Iterable[ResultRow], classes: Sequence[str]) -> str:
    """One line per round and split; names that a spreadsheet would run as formulas are quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [f"'{c}" if c[:1] in "=+-@" else c for c in classes[1:]]
    writer.writerow(["round", "slices", "share", "split", "mean", *names, "fit_seconds"])
    for r in rows:
        values = [_number(v, 4) for v in (r.mean, *r.dice)]
        writer.writerow(
            [r.round, r.items, f"{r.share:.4f}", r.split, *values, _number(r.seconds, 1)]
        )
    return buffer.getvalue()


def to_table(rows: Iterable[ResultRow], classes: Sequence[str]) -> str:
    """The curve as text, one line per round and split."""
    head = ["round", "slices", "share", "split", "mean", *classes[1:], "fit s"]
    body = [
        [
            str(r.round),
            str(r.items),
            f"{r.share:.1%}",
            r.split,
            *(_number(v, 3) or "–" for v in (r.mean, *r.dice)),
            _number(r.seconds, 0) or "–",
        ]
        for r in rows
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(x, widths, strict=True)) for x in [head, *body]]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def _latest(asked: Round, split: str) -> Metrics | None:
    return next((m for m in reversed(asked.metrics) if m.split == split), None)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
