"""The VAE in diffusers' naming (sd3.5's vae/ folder) to ours and back."""

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


def _conv(key: str, path: str) -> list[Row]:
    return [Row(f"{key}.weight", f"{path}/kernel", CONV), Row(f"{key}.bias", f"{path}/bias", SAME)]


def _resnet(key: str, path: str) -> list[Row]:
    return [
        *layer_norm(f"{key}.norm1", f"{path}/norm1"),
        *layer_norm(f"{key}.norm2", f"{path}/norm2"),
        *_conv(f"{key}.conv1", f"{path}/conv1"),
        *_conv(f"{key}.conv2", f"{path}/conv2"),
        *_conv(f"{key}.conv_shortcut", f"{path}/conv_shortcut"),
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
