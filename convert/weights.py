"""The weights of a checkpoint folder, read one tensor at a time."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (makes numpy know bfloat16, which safetensors asks it for)
import numpy as np
from safetensors import SafetensorError, safe_open

LFS = b"version https://git-lfs"


class Weights(Mapping[str, np.ndarray]):
    """Tensors by key, of one safetensors file or of the shards that an index names.

    Headers are read at once, a tensor when it is asked for: a checkpoint larger than memory can be
    walked through. `rename` gives the key under which a tensor is known of that in the file.

    Raises ValueError, one sentence, where a file is missing, a git-LFS pointer or cut short, or
    where a key is in two shards or not in the one that the index names.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str = "model",
        *,
        rename: Callable[[str], str] = lambda key: key,
    ):
        folder = Path(folder)
        single, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
        named: dict[str, str] = {}
        if index.is_file():
            named = _read_index(index)
            files = [folder / file for file in sorted(set(named.values()))]
        elif single.is_file():
            files = [single]
        else:
            raise ValueError(f"{folder} has neither {single.name} nor {index.name}")
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._place: dict[str, tuple[safe_open, str]] = {}
        for file in files:
            self._add(file, rename)
        for key, file in named.items():
            if rename(key) not in self.shapes:
                raise ValueError(f"{index} says that {key} is in {file}, where it is not")

    def __getitem__(self, key: str) -> np.ndarray:
        file, name = self._place[key]
        return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def _add(self, file: Path, rename: Callable[[str], str]) -> None:
        opened = _open(file)
        for name in opened.keys():  # noqa: SIM118  (no mapping)
            key = rename(name)
            if key in self.shapes:
                raise ValueError(f"{key} is twice in {file.parent}")
            part = opened.get_slice(name)
            self.shapes[key], self.dtypes[key] = tuple(part.get_shape()), part.get_dtype()
            self._place[key] = opened, name


def shapes_of(state: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Shapes by key; of `Weights` without reading any tensor."""
    if isinstance(state, Weights):
        return state.shapes
    return {key: value.shape for key, value in state.items()}


def _open(file: Path) -> safe_open:
    if not file.is_file():
        raise ValueError(f"{file} is missing: the checkpoint is half downloaded")
    with file.open("rb") as start:
        if start.read(len(LFS)) == LFS:
            raise ValueError(f"{file} is a git-LFS pointer, not weights: run `git lfs pull` there")
    try:
        return safe_open(str(file), "np")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged or cut short: {error}") from error


def _read_index(index: Path) -> dict[str, str]:
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not named or any(Path(file).name != file for file in named.values()):
            raise ValueError("its weight_map names no files of this folder")
        return named
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of shards: {error}") from error
