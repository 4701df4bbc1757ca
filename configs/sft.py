"""Interleaved fine-tuning at the published size (section 3.3), both branches in one pass.

Published: learning rate 1e-5, clip 1.0, 15% of the codes shown replaced. Chosen here: one machine
of 8 devices, 64 rows in 8 parts, rows of up to 11 pictures. --config.init_from=DIR is
LatentUM-Base, --config.data.path=FILE a JSONL in the published layout.
"""

from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.configs.base import base, full_size


def get_config() -> ConfigDict:
    """Stage `sft` on 8 devices."""
    config = full_size(base(LatentUMConfig()), "sft")
    config.steps, config.accumulate = 2_000, 8
    config.mesh.fsdp = 8
    config.loss_chunk = 8_192
    config.optimizer.update({"learning_rate": 1e-5, "warmup": 100, "b2": 0.95})
    config.data.update({"source": "jsonl", "rows": 64, "length": 4096})
    config.data.update({"images": 12, "targets": 11})
    return config
