"""The world model at the published size (appendix D): four frames, actions, and the next frame.

Chosen here: all but the data's form (RECON, 4 context frames). --config.init_from=DIR is
LatentUM-Base, --config.data.path=DIR a folder of trajectories as NWM keeps RECON, or with
--config.data.source=jsonl a file in the published interleaved layout, its prompts those of
`latentum_jax.data.navigation.words`.
"""

from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.configs.base import base, full_size


def get_config() -> ConfigDict:
    """Stage `sft` on 8 devices, one picture to draw a row."""
    config = full_size(base(LatentUMConfig()), "sft")
    config.steps, config.accumulate = 10_000, 4
    config.mesh.fsdp = 8
    config.loss_chunk = 8_192
    config.optimizer.update({"learning_rate": 2e-5, "warmup": 500, "b2": 0.95})
    config.data.update({"source": "recon", "rows": 128, "length": 1664})
    config.data.update({"images": 5, "targets": 1})
    return config
