"""GRPO by self-reflection on the tiny model: captions of mazes to latent pictures (section 3.3).

Give it the model to start from: --config.init_from=DIR. The questions are those of captions: size,
holes, where the player and the goal are, what is at some cells. Rewards of 128 rollouts say little
of 1.6 million weights, whose updates are then mostly noise; low-rank factors learn from them.
"""

from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.configs.base import base


def get_config() -> ConfigDict:
    """Stage `grpo`, 8 prompts of 16 rollouts a step."""
    config = base(LatentUMConfig.tiny())
    config.stage = "grpo"
    config.steps, config.checkpoint_every = 400, 50
    config.optimizer.update({"learning_rate": 3e-4, "warmup": 10, "weight_decay": 0.0})
    config.optimizer.end_share = 0.5
    config.lora.update({"rank": 4, "alpha": 4.0, "targets": "kernel$"})
    config.data.update({"source": "frozenlake", "rows": 128, "length": 56})
    config.data.update({"images": 1, "targets": 1, "levels": (3,), "weights": (1.0,)})
    ask = {"length": 200, "questions": 10, "cells": 4, "temperature": 3.0}
    config.grpo.ask.update(ask)
    return config
