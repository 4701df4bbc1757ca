"""Indices are made once, kept beside their files, and never used for files that have changed."""

import os
import shutil

import numpy as np
import pytest

from latentum_jax.data import index
from latentum_jax.data.index import index_rows

ROW = np.dtype([("file", "<u4"), ("byte", "u1")])


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two files whose index is kept, however small they are."""
    monkeypatch.setattr(index, "KEEP", 0)
    files = [tmp_path / "data/a", tmp_path / "data/b"]
    files[0].parent.mkdir()
    files[0].write_bytes(b"xy")
    files[1].write_bytes(b"z")
    return files


class Scan:
    """Tells how often it was asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, number, path):
        self.calls += 1
        return np.array([(number, byte) for byte in path.read_bytes()], ROW)


def run(files, scan, **options):
    return index_rows(files, "test", ROW, scan, **options)


def kept(folder):
    return sorted(folder.glob(".*"))


def test_is_made_once(files):
    """Millions of samples would be looked through at every start."""
    scan = Scan()
    first, again = run(files, scan), run(files, scan)
    assert first.tolist() == again.tolist() == [(0, ord("x")), (0, ord("y")), (1, ord("z"))]
    assert scan.calls == 2
    assert not again.flags.owndata and not again.flags.writeable  # on the disk, not in memory
    assert len(kept(files[0].parent)) == 1


@pytest.mark.parametrize("change", ["size", "time", "list"])
def test_is_made_again_where_files_changed(files, change):
    """Offsets into a file that is no longer that file read garbage."""
    run(files, Scan())
    if change == "size":
        files[1].write_bytes(b"zzz")
    elif change == "time":
        os.utime(files[1], ns=(1, 1))
    else:
        files = files[::-1]
    scan = Scan()
    rows = {"size": [0, 0, 1, 1, 1], "time": [0, 0, 1], "list": [0, 1, 1]}
    assert run(files, scan)["file"].tolist() == rows[change]
    assert scan.calls == 2
    assert len(kept(files[0].parent)) == (2 if change == "list" else 1)  # the old one is gone


def test_moves_with_its_files(files, tmp_path):
    """The same disk is mounted elsewhere on the next host."""
    run(files, Scan())
    moved = shutil.move(tmp_path / "data", tmp_path / "moved")
    scan = Scan()
    run([moved / file.name for file in files], scan)
    assert scan.calls == 0


def test_a_damaged_one_is_made_again(files):
    """A copy that was cut short would lose samples without a word."""
    rows = run(files, Scan()).tolist()
    (path,) = kept(files[0].parent)
    path.write_bytes(path.read_bytes()[:-1])
    scan = Scan()
    assert run(files, scan).tolist() == rows
    assert scan.calls == 2


def test_nothing_is_left_of_one_that_failed(files):
    """Half an index would be taken for a whole one."""

    def scan(number, path):
        if number:
            raise ValueError("cut short")
        return Scan()(number, path)

    with pytest.raises(ValueError, match="cut short"):
        run(files, scan)
    assert not kept(files[0].parent)


def test_where_nothing_can_be_written(files, tmp_path, monkeypatch):
    """Data sets are mounted read-only; root may write everywhere, so the mount is pretended."""
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != files[0].parent and access(path, mode)
    )
    scan = Scan()
    first, again = (run(files, scan, folder=tmp_path / "cache") for _ in range(2))
    assert first.tolist() == again.tolist()
    assert scan.calls == 2 and len(kept(tmp_path / "cache")) == 1
    assert run(files, scan).tolist() == first.tolist()  # in memory
    assert not kept(files[0].parent)


def test_small_files_get_no_company(files, monkeypatch):
    """A file beside every little JSONL file is a nuisance."""
    monkeypatch.setattr(index, "KEEP", 4)
    run(files, Scan())
    assert not kept(files[0].parent)


def test_no_rows(files):
    """An empty file cannot be mapped into memory."""
    for file in files:
        file.write_bytes(b"")
    assert len(run(files, Scan())) == len(run(files, Scan())) == 0
