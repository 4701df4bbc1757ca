"""Published folders (config.json, safetensors, tokenizer.json) as models of ours."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from latentum_jax.config import ChatConfig, LatentUMConfig
from latentum_jax.convert.internvl import (
    ORIGINAL,
    TRANSFORMERS,
    config_from_transformers,
    language_config,
    older_name,
    vision_config,
)
from latentum_jax.convert.latentum import TABLE, config_from_published
from latentum_jax.convert.weights import Weights
from latentum_jax.data.frozenlake.samples import PROMPT
from latentum_jax.models.folder import ModelFolder, expected_shapes, read_config, read_folder
from latentum_jax.models.latentum import init_params, start_generation_branch
from latentum_jax.tokenizer import Tokenizer

LATENTUM = "mixture_mode"  # a key of every published LatentUM's config.json, and of no other
INTERNVL = ("internvl_chat", "internvl")  # model_type of the original layout, of transformers'
UNDERSTANDING = re.compile(r"vision/|mlp1/|language/(?!layers/gen/)")


def read_model(folder: str | Path, like: LatentUMConfig | None = None) -> ModelFolder:
    """A model folder: ours, a published LatentUM, or an InternVL to start training from.

    What an InternVL lacks gets the sizes of `like`, the full ones by default.

    Raises ValueError, one sentence, where it is none of them or broken.
    """
    values = read_config(Path(folder))
    if LATENTUM in values:
        return read_published(folder)
    if values.get("model_type") in INTERNVL:
        return read_internvl(folder, like)
    return read_folder(folder)


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
    return ModelFolder(config, ChatConfig(fine_prompt=PROMPT), params, _tokenizer(folder, config))


def read_internvl(
    folder: str | Path, like: LatentUMConfig | None = None, *, seed: int = 0
) -> ModelFolder:
    """An InternVL3.5 in either layout, as the understanding half of a LatentUM.

    The generation branch is a copy of the understanding branch; quantizer, visual_projector and
    vision head are fresh, of the sizes of `like`. Parameters are fp32.

    Raises ValueError, one sentence, as `read_published` does.
    """
    folder = Path(folder)
    values = read_config(folder)
    original = values.get("model_type") == "internvl_chat"
    weights = Weights(folder) if original else Weights(folder, rename=older_name)
    try:
        base = values if original else config_from_transformers(values, weights)
        config = dataclasses.replace(
            like or LatentUMConfig(),
            vision=vision_config(base),
            language=language_config(base["llm_config"]),
        )
        shapes = {p: s for p, s in expected_shapes(config).items() if UNDERSTANDING.match(p)}
        flat = (ORIGINAL if original else TRANSFORMERS).import_flat(weights, shapes)
    except KeyError as error:
        raise ValueError(f"{folder}: config.json lacks {error}") from error
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    params = flatten_dict(init_params(config, jax.random.key(seed)), sep="/")
    params |= {path: value.astype(np.float32) for path, value in flat.items()}
    params = jax.tree.map(np.asarray, start_generation_branch(unflatten_dict(params, sep="/")))
    return ModelFolder(config, ChatConfig(), params, _tokenizer(folder, config))


def _tokenizer(folder: Path, config: LatentUMConfig) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(folder)
    if len(tokenizer) > config.language.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, "
            f"the model {config.language.vocab_size}"
        )
    return tokenizer


def _base_config(values: Mapping[str, Any], folder: Path) -> Mapping[str, Any] | None:
    """config.json of the InternVL a checkpoint was built on, where it lies on this disk."""
    name = str(values.get("base_model_name_or_path") or "")
    for base in (folder / name, folder.parent / Path(name).name):
        if name and (base / "config.json").is_file() and base.resolve() != folder.resolve():
            return read_config(base)
    return None
