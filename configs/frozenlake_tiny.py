"""The bundled model: every stage of the paper, from nothing, on mazes drawn on the fly."""

from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.configs.base import base
from latentum_jax.data.frozenlake.samples import COARSE_PROMPT, SHORT_PROMPT


def get_config() -> ConfigDict:
    """vlm -> mbaq -> mome -> sft."""
    config = base(LatentUMConfig.tiny())
    config.tokenizer = "frozenlake"
    config.chat = {"system": "", "fine_prompt": SHORT_PROMPT, "coarse_prompt": COARSE_PROMPT}
    config.data.source = "frozenlake"
    config.ema = 0.998
    config.chain = ("vlm", "mbaq", "mome", "sft")
    config.links = {
        "vlm": {
            "stage": "vlm",
            "steps": 1800,
            "optimizer": {"learning_rate": 1.5e-3, "weight_decay": 0.3},
            "data": {"buckets": (bucket("questions", 1.0, 32, 180),)},
        },
        "mbaq": {
            "stage": "mbaq",
            "steps": 900,
            "ema": 0.0,  # codes move when dead ones restart: an average of them is of no use
            "optimizer": {"learning_rate": 1e-2, "warmup": 50},
            "data": {"buckets": (bucket("questions", 1.0, 32, 180),)},
        },
        "mome": {
            "stage": "mome",
            "steps": 120,
            "optimizer": {"learning_rate": 2e-3, "warmup": 50},
            "data": {"buckets": (bucket("captions", 1.0, 48, 160),)},
        },
        "sft": {
            "stage": "sft",
            "steps": 6600,
            "code_noise": 0.05,
            "stale_tokens": 0.3,
            "optimizer": {"learning_rate": 1e-3, "warmup": 200},
            "data": {
                "buckets": (
                    bucket("code_questions", 0.25, 24, 180),
                    bucket("fine", 0.42, 16, 224, (1, 4)),
                    bucket("fine", 0.20, 10, 340, (5, 7)),
                    bucket("fine", 0.03, 6, 496, (8, 11)),
                    bucket("coarse", 0.05, 10, 296),
                    bucket("captions", 0.05, 24, 160),
                )
            },
        },
    }
    return config


def bucket(
    kind: str, share: float, rows: int, length: int, steps: tuple[int, int] = (1, 1)
) -> dict:
    """Batches of one shape: see `latentum_jax.train.data`."""
    return {"kind": kind, "share": share, "rows_a_batch": rows, "length": length, "steps": steps}
