"""`mbaq`: the quantizer learns to keep what the frozen model needs to answer (3.1.1, A.1)."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.models.quantizer import Quantized, restart_dead_codes, usage_of
from latentum_jax.tokenizer import SpecialIds
from latentum_jax.train.losses import (
    Sums,
    kl_sums,
    loss_and_accuracy,
    mcq_loss,
    mean_of,
    reconstruction_loss,
    text_sums,
)
from latentum_jax.train.stages.sequence import (
    Batch,
    Pictures,
    apply,
    read_pictures,
    shown_pictures,
    text_count,
)
from latentum_jax.train.stages.stage import Metrics, Stage, Terms
from latentum_jax.train.stages.vlm import answer_hidden, answer_sums

OBJECTIVES = ("kl", "mse", "cosine")


def mbaq_stage(model: LatentUM, config: ConfigDict, ids: SpecialIds) -> Stage:
    """KL to the same model on unquantized features (or an ablation's distance) + L_MCQ."""
    q = model.config.quantizer
    objective, chunk = config.objective, config.loss_chunk
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}, expected one of {OBJECTIVES}")

    def loss(params: Params, extra: dict, batch: Batch, key: jax.Array) -> tuple:
        pictures = read_pictures(model, params, batch, quantize=False)
        target = shown_pictures(model, params, batch, pictures, None)
        quantized, made = quantized_pictures(model, params, pictures)
        student = answer_hidden(model, params, batch, made)
        if objective == "kl":
            teacher = jax.lax.stop_gradient(answer_hidden(model, params, batch, target))
            sums = answer_sums(both_sums, model, params, batch, [teacher, student], chunk)
            aligned = mean_of(*sums[:2])
        else:
            sums = answer_sums(text_sums, model, params, batch, [student], chunk)
            aligned = reconstruction_loss(objective, target, made)
        mcq = mcq_loss(
            quantized.z,
            quantized.codes,
            params["quantizer"]["codebook"],
            commitment=q.commitment,
            entropy=q.entropy,
        )
        answer, accuracy = loss_and_accuracy(sums[-4:])
        metrics: Metrics = {"aligned": aligned, "answer": answer, "accuracy": accuracy}
        metrics |= {f"mcq_{name}": value for name, value in mcq.items()}
        terms = {"aligned": aligned, "mcq": mcq["total"]}
        return terms, (metrics, (quantized.z, quantized.codes))

    def counts(batch: Batch) -> Terms:
        return {"aligned": text_count(batch)} if objective == "kl" else {}

    def after(trainable: dict, extra: dict, left: tuple, key: jax.Array) -> tuple:
        z, codes = left
        usage = q.usage_decay * extra["usage"]
        usage += (1 - q.usage_decay) * usage_of(codes, q.codebook_size)
        codebook, usage, dead = restart_dead_codes(
            key, trainable["quantizer/codebook"], usage, z, q
        )
        share = usage / usage.sum(-1, keepdims=True)
        perplexity = jnp.exp(-jnp.sum(share * jnp.log(share + 1e-9), -1)).mean()
        metrics = {"restarted": dead.sum().astype(jnp.float32), "perplexity": perplexity}
        return {**trainable, "quantizer/codebook": codebook}, {"usage": usage}, metrics

    start_usage = jnp.full((q.num_codebooks, q.codebook_size), 1.0 / q.codebook_size)
    extra = {"usage": start_usage}
    return Stage(trainable=r"^quantizer/", loss=loss, counts=counts, extra=extra, after=after)


def both_sums(teacher: jax.Array, student: jax.Array, *labels: jax.Array) -> Sums:
    """Sums of the divergence, and of the student's own losses and hits."""
    return *kl_sums(teacher, student, *labels), *text_sums(student, *labels)


def quantized_pictures(
    model: LatentUM, params: Params, pictures: Pictures
) -> tuple[Quantized, jax.Array]:
    """What the quantizer makes of the frozen features, and up_proj(z_q) [B J L D] for mlp1's."""
    b, j = pictures.features.shape[:2]
    features = jax.lax.stop_gradient(pictures.features)
    quantized = apply(model, params, "quantize", features.reshape(b * j, *features.shape[2:]))
    made = apply(model, params, "understand_quantized", quantized.z_q)
    return quantized, made.reshape(b, j, *made.shape[1:])
