"""Drawing one token: temperature, then top-k, then nucleus, with a key for every row."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

MIN_TEMPERATURE = 1e-5


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: temperature 0 or top_k 1 greedily; top_k 0 and top_p 1 filter nothing.

    The defaults are those of the public code.
    """

    temperature: float = 0.9
    top_k: int = 50
    top_p: float = 0.95

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"{self}: expected temperature >= 0, top_k >= 0 and top_p above 0, at most 1"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0 or self.top_k == 1


GREEDY = Sampling(temperature=0.0)
SAMPLED = Sampling()


def filter_logits(logits: Float[Array, "*b V"], sampling: Sampling) -> Float[Array, "*b V"]:
    """Scaled logits with everything outside top-k and the nucleus at -inf.

    The nucleus is the shortest run of likeliest tokens whose probabilities, after top-k, reach
    top_p: the token that crosses it stays.
    """
    logits = logits.astype(jnp.float32) / max(sampling.temperature, MIN_TEMPERATURE)
    if 0 < sampling.top_k < logits.shape[-1]:
        kth = jax.lax.top_k(logits, sampling.top_k)[0][..., -1:]
        logits = jnp.where(logits < kth, -jnp.inf, logits)
    if sampling.top_p < 1:
        order = jnp.argsort(-logits, axis=-1)
        probs = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), order, axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs
        rank = jnp.argsort(order, axis=-1)
        kept = jnp.take_along_axis(before <= sampling.top_p, rank, axis=-1)
        logits = jnp.where(kept, logits, -jnp.inf)
    return logits


def sample(keys: jax.Array, logits: Float[Array, "B V"], sampling: Sampling) -> Int[Array, "B"]:
    """One token a row, each drawn with its row's key [B]."""
    if sampling.greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    drawn = jax.vmap(jax.random.categorical)(keys, filter_logits(logits, sampling))
    return drawn.astype(jnp.int32)


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
