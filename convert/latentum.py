"""Published LatentUM checkpoints to our parameters and back, from one table.

A published checkpoint is a folder with `config.json` and `model.safetensors` (keys `internvl.*` and
`quantizer.*`, linear weights [out, in], a key a layer). Ours has kernels [in, out] and stacks the
layers of a tower, the codebooks and the head's embedding tables on a leading axis.
"""

import re
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from latentum_jax.config import (
    HeadConfig,
    LatentUMConfig,
    QuantizerConfig,
)
from latentum_jax.convert.internvl import (
    FAMILY,
    branch_rows,
    config_from_shapes,
    internvl_rows,
    language_config,
    original_config,
    vision_config,
)
from latentum_jax.convert.table import (
    LINEAR,
    Row,
    Table,
    linear,
    mlp,
)


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
    (
        *internvl_rows("internvl."),
        *branch_rows("internvl.", "_vision", "gen"),
        *_quantizer(),
        *_head(),
    ),
    ignored={
        r"quantizer\.quantizer\.quantizers\.\d+\.ema_usage": (
            "code usage counted in training: no parameter of the model, it goes along beside them"
        ),
    },
)
USAGE = Table("MBAQ", [Row("quantizer.quantizer.quantizers.{}.ema_usage", "usage")])

# What InternVL3.5 is called by its width; the published code looks the name up.
NAMES = {
    1024: "OpenGVLab/InternVL3_5-1B",
    2048: "OpenGVLab/InternVL3_5-2B",
    2560: "OpenGVLab/InternVL3_5-4B",
    4096: "OpenGVLab/InternVL3_5-8B",
    5120: "OpenGVLab/InternVL3_5-14B",
}
OF_TRAINING = re.compile(r"quantizer\.(entropy|usage_decay|dead_share|max_restarts)")


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
            vision_config(base),
            language_config(base["llm_config"]),
            _quantizer_config(values["quantizer"]),
            _head_config(values["head"]),
        )
    except KeyError as error:
        raise ValueError(f"config.json lacks {error}") from error


def _check_fixed(values: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """What the modules take for granted."""
    language, q = base["llm_config"], values["quantizer"]
    for name, got, expected in (
        ("mixture_mode", values["mixture_mode"], "mot"),
        ("quantizer.type", q["type"], "MLP"),
        ("quantizer.llm_hidden_size", q["llm_hidden_size"], language["hidden_size"]),
        ("head.hidden_size", values["head"]["hidden_size"], language["hidden_size"]),
        ("head.num_codebooks", values["head"]["num_codebooks"], q["num_codebooks"]),
        ("head.num_embeddings", values["head"]["num_embeddings"], q["num_embeddings"]),
    ):
        if got != expected:
            raise ValueError(f"config.json: {name} is {got!r}, expected {expected!r}")


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


def published_config(config: LatentUMConfig) -> dict[str, Any]:
    """The published `config.json` of a model, that of its InternVL filled in.

    Raises ValueError where the published layout has no place for what the config says; how a
    quantizer is trained is not asked there.
    """
    d = config.language.hidden_size
    name = NAMES.get(d, NAMES[2560])
    quantizer, head = _published_quantizer(config), _published_head(config)
    embedding = {"mixture_mode": "mot", "embedding_dim": config.quantizer.embedding_dim}
    values = {
        "base_model_name_or_path": name,
        "quantizer_ckpt_path": None,
        "llm_hidden_size": d,
        **embedding,
        "image_size": config.vision.image_size,
        "num_image_tokens": config.vision.num_tokens,
        "max_num_patches": 12,
        "image_token": "<image>",
        "internvl_config": original_config(config.vision, config.language),
        "model": {
            "internvl_path": name,
            "llm_hidden_size": d,
            **embedding,
            "head": head,
            "quantizer": quantizer,
        },
        "quantizer": quantizer,
        "head": head,
        "legacy_checkpoint_path": None,
        "legacy_state_key": "module",
    }
    ours, theirs = (
        flatten_dict(c.to_dict(), sep=".") for c in (config, config_from_published(values))
    )
    for key, value in ours.items():
        if value != theirs[key] and not OF_TRAINING.fullmatch(key):
            raise ValueError(
                f"{key} is {value}, which the published layout cannot say: it would be "
                f"{theirs[key]} there"
            )
    return values


def _published_quantizer(config: LatentUMConfig) -> dict[str, Any]:
    c = config.quantizer
    return {
        "vq_type": "multi_vq",
        "type": "MLP",
        "input_feature_dim": config.vision.feature_size,
        "embedding_dim": c.embedding_dim,
        "num_codebooks": c.num_codebooks,
        "num_embeddings": c.codebook_size,
        "llm_hidden_size": config.language.hidden_size,
        "commitment_cost": c.commitment,
    }


def _published_head(config: LatentUMConfig) -> dict[str, Any]:
    return {
        "type": "ar",
        "num_codebooks": config.quantizer.num_codebooks,
        "num_embeddings": config.quantizer.codebook_size,
        "hidden_size": config.language.hidden_size,
        "num_layers": config.head.num_layers,
        "num_heads": config.head.num_heads,
        "mlp_ratio": config.head.mlp_ratio,
    }
