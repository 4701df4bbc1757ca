"""`latentumm`: dual latent alignment inside the unified model (LatentUMM's stage 2).

The model's own loss, that of `sft`, plus terms over z_t and z_v, the mean hidden states of a
sample's text and of its images, and two mappers m and n that the stage adds to the parameters
("mappers") and takes out again before the model is written. A batch may hold the sample's
embeddings `text_embedding` [B d_t] and `image_embedding` [B d_v], from a stronger model.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from latentum_jax.latentumm.aligner import Aligner
from latentum_jax.latentumm.folder import AlignerFolder, read_aligner_folder
from latentum_jax.latentumm.losses import (
    cosine,
    modal_loss,
    preference_loss,
    rollouts,
    target_loss,
    task_loss,
)
from latentum_jax.latentumm.mappers import Mappers, init_mapper_params
from latentum_jax.latentumm.represent import image_states, mean_over
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.tokenizer import SpecialIds
from latentum_jax.train.losses import mean_of
from latentum_jax.train.stages.sequence import Batch
from latentum_jax.train.stages.sft import both_sequences, own_counts, own_terms, trainable_of
from latentum_jax.train.stages.stage import Stage, Terms

ADDED = ("mappers", "teacher")  # parts of the parameters that are not the model's
NO_TEACHER = "none"
IMAGES = ("sequence", "read")


def latentumm_stage(model: LatentUM, config: ConfigDict, ids: SpecialIds) -> Stage:
    """The terms of `sft` and, weighted, L_modal, L_task, L_pref and, of samples with embeddings,
    L_target. Options under `alignment`:

    teacher: "none", as published: the targets are the sample's embeddings themselves, which no
      published data set has; or the folder of a trained aligner, whose z_t and z_v of these
      embeddings are the targets then.
    image: z_v is taken over the places of images in the "sequence" that the loss runs over, as
      published; or of the target images as the understanding branch "read"s them back, alone.
    """
    a = config.alignment
    if a.image not in IMAGES:
        raise ValueError(f"alignment.image is {a.image!r}, expected one of {IMAGES}")
    if a.image == "read" and config.part == "language":
        raise ValueError("alignment.image is 'read', which needs target images: part is 'language'")
    if config.data.packed:
        raise ValueError("data.packed is True, expected a sample a row: each has its own latents")
    teacher = None if a.teacher == NO_TEACHER else read_aligner_folder(a.teacher)
    latent_dim = teacher.config.latent_dim if teacher else config.aligner.latent_dim
    mappers = Mappers(model.config.language.hidden_size, latent_dim)
    targets = targets_of(teacher)

    def loss(params: Params, extra: dict, batch: Batch, key: jax.Array) -> tuple:
        read, hidden, codes = both_sequences(model, params, batch, key, config, ids)
        terms, metrics = own_terms(model, params, read, hidden, codes, config)
        z_t, z_v = latents(model, params, batch, hidden, codes, ids, a.image)
        kept = jnp.all(read["tokens"] == batch["tokens"], axis=1)  # its prompt was not dropped
        own = mappers, params["mappers"]
        more, alike = alignment_terms(*own, z_t, z_v, targets(params, batch), key, a)
        weight, count = pairs(batch, config) * kept, pair_count(batch, config)
        mean = lambda x: mean_of(jnp.sum(x * weight), count)  # noqa: E731
        more, alike = jax.tree.map(mean, more), jax.tree.map(mean, alike)
        terms |= {name: a[name] * value for name, value in more.items()}
        return terms, (metrics | terms | alike, ())

    def counts(batch: Batch) -> Terms:
        ours = ("modal", "target", "task", "preference")
        return own_counts(batch) | dict.fromkeys(ours, pair_count(batch, config))

    def start(params: Params) -> Params:
        width = model.config.language.hidden_size
        added = {"mappers": init_mapper_params(width, latent_dim, config.seed)}
        return {**params, **added, **({"teacher": teacher.params} if teacher else {})}

    trainable = rf"^mappers/|{trainable_of(config)}"
    return Stage(trainable=trainable, loss=loss, counts=counts, start=start, finish=without_added)


def without_added(params: Params) -> Params:
    """The model's own parameters."""
    return {name: part for name, part in params.items() if name not in ADDED}


