"""A model on disk, our layout: config.json, parameters by path, the tokenizer's files.

The parameters are `model.safetensors` (training and `save_pretrained` write it) or `params/`, an
orbax checkpoint for models that are spread over devices (`latentum convert` writes it). Everything
is written beside its place first and renamed once whole.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import traverse_util

from latentum_jax.config import ChatConfig, LatentUMConfig
from latentum_jax.files import whole_folder, write_json
from latentum_jax.models.latentum import LatentUM, Params, held_dtype
from latentum_jax.models.layers import axes_by_path, shapes_by_path
from latentum_jax.models.stored import (
    Lazy,
    open_checkpoint,
    open_safetensors,
    write_checkpoint,
    write_safetensors,
)
from latentum_jax.programs import known
from latentum_jax.tokenizer import Tokenizer

FORMAT = "latentum_jax-1"
WEIGHTS, CHECKPOINT, USAGE = "model.safetensors", "params", "usage.safetensors"
BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
Storage = Literal["safetensors", "orbax"]


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """What a folder holds; `params` is a nested dict of fp32 numpy arrays, or of `Lazy` ones.

    usage: share of each code in training [C V], which a published checkpoint has among its weights
    and the model never reads; None where it was not kept.
    beside: the tokenizer's files and generation_config.json by name, to go along as they are.
    """

    config: LatentUMConfig
    chat: ChatConfig
    params: Params
    tokenizer: Tokenizer
    usage: np.ndarray | Lazy | None = None
    beside: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


def write_folder(
    path: str | Path,
    model: ModelFolder,
    *,
    dtype: str | None = "float32",
    storage: Storage = "safetensors",
) -> None:
    """Writes a model with its weights as `write_params` does; replaces an old one."""
    with whole_folder(path) as folder:
        write_params(folder, model.params, dtype, storage)
        if model.usage is not None:
            write_safetensors(folder / USAGE, {"usage": Lazy.of(model.usage)})
        config = {
            "format": FORMAT,
            "model": model.config.to_dict(),
            "chat": dataclasses.asdict(model.chat),
        }
        write_json(folder / "config.json", config)
        model.tokenizer.save(folder)
        write_beside(folder, model.beside)


def write_params(
    folder: Path, params: Params, dtype: str | None, storage: Storage = "safetensors"
) -> None:
    """model.safetensors or params/ by parameter path, in `dtype` (see `held_dtype`) or in the one
    they have."""
    flat = in_dtype(params, dtype)
    if storage == "orbax":
        write_checkpoint(folder / CHECKPOINT, flat)
    else:
        write_safetensors(folder / WEIGHTS, flat)


def in_dtype(params: Params, dtype: str | None) -> dict[str, Lazy]:
    """Parameters by path as they are to be written, see `write_params`.

    Raises ValueError where the dtype is neither None nor "float32" nor "bfloat16".
    """
    kinds = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
    flat = traverse_util.flatten_dict(params, sep="/")
    flat = {path: Lazy.of(x) for path, x in flat.items()}
    if dtype is None:
        return flat
    if dtype not in kinds:
        raise ValueError(f"dtype is {dtype!r}, expected one of {sorted(kinds)}")
    return {path: x.astype(held_dtype(path, kinds[dtype])) for path, x in flat.items()}


def read_folder(path: str | Path) -> ModelFolder:
    """Reads a model. Raises ValueError, one sentence, where the folder is not one or is broken."""
    return in_memory(open_folder(path))


def open_folder(path: str | Path) -> ModelFolder:
    """The same with its parameters still to be read."""
    path = Path(path)
    config, chat = _read_config(path)
    flat = open_params(path, expected_shapes(config))
    params = traverse_util.unflatten_dict(flat, sep="/")
    tokenizer, usage = Tokenizer.from_folder(path), _open_usage(path, config)
    return ModelFolder(config, chat, params, tokenizer, usage, read_beside(path))


def _open_usage(path: Path, config: LatentUMConfig) -> Lazy | None:
    if not (path / USAGE).is_file():
        return None
    q = config.quantizer
    found = open_safetensors(path / USAGE)
    _compare(found, {"usage": (q.num_codebooks, q.codebook_size)}, path / USAGE)
    return found["usage"]


def in_memory(model: ModelFolder) -> ModelFolder:
    """A model whose parameters are all read, in fp32."""
    params = jax.tree.map(lambda x: np.asarray(x[...], np.float32), model.params)
    usage = None if model.usage is None else model.usage[...]
    return dataclasses.replace(model, params=params, usage=usage)


def open_params(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Lazy]:
    """What `write_params` wrote, still to be read.

    Raises ValueError, one sentence, where it is broken or of other names or shapes.
    """
    weights, checkpoint = path / WEIGHTS, path / CHECKPOINT
    if weights.is_file() and checkpoint.is_dir():
        raise ValueError(f"{path} has both {WEIGHTS} and {CHECKPOINT}/, expected one of them")
    if checkpoint.is_dir():
        flat = open_checkpoint(checkpoint)
    elif weights.is_file():
        flat = open_safetensors(weights)
    else:
        raise ValueError(f"{path} has neither {WEIGHTS} nor {CHECKPOINT}/")
    _compare(flat, expected, path)
    return {name: flat[name] for name in expected}


def read_beside(folder: Path) -> dict[str, bytes]:
    """The files of `ModelFolder.beside` that a folder has."""
    files = [folder / name for name in BESIDE]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def write_beside(folder: Path, beside: Mapping[str, bytes]) -> None:
    """Writes them."""
    for name, data in beside.items():
        (folder / name).write_bytes(data)


def expected_shapes(config: LatentUMConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by path, without making any."""
    side = config.vision.image_size
    return known_shapes(config, LatentUM(config).init, jnp.zeros((1, side, side, 3)))


def known_shapes(config: Any, init: Callable[..., Any], *args: Any) -> dict[str, tuple[int, ...]]:
    """Those of a module that `config` decides, kept on disk (`programs.known`)."""
    found = known("shapes", config, lambda: shapes_by_path(init, *args))
    return {path: tuple(shape) for path, shape in found.items()}


def model_axes(config: LatentUMConfig) -> dict[str, tuple[str | None, ...]]:
    """Logical axes of every parameter by path, see `sharding`."""
    side = config.vision.image_size
    return axes_by_path(LatentUM(config).init, jnp.zeros((1, side, side, 3)))


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a folder. Raises ValueError where there is none or it is no JSON object."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} is not a model folder: it has no config.json")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds {type(values).__name__}, expected an object")
    return values


def _read_config(path: Path) -> tuple[LatentUMConfig, ChatConfig]:
    values = read_config(path)
    try:
        if values.get("format") != FORMAT:
            raise ValueError(f"format is {values.get('format')!r}, expected {FORMAT!r}")
        return LatentUMConfig.from_dict(values["model"]), ChatConfig(**values["chat"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path / 'config.json'} is not a model of this library: {error}"
        ) from error


def _compare(flat: Mapping[str, Lazy], expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    odd = sorted(set(flat) ^ set(expected))
    if odd:
        raise ValueError(
            f"{path}: weights of another architecture than its config.json, "
            f"{len(odd)} parameters missing or unknown, first {odd[0]}"
        )
    for name, shape in expected.items():
        if flat[name].shape != shape:
            raise ValueError(f"{path}: {name} has shape {flat[name].shape}, expected {shape}")
