import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alnb.errors import JournalError
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
from alnb.store import events
from alnb.store.events import (
    EVENTS,
    Embedded,
    EmbeddingChosen,
    Evaluated,
    FitFailed,
    FitFinished,
    FitStarted,
    QueryAmended,
    RoundClosed,
    RoundOpened,
    Seen,
    SessionCreated,
    SliceOpened,
    SliceReopened,
    SliceSkipped,
    SliceSubmitted,
    StrokeAdded,
    StrokeRedone,
    StrokeUndone,
    decode,
    encode,
)

S = SliceId("patient001/ED", 4)
STROKE = Stroke(((1.5, 2.25), (3.0, 4.0)), 2, 1.5, keep=(0, 3), id="a")
EXAMPLES = [
    SessionCreated("f", "s", ("p1",), ("p2",), (), "slice", ("bg", "LV"), 7, False, "0.1"),
    RoundOpened(0, (S, VolumeId("v")), (1.5, None), ("", "control"), "CoreSet()", "query/0"),
    QueryAmended((S,), ()),
    SliceOpened(S, None, None),
    StrokeAdded(S, STROKE),
    StrokeUndone(S),
    StrokeRedone(S),
    SliceSubmitted(Annotation(S, Scribble((STROKE,)), "me", 12.5)),
    SliceSubmitted(Annotation(S, Mask("00", (STROKE,)), "me", None)),
    SliceSubmitted(Annotation(S, Accepted("00", "11"), "me", 1.0)),
    SliceSubmitted(
        Annotation(S, Accepted("00", None, beneath=(STROKE,)), "me", 1.0),
        Seen("00", None, True, "corrected", 2),
    ),
    SliceSubmitted(
        Annotation(S, Accepted("00", None, (STROKE,), between=(2, 7)), "me", 1.0),
        Seen("00", None, False, "corrected", 1),
    ),
    SliceSkipped(S, 'no "heart"\n', 3.0),
    SliceReopened(S),
    FitStarted(0, "person", 3, "fit/0"),
    FitFinished(0, "22", FitReport(10, math.inf, 1.0, True, ("batch halved",))),
    FitFailed(0, "out of memory"),
    Evaluated(0, Metrics("val", (0.5, None), 3, 10, 60.0)),
    Embedded("acdc", "a" * 64, "b" * 64, FitReport(10, 0.5, 3.0)),
    EmbeddingChosen("pixels"),
    RoundClosed(0),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda e: type(e).__name__)
def test_an_event_survives_json_unchanged(event):
    assert decode(type(event).__name__, encode(event)) == event


def test_every_event_has_an_example_and_a_row_with_its_fields_in_the_table():
    assert {type(e).__name__ for e in EXAMPLES} == set(EVENTS)
    table = re.sub(r"\s+", " ", events.__doc__.replace(",", ", "))
    for name, kind in EVENTS.items():
        row = re.search(rf"\b{name} (.*)", table).group(1)
        listed = [w.strip(",") for w in row.split()]
        for field in dataclasses.fields(kind):
            assert field.name in listed, f"{name}.{field.name} is missing from the table"


@given(
    points=st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=20),
    label=st.integers(0, 255),
    radius=st.floats(1e-3, 1e3),
    name=st.text(max_size=20),
)
def test_any_stroke_survives_json_to_the_last_bit(points, label, radius, name):
    event = StrokeAdded(SliceId(name, 0), Stroke(tuple(points), label, radius, id=name))
    assert decode("StrokeAdded", encode(event)) == event


def test_an_unknown_event_or_field_says_to_update():
    with pytest.raises(JournalError, match="newer"):
        decode("SliceDreamt", "{}")
    with pytest.raises(JournalError, match="newer"):
        decode("RoundClosed", '{"number": 1, "mood": "good"}')


def test_numbers_of_numpy_are_numbers():
    event = FitFinished(np.int64(0), "22", FitReport(np.int32(3), np.float32(0.5), np.float64(1)))
    assert decode("FitFinished", encode(event)) == event