def alignment_terms(
    mappers: Mappers,
    params: Params,
    z_t: Float[Array, "B D"],
    z_v: Float[Array, "B D"],
    targets: tuple[Array, Array] | None,
    key: jax.Array,
    options: ConfigDict,
) -> tuple[Terms, Terms]:
    """The terms of each sample [B], unweighted, and how alike its latents are.

    Where a term is of one z alone, it is the mean of those of z_t and z_v.
    """
    apply = lambda x, method=None: mappers.apply({"params": params}, x, method=method)  # noqa: E731
    both = jnp.stack([z_t, z_v])
    mapped = apply(both, "map")
    terms = {
        "modal": modal_loss(*mapped),
        "task": task_loss(both, apply(mapped, "unmap")).mean(0),
    }
    if targets is not None:
        for target in targets:
            if target.shape[-1] != mapped.shape[-1]:
                raise ValueError(
                    f"a target of width {target.shape[-1]}, {mapped.shape[-1]} is that of the "
                    "mappers (aligner.latent_dim, or the teacher's)"
                )
        terms["target"] = target_loss(*mapped, *targets)
    z_k = rollouts(jax.random.fold_in(key, 2), both, options.rollouts, options.sigma)
    terms["preference"] = preference_loss(cosine(both[None], apply(z_k))).mean(0)
    return terms, {"cosine": cosine(z_t, z_v), "mapped_cosine": cosine(*mapped)}


def targets_of(
    teacher: AlignerFolder | None,
) -> Callable[[Params, Batch], tuple[Array, Array] | None]:
    """(params, batch) -> e_t, e_v, or None of a batch without embeddings."""

    def targets(params: Params, batch: Batch) -> tuple[Array, Array] | None:
        if "text_embedding" not in batch:
            return None
        e_t, e_v = batch["text_embedding"], batch["image_embedding"]
        if teacher is None:
            return e_t, e_v
        for name, own in (("text", e_t), ("image", e_v)):
            width = getattr(teacher.config, f"{name}_dim")
            if own.shape[-1] != width:
                raise ValueError(
                    f"{name} embeddings have {own.shape[-1]} numbers, the teacher takes {width}"
                )
        aligner, own = Aligner(teacher.config), {"params": params["teacher"]}
        made = (
            aligner.apply(own, e_t, method="encode_text"),
            aligner.apply(own, e_v, method="encode_image"),
        )
        return jax.lax.stop_gradient(made)

    return targets


def latents(
    model: LatentUM,
    params: Params,
    batch: Batch,
    hidden: dict[str, jax.Array],
    codes: jax.Array | None,
    ids: SpecialIds,
    image: str,
) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
    """z_t, over the words of U, and z_v, over the slots of its images and over the G blocks; or
    over the target images as they are read back."""
    z_t, _ = mean_over(hidden["und"], words(batch))
    if image == "read":
        b, g, length, count = codes.shape
        states = image_states(model, params, codes.reshape(b * g, length, count), ids)
        return z_t, mean_over(states.reshape(b, g, -1), batch["target_valid"])[0]
    x, mask = hidden["und"], batch["valid"] & (batch["image_index"] >= 0)
    if codes is not None:
        drawn = jnp.repeat(batch["target_valid"], codes.shape[2], axis=1)
        x = jnp.concatenate([x, hidden["gen"]], axis=1)
        mask = jnp.concatenate([mask, drawn], axis=1)
    return z_t, mean_over(x, mask)[0]


def words(batch: Batch) -> jax.Array:
    """Places [B T] of U that are no slot of an image."""
    return batch["valid"] & (batch["image_index"] < 0)


def pairs(batch: Batch, config: ConfigDict) -> jax.Array:
    """1.0 for each sample [B] that has words and an image, 0.0 for others."""
    drawn = jnp.any(batch["target_valid"], axis=1)
    if config.alignment.image == "read":
        seen = drawn
    else:
        seen = jnp.any(batch["valid"] & (batch["image_index"] >= 0), axis=1)
        seen = seen if config.part == "language" else seen | drawn
    return (jnp.any(words(batch), axis=1) & seen).astype(jnp.float32)


def pair_count(batch: Batch, config: ConfigDict) -> jax.Array:
    """How many these are."""
    return jnp.sum(pairs(batch, config))
