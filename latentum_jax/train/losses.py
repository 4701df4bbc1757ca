"""Training objectives, each one equation of the paper. All are computed in fp32."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from latentum_jax.models.quantizer import look_up, squared_distances


def weighted_mean(values: Shaped[Array, "*b"], weights: Shaped[Array, "*b"]) -> Float[Array, ""]:
    """Mean over the places that count (a mask), or count more or less; 0 where none does."""
    return mean_of(jnp.sum(values * weights), jnp.sum(weights))


Sums = tuple[Float[Array, ""], ...]


def text_sums(
    logits: Float[Array, "*b vocab"], labels: Int[Array, "*b"], weights: Float[Array, "*b"]
) -> Sums:
    """Cross-entropies by weight and the weights, hits of the greedy guess and their number, summed
    over labels >= 0."""
    mask = labels >= 0
    safe = jnp.where(mask, labels, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, safe)
    hits, counts = (jnp.argmax(logits, -1) == safe) & mask, weights * mask
    total = lambda x: jnp.sum(x, dtype=jnp.float32)  # noqa: E731
    return total(losses * counts), total(counts), total(hits), total(mask)


def loss_and_accuracy(sums: Sums) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Of `text_sums`."""
    loss, weight, hits, count = sums
    return mean_of(loss, weight), mean_of(hits, count)


def mean_of(total: Shaped[Array, ""], weight: Shaped[Array, ""]) -> Float[Array, ""]:
    """total / weight; 0 where nothing counts."""
    return total / jnp.where(weight > 0, weight, 1)


def over_words(
    sums: Callable[..., Sums],
    head: Callable[[Array], Array],
    hidden: Sequence[Float[Array, "B T D"]],
    labels: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    chunk: int,
) -> Sums:
    """`sums(*logits, labels, weights)` of the next tokens, where logits are head(hidden).

    Labels and weights stand at their own token: logits at t are scored against the label at t + 1.
    With `chunk` above 0 logits of about so many tokens, some of every row, are in memory at once,
    in the backward pass as well: a batch's, at 151,936 words, would be a step's largest array.
    """
    labels, weights = labels[:, 1:], weights[:, 1:]
    if not chunk:
        return sums(*(head(h)[:, :-1] for h in hidden), labels, weights)
    width = max(1, chunk // len(labels))

    def of(part: tuple[Array, ...]) -> Sums:
        *some, labels, weights = part
        return sums(*map(head, some), labels, weights)

    @jax.checkpoint
    def add(total: Sums, part: tuple[Array, ...]) -> tuple[Sums, None]:
        return jax.tree.map(jnp.add, total, of(part)), None

    cut = functools.partial(_in_chunks, width=width)
    parts = *(cut(h[:, :-1]) for h in hidden), cut(labels, fill=-1), cut(weights)
    shapes = jax.eval_shape(of, tuple(x[0] for x in parts))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zero, parts)[0]


def map_chunks(
    function: Callable[..., Array], given: Sequence[Shaped[Array, "B T *_"]], chunk: int
) -> Shaped[Array, "B T *_"]:
    """`function(*given)`, which makes something of every token by itself, for about `chunk` tokens
    at once, some of every row; 0 for all. Nothing but the result is kept for a backward pass."""
    if not chunk:
        return function(*given)
    b, t = given[0].shape[:2]
    parts = tuple(_in_chunks(x, width=max(1, chunk // b)) for x in given)
    made = jax.lax.map(jax.checkpoint(lambda part: function(*part)), parts)
    return made.swapaxes(0, 1).reshape(b, -1, *made.shape[3:])[:, :t]


def _in_chunks(x: Array, *, width: int, fill: int = 0) -> Array:
    """[B T ...] as [chunks B width ...], padded at the end."""
    rest = [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % width), *rest], constant_values=fill)
    return x.reshape(len(x), -1, width, *x.shape[2:]).swapaxes(0, 1)


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


def kl_sums(
    teacher: Float[Array, "*b vocab"],
    student: Float[Array, "*b vocab"],
    labels: Int[Array, "*b"],
    weights: Float[Array, "*b"],
) -> Sums:
    """KL(teacher || student) by weight (MBAQ) and the weights, summed over labels >= 0."""
    counts = weights * (labels >= 0)
    return jnp.sum(divergence(teacher, student) * counts), jnp.sum(counts)


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
    objective: str, target: Float[Array, "*b L D"], made: Float[Array, "*b L D"]
) -> Float[Array, ""]:
    """The ablations of MBAQ's KL: `mse` or `cosine` distance between embeddings (appendix A.1)."""
    if objective == "mse":
        return jnp.mean((target - made) ** 2)
    cosine = optax.losses.cosine_similarity(made, target, epsilon=1e-6)
    return jnp.mean(1.0 - cosine)
