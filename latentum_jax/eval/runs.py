"""A folder of a benchmark's results: what is finished stays finished, whatever ends the run.

run.json says what the run is of, items.jsonl holds what is finished, an object with a "key" a line,
written as it comes; results.json and table.md appear at the end.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from latentum_jax.files import locked, write_json, write_text

PAPERS = ("README.md", "log.jsonl", "metrics.json")  # beside a bundled model, not of it
ENDS = 1 << 16  # bytes of a weights file that tell it from others
_OWN = ("lock", "run.json")


class Run:
    """What is finished of a run, by its key; `add` more, and `finish`."""

    def __init__(self, out: Path, settings: Mapping[str, Any]):
        self.out, self.settings = out, dict(settings)
        self.file = out / "items.jsonl"
        self.done: dict[str, dict[str, Any]] = {}
        self._check()
        self._read()

    def add(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Writes finished items; they are on the disk when this returns."""
        with self.file.open("a", encoding="utf-8") as file:
            for item in items:
                file.write(json.dumps(item, ensure_ascii=False) + "\n")
                self.done[item["key"]] = dict(item)
            file.flush()
            os.fsync(file.fileno())

    def finish(self, results: Mapping[str, Any], table: str) -> dict[str, Any]:
        """Writes results.json, the settings first, and table.md; returns what is in the first."""
        whole = {**self.settings, **results}
        write_json(self.out / "results.json", whole)
        write_text(self.out / "table.md", table)
        return whole

    def _check(self) -> None:
        stated = self.out / "run.json"
        if not stated.is_file():
            if others := sorted(p.name for p in self.out.iterdir() if p.name not in _OWN):
                raise ValueError(
                    f"{self.out} is not empty (it has {others[0]}) and no folder of such a run: "
                    "give a new one"
                )
            write_json(stated, self.settings)
            return
        before = settings_of(self.out)
        ours = json.loads(json.dumps(self.settings))
        same_run(self.out, before, ours, {**before, **ours})

    def _read(self) -> None:
        """Reads what is finished; a last line that was cut short is dropped."""
        if not self.file.is_file():
            return
        whole, good = self.file.read_bytes(), 0
        for number, line in enumerate(whole.splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            try:
                item = json.loads(line)
                self.done[item["key"]] = item
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self.file}, line {number}: damaged ({error!r})") from error
            good += len(line)
        if good < len(whole):
            os.truncate(self.file, good)


def settings_of(out: Path) -> dict[str, Any]:
    """What the run of a folder is of; nothing where it has none."""
    stated = out / "run.json"
    if not stated.is_file():
        return {}
    try:
        return dict(json.loads(stated.read_text("utf-8")))
    except ValueError as error:
        raise ValueError(f"{stated} is damaged: {error}") from error


def same_run(
    out: Path, before: Mapping[str, Any], ours: Mapping[str, Any], names: Iterable[str]
) -> None:
    """ValueError, naming what differs, where one of these settings is another than before."""
    if differ := [n for n in names if before.get(n) != ours.get(n)]:
        told = [f"{n} was {before.get(n)!r} and is {ours.get(n)!r}" for n in differ]
        raise ValueError(f"{out} holds another run: {', '.join(told)}")


@contextmanager
def run_in(out: Path, settings: Mapping[str, Any]) -> Iterator[Run]:
    """The run of a folder, begun or to go on with; the folder is this process's own meanwhile.

    Raises ValueError where it holds a run with other settings, naming what differs, or something
    else.
    """
    with locked(out):
        yield Run(out, settings)


def model_settings(checkpoint: str, folder: Path, weights: str | None) -> dict[str, Any]:
    """Which model a run is of: its name, a digest of its files' sizes and ends, its weights' bits.

    A model that was trained further under the same name is another one; one of which more was
    written down (`PAPERS`) is the same.
    """
    digest = hashlib.sha256()
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in PAPERS)
    for file in sorted(files):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)} {size}\n".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(ENDS))
            opened.seek(max(0, size - ENDS))
            digest.update(opened.read(ENDS))
    return {"checkpoint": checkpoint, "model": digest.hexdigest()[:16], "weights": weights}


def digest_of(files: Sequence[Path]) -> str:
    """Sixteen hex digits of what is in files, in their order."""
    return digest(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))


def digest(data: bytes) -> str:
    """Sixteen hex digits that tell data from others."""
    return hashlib.sha256(data).hexdigest()[:16]


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean, and half the width of its 95% interval."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "ci95": float(1.96 * error)}


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: names left, numbers right."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *(list(row) for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
