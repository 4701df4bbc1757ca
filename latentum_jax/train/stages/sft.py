"""`sft`: interleaved reasoning (section 3.3), U and G in one pass, or the published two steps."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.tokenizer import SpecialIds
from latentum_jax.train.losses import loss_and_accuracy, text_sums
from latentum_jax.train.stages.mome import drawn_loss, drop_condition
from latentum_jax.train.stages.sequence import Batch, dual_sequence, text_count
from latentum_jax.train.stages.stage import Metrics, Stage, Terms
from latentum_jax.train.stages.vlm import UNDERSTANDING, answer_sums

GENERATION = r"^language/layers/gen/|^head/"
TRAINABLE = {
    "joint": rf"^visual_projector/|{GENERATION}|{UNDERSTANDING}",
    "language": UNDERSTANDING,
    "vision": GENERATION,
}


def sft_stage(model: LatentUM, config: ConfigDict, ids: SpecialIds) -> Stage:
    """Text cross-entropy over U plus code cross-entropy over G.

    `config.part`: "joint" trains both at once (the paper); "language" and then "vision" are the
    two steps of the public code, each with its own half of the loss.
    """

    def loss(params: Params, extra: dict, batch: Batch, key: jax.Array) -> tuple:
        batch, hidden, codes = both_sequences(model, params, batch, key, config, ids)
        terms, metrics = own_terms(model, params, batch, hidden, codes, config)
        return terms, (metrics | terms, ())

    return Stage(trainable=trainable_of(config), loss=loss, counts=own_counts)


def trainable_of(config: ConfigDict) -> str:
    """What trains of the model. Raises ValueError for another `part` than those of `TRAINABLE`."""
    if config.part not in TRAINABLE:
        raise ValueError(f"part is {config.part!r}, expected one of {tuple(TRAINABLE)}")
    return TRAINABLE[config.part]


def both_sequences(
    model: LatentUM,
    params: Params,
    batch: Batch,
    key: jax.Array,
    config: ConfigDict,
    ids: SpecialIds,
) -> tuple[Batch, dict[str, jax.Array], jax.Array | None]:
    """The batch as it is read, some prompts dropped, and what `dual_sequence` makes of it."""
    batch = drop_condition(batch, key, config.condition_dropout, ids.pad)
    if config.part == "language":
        batch = {**batch, "target_slot": batch["target_slot"][:, :0]}
    hidden, codes = dual_sequence(
        model,
        params,
        batch,
        key,
        img=ids.img,
        noise=config.code_noise,
        stale=config.stale_tokens,
        cut=config.cut,
    )
    return batch, hidden, codes


def own_terms(
    model: LatentUM,
    params: Params,
    batch: Batch,
    hidden: dict[str, jax.Array],
    codes: jax.Array | None,
    config: ConfigDict,
) -> tuple[Terms, Metrics]:
    """Losses of the words and of the codes that `part` has, and the shares guessed rightly."""
    terms, metrics = {}, {}
    if config.part != "vision":
        states, chunk = [hidden["und"]], config.loss_chunk
        sums = answer_sums(text_sums, model, params, batch, states, chunk)
        terms["text"], metrics["accuracy"] = loss_and_accuracy(sums)
    if codes is not None:
        drawn = drawn_loss(model, params, batch, hidden["gen"], codes)
        terms["drawn"], metrics["code_accuracy"] = drawn
    return terms, metrics


def own_counts(batch: Batch) -> Terms:
    """Places that these terms are means over."""
    return {"text": text_count(batch), "drawn": jnp.sum(batch["target_valid"])}
