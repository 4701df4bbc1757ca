"""Stage `mome` of frozenlake_tiny alone: the generation branch learns to draw mazes from captions.

Give it the model to start from: --config.init_from=DIR.
"""

from ml_collections import ConfigDict

from latentum_jax.configs import frozenlake_tiny
from latentum_jax.train.recipe import stage_config


def get_config() -> ConfigDict:
    """The link `mome` of the chain."""
    return stage_config(frozenlake_tiny.get_config(), "mome")
