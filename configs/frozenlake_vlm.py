"""Stage `vlm` of frozenlake_tiny alone: the ViT and the `und` branch answer about mazes."""

from ml_collections import ConfigDict

from latentum_jax.configs import frozenlake_tiny
from latentum_jax.train.recipe import stage_config


def get_config() -> ConfigDict:
    """The link `vlm` of the chain."""
    return stage_config(frozenlake_tiny.get_config(), "vlm")
