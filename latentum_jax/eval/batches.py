"""What all evaluations share: batches of one shape, and files that appear whole or not at all."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def padded_batches(items: Sequence[T], size: int) -> Iterator[tuple[list[T], int]]:
    """Batches of exactly `size` items, and how many of them are real.

    The last one is filled up with its last item, so that no program is compiled for it alone.
    """
    for start in range(0, len(items), size):
        batch = list(items[start : start + size])
        yield batch + batch[-1:] * (size - len(batch)), len(batch)


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


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Writes indented JSON."""
    with whole(path) as unfinished:
        unfinished.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")


def write_jsonl(path: str | os.PathLike[str], lines: Sequence[Any]) -> None:
    """Writes one JSON value a line."""
    with whole(path) as unfinished:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        unfinished.write_text(text, "utf-8")
