"""Published LatentUM checkpoints to our parameters and back, from one table.

A published checkpoint is a folder with `config.json` and `model.safetensors` (keys `internvl.*` and
`quantizer.*`, linear weights [out, in], a key a layer). Ours has kernels [in, out] and stacks the
layers of a tower, the codebooks and the head's embedding tables on a leading axis.
"""

from collections.abc import Mapping
from typing import Any

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
