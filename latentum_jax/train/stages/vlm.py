"""`vlm`: the ViT, mlp1 and the understanding branch learn to answer questions about pictures.

At full size this is InternVL's own training; the tiny model has nothing to start from but this.
"""

import functools
from collections.abc import Callable, Sequence

import jax
from ml_collections import ConfigDict

from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.models.mome import Stream
from latentum_jax.tokenizer import SpecialIds
from latentum_jax.train.losses import Sums, loss_and_accuracy, over_words, text_sums
from latentum_jax.train.stages.sequence import (
    Batch,
    apply,
    read_pictures,
    shown_pictures,
    text_count,
    understanding_inputs,
    understanding_placement,
)
from latentum_jax.train.stages.stage import Metrics, Stage

UNDERSTANDING = (
    r"^language/(embed_tokens|lm_head|norm/|layers/(und|input_norm|post_attention_norm)/)"
)


def vlm_stage(model: LatentUM, config: ConfigDict, ids: SpecialIds) -> Stage:
    """Cross-entropy on the answers, from continuous features."""

    def loss(params: Params, extra: dict, batch: Batch, key: jax.Array) -> tuple:
        pictures = read_pictures(model, params, batch, quantize=False)
        shown = shown_pictures(model, params, batch, pictures, None)
        hidden = answer_hidden(model, params, batch, shown)
        sums = answer_sums(text_sums, model, params, batch, [hidden], config.loss_chunk)
        value, accuracy = loss_and_accuracy(sums)
        metrics: Metrics = {"accuracy": accuracy}
        return {"text": value}, (metrics, ())

    counts = lambda batch: {"text": text_count(batch)}  # noqa: E731
    return Stage(trainable=rf"^vision/|^mlp1/|{UNDERSTANDING}", loss=loss, counts=counts)


def answer_logits(model: LatentUM, params: Params, batch: Batch, shown: jax.Array) -> jax.Array:
    """Next-token logits [B T vocab] of U alone, its pictures embedded as `shown` [B J L D]."""
    return apply(model, params, "text_logits", answer_hidden(model, params, batch, shown))


def answer_hidden(model: LatentUM, params: Params, batch: Batch, shown: jax.Array) -> jax.Array:
    """What these logits are made of, [B T D]."""
    x = {"und": understanding_inputs(model, params, batch, shown)}
    stream = Stream({"und": understanding_placement(batch)})
    hidden, _ = apply(model, params, "hidden", x, stream)
    return hidden["und"]


def answer_sums(
    sums: Callable[..., Sums],
    model: LatentUM,
    params: Params,
    batch: Batch,
    hidden: Sequence[jax.Array],
    chunk: int,
) -> Sums:
    """`sums` of the next-token logits of hidden states [B T D], see `losses.over_words`."""
    head = functools.partial(apply, model, params, "text_logits")
    return over_words(sums, head, hidden, batch["labels"], batch["weights"], chunk)
