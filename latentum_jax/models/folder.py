"""A model on disk, our layout: config.json, model.safetensors by parameter path, tokenizer.json.

Everything is written beside its place first and renamed once whole.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from latentum_jax.config import ChatConfig, LatentUMConfig
from latentum_jax.files import whole_folder, write_json
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.models.layers import shapes_by_path
from latentum_jax.tokenizer import Tokenizer

FORMAT = "latentum_jax-1"
WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """What a folder holds; `params` are fp32 numpy arrays in a nested dict."""

    config: LatentUMConfig
    chat: ChatConfig
    params: Params
    tokenizer: Tokenizer


def write_folder(path: str | Path, model: ModelFolder, *, dtype: str = "float32") -> None:
    """Writes a model with its weights in `dtype` ("float32" or "bfloat16"); replaces an old one."""
    with whole_folder(path) as folder:
        write_params(folder, model.params, dtype)
        config = {
            "format": FORMAT,
            "model": model.config.to_dict(),
            "chat": dataclasses.asdict(model.chat),
        }
        write_json(folder / "config.json", config)
        model.tokenizer.save(folder)


def write_params(folder: Path, params: Params, dtype: str) -> None:
    """model.safetensors by parameter path, in "float32" or "bfloat16"."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    flat = traverse_util.flatten_dict(params, sep="/")
    values = {name: np.ascontiguousarray(np.asarray(x).astype(kind)) for name, x in flat.items()}
    weights = folder / WEIGHTS
    save_file(values, str(weights))
    weights.chmod(0o644)  # safetensors makes it readable by its owner alone


def read_folder(path: str | Path) -> ModelFolder:
    """Reads a model. Raises ValueError, one sentence, where the folder is not one or is broken."""
    path = Path(path)
    config, chat = _read_config(path)
    params = read_params(path, expected_shapes(config))
    return ModelFolder(config, chat, params, Tokenizer.from_folder(path))


def read_params(path: Path, expected: Mapping[str, tuple[int, ...]]) -> Params:
    """What `write_params` wrote, in fp32. Raises ValueError where it is broken or misshapen."""
    flat = _read_weights(path / WEIGHTS)
    _compare(flat, expected, path)
    return traverse_util.unflatten_dict(flat, sep="/")


def expected_shapes(config: LatentUMConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by path, without making any."""
    side = config.vision.image_size
    return shapes_by_path(LatentUM(config).init, jnp.zeros((1, side, side, 3)))


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


def _read_weights(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise ValueError(f"{file.parent} has no {file.name}")
    try:
        return {name: value.astype(np.float32) for name, value in load_file(str(file)).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _compare(
    flat: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    odd = sorted(set(flat) ^ set(expected))
    if odd:
        raise ValueError(
            f"{path}: weights of another architecture than its config.json, "
            f"{len(odd)} parameters missing or unknown, first {odd[0]}"
        )
    for name, shape in expected.items():
        if flat[name].shape != shape:
            raise ValueError(f"{path}: {name} has shape {flat[name].shape}, expected {shape}")
