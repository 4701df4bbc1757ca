"""Published LatentUM checkpoints to our parameters and back, from one table.

A published checkpoint is a folder with `config.json` and `model.safetensors` (keys `internvl.*` and
`quantizer.*`, linear weights [out, in], a key a layer). Ours has kernels [in, out] and stacks the
layers of a tower, the codebooks and the head's embedding tables on a leading axis.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from latentum_jax.config import (
    HeadConfig,
    LanguageConfig,
    LatentUMConfig,
    QuantizerConfig,
    VisionConfig,
)
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.latentum import Params

State = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A change of layout and its inverse, on one array (of one layer)."""

    ours: Callable[[np.ndarray], np.ndarray]
    published: Callable[[np.ndarray], np.ndarray]


def _conv_to_patches(weight: np.ndarray) -> np.ndarray:
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _patches_to_conv(kernel: np.ndarray) -> np.ndarray:
    side = round((kernel.shape[0] / 3) ** 0.5)
    return kernel.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(np.transpose, np.transpose)  # [out, in] <-> [in, out]
PATCHES = Layout(_conv_to_patches, _patches_to_conv)  # [D, 3, p, p] <-> [p p 3, D]
LEADING_1 = Layout(lambda x: x[0], lambda x: x[None])
LEADING_1_1 = Layout(lambda x: x[0, 0], lambda x: x[None, None])


@dataclasses.dataclass(frozen=True)
class Row:
    """A published key and the path it goes to; `{}` in the key is an index of our leading axis."""

    key: str
    path: str
    layout: Layout = SAME

    def places(self, shape: tuple[int, ...]) -> Iterator[tuple[str, int | None]]:
        """Every key of the row and where it lies on the leading axis (None: not stacked)."""
        if "{}" not in self.key:
            yield self.key, None
        else:
            for index in range(shape[0]):
                yield self.key.format(index), index


def _linear(key: str, path: str) -> list[Row]:
    return [Row(f"{key}.weight", f"{path}/kernel", LINEAR), Row(f"{key}.bias", f"{path}/bias")]


def _layer_norm(key: str, path: str) -> list[Row]:
    return [Row(f"{key}.weight", f"{path}/scale"), Row(f"{key}.bias", f"{path}/bias")]


def _mlp(first: str, second: str, path: str) -> list[Row]:
    return [*_linear(first, f"{path}/fc1"), *_linear(second, f"{path}/fc2")]


def _vision() -> list[Row]:
    key, path = "internvl.vision_model.embeddings", "vision"
    layer, ours = "internvl.vision_model.encoder.layers.{}", "vision/layers"
    return [
        Row(f"{key}.class_embedding", f"{path}/class_embedding", LEADING_1_1),
        Row(f"{key}.position_embedding", f"{path}/position_embedding", LEADING_1),
        Row(f"{key}.patch_embedding.weight", f"{path}/patch_embedding/kernel", PATCHES),
        Row(f"{key}.patch_embedding.bias", f"{path}/patch_embedding/bias"),
        Row(f"{layer}.ls1", f"{ours}/ls1"),
        Row(f"{layer}.ls2", f"{ours}/ls2"),
        *_layer_norm(f"{layer}.norm1", f"{ours}/norm1"),
        *_layer_norm(f"{layer}.norm2", f"{ours}/norm2"),
        *_linear(f"{layer}.attn.qkv", f"{ours}/qkv"),
        *_linear(f"{layer}.attn.proj", f"{ours}/proj"),
        *_mlp(f"{layer}.mlp.fc1", f"{layer}.mlp.fc2", f"{ours}/mlp"),
        *_layer_norm("internvl.mlp1.0", "mlp1/norm"),
        *_mlp("internvl.mlp1.1", "internvl.mlp1.3", "mlp1/mlp"),
    ]


def _branch(suffix: str, branch: str) -> list[Row]:
    layer, ours = "internvl.language_model.model.layers.{}", f"language/layers/{branch}"
    return [
        *(
            Row(f"{layer}.self_attn.{name}{suffix}.weight", f"{ours}/{name}/kernel", LINEAR)
            for name in ("q_proj", "k_proj", "v_proj", "o_proj")
        ),
        *(
            Row(f"{layer}.self_attn.{name}{suffix}.weight", f"{ours}/{name}/scale")
            for name in ("q_norm", "k_norm")
        ),
        *(
            Row(f"{layer}.mlp{suffix}.{name}.weight", f"{ours}/mlp/{name}/kernel", LINEAR)
            for name in ("gate_proj", "up_proj", "down_proj")
        ),
    ]


