"""Training objectives, each one equation of the paper. All are computed in fp32."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from latentum_jax.models.quantizer import look_up, squared_distances


def weighted_mean(values: Shaped[Array, "*b"], weights: Shaped[Array, "*b"]) -> Float[Array, ""]:
    """Mean over the places that count (a mask), or count more or less; 0 where none does."""
    total = jnp.sum(weights)
    return jnp.sum(values * weights) / jnp.where(total > 0, total, 1)


def text_loss(
    logits: Float[Array, "B T vocab"], labels: Int[Array, "B T"], weights: Float[Array, "B T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Weighted next-token cross-entropy over labels >= 0, and the accuracy of the greedy guess.

    Labels and weights stand at their own token: logits at t are scored against the label at t + 1.
    """
    logits, labels = logits[:, :-1], labels[:, 1:]
    mask = labels >= 0
    safe = jnp.where(mask, labels, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, safe)
    hits = jnp.argmax(logits, -1) == safe
    return weighted_mean(losses, weights[:, 1:] * mask), weighted_mean(hits, mask)


def code_loss(
    logits: Float[Array, "*b C V"], codes: Int[Array, "*b C"], mask: Bool[Array, "*b"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy over the C codes of each visual token that counts, and greedy accuracy."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, codes)
    hits = jnp.argmax(logits, -1) == codes
    return weighted_mean(losses.mean(-1), mask), weighted_mean(hits.mean(-1), mask)


def divergence(
    teacher: Float[Array, "*b vocab"], student: Float[Array, "*b vocab"]
) -> Float[Array, "*b"]:
    """KL(teacher || student) of distributions given by their logits, in nats."""
    p, q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    return jnp.sum(jnp.exp(p) * (p - q), axis=-1)


def kl_loss(
    teacher: Float[Array, "B T vocab"],
    student: Float[Array, "B T vocab"],
    labels: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> Float[Array, ""]:
    """KL(teacher || student) of the next-token distributions over answer positions (MBAQ)."""
    answers = weights[:, 1:] * (labels[:, 1:] >= 0)
    return weighted_mean(divergence(teacher[:, :-1], student[:, :-1]), answers)


def mcq_loss(
    z: Float[Array, "B L E"],
    codes: Int[Array, "B L C"],
    codebook: Float[Array, "C V d"],
    *,
    commitment: float,
    entropy: float,
) -> dict[str, Float[Array, ""]]:
    """L_MCQ of appendix A.1, averaged over codebooks: `total`, `codebook_commitment`, `entropy`.

    ||z - sg e||^2 is weighted by `commitment` and ||sg z - e||^2 by 1, as the public code has it;
    `entropy` x H(mean over positions of softmax(-d^2)) is subtracted.
    """
    e = look_up(codes, codebook)
    stop = jax.lax.stop_gradient
    pull = jnp.mean((stop(z) - e) ** 2) + commitment * jnp.mean((z - stop(e)) ** 2)
    flat = z.reshape(-1, z.shape[-1])
    share = jnp.mean(jax.nn.softmax(-squared_distances(flat, codebook), axis=-1), axis=0)
    spread = -jnp.mean(jnp.sum(share * jnp.log(share + 1e-8), axis=-1))
    return {
        "total": pull - entropy * spread,
        "codebook_commitment": pull,
        "entropy": spread,
    }


def reconstruction_loss(
    objective: str, target: Float[Array, "B L D"], made: Float[Array, "B L D"]
) -> Float[Array, ""]:
    """The ablations of MBAQ's KL: `mse` or `cosine` distance between embeddings (appendix A.1)."""
    if objective == "mse":
        return jnp.mean((target - made) ** 2)
    cosine = optax.losses.cosine_similarity(made, target, epsilon=1e-6)
    return jnp.mean(1.0 - cosine)
