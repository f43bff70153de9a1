import pytest

from alnb.store.shelf import Shelf


def test_what_is_put_on_a_shelf_is_there_for_whoever_opens_the_folder_next(tmp_path):
    shelf = Shelf(tmp_path / "a" / "b")
    assert list(shelf) == []
    assert "one" not in shelf
    shelf["one"], shelf["two"] = b"1", b"2"
    shelf["one"] = b"new"
    again = Shelf(tmp_path / "a" / "b")
    assert dict(again) == {"one": b"new", "two": b"2"}
    del again["one"]
    assert list(shelf) == ["two"]
    with pytest.raises(KeyError):
        del again["one"]


def test_half_written_files_are_not_entries(tmp_path):
    (tmp_path / "x123.tmp").write_bytes(b"half")
    assert len(Shelf(tmp_path)) == 0


@pytest.mark.parametrize("key", ["", "..", "a/b", "/etc/passwd"])
def test_a_key_cannot_leave_the_folder(tmp_path, key):
    with pytest.raises(ValueError, match="no name"):
        Shelf(tmp_path)[key] = b""
