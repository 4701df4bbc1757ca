"""InternVL3.5 in both its published layouts: the understanding half of a LatentUM."""

import math
from collections.abc import Container, Mapping
from typing import Any

from latentum_jax.config import LanguageConfig, VisionConfig
from latentum_jax.convert.table import (
    LEADING_1,
    LEADING_1_1,
    LINEAR,
    RGB_PATCHES,
    Row,
    Table,
    layer_norm,
    linear,
    mlp,
)

FAMILY = "InternVL3_5"  # in the name of every size, 1B to 38B
VIT_HEAD_DIM = 64


def internvl_rows(prefix: str) -> list[Row]:
    """The original layout, its keys behind `prefix`."""
    return [*_vision(prefix), *_language(prefix)]


def _vision(prefix: str) -> list[Row]:
    key, path = f"{prefix}vision_model.embeddings", "vision"
    layer, ours = f"{prefix}vision_model.encoder.layers.{{}}", "vision/layers"
    return [
        Row(f"{key}.class_embedding", f"{path}/class_embedding", LEADING_1_1),
        Row(f"{key}.position_embedding", f"{path}/position_embedding", LEADING_1),
        Row(f"{key}.patch_embedding.weight", f"{path}/patch_embedding/kernel", RGB_PATCHES),
        Row(f"{key}.patch_embedding.bias", f"{path}/patch_embedding/bias"),
        Row(f"{layer}.ls1", f"{ours}/ls1"),
        Row(f"{layer}.ls2", f"{ours}/ls2"),
        *layer_norm(f"{layer}.norm1", f"{ours}/norm1"),
        *layer_norm(f"{layer}.norm2", f"{ours}/norm2"),
        *linear(f"{layer}.attn.qkv", f"{ours}/qkv"),
        *linear(f"{layer}.attn.proj", f"{ours}/proj"),
        *mlp(f"{layer}.mlp.fc1", f"{layer}.mlp.fc2", f"{ours}/mlp"),
        *layer_norm(f"{prefix}mlp1.0", "mlp1/norm"),
        *mlp(f"{prefix}mlp1.1", f"{prefix}mlp1.3", "mlp1/mlp"),
    ]


def branch_rows(prefix: str, suffix: str, branch: str) -> list[Row]:
    """One branch of Qwen3's layers: of a LatentUM `_vision` is the generation branch's suffix."""
    layer, ours = f"{prefix}language_model.model.layers.{{}}", f"language/layers/{branch}"
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


def _language(prefix: str) -> list[Row]:
    key, path = f"{prefix}language_model", "language"
    layer = f"{key}.model.layers.{{}}"
    return [
        Row(f"{key}.model.embed_tokens.weight", f"{path}/embed_tokens"),
        Row(f"{key}.model.norm.weight", f"{path}/norm/scale"),
        Row(f"{key}.lm_head.weight", f"{path}/lm_head", LINEAR),
        Row(f"{layer}.input_layernorm.weight", f"{path}/layers/input_norm/scale"),
        Row(f"{layer}.post_attention_layernorm.weight", f"{path}/layers/post_attention_norm/scale"),
        *branch_rows(prefix, "", "und"),
    ]


def vision_config(base: Mapping[str, Any]) -> VisionConfig:
    """Of a config.json in the original layout. Raises ValueError for another architecture."""
    c = base["vision_config"]
    _expect("ps_version", base["ps_version"], "v2")
    _expect("select_layer", base["select_layer"], -1)
    _expect("vision_config.qk_normalization", c["qk_normalization"], False)
    _expect("vision_config.norm_type", c["norm_type"], "layer_norm")
    _expect("vision_config.qkv_bias", c["qkv_bias"], True)
    return VisionConfig(
        image_size=c["image_size"],
        patch_size=c["patch_size"],
        hidden_size=c["hidden_size"],
        num_layers=c["num_hidden_layers"],
        num_heads=c["num_attention_heads"],
        mlp_size=c["intermediate_size"],
        layer_norm_eps=c["layer_norm_eps"],
        shuffle=round(1 / base["downsample_ratio"]),
        initializer_factor=c.get("initializer_factor", 1.0),
    )


