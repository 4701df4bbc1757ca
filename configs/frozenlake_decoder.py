"""The tiny pixel decoder of the bundled model: a VAE of maze pictures, then MMDiT on z_q.

Give it the model whose z_q it draws, any after `mbaq`: --config.latentum=DIR.
"""

from ml_collections import ConfigDict

from latentum_jax.config import DecoderConfig, LatentUMConfig
from latentum_jax.configs.base import base


def get_config() -> ConfigDict:
    """vae -> pixel_decoder."""
    config = base(LatentUMConfig.tiny(), DecoderConfig.tiny())
    config.data.source = "frozenlake"
    config.ema = 0.998
    config.chain = ("vae", "pixel_decoder")
    config.links = {
        "vae": {
            "stage": "vae",
            "steps": 2000,
            "optimizer": {"learning_rate": 1e-3, "warmup": 100},
            "data": {"rows": 8},
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
