"""Lines of a JSONL file of any size by number, through an index of byte offsets."""

import array
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from latentum_jax.data.faults import BadSample
from latentum_jax.data.index import index_rows

ROW = np.dtype([("offset", "<i8"), ("size", "<i8"), ("number", "<i8")])


class Lines:
    """The values of a JSONL file, blank lines left out; safe to read from several threads.

    path: the file. Where it is large, its index is kept beside it or, where nothing can be written
      there, in `cache`.

    Raises ValueError where there is no such file or it has no lines.
    """

    def __init__(self, path: str | os.PathLike[str], *, cache: Path | None = None):
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{self.path}: there is no such file")
        self.rows = index_rows([self.path], "lines1", ROW, _scan, cache)
        if not len(self.rows):
            raise ValueError(f"{self.path}: there are no lines in it")
        self._file = self.path.open("rb", buffering=0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        """The parsed value. Raises BadSample where the line is not JSON."""
        offset, size, _ = self.rows[index].item()
        try:
            return json.loads(os.pread(self._file.fileno(), size, offset))
        except ValueError as error:
            raise BadSample(self.where(index), f"not JSON ({error})") from error

    def where(self, index: int) -> str:
        """The file and the number of the line, blank ones counted."""
        return f"{self.path}, line {self.rows[index]['number']}"


def _scan(_: int, path: Path) -> np.ndarray:
    found, offset = array.array("q"), 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.isspace():
                found.extend((offset, len(line), number))
            offset += len(line)
    return np.frombuffer(found, ROW)
