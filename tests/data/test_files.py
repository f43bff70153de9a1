from __future__ import annotations

import os

import pytest

from alnb.data import files
from alnb.data.files import folder_at, open_regular, regular, scan, shown
from alnb.errors import BadInput


@pytest.fixture
def root(tmp_path):
    inside = tmp_path / "set"
    inside.mkdir()
    (inside / "x.nii").write_bytes(b"voxels")
    (tmp_path / "secret.nii").write_bytes(b"secret")
    return inside


def test_a_regular_file_inside_opens(root):
    with open_regular(root / "x.nii", root) as stream:
        assert stream.read() == b"voxels"
    assert regular("x.nii", root) == root / "x.nii"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../secret.nii", "lies outside"),
        ("/etc/hostname", "lies outside"),
        ("/dev/zero", "lies outside"),
        (".", "lies outside"),
        ("gone.nii", "cannot be found"),
        ("a\0b.nii", "zero byte"),
        (os.fsdecode(b"bad-\xff.nii"), "not UTF-8"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused_unopened(root, path, words):
    with pytest.raises(BadInput, match=words):
        regular(path, root)


def test_links_pipes_and_folders_are_passed_over_and_named(root):
    (root / "link.nii").symlink_to(root.parent / "secret.nii")
    (root / "inner.nii").symlink_to(root / "x.nii")
    (root / "loop.nii").symlink_to(root / "loop.nii")
    (root / "gone.nii").symlink_to(root / "nothing")
    (root / "again").symlink_to(root, target_is_directory=True)
    (root / "folder.nii").mkdir()
    os.mkfifo(root / "pipe.nii")
    (root / "._x.nii").write_bytes(b"")
    (root / ".cache").mkdir()
    (root / ".cache" / "y.nii").write_bytes(b"")
    found = scan(root, (".nii",))
    assert [path.name for path in found.files] == ["x.nii"]
    said = " ".join(found.problems)
    for name in ("link.nii", "inner.nii", "loop.nii", "gone.nii", "again", "pipe.nii"):
        assert name in said
    with pytest.raises(BadInput, match="not a regular file"):
        regular("folder.nii", root)
    with pytest.raises(BadInput, match="link"):
        regular("again/x.nii", root)


def test_files_come_in_natural_order_whatever_their_endings_case(root):
    for name in ("p10.nii", "p2.NII", "p1.txt"):
        (root / name).write_bytes(b"")
    assert [path.name for path in scan(root, (".nii",)).files] == ["p2.NII", "p10.nii", "x.nii"]


def test_a_scan_ends_in_a_folder_that_is_too_deep_or_too_full(root, monkeypatch):
    deep = root.joinpath(*"abcdefghijklmnop")
    deep.mkdir(parents=True)
    (deep / "y.nii").write_bytes(b"")
    found = scan(root, (".nii",))
    assert [path.name for path in found.files] == ["x.nii"]
    assert "folders deep" in found.problems[0]
    monkeypatch.setattr(files, "ENTRIES", 3)
    for number in range(5):
        (root / f"{number}.txt").write_bytes(b"")
    with pytest.raises(BadInput, match="more than 3 files"):
        scan(root, (".nii",))


def test_names_are_shown_as_text():
    assert shown("a\nb\u202ec.nii") == "a\\nb\\u202ec.nii"
    assert shown("Ångström-数据.nii") == "Ångström-数据.nii"
    assert shown("/data/set/p1/x.nii", "/data/set") == "p1/x.nii"
    assert len(shown("x" * 5000)) <= 301


def test_what_is_no_folder_is_refused(root):
    for path in (root / "x.nii", root / "none", "nul\0"):
        with pytest.raises(BadInput, match="not a folder"):
            folder_at(path)
