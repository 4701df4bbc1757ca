"""The VAE to ours and back: diffusers' naming (sd3.5's vae/ folder) and ldm's (in its one file)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from latentum_jax.config import VAEConfig
from latentum_jax.convert.table import SAME, Layout, Row, Table, layer_norm, linear
from latentum_jax.decoder.vae import expected_shapes

CONV = Layout(lambda w: np.transpose(w, (2, 3, 1, 0)), lambda k: np.transpose(k, (3, 2, 0, 1)))


def table(config: VAEConfig) -> Table:
    """The rows of a VAE."""
    levels, rows = len(config.channels), []
    for half, name, layers in (
        ("encoder", "down", config.layers_per_level),
        ("decoder", "up", config.layers_per_level + 1),
    ):
        rows += _conv(f"{half}.conv_in", f"{half}/conv_in")
        rows += _conv(f"{half}.conv_out", f"{half}/conv_out")
        rows += layer_norm(f"{half}.conv_norm_out", f"{half}/conv_norm_out")
        rows += _middle(f"{half}.mid_block", f"{half}/mid_block")
        for level in range(levels):
            key, path = f"{half}.{name}_blocks.{level}", f"{half}/{name}_blocks_{level}"
            for i in range(layers):
                rows += _resnet(f"{key}.resnets.{i}", f"{path}/resnets_{i}")
            if level < levels - 1:
                ours = f"{half}/{name}samplers_{level}"
                rows += _conv(f"{key}.{name}samplers.0.conv", ours)
    made = expected_shapes(config)
    return Table("the VAE", [row for row in rows if row.path in made])  # shortcuts: where there are


def ldm_table(config: VAEConfig) -> Table:
    """The rows of a VAE as SD3.5's single file names it: the decoder's levels are counted back."""
    levels, rows = len(config.channels), []
    for half, name, layers in (
        ("encoder", "down", config.layers_per_level),
        ("decoder", "up", config.layers_per_level + 1),
    ):
        rows += _conv(f"{half}.conv_in", f"{half}/conv_in")
        rows += _conv(f"{half}.conv_out", f"{half}/conv_out")
        rows += layer_norm(f"{half}.norm_out", f"{half}/conv_norm_out")
        rows += _ldm_middle(f"{half}.mid", f"{half}/mid_block")
        for level in range(levels):
            theirs = level if name == "down" else levels - 1 - level
            key, path = f"{half}.{name}.{theirs}", f"{half}/{name}_blocks_{level}"
            for i in range(layers):
                rows += _resnet(f"{key}.block.{i}", f"{path}/resnets_{i}", "nin_shortcut")
            if level < levels - 1:
                rows += _conv(f"{key}.{name}sample.conv", f"{half}/{name}samplers_{level}")
    made = expected_shapes(config)
    return Table("the VAE", [row for row in rows if row.path in made])


def config_from_ldm(shapes: Mapping[str, tuple[int, ...]]) -> VAEConfig:
    """Sizes from the shapes of the single file's keys; what they do not tell is SD3.5's.

    Raises ValueError where a key that tells a size is missing.
    """
    block = re.compile(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight")
    found = {(int(m[1]), int(m[2])): shapes[m[0]][0] for m in map(block.fullmatch, shapes) if m}
    for key in ("encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"):
        if key not in shapes:
            raise ValueError(f"the checkpoint lacks {key}")
    return VAEConfig(
        latent_channels=shapes["decoder.conv_in.weight"][1],
        channels=tuple(size for (_, layer), size in sorted(found.items()) if layer == 0),
        layers_per_level=1 + max(layer for _, layer in found),
    )


def config_from_published(values: Mapping[str, Any]) -> VAEConfig:
    """Our config of a vae/config.json. Raises ValueError where it is of another architecture."""
    fixed = {
        "act_fn": "silu",
        "in_channels": 3,
        "out_channels": 3,
        "mid_block_add_attention": True,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    for name, expected in fixed.items():
        if values.get(name) != expected:
            raise ValueError(
                f"vae/config.json: {name} is {values.get(name)!r}, expected {expected!r}"
            )
    try:
        return VAEConfig(
            latent_channels=values["latent_channels"],
            channels=tuple(values["block_out_channels"]),
            layers_per_level=values["layers_per_block"],
            norm_groups=values["norm_num_groups"],
            scale=values["scaling_factor"],
            shift=values["shift_factor"],
        )
    except KeyError as error:
        raise ValueError(f"vae/config.json lacks {error}") from error


def published_config(config: VAEConfig) -> dict[str, Any]:
    """vae/config.json as diffusers writes it."""
    levels = len(config.channels)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(config.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers_per_level,
        "mid_block_add_attention": True,
        "norm_num_groups": config.norm_groups,
        "out_channels": 3,
        "scaling_factor": config.scale,
        "shift_factor": config.shift,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_post_quant_conv": False,
        "use_quant_conv": False,
    }


def _conv(key: str, path: str) -> list[Row]:
    return [Row(f"{key}.weight", f"{path}/kernel", CONV), Row(f"{key}.bias", f"{path}/bias", SAME)]


def _resnet(key: str, path: str, shortcut: str = "conv_shortcut") -> list[Row]:
    return [
        *layer_norm(f"{key}.norm1", f"{path}/norm1"),
        *layer_norm(f"{key}.norm2", f"{path}/norm2"),
        *_conv(f"{key}.conv1", f"{path}/conv1"),
        *_conv(f"{key}.conv2", f"{path}/conv2"),
        *_conv(f"{key}.{shortcut}", f"{path}/conv_shortcut"),
    ]


def _middle(key: str, path: str) -> list[Row]:
    attention, ours = f"{key}.attentions.0", f"{path}/attention"
    return [
        *_resnet(f"{key}.resnets.0", f"{path}/resnets_0"),
        *_resnet(f"{key}.resnets.1", f"{path}/resnets_1"),
        *layer_norm(f"{attention}.group_norm", f"{ours}/group_norm"),
        *linear(f"{attention}.to_q", f"{ours}/to_q"),
        *linear(f"{attention}.to_k", f"{ours}/to_k"),
        *linear(f"{attention}.to_v", f"{ours}/to_v"),
        *linear(f"{attention}.to_out.0", f"{ours}/to_out"),
    ]


# A linear map written as a 1x1 convolution, [out, in, 1, 1] <-> [in, out].
_POINTWISE = Layout(lambda w: np.transpose(w[:, :, 0, 0]), lambda k: k.T[:, :, None, None])


def _ldm_middle(key: str, path: str) -> list[Row]:
    attention, ours = f"{key}.attn_1", f"{path}/attention"
    rows = [
        *_resnet(f"{key}.block_1", f"{path}/resnets_0"),
        *_resnet(f"{key}.block_2", f"{path}/resnets_1"),
        *layer_norm(f"{attention}.norm", f"{ours}/group_norm"),
    ]
    for theirs, name in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out")):
        rows.append(Row(f"{attention}.{theirs}.weight", f"{ours}/{name}/kernel", _POINTWISE))
        rows.append(Row(f"{attention}.{theirs}.bias", f"{ours}/{name}/bias"))
    return rows
