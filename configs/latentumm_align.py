"""LatentUMM's stage 1: the aligner, on paired embeddings of a stronger model.

Published: batches of 32, three passes, AdamW at 1e-4 with weight decay 1e-2, clip 1, lambda_m and
lambda_t 1. lambda_g is 0 in the published command and 0.1 in its script: with 0 a latent that is
always the same is a minimum. Chosen here: the width of the embeddings and of the latent space,
Gemini's 3072. --config.data.path=PATH is where they are (`latentum_jax.data.embeddings`).
"""

from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.configs.base import base


def get_config() -> ConfigDict:
    """Stage `align`."""
    config = base(LatentUMConfig())
    config.stage, config.epochs = "align", 3
    config.alignment.update({"modal": 1.0, "task": 1.0, "generation": 0.1})
    config.optimizer.update({"learning_rate": 1e-4, "warmup": 0, "end_share": 1.0})
    config.optimizer.update({"weight_decay": 1e-2, "clip": 1.0, "b2": 0.999})
    config.data.update({"source": "embeddings", "rows": 32})
    return config