def _language() -> list[Row]:
    key, path = "internvl.language_model", "language"
    layer = f"{key}.model.layers.{{}}"
    return [
        Row(f"{key}.model.embed_tokens.weight", f"{path}/embed_tokens"),
        Row(f"{key}.model.norm.weight", f"{path}/norm/scale"),
        Row(f"{key}.lm_head.weight", f"{path}/lm_head", LINEAR),
        Row(f"{layer}.input_layernorm.weight", f"{path}/layers/input_norm/scale"),
        Row(f"{layer}.post_attention_layernorm.weight", f"{path}/layers/post_attention_norm/scale"),
        *_branch("", "und"),
        *_branch("_vision", "gen"),
    ]


def _quantizer() -> list[Row]:
    return [
        *_mlp("quantizer.down_proj.0", "quantizer.down_proj.2", "quantizer/down_proj"),
        *_mlp("quantizer.up_proj.0", "quantizer.up_proj.2", "quantizer/up_proj"),
        Row("quantizer.quantizer.quantizers.{}.codebook.weight", "quantizer/codebook"),
        *_mlp("internvl.visual_projector.0", "internvl.visual_projector.2", "visual_projector"),
    ]


def _head() -> list[Row]:
    key, layer, ours = "internvl.ar_head", "internvl.ar_head.layers.{}", "head/layers"
    return [
        Row(f"{key}.embeddings.{{}}.weight", "head/embeddings"),
        Row(f"{key}.norm.weight", "head/norm/scale"),
        *_linear(f"{key}.head", "head/head"),
        Row(f"{layer}.norm1.weight", f"{ours}/norm1/scale"),
        Row(f"{layer}.norm2.weight", f"{ours}/norm2/scale"),
        Row(f"{layer}.attn.qkv.weight", f"{ours}/qkv/kernel", LINEAR),
        Row(f"{layer}.attn.q_norm.weight", f"{ours}/q_norm/scale"),
        Row(f"{layer}.attn.k_norm.weight", f"{ours}/k_norm/scale"),
        *_linear(f"{layer}.attn.proj", f"{ours}/proj"),
        *_mlp(f"{layer}.mlp.fc1", f"{layer}.mlp.fc2", f"{ours}/mlp"),
    ]


ROWS = (*_vision(), *_language(), *_quantizer(), *_head())

# Keys that have no place with us, and why; expressions over whole keys.
IGNORED = {
    r"quantizer\.quantizer\.quantizers\.\d+\.ema_usage": (
        "code usage counted in training: the state of a run, not a parameter of the model"
    ),
}


def import_params(state: State, config: LatentUMConfig) -> Params:
    """Nested parameters, in the dtype of the state dict.

    Raises ValueError naming the key where one is unknown, missing or of another shape.
    """
    flat = import_flat(state, expected_shapes(config))
    return traverse_util.unflatten_dict(flat, sep="/")


def import_flat(state: State, shapes: Shapes) -> dict[str, np.ndarray]:
    """The parameters of `shapes` alone, by path: a state dict may hold a part of the model."""
    _check(state, published_shapes(shapes))
    flat = {}
    for row in _rows_of(shapes):
        parts = [row.layout.ours(state[key]) for key, _ in row.places(shapes[row.path])]
        flat[row.path] = np.stack(parts) if "{}" in row.key else np.ascontiguousarray(parts[0])
    return flat


def export_params(params: Params) -> dict[str, np.ndarray]:
    """The published state dict of nested parameters; what is ignored on import is not in it."""
    flat = traverse_util.flatten_dict(params, sep="/")
    flat = {path: np.asarray(value) for path, value in flat.items()}
    return {key: np.ascontiguousarray(value) for key, value in _published(flat)}


