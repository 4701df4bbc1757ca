"""MMDiT-X to ours and back, from Stability's naming (decoder folders) and from diffusers'."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from latentum_jax.config import MMDiTConfig
from latentum_jax.convert.table import LINEAR, Layout, Row, Table, linear, mlp, patches
from latentum_jax.decoder.mmdit import block_groups

BLOCK = "joint_blocks.{}"


def table(config: MMDiTConfig) -> Table:
    """The rows of an MMDiT; where a block lies with us depends on its kind."""
    rows = [
        Row("pos_embed", "position_table", _square(config.position_side)),
        Row("x_embedder.proj.weight", "x_embedder/kernel", patches(lambda _: config.patch_size)),
        Row("x_embedder.proj.bias", "x_embedder/bias"),
        *linear("context_embedder", "context_embedder"),
        *mlp("t_embedder.mlp.0", "t_embedder.mlp.2", "t_embedder"),
        *mlp("y_embedder.mlp.0", "y_embedder.mlp.2", "y_embedder"),
        *linear("final_layer.linear", "final_linear"),
        Row("final_layer.adaLN_modulation.1.weight", "final_modulation/kernel", _ONE_MATRIX),
        Row("final_layer.adaLN_modulation.1.bias", "final_modulation/bias", _ONE_VECTOR),
    ]
    first = 0
    for name, count, dual, last in block_groups(config):
        rows += _attention(
            f"{BLOCK}.context_block.attn", f"{name}/layers/context_attn", first, last
        )
        rows += _attention(f"{BLOCK}.x_block.attn", f"{name}/layers/x_attn", first)
        if dual:
            rows += _attention(f"{BLOCK}.x_block.attn2", f"{name}/layers/x_attn2", first)
        for stream in ("context", "x"):
            key = f"{BLOCK}.{stream}_block"
            rows += linear(f"{key}.adaLN_modulation.1", f"{name}/{stream}_modulation", first)
            if stream == "x" or not last:
                path = f"{name}/layers/{stream}_mlp"
                rows += mlp(f"{key}.mlp.fc1", f"{key}.mlp.fc2", path, first)
        first += count
    return Table("the decoder", rows)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> MMDiTConfig:
    """Every size, read from the shapes of the published keys.

    Raises ValueError where a key that tells a size is missing, or the blocks that attend twice are
    not the first ones.
    """
    try:
        hidden, channels, patch, _ = shapes["x_embedder.proj.weight"]
        block = BLOCK.format(0)
        latent = shapes["final_layer.linear.weight"][0] // patch**2
        context_dim = shapes["context_embedder.weight"][1]
        head_dim = shapes[f"{block}.x_block.attn.ln_q.weight"][0]
        mlp_size = shapes[f"{block}.x_block.mlp.fc1.weight"][0]
        positions = shapes["pos_embed"][1]
        pooled = shapes["y_embedder.mlp.0.weight"][1]
    except KeyError as error:
        raise ValueError(f"the checkpoint lacks {error.args[0]}") from error
    depth = 1 + max(int(m[1]) for m in map(re.compile(r"joint_blocks\.(\d+)\.").match, shapes) if m)
    dual = [i for i in range(depth) if f"{BLOCK.format(i)}.x_block.attn2.qkv.weight" in shapes]
    if dual != list(range(len(dual))):
        raise ValueError(f"blocks {dual} attend twice, expected the first ones")
    return MMDiTConfig(
        depth=depth,
        hidden_size=hidden,
        num_heads=hidden // head_dim,
        mlp_size=mlp_size,
        patch_size=patch,
        latent_channels=latent,
        context_dim=context_dim,
        dual_layers=len(dual),
        position_side=math.isqrt(positions),
        references=channels // latent - 1,
        pooled_size=pooled,
    )


def diffusers_table(config: MMDiTConfig) -> Table:
    """The rows of SD3.5's transformer/ folder, as diffusers names them."""
    text, block = "time_text_embed", "transformer_blocks.{}"
    rows = [
        Row("pos_embed.pos_embed", "position_table", _square(config.position_side)),
        Row("pos_embed.proj.weight", "x_embedder/kernel", patches(lambda _: config.patch_size)),
        Row("pos_embed.proj.bias", "x_embedder/bias"),
        *linear("context_embedder", "context_embedder"),
        *mlp(
            f"{text}.timestep_embedder.linear_1", f"{text}.timestep_embedder.linear_2", "t_embedder"
        ),
        *mlp(f"{text}.text_embedder.linear_1", f"{text}.text_embedder.linear_2", "y_embedder"),
        *linear("proj_out", "final_linear"),
        Row("norm_out.linear.weight", "final_modulation/kernel", _then(_SWAPPED, _ONE_MATRIX)),
        Row("norm_out.linear.bias", "final_modulation/bias", _then(_SWAPPED, _ONE_VECTOR)),
    ]
    first = 0
    for name, count, dual, last in block_groups(config):
        layers = f"{name}/layers"
        added = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k")
        own = ("to_q", "to_k", "to_v", "norm_q", "norm_k")
        rows += _split_attention(f"{block}.attn", added, f"{layers}/context_attn", first)
        rows += _split_attention(f"{block}.attn", own, f"{layers}/x_attn", first)
        rows += linear(f"{block}.attn.to_out.0", f"{layers}/x_attn/proj", first)
        if dual:
            rows += _split_attention(f"{block}.attn2", own, f"{layers}/x_attn2", first)
            rows += linear(f"{block}.attn2.to_out.0", f"{layers}/x_attn2/proj", first)
        rows += mlp(f"{block}.ff.net.0.proj", f"{block}.ff.net.2", f"{layers}/x_mlp", first)
        rows += linear(f"{block}.norm1.linear", f"{name}/x_modulation", first)
        key, path = f"{block}.norm1_context.linear", f"{name}/context_modulation"
        if last:
            rows.append(Row(f"{key}.weight", f"{path}/kernel", _then(_SWAPPED, LINEAR), first))
            rows.append(Row(f"{key}.bias", f"{path}/bias", _SWAPPED, first))
        else:
            rows += linear(key, path, first)
            rows += linear(f"{block}.attn.to_add_out", f"{layers}/context_attn/proj", first)
            fc1, fc2 = f"{block}.ff_context.net.0.proj", f"{block}.ff_context.net.2"
            rows += mlp(fc1, fc2, f"{layers}/context_mlp", first)
        first += count
    return Table("SD3.5's transformer", rows)


