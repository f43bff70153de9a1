"""Writes the frozen journal of one version and, beside it, the state that it stands for.

``python -m tests.journals.make`` writes ``v4.db`` and ``v4.json``. A frozen journal is never
written again: when the journal's version rises, add the next one, and keep this one readable.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from alnb.records import (
    Accepted,
    Annotation,
    FitReport,
    Mask,
    Metrics,
    Scribble,
    SliceId,
    Stroke,
    VolumeId,
)
from alnb.session.opening import recovered
from alnb.store import events as e
from alnb.store.journal import Journal
from alnb.store.migrations import VERSION

HERE = Path(__file__).parent
A, B, C, D, E, F, G = (SliceId("patient001/ED", index) for index in range(7))


def stroke(name: str, label: int = 1) -> Stroke:
    """A stroke whose numbers do not end in binary."""
    return Stroke(((1.1, 2.2), (3.3, 4.4)), label, 1.7, keep=(0, 3), id=name)


EVENTS = (
    e.SessionCreated(
        cohort="c0",
        split="5p",
        train=("patient001", "naïve\npatient"),
        val=("patient002",),
        test=(),
        unit="slice",
        classes=("background", "RV", "Myo", "LV"),
        seed=7,
        keep_labelled=True,
        version="0.1.0",
    ),
    e.RoundOpened(0, (A, B, C), (0.1, None, 2.5), ("", "control", ""), "Strided()", "query/0"),
    e.SliceOpened(A, None, None),
    e.StrokeAdded(A, stroke("a1")),
    e.StrokeAdded(A, stroke("a2", 255)),
    e.StrokeUndone(A),
    e.StrokeAdded(A, Stroke(((0.5, 0.5),), 2, tool="lasso", id="a3")),
    e.StrokeUndone(A),
    e.StrokeRedone(A),
    e.SliceSubmitted(Annotation(A, Scribble((stroke("a1"),)), "me", 12.25)),
    e.SliceSkipped(B, "blurred", 3.5),
    e.QueryAmended((D,), (C,)),
    e.FitStarted(0, "person", 1, "fit/0"),
    e.StrokeAdded(D, stroke("d1", 3)),
    e.FitFinished(0, "ab" * 32, FitReport(300, float("nan"), 12.5, True, ("Halved.",))),
    e.Evaluated(0, Metrics("val", (0.5, None, 0.25), 3, 1, 12.25)),
    e.SliceOpened(D, "cd" * 32, "ab" * 32),
    e.SliceSubmitted(Annotation(D, Accepted("cd" * 32, "ab" * 32, (stroke("d1", 3),)), "me", None)),
    e.RoundClosed(0),
    e.RoundOpened(1, (A, VolumeId("patient001/ES")), (None, None), ("again", ""), "x", "query/1"),
    e.SliceSubmitted(Annotation(A, Mask("ef" * 32, (stroke("m1"),)), "you", 1.0)),
    e.FitStarted(1, "loop", 2, "fit/1"),
    e.FitFailed(1, "Training stopped: out of memory. Labels are safe."),
    e.Embedded("mine", None, "01" * 32, None),
    e.Embedded("acdc", "23" * 32, "45" * 32, FitReport(200, 1.25, 40.5, notes=("Shrunk.",))),
    e.EmbeddingChosen("mine"),
    e.RoundClosed(1),
    e.RoundOpened(2, (B,), (0.5,), ("",), "TopScore(entropy, mean)", "query/2", "Too weak."),
    e.StrokeAdded(E, stroke("e1")),
    e.StrokeAdded(E, stroke("e2", 2)),
    e.SliceSubmitted(
        Annotation(E, Accepted("67" * 32, None, (), (stroke("e1"), stroke("e2", 2))), "me", 4.5),
        e.Seen("89" * 32, None, True, "corrected", 1),
    ),
    e.StrokeAdded(F, stroke("f1")),
    e.SliceSubmitted(
        Annotation(F, Accepted("67" * 32, "ab" * 32, (), (stroke("f1"),)), "me", 1.5),
        e.Seen("89" * 32, "ab" * 32, True, "accepted"),
    ),
    e.StrokeUndone(F),
    e.SliceSubmitted(
        Annotation(F, Scribble((stroke("f1"),)), "me", 1.5),
        e.Seen("89" * 32, "ab" * 32, True, "ignored", 2),
    ),
    e.SliceSkipped(C, "", 0.0),
    e.SliceReopened(C),
    e.SliceSubmitted(
        Annotation(C, Accepted("01" * 32, None, between=(0, 3)), "me", 2.5),
        e.Seen("01" * 32, None, False, "accepted"),
    ),
    e.SliceSubmitted(
        Annotation(G, Accepted("02" * 32, None, (stroke("g1"),), between=(5, 9)), "me", 3.5),
        e.Seen("02" * 32, None, False, "corrected", 1),
    ),
    e.SliceSubmitted(
        Annotation(B, Accepted("03" * 32, None, between=(0, 3)), "me", 0.0),
        e.Seen("03" * 32, None, False, "accepted"),
    ),
    e.StrokeUndone(B),
)


def plain(value: object) -> object:
    """Any part of a state as JSON: dataclasses by field, mappings as sorted pairs."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        body = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__, **body}
    if isinstance(value, Mapping):
        return sorted(([plain(k), plain(v)] for k, v in value.items()), key=str)
    if isinstance(value, frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return repr(value) if isinstance(value, float) else value


def main() -> None:
    """Write the journal and the state of this version."""
    path = HERE / f"v{VERSION}.db"
    if path.exists():
        raise SystemExit(f"{path.name} is frozen. Raise the journal's version to freeze another.")
    journal = Journal(path)
    for seq, event in enumerate(EVENTS, start=1):
        journal.append([e.Entry(seq, f"2026-11-22T04:00:{seq:02}.000+00:00", "me", event)])
    state, problems = recovered(journal)
    journal.close()
    assert not problems, problems
    text = json.dumps(plain(state), indent=1, ensure_ascii=False) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