def published_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Every published key with its shape, from those of our parameters; nothing is allocated."""
    empty = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    return {key: value.shape for key, value in _published(empty)}


def _published(flat: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for row in _rows_of(flat):
        value = flat[row.path]
        for key, index in row.places(value.shape):
            yield key, row.layout.published(value if index is None else value[index])


def _rows_of(paths: Mapping[str, Any]) -> list[Row]:
    odd = sorted(set(paths) - {row.path for row in ROWS})
    if odd:
        raise ValueError(f"{odd[0]} is no parameter of LatentUM: it has no published key")
    return [row for row in ROWS if row.path in paths]


def _check(state: State, expected: Shapes) -> None:
    for key in state:
        if key not in expected and not any(re.fullmatch(odd, key) for odd in IGNORED):
            raise ValueError(f"the checkpoint has {key}, which is no weight of this model")
    for key, shape in expected.items():
        if key not in state:
            raise ValueError(f"the checkpoint lacks {key}, expected with shape {list(shape)}")
        if state[key].shape != shape:
            got = list(state[key].shape)
            raise ValueError(f"{key} has shape {got}, expected {list(shape)}")


def config_from_published(
    values: dict[str, Any], base: dict[str, Any] | None = None
) -> LatentUMConfig:
    """Our config of a published `config.json`.

    Args:
      values: the checkpoint's config.json.
      base: config.json of the InternVL model it is built on, for where `internvl_config` is empty
        (published checkpoints give its name only, as `base_model_name_or_path`).

    Raises:
      ValueError: a value is missing, or is one that this architecture does not have.
    """
    base = values.get("internvl_config") or base
    if not base:
        name = values.get("base_model_name_or_path")
        raise ValueError(f"config.json holds no internvl_config: that of {name} is needed besides")
    try:
        _check_fixed(values, base)
        return LatentUMConfig(
            _vision_config(base),
            _language_config(base["llm_config"]),
            _quantizer_config(values["quantizer"]),
            _head_config(values["head"]),
        )
    except KeyError as error:
        raise ValueError(f"config.json lacks {error}") from error


def _check_fixed(values: dict[str, Any], base: dict[str, Any]) -> None:
    """What the modules take for granted."""
    vision, language, q = base["vision_config"], base["llm_config"], values["quantizer"]
    for name, got, expected in (
        ("mixture_mode", values["mixture_mode"], "mot"),
        ("ps_version", base["ps_version"], "v2"),
        ("select_layer", base["select_layer"], -1),
        ("vision_config.qk_normalization", vision["qk_normalization"], False),
        ("vision_config.norm_type", vision["norm_type"], "layer_norm"),
        ("vision_config.qkv_bias", vision["qkv_bias"], True),
        ("llm_config.attention_bias", language["attention_bias"], False),
        ("quantizer.type", q["type"], "MLP"),
        ("quantizer.llm_hidden_size", q["llm_hidden_size"], language["hidden_size"]),
        ("head.hidden_size", values["head"]["hidden_size"], language["hidden_size"]),
        ("head.num_codebooks", values["head"]["num_codebooks"], q["num_codebooks"]),
        ("head.num_embeddings", values["head"]["num_embeddings"], q["num_embeddings"]),
    ):
        if got != expected:
            raise ValueError(f"config.json: {name} is {got!r}, expected {expected!r}")


def _vision_config(base: dict[str, Any]) -> VisionConfig:
    c = base["vision_config"]
    return VisionConfig(
        image_size=c["image_size"],
        patch_size=c["patch_size"],
        hidden_size=c["hidden_size"],
        num_layers=c["num_hidden_layers"],
        num_heads=c["num_attention_heads"],
        mlp_size=c["intermediate_size"],
        layer_norm_eps=c["layer_norm_eps"],
        shuffle=round(1 / base["downsample_ratio"]),
        initializer_factor=c["initializer_factor"],
    )


def _language_config(c: dict[str, Any]) -> LanguageConfig:
    return LanguageConfig(
        vocab_size=c["vocab_size"],
        hidden_size=c["hidden_size"],
        num_layers=c["num_hidden_layers"],
        num_heads=c["num_attention_heads"],
        num_kv_heads=c["num_key_value_heads"],
        head_dim=c["head_dim"],
        mlp_size=c["intermediate_size"],
        rms_eps=c["rms_norm_eps"],
        rope_theta=c["rope_theta"],
        tie_embeddings=c["tie_word_embeddings"],
        max_positions=c["max_position_embeddings"],
    )


def _quantizer_config(c: dict[str, Any]) -> QuantizerConfig:
    return QuantizerConfig(
        num_codebooks=c["num_codebooks"],
        codebook_size=c["num_embeddings"],
        embedding_dim=c["embedding_dim"],
        commitment=c["commitment_cost"],
    )


def _head_config(c: dict[str, Any]) -> HeadConfig:
    return HeadConfig(
        num_layers=c["num_layers"], num_heads=c["num_heads"], mlp_ratio=c["mlp_ratio"]
    )
