"""LatentUMM inside the bundled maze model: its terms beside `sft`'s loss, on captions to draw.

Small mazes alone, whose captions are short. The weights are ten times the published ones, for they
have few steps to act in (a hundred times spoils what is drawn: docs/latentumm.md), and z_v is of
images as they are read back.
"""

from ml_collections import ConfigDict

from latentum_jax.configs import frozenlake_tiny
from latentum_jax.configs.frozenlake_tiny import bucket
from latentum_jax.files import BUNDLED
from latentum_jax.train.recipe import stage_config


def get_config() -> ConfigDict:
    """Stage `latentumm` from the bundled model on."""
    config = stage_config(frozenlake_tiny.get_config(), "sft")
    config.stage, config.steps, config.ema = "latentumm", 600, 0.0
    config.init_from = str(BUNDLED / "frozenlake-tiny")
    config.optimizer.update({"learning_rate": 3e-4, "warmup": 20})
    config.aligner.latent_dim = 64
    config.alignment.update({"modal": 0.1, "task": 0.1, "preference": 0.01, "image": "read"})
    config.data.update({"levels": (3, 4), "weights": (0.5, 0.5)})
    config.data.buckets = (bucket("captions", 1.0, 16, 80),)
    return config
