"""Texts with pictures in tar shards, as webdataset has them, in any order.

A sample is a picture (`key.jpg`, `.jpeg`, `.png` or `.webp`) and `key.txt`, or without that the
"caption" or "text" of `key.json`; members of one key stand together. BLIP3o's shards are of this
kind. An index tells where each sample lies, so that shards are neither unpacked nor read in order.
"""

import functools
import glob
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentum_jax.data.faults import BadSample
from latentum_jax.data.index import index_rows
from latentum_jax.data.tar import BLOCK, member_name, members
from latentum_jax.data.text_image import TextImage

Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

ROW = np.dtype(
    [
        ("shard", "<u4"),
        ("image", "<i8"),  # offsets of the data; 0, where a header stands, if there is none
        ("image_size", "<i8"),
        ("text", "<i8"),
        ("text_size", "<i8"),
        ("json", "?"),
    ]
)
ROLES = {"jpg": "image", "jpeg": "image", "png": "image", "webp": "image"}
ROLES |= {"txt": "txt", "json": "json"}
NOTHING = (0, 0)
OPEN = 256  # shards at a time


class TarShards:
    """The samples of tar shards; safe to read from several threads.

    shards: a folder, a pattern, a range such as `shard-{000000..000099}.tar`, or a list of these.
    cache: where the index is kept if nothing can be written beside the shards.

    Raises ValueError where there are no shards or no samples, or a tar is damaged or cut short.
    """

    def __init__(self, shards: Shards, *, cache: Path | None = None):
        self.files = shard_files(shards)
        self.rows = index_rows(self.files, "tar1", ROW, _scan, cache)
        if not len(self.rows):
            raise ValueError(f"{shards}: no samples in {len(self.files)} shards")
        self._open = functools.lru_cache(OPEN)(_Descriptor)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TextImage:
        """A sample. Raises BadSample where its text or its picture is missing or unreadable."""
        shard, image, image_size, text, text_size, is_json = self.rows[index].item()
        path = self.files[shard]
        where = _Member(path, image or text)
        if not image:
            raise BadSample(str(where), "a text without a picture")
        if not text:
            raise BadSample(str(where), "a picture without a text")
        said = _text(self._read(path, text, text_size), where, is_json)
        return TextImage(where, said, functools.partial(self._read, path, image, image_size))

    def _read(self, path: Path, offset: int, size: int) -> bytes:
        """Data of the member of a shard whose data lie at `offset`."""
        opened = self._open(path)
        data = os.pread(opened.number, size, offset)
        if len(data) < size:
            reason = "cut short since the shards were opened"
            raise BadSample(str(_Member(path, offset)), reason)
        return data


class _Descriptor:
    """An open file that is closed once nobody holds it, which a thread that reads it does."""

    def __init__(self, path: Path):
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "number"):
            close(self.number)


class _Member(NamedTuple):
    """A member of a shard by where its data lie. As a string it is the shard and its name, which is
    read then: of most samples nobody asks."""

    shard: Path
    offset: int

    def __str__(self) -> str:
        with self.shard.open("rb", buffering=0) as file:
            name = member_name(os.pread(file.fileno(), BLOCK, self.offset - BLOCK))
        return f"{self.shard}, {name}"


def shard_files(shards: Shards) -> list[Path]:
    """The files that `shards` names, see `TarShards`, each range and folder in order of names.

    Raises ValueError where there are none, or one of them is not there.
    """
    given = [shards] if isinstance(shards, str | os.PathLike) else shards
    files = [file for one in given for file in _expanded(os.fspath(one))]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{missing[0]}: no such shard ({len(missing)} of {len(files)} missing)")
    if not files:
        raise ValueError(f"{shards}: there are no tar shards")
    return files


def _expanded(name: str) -> list[Path]:
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", name)
    if braces:
        first, last = braces.groups()
        numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
        ends = name[: braces.start()], name[braces.end() :]
        return [file for number in numbers for file in _expanded(number.join(ends))]
    if Path(name).is_dir():
        return sorted(Path(name).glob("*.tar"))
    if Path(name).is_file() or not glob.has_magic(name):
        return [Path(name)]
    return sorted(Path(found) for found in glob.glob(name))


def _scan(number: int, path: Path) -> np.ndarray:
    rows, key, found = [], "", {}
    with path.open("rb", buffering=0) as file:
        for name, offset, size in members(file.fileno(), path):
            stem, role = _role(name)
            if role is None:
                continue
            if found and (stem != key or role in found):
                rows.append(_row(number, found))
                found = {}
            key, found[role] = stem, (offset, size)
    if found:
        rows.append(_row(number, found))
    return np.array(rows, ROW)


def _role(name: str) -> tuple[str, str | None]:
    """Key of a member, its name up to the first dot behind the folder, and what it is to it."""
    dot = name.find(".", name.rfind("/") + 1)
    return name[:dot], ROLES.get(name[dot + 1 :].lower())


def _row(number: int, found: dict[str, tuple[int, int]]) -> tuple[int, ...]:
    is_json = "txt" not in found and "json" in found
    text = found.get("json" if is_json else "txt", NOTHING)
    return (number, *found.get("image", NOTHING), *text, is_json)


def _text(data: bytes, where: _Member, is_json: bool) -> str:
    try:
        text = json.loads(data) if is_json else data.decode("utf-8")
    except ValueError as error:
        kind = "JSON" if is_json else "UTF-8"
        raise BadSample(str(where), f"its text is not {kind} ({error})") from error
    if is_json:
        values = text if isinstance(text, dict) else {}
        text = values.get("caption") or values.get("text")
    if not isinstance(text, str) or not text.strip():
        expected = ' in the "caption" or "text" of its JSON' if is_json else ""
        raise BadSample(str(where), f"expected a text{expected}, there is none")
    return text
