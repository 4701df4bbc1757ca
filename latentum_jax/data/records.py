"""Rows on disk: array_record shards of rows made once, such as the codes of a million pictures.

A folder holds `rows-00000.array_record`, ... and `records.json`, which says what the rows are, of
which model and tokenizer, and how many each shard has. A shard is listed there once it is whole,
so that making them goes on where it stopped.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from safetensors import numpy as safetensors

from latentum_jax.data.interleaved import Row
from latentum_jax.files import whole, write_json

FORMAT, DESCRIPTION = "latentum_jax-rows-1", "records.json"
PART = 1 << 24


def fingerprint(files: Iterable[str | os.PathLike[str]]) -> str:
    """A digest of the files' contents in their order: whose rows these are."""
    total = hashlib.sha256()
    for file in files:
        digest = hashlib.sha256()
        with open(file, "rb") as opened:
            while part := opened.read(PART):
                digest.update(part)
        total.update(digest.digest())
    return total.hexdigest()


class RecordWriter:
    """Writes shards of rows into a folder, and goes on with one that was begun.

    about: what the rows are, for people.
    made_by: the `fingerprint` of what makes them.

    Raises ValueError where the folder holds rows of another kind, or all of them already.
    """

    def __init__(self, folder: str | os.PathLike[str], *, about: str, made_by: str):
        self.folder = Path(folder)
        self.said = {"format": FORMAT, "about": about, "made_by": made_by}
        self.said |= {"finished": False, "shards": []}
        if (self.folder / DESCRIPTION).is_file():
            found = read_description(self.folder)
            for key in ("about", "made_by"):
                _expect(self.folder, key, found[key], self.said[key])
            _expect(self.folder, "finished", found["finished"], False)
            self.said = found

    def done(self) -> int:
        """Rows that are safely written: the number of the row to go on with."""
        return sum(self.said["shards"])

    def write_shard(self, rows: Iterable[Row]) -> None:
        """Writes the next shard; where the rows fail to come, none of it.

        A row is a dict of numpy arrays, all rows of the same names.
        """
        path = self.folder / shard_name(len(self.said["shards"]))
        count = 0
        with whole(path) as unfinished:
            # One record a group: a record is found without its neighbours being unpacked.
            writer = ArrayRecordWriter(str(unfinished), "group_size:1")
            try:
                for row in rows:
                    # safetensors takes the memory as it lies, whatever the strides.
                    flat = {name: np.asarray(value, order="C") for name, value in row.items()}
                    writer.write(safetensors.save(flat))
                    count += 1
            finally:
                writer.close()
        self._describe(shards=[*self.said["shards"], count])

    def finish(self) -> None:
        """Says that there are no more rows: from now on they can be read."""
        self._describe(finished=True)

    def _describe(self, **changes: Any) -> None:
        self.said = {**self.said, **changes}
        write_json(self.folder / DESCRIPTION, {**self.said, "rows": self.done()})


class Records:
    """The rows of a folder; safe to read from several threads.

    made_by: the `fingerprint` they are expected to have, None to take any.

    Raises ValueError where they have another, are not finished, or shards are missing or damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], *, made_by: str | None = None):
        self.folder = Path(folder)
        said = read_description(self.folder)
        if made_by is not None:
            _expect(self.folder, "made_by", said["made_by"], made_by)
        _expect(self.folder, "finished", said["finished"], True)
        files = [self.folder / shard_name(number) for number in range(len(said["shards"]))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ValueError(
                f"{self.folder}: {len(missing)} of {len(files)} shards missing, first {missing[0]}"
            )
        self.about, self.source = said["about"], _open(self.folder, files, said["shards"])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Row:
        return safetensors.load(self.source[range(len(self))[index]])


def shard_name(number: int) -> str:
    """File of a shard."""
    return f"rows-{number:05d}.array_record"


def read_description(folder: Path) -> dict[str, Any]:
    """records.json of a folder. Raises ValueError where there is none or it is not one of ours."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(f"{folder} holds no rows: it has no {DESCRIPTION}")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        whole_description = {"about", "made_by", "finished", "shards"} <= set(said)
        if said["format"] != FORMAT or not whole_description:
            raise ValueError(f"format is {said['format']!r}, expected {FORMAT!r} and its entries")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe rows of this library: {error}") from error
    return said


def _expect(folder: Path, key: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ValueError(f"{folder / DESCRIPTION}: {key} is {found!r}, expected {expected!r}")


def _open(folder: Path, files: list[Path], counts: list[int]) -> Any:
    if not sum(counts):
        raise ValueError(f"{folder}: there are no rows in it")
    try:
        source = grain.sources.ArrayRecordDataSource([str(file) for file in files])
        found = len(source)
    except Exception as error:  # array_record raises bare RuntimeErrors
        raise ValueError(f"{folder}: a shard is damaged ({error})") from error
    if found != sum(counts):
        raise ValueError(f"{folder}: {found} rows in its shards, expected {sum(counts)}")
    return source