def config_from_diffusers(values: Mapping[str, Any]) -> MMDiTConfig:
    """Our config of a transformer/config.json.

    Raises ValueError where a value is missing or is one that this architecture does not have.
    """
    try:
        heads, head_dim = values["num_attention_heads"], values["attention_head_dim"]
        dual = list(values["dual_attention_layers"])
        for name, got, expected in (
            ("qk_norm", values["qk_norm"], "rms_norm"),
            ("caption_projection_dim", values["caption_projection_dim"], heads * head_dim),
            ("dual_attention_layers", dual, list(range(len(dual)))),
        ):
            if got != expected:
                raise ValueError(f"config.json: {name} is {got!r}, expected {expected!r}")
        return MMDiTConfig(
            depth=values["num_layers"],
            hidden_size=heads * head_dim,
            num_heads=heads,
            mlp_size=4 * heads * head_dim,
            patch_size=values["patch_size"],
            latent_channels=values["in_channels"],
            context_dim=values["joint_attention_dim"],
            dual_layers=len(dual),
            position_side=values["pos_embed_max_size"],
            pooled_size=values["pooled_projection_dim"],
        )
    except KeyError as error:
        raise ValueError(f"config.json lacks {error}") from error


def _then(first: Layout, second: Layout) -> Layout:
    return Layout(
        lambda x: second.ours(first.ours(x)), lambda x: first.published(second.published(x))
    )


def _halves_swapped(x: np.ndarray) -> np.ndarray:
    return np.roll(x, x.shape[0] // 2, axis=0)


# diffusers puts the scale of a norm without gate before its shift.
_SWAPPED = Layout(_halves_swapped, _halves_swapped)


def _split_attention(key: str, names: tuple[str, ...], path: str, first: int) -> list[Row]:
    """q, k and v apart, and the norms of q and k."""
    *qkv, q_norm, k_norm = (f"{key}.{name}" for name in names)
    return [
        Row(tuple(f"{part}.weight" for part in qkv), f"{path}/qkv/kernel", LINEAR, first),
        Row(tuple(f"{part}.bias" for part in qkv), f"{path}/qkv/bias", first=first),
        Row(f"{q_norm}.weight", f"{path}/q_norm/scale", first=first),
        Row(f"{k_norm}.weight", f"{path}/k_norm/scale", first=first),
    ]


def _square(side: int) -> Layout:
    return Layout(
        lambda x: x.reshape(side, side, x.shape[-1]), lambda x: x.reshape(1, -1, x.shape[-1])
    )


_ONE_MATRIX = Layout(lambda x: np.transpose(x)[None], lambda x: np.transpose(x[0]))
_ONE_VECTOR = Layout(lambda x: x[None], lambda x: x[0])


def _attention(key: str, path: str, first: int, only_keys: bool = False) -> list[Row]:
    return [
        *linear(f"{key}.qkv", f"{path}/qkv", first),
        Row(f"{key}.ln_q.weight", f"{path}/q_norm/scale", first=first),
        Row(f"{key}.ln_k.weight", f"{path}/k_norm/scale", first=first),
        *([] if only_keys else linear(f"{key}.proj", f"{path}/proj", first)),
    ]
