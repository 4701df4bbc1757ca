"""A tiny world model: every stage of the paper, from nothing, in rooms made on the fly."""

import dataclasses

from ml_collections import ConfigDict

from latentum_jax.config import LatentUMConfig
from latentum_jax.configs.base import base
from latentum_jax.configs.frozenlake_tiny import bucket


def nav_model() -> LatentUMConfig:
    """`tiny`, of 96 px pictures as they are, with 64 codes a codebook: a patch shows more things
    than a cell of a maze."""
    tiny = LatentUMConfig.tiny()
    return dataclasses.replace(
        tiny,
        vision=dataclasses.replace(tiny.vision, canvas=None),
        quantizer=dataclasses.replace(tiny.quantizer, codebook_size=64),
    )


def get_config() -> ConfigDict:
    """vlm -> mbaq -> mome -> sft -> world, which is sft with little but futures to learn."""
    config = base(nav_model())
    config.tokenizer = "navigation"
    config.chat.system = ""
    config.data.source = "navigation"
    config.ema = 0.998
    config.chain = ("vlm", "mbaq", "mome", "sft", "world")
    config.links = {
        "vlm": {
            "stage": "vlm",
            "steps": 3000,
            "optimizer": {"learning_rate": 1.5e-3, "weight_decay": 0.3},
            "data": {"buckets": (bucket("questions", 1.0, 32, 272),)},
        },
        "mbaq": {
            "stage": "mbaq",
            "steps": 1200,
            "ema": 0.0,  # codes move when dead ones restart: an average of them is of no use
            "optimizer": {"learning_rate": 1e-2, "warmup": 50},
            "data": {"buckets": (bucket("questions", 1.0, 32, 272),)},
        },
        "mome": {
            "stage": "mome",
            "steps": 300,
            "optimizer": {"learning_rate": 2e-3, "warmup": 50},
            "data": {"buckets": (bucket("captions", 1.0, 48, 64),)},
        },
        "sft": {
            "stage": "sft",
            "steps": 8000,
            **_futures(0.7, 0.25),
        },
        "world": {
            "stage": "sft",
            "steps": 1437,  # what an H100 had time for
            **_futures(0.86, 0.1),
        },
    }
    return config


def _futures(world: float, questions: float) -> dict:
    """What `sft` and `world` share; shares of the two kinds of samples, captions being the rest."""
    return {
        "code_noise": 0.05,
        "stale_tokens": 0.3,
        "optimizer": {"learning_rate": 1e-3, "warmup": 200},
        "data": {
            "buckets": (
                bucket("world", world, 24, 352, (8, 8)),  # futures of a past
                bucket("code_questions", questions, 24, 272),
                bucket("captions", round(1 - world - questions, 2), 48, 64),
            )
        },
    }
