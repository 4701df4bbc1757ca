"""LatentUMM's stage 2 on embeddings: latents near one another are led to the same place.

Published: four rollouts, sigma 0.05, weight 0.1, rate 1e-5; all else as in stage 1, whose aligner
is --config.init_from=DIR. --config.data.path=PATH is where the embeddings are.
"""

from ml_collections import ConfigDict

from latentum_jax.configs import latentumm_align


def get_config() -> ConfigDict:
    """Stage `align_dynamics`."""
    config = latentumm_align.get_config()
    config.stage = "align_dynamics"
    config.alignment.update({"preference": 0.1, "rollouts": 4})
    config.optimizer.learning_rate = 1e-5
    return config
