"""The pixel decoder of the tiny world model: it draws a frame of z_q beside 4 frames seen before.

Give it the model whose z_q it draws, any after `mbaq`: --config.latentum=DIR.
"""

import dataclasses

from ml_collections import ConfigDict

from latentum_jax.config import DecoderConfig
from latentum_jax.configs.base import base
from latentum_jax.configs.nav_tiny import nav_model


def nav_decoder() -> DecoderConfig:
    """`tiny` at the 96 px that a frame has, where a visual token is a patch of the latents."""
    tiny = DecoderConfig.tiny()
    mmdit = dataclasses.replace(tiny.mmdit, references=4, token_patches=1)
    return dataclasses.replace(tiny, mmdit=mmdit, image_size=96)


def get_config() -> ConfigDict:
    """vae -> pixel_decoder."""
    config = base(nav_model(), nav_decoder())
    config.data.source = "navigation"
    config.ema = 0.998
    config.chain = ("vae", "pixel_decoder")
    config.links = {
        "vae": {
            "stage": "vae",
            "steps": 2000,
            "optimizer": {"learning_rate": 1e-3, "warmup": 100},
            "data": {"rows": 16},
        },
        "pixel_decoder": {
            "stage": "pixel_decoder",
            "part": "all",
            "steps": 5000,
            "optimizer": {"learning_rate": 1e-3, "warmup": 200},
            "data": {"rows": 32},
        },
    }
    return config
