"""`vlm`: the ViT, mlp1 and the understanding branch learn to answer questions about pictures.

At full size this is InternVL's own training; the tiny model has nothing to start from but this.
"""

import jax
from ml_collections import ConfigDict

from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.models.mome import Stream
from latentum_jax.tokenizer import SpecialIds
from latentum_jax.train.losses import text_loss
from latentum_jax.train.stages.sequence import (
    Batch,
    apply,
    read_pictures,
    shown_pictures,
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
        logits = answer_logits(model, params, batch, shown)
        value, accuracy = text_loss(logits, batch["labels"], batch["weights"])
        metrics: Metrics = {"accuracy": accuracy}
        return value, (metrics, ())

    return Stage(trainable=rf"^vision/|^mlp1/|{UNDERSTANDING}", loss=loss)


def answer_logits(model: LatentUM, params: Params, batch: Batch, shown: jax.Array) -> jax.Array:
    """Next-token logits [B T vocab] of U alone, its pictures embedded as `shown` [B J L D]."""
    x = {"und": understanding_inputs(model, params, batch, shown)}
    stream = Stream({"und": understanding_placement(batch)})
    hidden, _ = apply(model, params, "hidden", x, stream)
    return apply(model, params, "text_logits", hidden["und"])
