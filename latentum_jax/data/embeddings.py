"""Paired text and image embeddings from files of any origin, by number and by id.

A pair is two sides, `text` and `image`, in any of these forms, which may be mixed:

    PATH/text.npz     arrays `ids` [N] and `embeddings` [N d]
    PATH/text.npy     [N d]; ids in text.ids.json, a list, or else the numbers of the rows
    PATH/text.json    {"ID": [d numbers], ...} or [{"id": "ID", "embedding": [d numbers]}, ...]
    PATH/text/        one ID.npy or ID.json a sample, [d] each
    FILE.npz          arrays `ids`, `text` [N d] and `image` [N d]
    FILE.json         [{"id": "ID", "text": [d numbers], "image": [d numbers]}, ...]
"""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentum_jax.data.faults import BadSample
from latentum_jax.data.interleaved import Row
from latentum_jax.files import whole

SIDES = ("text", "image")
UNREADABLE = (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of all pairs: `where` it lies, the ids, and the i-th of them as it was stored."""

    where: Path
    ids: Sequence[str]
    read: Callable[[int], Any]


class Embeddings:
    """Pairs by number, in the order of the text's ids; safe to read from several threads.

    widths: that the sides are expected to have, None for any.

    Raises ValueError, one sentence, where there are none, a side is missing or is no file of
    embeddings, ids come twice or on one side alone, or the first pair is of another width.
    """

    def __init__(self, path: str | os.PathLike[str], *, widths: Mapping[str, int] | None = None):
        self.path = Path(path)
        self.sides = _open(self.path)
        text, image = (self.sides[side] for side in SIDES)
        self._places = {name: _places(side) for name, side in self.sides.items()}
        for own, other in ((text, image), (image, text)):
            there = self._places["image" if other is image else "text"]
            for name in own.ids:
                if name not in there:
                    raise ValueError(f"{other.where}: id {name!r} is missing, {own.where} has it")
        if not len(text.ids):
            raise ValueError(f"{text.where}: there are no embeddings in it")
        first = {side: self._vector(side, text.ids[0]) for side in SIDES}
        self.widths = {side: len(vector) for side, vector in first.items()}
        for side, width in (widths or {}).items():
            if self.widths[side] != width:
                raise ValueError(
                    f"{self.sides[side].where}: id {text.ids[0]!r} has {self.widths[side]} "
                    f"numbers, expected {width}"
                )

    def __len__(self) -> int:
        return len(self.sides["text"].ids)

    def __getitem__(self, index: int) -> Row:
        """A pair, {"text" float32 [d_t], "image" float32 [d_v]}.

        Raises BadSample, naming file and id, where one of the two is not a vector of finite
        numbers as long as the first pair's.
        """
        return self.of(self.sides["text"].ids[index])

    def of(self, name: str) -> Row:
        """The pair of an id. Raises BadSample as above, and where there is none."""
        if name not in self._places["text"]:
            raise BadSample(f"{self.sides['text'].where}, id {name!r}", "there is no such id")
        return {side: self._checked(side, name) for side in SIDES}

    def _checked(self, side: str, name: str) -> np.ndarray:
        vector, where = self._vector(side, name), f"{self.sides[side].where}, id {name!r}"
        if len(vector) != self.widths[side]:
            raise BadSample(where, f"{len(vector)} numbers, expected {self.widths[side]}")
        if not np.isfinite(vector).all():
            place = int(np.flatnonzero(~np.isfinite(vector))[0])
            raise BadSample(where, f"number {place} is {vector[place]}, expected finite ones")
        return vector

    def _vector(self, side: str, name: str) -> np.ndarray:
        own = self.sides[side]
        where = f"{own.where}, id {name!r}"
        try:
            vector = np.asarray(own.read(self._places[side][name]), np.float32)
        except UNREADABLE as error:
            raise BadSample(where, f"cannot be read as numbers ({error})") from error
        if vector.ndim != 1 or not len(vector):
            raise BadSample(where, f"an array {list(vector.shape)}, expected one axis")
        return vector


def write_side(path: str | os.PathLike[str], ids: Sequence[str], embeddings: np.ndarray) -> None:
    """Writes a side [N d] as .npz; the file appears whole or not at all."""
    with whole(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, ids=np.array(ids), embeddings=np.asarray(embeddings, np.float32))


def _open(path: Path) -> dict[str, Side]:
    if path.is_dir():
        return {side: _open_side(path, side) for side in SIDES}
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file or folder of embeddings")
    try:
        if path.suffix == ".npz":
            found = _arrays(path)
            ids = [str(name) for name in found["ids"]]
            return {side: _of_array(path, ids, found[side]) for side in SIDES}
        if path.suffix == ".json":
            entries = json.loads(path.read_text("utf-8"))
            ids = [str(entry["id"]) for entry in entries]
            return {side: _of_list(path, ids, [e[side] for e in entries]) for side in SIDES}
    except UNREADABLE as error:
        raise _unlike(path, "ids, text and image", error) from error
    raise ValueError(f"{path} is no .npz, no .json and no folder of embeddings")


def _open_side(folder: Path, side: str) -> Side:
    """The one form in which a folder has a side."""
    forms: dict[str, Callable[[Path], Side]] = {
        f"{side}.npz": _of_npz,
        f"{side}.npy": _of_npy,
        f"{side}.json": _of_json,
        side: _of_folder,
    }
    there = [name for name in forms if (folder / name).exists()]
    if len(there) != 1:
        listed = ", ".join(forms)
        raise ValueError(f"{folder} has {there or 'none'} of {listed}, expected one of them")
    path = folder / there[0]
    try:
        return forms[there[0]](path)
    except UNREADABLE as error:
        raise _unlike(path, "ids and embeddings", error) from error


def _of_npz(path: Path) -> Side:
    found = _arrays(path)
    return _of_array(path, [str(name) for name in found["ids"]], found["embeddings"])


def _of_npy(path: Path) -> Side:
    array, listed = np.load(path, mmap_mode="r"), path.with_suffix(".ids.json")
    named = listed.is_file()
    ids = json.loads(listed.read_text("utf-8")) if named else range(len(array))
    return _of_array(path, [str(name) for name in ids], array)


def _of_json(path: Path) -> Side:
    found = json.loads(path.read_text("utf-8"))
    if isinstance(found, Mapping):
        return _of_list(path, list(found), list(found.values()))
    ids = [str(entry["id"]) for entry in found]
    return _of_list(path, ids, [entry["embedding"] for entry in found])


def _of_folder(path: Path) -> Side:
    files = sorted(file for file in path.iterdir() if file.suffix in (".npy", ".json"))

    def read(index: int) -> Any:
        file = files[index]
        return np.load(file) if file.suffix == ".npy" else json.loads(file.read_text("utf-8"))

    return Side(path, [file.stem for file in files], read)


def _of_array(path: Path, ids: Sequence[str], array: np.ndarray) -> Side:
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(f"an array of {array.dtype} {list(array.shape)}, expected numbers [N, d]")
    if len(ids) != len(array):
        raise ValueError(f"{len(ids)} ids and {len(array)} embeddings")
    return Side(path, ids, array.__getitem__)


def _of_list(path: Path, ids: Sequence[str], vectors: Sequence[Any]) -> Side:
    return Side(path, ids, vectors.__getitem__)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def _places(side: Side) -> dict[str, int]:
    places = {name: place for place, name in enumerate(side.ids)}
    if len(places) < len(side.ids):
        twice = next(name for place, name in enumerate(side.ids) if places[name] != place)
        raise ValueError(f"{side.where}: id {twice!r} comes twice")
    return places


def _unlike(path: Path, expected: str, error: Exception) -> ValueError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return ValueError(f"{path} is no file of embeddings with {expected}: {reason}")
