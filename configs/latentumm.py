"""LatentUMM's stage 2 inside the unified model, at the published size: `sft` with its terms.

Published: weights 0.01, 0.01, 0.01 and 0.001, two rollouts, no teacher. --config.init_from=DIR is
a model after `sft`, --config.data.path=FILE a JSONL in the published interleaved layout; with
--config.data.embeddings=PATH (by the samples' ids) there are targets, those of an aligner with
--config.alignment.teacher=DIR.
"""

from ml_collections import ConfigDict

from latentum_jax.configs import sft


def get_config() -> ConfigDict:
    """Stage `latentumm` on 8 devices."""
    config = sft.get_config()
    config.stage = "latentumm"
    return config
