"""GRPO by self-reflection at the published size (section 3.3, B.1).

Published: 16 rollouts a prompt without guidance, temperature 0.9, top-p 0.95, clip 0.1, KL 0.005;
the generation branch, visual_projector and the vision head train. Chosen here: one machine of 8
devices over which every weight is split (`tensor`), so that a token's weights are read where they
lie; 16 prompts a step, learnt from in 8 parts; the learning rate. --config.init_from=DIR is
LatentUM-Base, --config.data.path=FILE prompts a line, or JSONL as GenEval's.
"""

from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.configs.base import base, full_size


def get_config() -> ConfigDict:
    """Stage `grpo` on 8 devices."""
    config = full_size(base(LatentUMConfig()), "grpo")
    config.steps, config.checkpoint_every, config.accumulate = 500, 50, 8
    config.mesh.tensor = 8
    config.loss_chunk = 8_192
    config.optimizer.update({"learning_rate": 1e-6, "warmup": 20, "weight_decay": 0.0})
    config.data.update({"source": "prompts", "rows": 256, "length": 128})
    config.data.update({"images": 1, "targets": 1})
    return config
