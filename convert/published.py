"""Published folders (config.json, safetensors, the tokenizer's files) to ours and back."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.core import meta
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
from latentum_jax.convert.latentum import TABLE, USAGE, config_from_published, published_config
from latentum_jax.convert.weights import open_weights, shapes_of, write_weights
from latentum_jax.data.frozenlake.samples import PROMPT
from latentum_jax.files import whole_folder, write_json
from latentum_jax.models.folder import (
    ModelFolder,
    expected_shapes,
    in_dtype,
    in_memory,
    open_folder,
    read_beside,
    read_config,
    write_beside,
)
from latentum_jax.models.latentum import boxed_params
from latentum_jax.models.stored import Lazy
from latentum_jax.tokenizer import SPECIAL, Tokenizer

LATENTUM = "mixture_mode"  # a key of every published LatentUM's config.json, and of no other
INTERNVL = ("internvl_chat", "internvl")  # model_type of the original layout, of transformers'
UNDERSTANDING = re.compile(r"vision/|mlp1/|language/(?!layers/gen/)")

# For a model that was trained here and has none of its own.
GENERATION = {"cfg_scale": 3.0, "temperature": 0.9, "top_k": 50, "top_p": 0.95}
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": SPECIAL["im_end"],
    "pad_token": SPECIAL["pad"],
}


def read_model(folder: str | Path, like: LatentUMConfig | None = None) -> ModelFolder:
    """A model folder: ours, a published LatentUM, or an InternVL to start training from.

    What an InternVL lacks gets the sizes of `like`, the full ones by default. Parameters are fp32.

    Raises ValueError, one sentence, where it is none of them or broken.
    """
    return in_memory(open_model(folder, like))


def open_model(
    folder: str | Path, like: LatentUMConfig | None = None, *, allow_pickle: bool = False
) -> ModelFolder:
    """The same with its parameters still to be read, in the dtypes of the files."""
    values = read_config(Path(folder))
    if LATENTUM in values:
        return open_published(folder, allow_pickle=allow_pickle)
    if values.get("model_type") in INTERNVL:
        return open_internvl(folder, like, allow_pickle=allow_pickle)
    return open_folder(folder)


def open_published(folder: str | Path, *, allow_pickle: bool = False) -> ModelFolder:
    """A published checkpoint, its parameters still to be read.

    Raises ValueError, one sentence, where a file is missing or damaged, the config is one of
    another architecture, or config and weights contradict each other.
    """
    folder = Path(folder)
    values = read_config(folder)
    weights = open_weights(folder, allow_pickle=allow_pickle)
    try:
        config = config_from_published(values, _base_config(values, folder), shapes_of(weights))
        params = unflatten_dict(TABLE.open(weights, expected_shapes(config)), sep="/")
        usage = _usage_in(weights, config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    chat, tokenizer = ChatConfig(fine_prompt=PROMPT), _tokenizer(folder, config)
    return ModelFolder(config, chat, params, tokenizer, usage, read_beside(folder))


def write_published(path: str | Path, model: ModelFolder, *, dtype: str | None = None) -> None:
    """Writes the published layout, weights in `dtype` or as they are; replaces an old folder.

    What the model is spoken to with (`chat`) has no place there. Where code usage was never
    counted, it is even, as the published module begins.

    Raises ValueError, before anything is written, where the published layout has no such model.
    """
    config = published_config(model.config)
    usage = Lazy.of(_even_usage(model.config) if model.usage is None else model.usage)
    tensors = TABLE.publish(in_dtype(model.params, dtype)) | USAGE.publish({"usage": usage})
    with whole_folder(path) as folder:
        write_json(folder / "config.json", config)
        write_json(folder / "generation_config.json", GENERATION)
        write_json(folder / "tokenizer_config.json", TOKENIZER)
        model.tokenizer.save(folder)
        write_beside(folder, model.beside)
        write_weights(folder, tensors)


def open_internvl(
    folder: str | Path,
    like: LatentUMConfig | None = None,
    *,
    seed: int = 0,
    allow_pickle: bool = False,
) -> ModelFolder:
    """An InternVL3.5 in either layout, as the understanding half of a LatentUM.

    The generation branch is a copy of the understanding branch; quantizer, visual_projector and
    vision head are fresh, in fp32 and of the sizes of `like`. The others are still to be read.

    Raises ValueError, one sentence, as `open_published` does.
    """
    folder = Path(folder)
    values = read_config(folder)
    original = values.get("model_type") == "internvl_chat"
    rename = (lambda key: key) if original else older_name
    weights = open_weights(folder, rename=rename, allow_pickle=allow_pickle)
    try:
        base = values if original else config_from_transformers(values, weights)
        config = dataclasses.replace(
            like or LatentUMConfig(),
            vision=vision_config(base),
            language=language_config(base["llm_config"]),
        )
        shapes = {p: s for p, s in expected_shapes(config).items() if UNDERSTANDING.match(p)}
        flat = (ORIGINAL if original else TRANSFORMERS).open(weights, shapes)
    except KeyError as error:
        raise ValueError(f"{folder}: config.json lacks {error}") from error
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    copies = {p.replace("/und/", "/gen/"): x for p, x in flat.items() if "/und/" in p}
    fresh = _fresh(config, seed, set(expected_shapes(config)) - set(flat) - set(copies))
    params = unflatten_dict(flat | copies | fresh, sep="/")
    tokenizer = _tokenizer(folder, config)
    return ModelFolder(config, ChatConfig(), params, tokenizer, beside=read_beside(folder))


def _fresh(config: LatentUMConfig, seed: int, paths: Iterable[str]) -> dict[str, Lazy]:
    """Some of a model's fresh parameters; the others are never made."""

    def make(key: jax.Array) -> dict[str, jax.Array]:
        flat = flatten_dict(meta.unbox(boxed_params(config, key)), sep="/")
        return {path: flat[path] for path in paths}

    made = jax.jit(make)(jax.random.key(seed))
    return {path: Lazy.of(np.asarray(x)) for path, x in made.items()}


def _usage_in(weights: Mapping[str, Lazy], config: LatentUMConfig) -> Lazy | None:
    """Code usage among the weights of a published checkpoint."""
    found = {key: x for key, x in weights.items() if key.endswith(".ema_usage")}
    return USAGE.open(found, {"usage": _usage_shape(config)})["usage"] if found else None


def _even_usage(config: LatentUMConfig) -> np.ndarray:
    return np.full(_usage_shape(config), 1 / config.quantizer.codebook_size, np.float32)


def _usage_shape(config: LatentUMConfig) -> tuple[int, int]:
    return config.quantizer.num_codebooks, config.quantizer.codebook_size


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
