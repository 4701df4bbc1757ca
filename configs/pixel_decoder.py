"""The pixel decoder at the published size (section 3.1.4, A.3): SD3.5-medium learns to draw z_q.

Published: 32 H100, 45 pictures each; the context embedder and the context stream train. Chosen
here: steps and learning rate. --config.init_from=DIR is SD3.5-medium, --config.latentum=DIR the
model whose z_q is drawn, --config.data.path=DIR a folder of pictures.
"""

from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.configs.base import base, full_size


def get_config() -> ConfigDict:
    """Stage `pixel_decoder` on 32 devices."""
    config = full_size(base(LatentUMConfig()), "pixel_decoder")
    config.steps, config.part = 50_000, "context"
    config.ema = 0.9999
    config.mesh.fsdp = 8
    config.optimizer.update({"learning_rate": 1e-4, "warmup": 1000, "b2": 0.95})
    config.data.update({"source": "images", "rows": 1440})
    return config
