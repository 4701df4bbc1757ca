"""Questions about pictures in LLaVA's layout, and the rows that MBAQ and answering train on.

A record is `{"id", "image", "conversations": [{"from": "human", "value"}, {"from": "gpt",
"value"}, ...]}`, `<image>` standing in a question where its picture belongs; without "image" it is
a conversation of text alone. LLaVA-v1.5-665K is one JSON array of these, others are JSONL files.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentum_jax.data.faults import BadSample, blaming
from latentum_jax.data.interleaved import Row, RowShape, question_row
from latentum_jax.data.lines import Lines
from latentum_jax.images import see
from latentum_jax.tokenizer import Tokenizer

MARK = "<image>"


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A sample: `where` it is, its picture if it has one, and (question, answer) pairs."""

    where: str
    image: Path | None
    turns: tuple[tuple[str, str], ...]


class Conversations:
    """The records of a file; safe to read from several threads.

    path: a JSON array, which is held in memory, or a JSONL file, which is not (see `Lines`, that
      takes `cache`).
    root: folder that the records' image paths are relative to.

    Raises ValueError where the file is not there, holds no records, or is neither.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        root: str | os.PathLike[str],
        *,
        cache: Path | None = None,
    ):
        self.path, self.root = Path(path), Path(root)
        self.records = _read_array(self.path) if _is_array(self.path) else Lines(path, cache=cache)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Conversation:
        """A record. Raises BadSample, naming the file and the line or entry, where it is broken."""
        record, where = self.records[index], self.where(index)
        try:
            image = record.get("image")
            said = [(turn["from"], turn["value"]) for turn in record["conversations"]]
            picture = None if image is None else self.root / image
            turns = _turns(said, where)
        except (AttributeError, KeyError, TypeError) as error:
            raise BadSample(
                where, f"expected conversations of from and value, and a path as image ({error})"
            ) from error
        marks = sum(question.count(MARK) for question, _ in turns)
        if marks > (picture is not None):
            raise BadSample(where, f"{marks} {MARK} and {int(picture is not None)} pictures")
        return Conversation(where, picture, tuple((_bare(q), answer) for q, answer in turns))

    def where(self, index: int) -> str:
        """The file and the number of the line, or of the array's entry, from 1."""
        if isinstance(self.records, Lines):
            return self.records.where(index)
        return f"{self.path}, entry {index + 1}"


def conversation_row(
    sample: Conversation,
    tokenizer: Tokenizer,
    shape: RowShape,
    *,
    system: str,
    as_codes: bool = False,
) -> Row:
    """`question_row` of a sample, without a picture where it has none.

    Raises BadSample where its picture cannot be read or not one question fits.
    """
    with blaming(sample.where):
        pixels = None if sample.image is None else see(sample.image, shape.vision)
        row = question_row(pixels, sample.turns, tokenizer, shape, system=system, as_codes=as_codes)
        if not row["block"].any():
            raise ValueError(f"no question fits into {shape.length} tokens with its answer")
        return row


def _is_array(path: Path) -> bool:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    with path.open("rb") as file:
        start = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith(b"[")


def _read_array(path: Path) -> list[Any]:
    try:
        records = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: starts as a JSON array and is none ({error})") from error
    if not records:
        raise ValueError(f"{path}: there are no records in it")
    return records


def _turns(said: Sequence[tuple[str, str]], where: str) -> list[tuple[str, str]]:
    """Pairs of what was asked and answered; an opening of gpt's answers nothing and is left out."""
    said = said[1:] if said and said[0][0] == "gpt" else said
    roles = [role for role, _ in said]
    if not said or roles != ["human", "gpt"] * (len(said) // 2):
        raise BadSample(where, f"expected human and gpt in turns, got {roles}")
    if not all(isinstance(value, str) for _, value in said):
        raise TypeError("a value is not a string")
    values = [value for _, value in said]
    return list(zip(values[::2], values[1::2], strict=True))


def _bare(question: str) -> str:
    """A question without its mark: `question_row` puts the picture first, as LLaVA does."""
    return question.replace(MARK, "").strip() if MARK in question else question
