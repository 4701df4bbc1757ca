"""Lines of a file, by number."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from latentum_jax.data import index
from latentum_jax.data.faults import BadSample
from latentum_jax.data.lines import Lines

VALUES = [{"n": 0, "text": "ä€"}, [1, 2], "three", 4]


@pytest.mark.parametrize("keep", [0, 1 << 30])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\n \t\n"])
@pytest.mark.parametrize("last", [True, False])
def test_each_line_is_its_value(tmp_path, monkeypatch, keep, end, last):
    """An offset that is off by one, or counts letters for bytes, cuts every line behind it."""
    monkeypatch.setattr(index, "KEEP", keep)
    path = tmp_path / "data.jsonl"
    text = end.join(json.dumps(value, ensure_ascii=False) for value in VALUES)
    path.write_bytes((text + end * last).encode())
    for _ in range(2):
        lines = Lines(path)
        assert len(lines) == 4
        assert [lines[i] for i in (2, 0, 3, 1)] == [VALUES[i] for i in (2, 0, 3, 1)]
    assert lines[-1] == 4 and list(lines) == VALUES


def test_a_broken_line_is_named_as_an_editor_counts(tmp_path):
    """In a million lines, which one?"""
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'1\n\n{"a": \n"\xff"\n')
    lines = Lines(path)
    with pytest.raises(BadSample, match=r"data\.jsonl, line 3: not JSON"):
        lines[1]
    with pytest.raises(BadSample, match=r"data\.jsonl, line 4: not JSON"):
        lines[2]
    assert lines.where(0) == f"{path}, line 1"


def test_from_several_threads(tmp_path):
    """A shared file position would mix lines up."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f"{n}\n" for n in range(2000)))
    lines = Lines(path)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lines.__getitem__, range(2000))) == list(range(2000))


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_no_lines(tmp_path, text):
    """A run would otherwise start and find nothing to train on."""
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"data\.jsonl: there are no lines in it"):
        Lines(tmp_path / "data.jsonl")


def test_missing_file(tmp_path):
    """Said before any training starts, with the path."""
    with pytest.raises(ValueError, match=r"nothing\.jsonl: there is no such file"):
        Lines(tmp_path / "nothing.jsonl")