def language_config(c: Mapping[str, Any]) -> LanguageConfig:
    """Of a Qwen3 config. Raises ValueError for another architecture."""
    _expect("llm_config.attention_bias", c["attention_bias"], False)
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


def original_config(vision: VisionConfig, language: LanguageConfig) -> dict[str, Any]:
    """config.json in the original layout: what `vision_config` and `language_config` read."""
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "template": "internvl2_5",
        "select_layer": -1,
        "ps_version": "v2",
        "downsample_ratio": 1 / vision.shuffle,
        "force_image_size": vision.image_size,
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "use_thumbnail": True,
        "dynamic_image_size": True,
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "hidden_size": vision.hidden_size,
            "num_hidden_layers": vision.num_layers,
            "num_attention_heads": vision.num_heads,
            "intermediate_size": vision.mlp_size,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "qkv_bias": True,
            "qk_normalization": False,
            "norm_type": "layer_norm",
            "hidden_act": "gelu",
            "layer_norm_eps": vision.layer_norm_eps,
            "drop_path_rate": 0.0,
            "initializer_factor": vision.initializer_factor,
            "use_flash_attn": False,
        },
        "llm_config": {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": language.hidden_size,
            "num_hidden_layers": language.num_layers,
            "num_attention_heads": language.num_heads,
            "num_key_value_heads": language.num_kv_heads,
            "head_dim": language.head_dim,
            "intermediate_size": language.mlp_size,
            "vocab_size": language.vocab_size,
            "rms_norm_eps": language.rms_eps,
            "rope_theta": language.rope_theta,
            "attention_bias": False,
            "hidden_act": "silu",
            "max_position_embeddings": language.max_positions,
            "tie_word_embeddings": language.tie_embeddings,
            "use_sliding_window": False,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        },
    }


def _expect(name: str, got: object, expected: object) -> None:
    if got != expected:
        raise ValueError(f"config.json: {name} is {got!r}, expected {expected!r}")


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, Any]:
    """config.json of an InternVL3.5 by the shapes of its weights, whose keys begin with `prefix`.

    Raises ValueError naming the key that is missing.
    """
    vision, language = f"{prefix}vision_model", f"{prefix}language_model"
    layer = f"{language}.model.layers.0"
    try:
        embedding = shapes[f"{vision}.embeddings.patch_embedding.weight"]
        positions = shapes[f"{vision}.embeddings.position_embedding"][1]
        vocab, hidden = shapes[f"{language}.model.embed_tokens.weight"]
        head_dim = shapes[f"{layer}.self_attn.q_norm.weight"][0]
        queries = shapes[f"{layer}.self_attn.q_proj.weight"][0]
        keys = shapes[f"{layer}.self_attn.k_proj.weight"][0]
        mlp = shapes[f"{layer}.mlp.gate_proj.weight"][0]
        vit_mlp = shapes[f"{vision}.encoder.layers.0.mlp.fc1.weight"][0]
    except KeyError as error:
        raise ValueError(f"the checkpoint lacks {error.args[0]}") from error
    return {
        "select_layer": -1,
        "ps_version": "v2",
        "downsample_ratio": 0.5,
        "vision_config": {
            "image_size": math.isqrt(positions - 1) * embedding[2],
            "patch_size": embedding[2],
            "hidden_size": embedding[0],
            "num_hidden_layers": _layers(shapes, f"{vision}.encoder.layers."),
            "num_attention_heads": embedding[0] // VIT_HEAD_DIM,
            "intermediate_size": vit_mlp,
            "layer_norm_eps": 1e-6,
            "qk_normalization": False,
            "norm_type": "layer_norm",
            "qkv_bias": True,
        },
        "llm_config": {
            "vocab_size": vocab,
            "hidden_size": hidden,
            "num_hidden_layers": _layers(shapes, f"{language}.model.layers."),
            "num_attention_heads": queries // head_dim,
            "num_key_value_heads": keys // head_dim,
            "head_dim": head_dim,
            "intermediate_size": mlp,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "attention_bias": False,
            "max_position_embeddings": 40960,
            "tie_word_embeddings": f"{language}.lm_head.weight" not in shapes,
        },
    }


