"""MoME pretraining at the published size (section 3.2, A.2): text to image on 32M pairs.

Published: 64 H100 for 4 days, sequences of up to 512, condition dropped in 0.1 of the rows. Chosen
here: 16 rows a device, one pass over the pairs, the learning rate. --config.init_from=DIR is a
model after `mbaq`, --config.data.path=PATTERN the shards.
"""

from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.configs.base import base, full_size


def get_config() -> ConfigDict:
    """Stage `mome` on 64 devices."""
    config = full_size(base(LatentUMConfig()), "mome")
    config.steps = 31_250
    config.mesh.fsdp = 8  # inside a machine
    config.optimizer.update({"learning_rate": 1e-4, "warmup": 1000, "b2": 0.95})
    config.data.update({"source": "webdataset", "rows": 1024, "length": 257})
    config.data.update({"images": 1, "targets": 1})
    return config
