import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import alnb

ROOT = Path(__file__).parent.parent


def in_a_new_process(code):
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return out.stdout.strip()


def test_importing_alnb_is_quick_and_loads_neither_torch_nor_widgets():
    code = (
        "import sys, time; t = time.perf_counter(); import alnb; "
        "print(time.perf_counter() - t); "
        "print(sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    best, loaded = 9.0, ""
    for _ in range(3):
        seconds, loaded = in_a_new_process(code).splitlines()
        best = min(best, float(seconds))
    assert best < 0.3
    for heavy in ("torch", "monai", "ipywidgets", "ipycanvas", "plotly", "sklearn", "numpy"):
        assert f"'{heavy}'" not in loaded


def test_drawing_and_exporting_load_no_torch(tmp_path):
    code = f"""
import sys, alnb
from alnb.records import Stroke
session = alnb.open_session({str(tmp_path / "p")!r}, alnb.phantom(6, size=48, slices=(3, 4)))
session.ask(2)
for s in session.queue:
    session.draw(s, Stroke(((5.0, 5.0), (9.0, 9.0)), 1))
    session.submit(s)
session.export({str(tmp_path / "out")!r})
session.close()
again = alnb.open_session({str(tmp_path / "p")!r}, alnb.phantom(6, size=48, slices=(3, 4)))
print(len(again.labelled), 'torch' in sys.modules, 'ipywidgets' in sys.modules)
"""
    assert in_a_new_process(code) == "2 False False"


def test_every_public_name_is_there_and_a_wrong_one_is_an_attribute_error():
    for name in alnb.__all__:
        assert getattr(alnb, name) is not None
    assert set(alnb.__all__) <= set(dir(alnb))
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = alnb.nothing_here


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extension = json.loads((ROOT / "alnb/_server/labextension/package.json").read_text())
    assert alnb.__version__ == project["version"] == extension["version"]


def test_the_notebooks_hold_no_outputs():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs"), path.name
            assert cell.get("execution_count") is None, path.name


def test_the_random_streams_are_the_same_in_every_process_and_differ_by_path():
    from alnb.rng import stream

    code = "from alnb.rng import stream; print(stream(7, 'query', 3).integers(10**9, size=4))"
    here = str(stream(7, "query", 3).integers(10**9, size=4))
    assert in_a_new_process(code) == here
    assert str(stream(7, "query", "3").integers(10**9, size=4)) != here
    assert str(stream(8, "query", 3).integers(10**9, size=4)) != here


def test_replaying_ten_thousand_strokes_is_quick(tmp_path):
    from alnb.records import SliceId, Stroke
    from alnb.session.state import replay
    from alnb.store.events import Entry, SessionCreated, StrokeAdded

    begun = SessionCreated("f", "s", ("p",), (), (), "slice", ("bg", "LV"), 0, False, "0")
    points = tuple((float(i), float(i)) for i in range(30))
    entries = [Entry(1, "", "me", begun)]
    for i in range(10_000):
        stroke = Stroke(points, 1, id=str(i))
        entries.append(Entry(i + 2, "", "me", StrokeAdded(SliceId("v", i // 20), stroke)))
    start = time.perf_counter()
    state = replay(entries)
    assert sum(len(d.strokes) for d in state.drafts.values()) == 10_000
    assert time.perf_counter() - start < 10  # a bound against quadratic growth, not a benchmark
