"""`mome`: the generation branch learns to draw codes from text (section 3.2, A.2)."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from latentum_jax.models.latentum import LatentUM, Params, start_generation_branch
from latentum_jax.tokenizer import SpecialIds
from latentum_jax.train.losses import code_loss
from latentum_jax.train.stages.sequence import Batch, apply, dual_sequence
from latentum_jax.train.stages.stage import Stage


def mome_stage(model: LatentUM, config: ConfigDict, ids: SpecialIds) -> Stage:
    """Teacher-forced cross-entropy of the codes; the prompt is dropped now and then (for CFG)."""

    def loss(params: Params, extra: dict, batch: Batch, key: jax.Array) -> tuple:
        batch = drop_condition(batch, key, config.condition_dropout, ids.pad)
        made = dual_sequence(model, params, batch, key, img=ids.img, und_learns=False)
        hidden, codes = made
        value, accuracy = drawn_loss(model, params, batch, hidden["gen"], codes)
        return {"drawn": value}, ({"code_accuracy": accuracy}, ())

    return Stage(
        trainable=r"^language/layers/gen/|^visual_projector/|^head/",
        loss=loss,
        counts=lambda batch: {"drawn": jnp.sum(batch["target_valid"])},
        start=start_generation_branch,
    )


def drop_condition(batch: Batch, key: jax.Array, ratio: float, pad: int) -> Batch:
    """Replaces the prompt by pads in a share of the samples that learn to draw alone (for CFG), in
    rows that hold no others."""
    base, drawing = batch["base"], jnp.all(batch["labels"] < 0, axis=1)
    first = jax.random.bernoulli(key, ratio, drawing.shape)[:, None]
    others = jax.random.bernoulli(jax.random.fold_in(key, 1), ratio, base.shape)
    drop = jnp.where(base == 0, first, jnp.take_along_axis(others, base, axis=1))
    return {**batch, "tokens": jnp.where(drop & drawing[:, None], pad, batch["tokens"])}


def drawn_loss(
    model: LatentUM, params: Params, batch: Batch, hidden: jax.Array, codes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Loss and accuracy of the vision head over all G blocks, averaged over target pictures."""
    b, g, length, count = codes.shape
    flat = codes.reshape(b * g * length, count)
    logits = apply(model, params, "code_logits", hidden.reshape(b * g * length, -1), flat)
    mask = jnp.broadcast_to(batch["target_valid"][:, :, None], (b, g, length)).reshape(-1)
    return code_loss(logits, flat, mask)
