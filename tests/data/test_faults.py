"""Broken samples are named, counted once, and replaced in a way that can be repeated."""

import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from latentum_jax.data.faults import BadSample, Faults, blaming


def read(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_each_sample_is_written_down_once(tmp_path):
    """The log of a long run would otherwise name the same few samples at every epoch."""
    faults = Faults(tmp_path / "logs/bad.jsonl", 2)
    for where in "aab":
        faults.note(BadSample(where, "broken"))
    assert read(faults.log) == [{"where": w, "reason": "broken"} for w in "ab"]
    assert faults.seen() == {"a", "b"}


def test_too_many_end_the_run_and_the_count_survives_a_restart(tmp_path):
    """A data set that is broken throughout would be trained on for its few good samples."""
    log = tmp_path / "bad.jsonl"
    Faults(log, 2).note(BadSample("a", "x"))
    Faults(log, 2).note(BadSample("b", "x"))
    resumed = Faults(log, 2)
    resumed.note(BadSample("a", "x"))
    with pytest.raises(ValueError, match=r"^3 broken samples, expected at most 2: .* c: x, .*bad"):
        resumed.note(BadSample("c", "x"))
    with pytest.raises(ValueError, match="3 broken"):  # whatever comes next
        Faults(log, 2).note(BadSample("a", "x"))
    Faults(log, 3).note(BadSample("a", "x"))  # a run that bears more goes on


def test_a_log_cut_short_by_a_crash(tmp_path):
    """Half a line would end the resumed run, or spoil the next line."""
    log = tmp_path / "bad.jsonl"
    log.write_text('{"where": "a", "reason": "x"}\n{"where": "b", "rea')
    faults = Faults(log, 5)
    assert faults.seen() == {"a"}
    faults.note(BadSample("c", "x"))
    assert [fault["where"] for fault in read(log)] == ["a", "c"]


def test_another_file_as_the_log(tmp_path):
    """It would be appended to."""
    log = tmp_path / "bad.jsonl"
    log.write_text("notes\n")
    with pytest.raises(ValueError, match="bad.jsonl is no log of broken samples"):
        Faults(log, 5)


class Slow(set):
    """Lets other threads run between a look and what is done about it."""

    def __contains__(self, value):
        found = super().__contains__(value)
        time.sleep(0.001)
        return found


def test_from_several_threads(tmp_path):
    """Samples are read in threads: none may be counted twice or written into another's line."""
    faults = Faults(tmp_path / "bad.jsonl", 5)
    faults._seen = Slow()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: faults.note(BadSample(f"s{n % 5}", "x" * 99)), range(100)))
    assert sorted(fault["where"] for fault in read(faults.log)) == [f"s{n}" for n in range(5)]


def make(index):
    if index % 2:
        raise BadSample(f"sample {index}", "odd")
    return index


def test_whose_fault():
    """The innermost name is the sample's own."""
    with pytest.raises(BadSample, match="^here: too long$"), blaming("here"):
        raise ValueError("too long")
    with pytest.raises(BadSample, match="^there: odd$"), blaming("here"):
        raise BadSample("there", "odd")


def test_survives_pickling():
    """Workers hand their errors on that way."""
    error = pickle.loads(pickle.dumps(BadSample("here", "odd")))
    assert (error.where, error.reason, str(error)) == ("here", "odd", "here: odd")
