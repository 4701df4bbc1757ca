"""Published LatentUM folders (config.json, safetensors, tokenizer.json) as models of ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentum_jax.config import ChatConfig
from latentum_jax.convert.latentum import TABLE, config_from_published
from latentum_jax.convert.weights import Weights
from latentum_jax.data.frozenlake.samples import PROMPT
from latentum_jax.models.folder import ModelFolder, expected_shapes
from latentum_jax.tokenizer import Tokenizer

MARK = "mixture_mode"  # a key of every published config.json, and of no other


def read_published(folder: str | Path) -> ModelFolder:
    """A published checkpoint, its parameters in the dtype of the file.

    Raises ValueError, one sentence, where a file is missing or damaged, the config is one of
    another architecture, or config and weights contradict each other.
    """
    folder = Path(folder)
    values = read_config(folder)
    weights = Weights(folder)
    try:
        config = config_from_published(values, _base_config(values, folder), weights.shapes)
        params = TABLE.import_params(weights, expected_shapes(config))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    tokenizer = Tokenizer.from_folder(folder)
    if len(tokenizer) > config.language.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, "
            f"the model {config.language.vocab_size}"
        )
    return ModelFolder(config, ChatConfig(fine_prompt=PROMPT), params, tokenizer)


def is_published(folder: str | Path) -> bool:
    """Whether a folder with a config.json is a published LatentUM."""
    return MARK in read_config(Path(folder))


def read_config(folder: Path) -> Mapping[str, Any]:
    """config.json of a folder. Raises ValueError where there is none or it is no JSON object."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} is not a model folder: it has no config.json")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds {type(values).__name__}, expected an object")
    return values


def _base_config(values: Mapping[str, Any], folder: Path) -> Mapping[str, Any] | None:
    """config.json of the InternVL a checkpoint was built on, where it lies on this disk."""
    name = str(values.get("base_model_name_or_path") or "")
    for base in (folder / name, folder.parent / Path(name).name):
        if name and (base / "config.json").is_file() and base.resolve() != folder.resolve():
            return read_config(base)
    return None
