"""The weights of a checkpoint folder as others write them, one tensor at a time."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from latentum_jax.files import write_json
from latentum_jax.models.stored import Lazy, open_safetensors, write_safetensors

SHARD = 5 * 10**9  # bytes of a file, as transformers and diffusers cut them
PICKLES = (".pt", ".pth", ".bin", ".ckpt")


def open_weights(
    folder: str | Path,
    name: str = "model",
    *,
    rename: Callable[[str], str] = lambda key: key,
    allow_pickle: bool = False,
) -> dict[str, Lazy]:
    """Tensors by key, of one file or of the shards that an index names; none is read yet.

    Args:
      folder: holds NAME.safetensors, or NAME.safetensors.index.json and its shards.
      name: "model", or as diffusers calls its own.
      rename: the key under which a tensor is known, of that in the file.
      allow_pickle: reads pytorch_model.bin where there are no safetensors. What torch unpickles
        then are weights alone, but a file of another's is better not trusted with it.

    Raises:
      ValueError: one sentence, where a file is missing, a git-LFS pointer or cut short, or where a
        key is in two shards or not in the one that the index names.
    """
    folder = Path(folder)
    files, named = _files(folder, f"{name}.safetensors")
    if not files and any(_files(folder, "pytorch_model.bin")[0]):
        if not allow_pickle:
            raise ValueError(
                f"{folder} has its weights in pytorch_model.bin, a pickle, "
                "which is read on request alone (--allow-pickle)"
            )
        files, named = _files(folder, "pytorch_model.bin")
    if not files:
        raise ValueError(
            f"{folder} has neither {name}.safetensors nor {name}.safetensors.index.json"
        )
    found: dict[str, Lazy] = {}
    for file in files:
        for key, value in open_file(file, allow_pickle=allow_pickle).items():
            if rename(key) in found:
                raise ValueError(f"{rename(key)} is twice in {folder}")
            found[rename(key)] = value
    for key, file in named.items():
        if rename(key) not in found:
            raise ValueError(f"{folder}: the index says that {key} is in {file}, where it is not")
    return found


def open_file(file: Path, *, allow_pickle: bool = False) -> dict[str, Lazy]:
    """The tensors of one file, see `open_weights`."""
    if file.suffix not in PICKLES:
        return open_safetensors(file)
    if not allow_pickle:
        raise ValueError(f"{file} is a pickle, which is read on request alone (--allow-pickle)")
    if not file.is_file():
        raise ValueError(f"{file} is missing: the checkpoint is half downloaded")
    return _unpickled(file)


def shapes_of(state: Mapping[str, Lazy | np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Shapes by key."""
    return {key: value.shape for key, value in state.items()}


def write_weights(folder: Path, tensors: Mapping[str, Lazy], name: str = "model") -> None:
    """NAME.safetensors, or above 5 GB shards of it and their index, as transformers writes them."""
    shards: list[dict[str, Lazy]] = [{}]
    size = 0
    for key, value in tensors.items():
        if shards[-1] and size + value.nbytes > SHARD:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += value.nbytes
    files = [f"{name}.safetensors"]
    if len(shards) > 1:
        files = [f"{name}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        total = sum(value.nbytes for value in tensors.values())
        weight_map = {key: file for file, part in zip(files, shards, strict=True) for key in part}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / f"{name}.safetensors.index.json", index)
    for file, part in zip(files, shards, strict=True):
        write_safetensors(folder / file, part, {"format": "pt"})


def _files(folder: Path, name: str) -> tuple[list[Path], dict[str, str]]:
    """The files that make up NAME, and where an index says that each key is."""
    index = folder / f"{name}.index.json"
    if index.is_file():
        named = _read_index(index)
        return [folder / file for file in sorted(set(named.values()))], named
    return [folder / name] if (folder / name).is_file() else [], {}


def _read_index(index: Path) -> dict[str, str]:
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not named or any(Path(file).name != file for file in named.values()):
            raise ValueError("its weight_map names no files of this folder")
        return named
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of shards: {error}") from error


def _unpickled(file: Path) -> dict[str, Lazy]:
    """The tensors of a file of torch, in it as they are or under `state_dict` or `module`."""
    import torch

    try:
        values = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        for name in ("state_dict", "module"):
            values = values.get(name, values)
        return {key: _of_torch(value) for key, value in values.items()}
    except Exception as error:  # torch raises whatever the damage leads to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file} is no file of weights alone: {reason}") from error


def _of_torch(value: Any) -> Lazy:
    import torch

    name = str(value.dtype).removeprefix("torch.")
    if name != "bfloat16":
        return Lazy(tuple(value.shape), np.dtype(name), lambda i: value.numpy()[i])
    read = lambda i: value.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)[i]  # noqa: E731
    return Lazy(tuple(value.shape), np.dtype(ml_dtypes.bfloat16), read)
