"""Stage `mbaq` of frozenlake_tiny alone: the quantizer, on the frozen model of `vlm`.

Give it the model to start from: --config.init_from=DIR.
"""

from ml_collections import ConfigDict

from latentum_jax.configs import frozenlake_tiny
from latentum_jax.train.recipe import stage_config


def get_config() -> ConfigDict:
    """The link `mbaq` of the chain."""
    return stage_config(frozenlake_tiny.get_config(), "mbaq")
