"""Drawing one token: temperature, then top-k, then nucleus, with a key for every row."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

from latentum_jax.kernels.sampling import Sampling, pick

GREEDY = Sampling(temperature=0.0)
SAMPLED = Sampling()


def sample(keys: jax.Array, logits: Float[Array, "B V"], sampling: Sampling) -> Int[Array, "B"]:
    """One token a row, each drawn with its row's key [B]."""
    if sampling.greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    return pick(logits, noise, sampling)


def log_prob(
    logits: Float[Array, "*b V"], tokens: Int[Array, "*b"], temperature: float
) -> Float[Array, "*b"]:
    """log pi(token), in nats, where pi = softmax(logits / temperature) with nothing cut off: what a
    policy is scored by, whichever filters it was sampled through."""
    scores = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    return jnp.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]


def row_keys(seeds: UInt[Array, "B"]) -> jax.Array:
    """A key a row, so that what a row draws does not depend on its batch mates."""
    return jax.vmap(jax.random.key)(seeds)


def fold(keys: jax.Array, data: Int[Array, "B"] | Int[Array, ""]) -> jax.Array:
    """Each row's key folded with its own number."""
    return jax.vmap(jax.random.fold_in)(keys, jnp.broadcast_to(data, keys.shape))


def row_seeds(seeds: Sequence[int] | None, count: int) -> UInt[Array, " B"]:
    """A seed a row, 0, 1, ... where none are given. Raises ValueError where they do not fit."""
    seeds = range(count) if seeds is None else seeds
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} rows, expected one a row")
    if any(not 0 <= seed < 1 << 32 for seed in seeds):
        raise ValueError(f"seeds are {list(seeds)}, expected whole numbers from 0 below 2^32")
    return jnp.asarray(list(seeds), jnp.uint32)
