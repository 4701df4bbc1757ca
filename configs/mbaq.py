"""MBAQ at the published size (section 3.1.1, A.1): the quantizer of a frozen InternVL.

Published: LLaVA-v1.5-665K, losses, usage decay and restarts. Chosen here: 8 devices, 256 rows,
three passes over the data, the learning rate. --config.init_from=DIR is InternVL3.5-4B,
--config.data.path=FILE the JSON, --config.data.root=DIR where its pictures are.
"""

from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.configs.base import base, full_size


def get_config() -> ConfigDict:
    """Stage `mbaq` on 8 devices."""
    config = full_size(base(LatentUMConfig()), "mbaq")
    config.steps = 7_800
    config.mesh.fsdp = 8
    config.loss_chunk = 16_384
    config.optimizer.update({"learning_rate": 1e-4, "warmup": 500, "b2": 0.95})
    config.data.update({"source": "vqa", "rows": 256, "length": 768, "images": 1, "targets": 0})
    return config