def _layers(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)})


def _transformers_rows() -> list[Row]:
    """The layout of transformers: other names, and q, k and v of the ViT apart."""
    key, path = "vision_tower.embeddings", "vision"
    layer, ours = "vision_tower.encoder.layer.{}", "vision/layers"
    qkv = [f"{layer}.attention.{name}_proj" for name in ("q", "k", "v")]
    projector = "multi_modal_projector"
    return [
        Row(f"{key}.cls_token", f"{path}/class_embedding", LEADING_1_1),
        Row(f"{key}.position_embeddings", f"{path}/position_embedding", LEADING_1),
        Row(
            f"{key}.patch_embeddings.projection.weight",
            f"{path}/patch_embedding/kernel",
            RGB_PATCHES,
        ),
        Row(f"{key}.patch_embeddings.projection.bias", f"{path}/patch_embedding/bias"),
        Row(f"{layer}.lambda_1", f"{ours}/ls1"),
        Row(f"{layer}.lambda_2", f"{ours}/ls2"),
        *layer_norm(f"{layer}.layernorm_before", f"{ours}/norm1"),
        *layer_norm(f"{layer}.layernorm_after", f"{ours}/norm2"),
        Row(tuple(f"{part}.weight" for part in qkv), f"{ours}/qkv/kernel", LINEAR),
        Row(tuple(f"{part}.bias" for part in qkv), f"{ours}/qkv/bias"),
        *linear(f"{layer}.attention.projection_layer", f"{ours}/proj"),
        *mlp(f"{layer}.mlp.fc1", f"{layer}.mlp.fc2", f"{ours}/mlp"),
        *layer_norm(f"{projector}.layer_norm", "mlp1/norm"),
        *mlp(f"{projector}.linear_1", f"{projector}.linear_2", "mlp1/mlp"),
        *_language(""),
    ]


ORIGINAL = Table("InternVL", internvl_rows(""))
TRANSFORMERS = Table("InternVL", _transformers_rows())

# Newer releases of transformers write the parts of the model behind `model.`, older ones do not.
NEWER = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}


def older_name(key: str) -> str:
    """A key as older releases of transformers wrote it."""
    for new, old in NEWER.items():
        if key.startswith(new):
            return old + key.removeprefix(new)
    return key


def config_from_transformers(values: Mapping[str, Any], keys: Container[str]) -> dict[str, Any]:
    """config.json of the original layout from that of transformers', `keys` those of the weights.

    transformers leaves out what its release has as default; whether lm_head is tied shows in the
    weights. Raises ValueError where another value is missing.
    """
    try:
        vision, language = values["vision_config"], values["text_config"]
        rope = language.get("rope_parameters") or language
        return {
            "select_layer": values.get("vision_feature_layer", -1),
            "ps_version": "v2",
            "downsample_ratio": values.get("downsample_ratio", 0.5),
            "vision_config": {
                "image_size": _side(vision["image_size"]),
                "patch_size": _side(vision["patch_size"]),
                "hidden_size": vision["hidden_size"],
                "num_hidden_layers": vision["num_hidden_layers"],
                "num_attention_heads": vision["num_attention_heads"],
                "intermediate_size": vision["intermediate_size"],
                "layer_norm_eps": vision.get("layer_norm_eps", 1e-6),
                "initializer_factor": vision.get("layer_scale_init_value", 0.1),
                "qk_normalization": vision.get("use_qk_norm", False),
                "norm_type": vision.get("norm_type", "layer_norm"),
                "qkv_bias": vision.get("attention_bias", False),
            },
            "llm_config": {
                "attention_bias": False,
                "rms_norm_eps": 1e-6,
                **language,
                "rope_theta": rope["rope_theta"],
                "tie_word_embeddings": "language_model.lm_head.weight" not in keys,
            },
        }
    except KeyError as error:
        raise ValueError(f"config.json lacks {error}") from error


def _side(size: int | list[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"config.json: a size is {size}, expected a square")
    return sides.pop()
