"""`align` and `align_dynamics`: LatentUMM's aligner on paired embeddings (arXiv 2605.17766).

Parameters are those of `latentumm.aligner`. A batch holds `text` [B d_t] and `image` [B d_v].
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from latentum_jax.latentumm.aligner import Aligner
from latentum_jax.latentumm.losses import (
    cosine,
    generation_loss,
    modal_loss,
    preference_loss,
    rollouts,
    task_loss,
)
from latentum_jax.models.latentum import Params
from latentum_jax.train.stages.sequence import Batch
from latentum_jax.train.stages.stage import Metrics, Stage, Terms

LATENTS = ("text", "fused")
EVERYTHING = r""


def align_stage(model: Aligner, config: ConfigDict) -> Stage:
    """Stage 1: lambda_m mse(z_t, z_v) + lambda_t mse(z, enc(G(z))) + lambda_g mse(G(z), v).

    `alignment.latent` is what z is, "text" (z_t) or "fused" (z_f).
    """
    check_latent(config)

    def loss(params: Params, extra: dict, batch: Batch, key: jax.Array) -> tuple:
        _, terms, metrics = aligned(model, params, batch, key, config)
        return terms, (metrics, ())

    return Stage(trainable=EVERYTHING, loss=loss)


def align_dynamics_stage(model: Aligner, config: ConfigDict) -> Stage:
    """Stage 2: the terms of stage 1, and of K rollouts z + sigma eps the best over the worst.

    s_k = cos(z, enc(G(z_k))), L_pref = -log sigmoid(max s_k - min s_k).
    """
    check_latent(config)
    a = config.alignment

    def loss(params: Params, extra: dict, batch: Batch, key: jax.Array) -> tuple:
        z, terms, metrics = aligned(model, params, batch, key, config)
        noise, drop = jax.random.split(jax.random.fold_in(key, 1))
        z_k = rollouts(noise, z, a.rollouts, a.sigma)
        flat = z_k.reshape(-1, z.shape[-1])
        again = model.apply({"params": params}, flat, drop, method="reencode")
        scores = cosine(z[None], again.reshape(z_k.shape))
        terms["preference"] = a.preference * preference_loss(scores).mean()
        spread = jnp.mean(scores.max(0) - scores.min(0))
        return terms, (metrics | {"score": scores.mean(), "spread": spread}, ())

    return Stage(trainable=EVERYTHING, loss=loss)


def aligned(
    model: Aligner, params: Params, batch: Batch, key: jax.Array, config: ConfigDict
) -> tuple[jax.Array, Terms, Metrics]:
    """z, the weighted terms of stage 1, and how alike z_t and z_v, z and enc(G(z)) are."""
    a, (t, v) = config.alignment, (batch["text"], batch["image"])
    keys = jax.random.split(key, 4)
    apply = lambda method, *args: model.apply({"params": params}, *args, method=method)  # noqa: E731
    z_t, z_v = apply("encode_text", t, keys[0]), apply("encode_image", v, keys[1])
    z = z_t if a.latent == "text" else apply("fuse", t, v, keys[2])
    made = apply("generate", z)
    again = apply("encode_image", made, keys[3])
    terms = {
        "modal": a.modal * modal_loss(z_t, z_v).mean(),
        "task": a.task * task_loss(z, again).mean(),
        "generation": a.generation * generation_loss(made, v).mean(),
    }
    alike = {"cosine": cosine(z_t, z_v).mean(), "cycle": cosine(z, again).mean()}
    return z, terms, terms | alike


def check_latent(config: ConfigDict) -> None:
    """ValueError where `alignment.latent` is neither of the two."""
    latent = config.alignment.latent
    if latent not in LATENTS:
        raise ValueError(f"alignment.latent is {latent!r}, expected one of {LATENTS}")
