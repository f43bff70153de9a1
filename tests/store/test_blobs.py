import numpy as np
import pytest

from alnb.errors import JournalError
from alnb.store.blobs import Blobs, atomic_write


def test_an_array_comes_back_equal_and_equal_arrays_share_a_name(tmp_path):
    blobs = Blobs(tmp_path)
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    sha = blobs.put_array(array)
    assert blobs.put_array(array.copy(order="F")) == sha
    np.testing.assert_array_equal(Blobs(tmp_path).label_map(sha), array)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "spoil", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + b"\x00", lambda b: b""]
)
def test_a_damaged_blob_is_refused_and_named(tmp_path, spoil):
    blobs = Blobs(tmp_path)
    sha = blobs.put(b"weights" * 1000)
    path = tmp_path / f"{sha}.blob"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(JournalError, match=sha[:12]):
        blobs.get(sha)


def test_a_missing_blob_is_named(tmp_path):
    with pytest.raises(JournalError, match="0000"):
        Blobs(tmp_path).get("0" * 64)


def test_leftovers_of_a_dead_process_are_swept(tmp_path):
    (tmp_path / "x.tmp").write_bytes(b"half")
    Blobs(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_dies_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, b"old")
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
