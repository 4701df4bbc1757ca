"""What benchmarks are given: records of JSON, JSONL and TSV files, each with its place."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Placed = tuple[str, Record]  # "FILE, line 3" and what stands there

_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


def read_records(path: Path) -> list[Placed]:
    """The objects of a file: one a line, one list of them, or of .json an object whose "questions"
    they are; of .tsv and .csv a row each, by the names in the first.

    Raises ValueError where there is no such file, it has none, or a line holds something else.
    """
    text = read_text(path)
    if path.suffix.lower() in (".tsv", ".csv"):
        found = _rows(path, text)
    elif (values := _listed(path, text)) is not None:
        found = [(f"{path}, entry {n}", value) for n, value in enumerate(values, 1)]
    else:
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        found = [(place := f"{path}, line {n}", _json(line, place)) for n, line in lines]
    if not found:
        raise ValueError(f"{path}: there is nothing in it")
    for place, value in found:
        if not isinstance(value, dict):
            raise ValueError(f"{place}: expected an object, got {value!r:.60}")
    return found


def read_text(path: Path) -> str:
    """The text of a file. Raises ValueError where there is none, or it is not UTF-8."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error


def field(record: Record, place: str, name: str, kind: type) -> Any:
    """A record's value. Raises ValueError, naming the place, where there is none of this kind."""
    if name not in record:
        raise ValueError(f'{place}: the key "{name}" is missing')
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f'{place}: "{name}" is {value!r:.60}, expected {_KINDS[kind]}')
    if value in ("", []):
        raise ValueError(f'{place}: "{name}" is empty')
    return value


def yes_or_no(text: str, place: str) -> bool:
    """A true answer. Raises ValueError where it is neither."""
    answer = text.strip().lower()
    if answer not in ("yes", "no"):
        raise ValueError(f"{place}: the answer is {text!r}, expected yes or no")
    return answer == "yes"


def image_file(folder: Path, name: str, place: str) -> Path:
    """A picture of a record. Raises ValueError, naming the place, where there is no such file."""
    file = folder / name
    if not file.is_file():
        raise ValueError(f"{place}: there is no image {file}")
    return file


def unique(keys: Iterable[tuple[str, str]], what: str) -> None:
    """ValueError where two of (key, place) have one key."""
    seen: dict[str, str] = {}
    for key, place in keys:
        if key in seen:
            raise ValueError(f"{place}: {what} {key!r} was there before, in {seen[key]}")
        seen[key] = place


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: not JSON ({error})") from error


def _listed(path: Path, text: str) -> list[Any] | None:
    """The entries of a file that is one JSON value; None where it may be a value a line."""
    if text.lstrip().startswith("["):
        return _json(text, str(path))
    if path.suffix.lower() != ".json":
        return None
    try:
        whole = json.loads(text)
    except ValueError:
        return None
    questions = whole.get("questions") if isinstance(whole, dict) else None
    return questions if isinstance(questions, list) else None


def _rows(path: Path, text: str) -> list[Placed]:
    csv.field_size_limit(1 << 30)  # a picture in base64 is one field
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    found = []
    for row in reader:
        place = f"{path}, line {reader.line_num}"
        if None in row or None in row.values():
            names = len(reader.fieldnames or ())
            raise ValueError(f"{place}: expected {names} columns, as the first line has")
        found.append((place, {name: value for name, value in row.items() if value}))
    return found
