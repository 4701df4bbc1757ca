"""MMDiT-X in Stability's naming (the decoder folders' model.safetensors) to ours and back."""

import math
import re
from collections.abc import Mapping

import numpy as np

from latentum_jax.config import MMDiTConfig
from latentum_jax.convert.table import Layout, Row, Table, linear, mlp, patches
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
    )


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
