"""AdamW with a warm-up and a cosine decay, gradients clipped by their global norm."""

import optax
from ml_collections import ConfigDict

from latentum_jax.models.layers import LORA_A, LORA_B


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate: up linearly over `warmup` steps, then by a cosine down to `end_share`."""
    warmup = min(config.warmup, max(steps - 1, 0))
    return optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        warmup,
        max(steps, warmup + 1),
        config.learning_rate * config.end_share,
    )


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """The optimizer of every stage; weight decay spares vectors (norms, biases, scales)."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            make_schedule(config, steps),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=lambda params: {name: is_matrix(name) for name in params},
        ),
    )


def is_matrix(path: str) -> bool:
    """Whether a parameter is a matrix of a linear map."""
    return path.endswith(("/kernel", "/lm_head", f"/{LORA_A}", f"/{LORA_B}"))
