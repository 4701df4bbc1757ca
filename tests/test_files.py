"""Files and folders appear whole, or not at all."""

import os

import pytest

from latentum_jax.files import whole, whole_folder, write_json


@pytest.fixture
def noted(monkeypatch, tmp_path):
    """What is waited for and what is renamed, in order."""
    calls, fsync, replace = [], os.fsync, os.replace

    def wait(number):
        names = {file.stat().st_ino: file.name for file in tmp_path.rglob("*")}
        calls.append(names[os.fstat(number).st_ino])
        fsync(number)

    def rename(old, new):
        calls.append(f"to {os.path.basename(new)}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", wait)
    monkeypatch.setattr(os, "replace", rename)
    return calls


def test_a_file_is_on_the_disk_before_its_name(tmp_path, noted):
    """Breaks if a crash can leave an empty file under the name of a whole one."""
    write_json(tmp_path / "a.json", {"b": 1})
    assert noted == [".a.json.unfinished", "to a.json"]


def test_a_folder_is_on_the_disk_before_its_name(tmp_path, noted):
    """The same for what lies in a folder, which takes the place of an old one."""
    for text in ("old", "new"):
        noted.clear()
        with whole_folder(tmp_path / "made") as folder:
            (folder / "inner").mkdir()
            (folder / "inner/file").write_text(text)
    assert noted == ["file", "to .made.old", "to made"]
    assert (tmp_path / "made/inner/file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("kind", [whole, whole_folder])
def test_a_fault_leaves_what_was_there(kind, tmp_path):
    """Breaks if half a file, or none, is left after a fault."""
    path = tmp_path / "kept"
    path.mkdir() if kind is whole_folder else path.write_text("old")
    with pytest.raises(RuntimeError), kind(path) as unfinished:
        if kind is whole:
            unfinished.write_text("half")
        raise RuntimeError
    assert [found.name for found in tmp_path.iterdir()] == ["kept"]
    assert kind is whole_folder or path.read_text() == "old"
