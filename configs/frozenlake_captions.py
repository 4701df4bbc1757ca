"""The bundled tiny model learns to draw mazes of levels 3 and 4 from captions, for a while.

What `frozenlake_grpo` then starts from: --config.init_from=DIR is the bundled model's folder.
"""

from ml_collections import ConfigDict

from latentum_jax.configs.frozenlake_tiny import bucket
from latentum_jax.configs.frozenlake_tiny import get_config as tiny
from latentum_jax.train.recipe import stage_config


def get_config() -> ConfigDict:
    """Stage `sft`, the generation branch and the head alone."""
    config = stage_config(tiny(), "sft")
    config.part, config.steps, config.checkpoint_every = "vision", 900, 300
    config.stale_tokens = config.condition_dropout = 0.0
    config.optimizer.update({"learning_rate": 1e-3, "warmup": 50})
    config.data.update({"levels": (3, 4), "weights": (0.5, 0.5)})
    config.data.buckets = (bucket("captions", 1.0, 32, 80),)
    return config
