"""Published LatentUM checkpoints to our parameters and back, from one table.

A published checkpoint is a folder with `config.json` and `model.safetensors` (keys `internvl.*` and
`quantizer.*`, linear weights [out, in], a key a layer). Ours has kernels [in, out] and stacks the
layers of a tower, the codebooks and the head's embedding tables on a leading axis.
"""

from collections.abc import Mapping
from typing import Any

from latentum_jax.config import (
    HeadConfig,
    LanguageConfig,
    LatentUMConfig,
    QuantizerConfig,
    VisionConfig,
)
from latentum_jax.convert.internvl import FAMILY, config_from_shapes
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


def _vision() -> list[Row]:
    key, path = "internvl.vision_model.embeddings", "vision"
    layer, ours = "internvl.vision_model.encoder.layers.{}", "vision/layers"
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
        *layer_norm("internvl.mlp1.0", "mlp1/norm"),
        *mlp("internvl.mlp1.1", "internvl.mlp1.3", "mlp1/mlp"),
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
        *mlp("quantizer.down_proj.0", "quantizer.down_proj.2", "quantizer/down_proj"),
        *mlp("quantizer.up_proj.0", "quantizer.up_proj.2", "quantizer/up_proj"),
        Row("quantizer.quantizer.quantizers.{}.codebook.weight", "quantizer/codebook"),
        *mlp("internvl.visual_projector.0", "internvl.visual_projector.2", "visual_projector"),
    ]


def _head() -> list[Row]:
    key, layer, ours = "internvl.ar_head", "internvl.ar_head.layers.{}", "head/layers"
    return [
        Row(f"{key}.embeddings.{{}}.weight", "head/embeddings"),
        Row(f"{key}.norm.weight", "head/norm/scale"),
        *linear(f"{key}.head", "head/head"),
        Row(f"{layer}.norm1.weight", f"{ours}/norm1/scale"),
        Row(f"{layer}.norm2.weight", f"{ours}/norm2/scale"),
        Row(f"{layer}.attn.qkv.weight", f"{ours}/qkv/kernel", LINEAR),
        Row(f"{layer}.attn.q_norm.weight", f"{ours}/q_norm/scale"),
        Row(f"{layer}.attn.k_norm.weight", f"{ours}/k_norm/scale"),
        *linear(f"{layer}.attn.proj", f"{ours}/proj"),
        *mlp(f"{layer}.mlp.fc1", f"{layer}.mlp.fc2", f"{ours}/mlp"),
    ]


TABLE = Table(
    "LatentUM",
    (*_vision(), *_language(), *_quantizer(), *_head()),
    ignored={
        r"quantizer\.quantizer\.quantizers\.\d+\.ema_usage": (
            "code usage counted in training: the state of a run, not a parameter of the model"
        ),
    },
)


def config_from_published(
    values: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> LatentUMConfig:
    """Our config of a published `config.json`.

    Args:
      values: the checkpoint's config.json.
      base: config.json of the InternVL model it is built on, for where `internvl_config` is empty
        (published checkpoints give its name only, as `base_model_name_or_path`).
      shapes: of the checkpoint's weights, for where that one is not at hand and is an InternVL3.5.

    Raises:
      ValueError: a value is missing, or is one that this architecture does not have.
    """
    base, name = values.get("internvl_config") or base, values.get("base_model_name_or_path")
    if not base and shapes and FAMILY in str(name):
        base = config_from_shapes(shapes, "internvl.")
    if not base:
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


def _check_fixed(values: Mapping[str, Any], base: Mapping[str, Any]) -> None:
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


def _vision_config(base: Mapping[str, Any]) -> VisionConfig:
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
        initializer_factor=c.get("initializer_factor", 1.0),
    )


def _language_config(c: Mapping[str, Any]) -> LanguageConfig:
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


def _quantizer_config(c: Mapping[str, Any]) -> QuantizerConfig:
    return QuantizerConfig(
        num_codebooks=c["num_codebooks"],
        codebook_size=c["num_embeddings"],
        embedding_dim=c["embedding_dim"],
        commitment=c.get("commitment_cost", QuantizerConfig.commitment),
    )


def _head_config(c: Mapping[str, Any]) -> HeadConfig:
    return HeadConfig(
        num_layers=c["num_layers"], num_heads=c["num_heads"], mlp_ratio=c["mlp_ratio"]
    )
