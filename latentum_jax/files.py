"""Files that appear whole or not at all."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to that becomes `path` once the block ends well, and vanishes otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes text as UTF-8."""
    with whole(path) as unfinished:
        unfinished.write_text(text, "utf-8")


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Writes indented JSON."""
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: str | os.PathLike[str], lines: Sequence[Any]) -> None:
    """Writes one JSON value a line."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
