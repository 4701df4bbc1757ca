"""One draw from a row of logits: temperature, top-k, nucleus and the choice in one pass.

Nothing is sorted, in the kernel or without it: a sort takes a CPU ten times as long, and much more
of 151,936 words. Where the k-th likeliest logit lies, and where the nucleus ends, is found bit by
bit: 32 times it is counted how many logits, or how much of their probability, lie above a number.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from latentum_jax.kernels.dispatch import Target, dispatch

MIN_TEMPERATURE = 1e-5
LARGEST = 8192  # logits of a row that a kernel holds at once
LOWEST = -(2**31)


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


def pick(
    logits: Float[Array, "B V"], noise: Float[Array, "B V"], sampling: Sampling
) -> Int[Array, "B"]:
    """The token whose logit, if it is in top-k and in the nucleus, plus its noise is largest.

    With Gumbel noise that is a draw from the softmax of the filtered logits.
    """
    return dispatch(
        lambda target, *args: pick_kernel(target, *args, sampling),
        lambda *args: pick_twin(*args, sampling),
        logits,
        noise,
        fits=logits.shape[-1] <= LARGEST,
    )


def pick_twin(
    logits: Float[Array, "B V"], noise: Float[Array, "B V"], sampling: Sampling
) -> Int[Array, "B"]:
    """`pick` in plain JAX."""
    return jnp.argmax(noise + filter_logits(logits, sampling), axis=-1).astype(jnp.int32)


def filter_logits(logits: Float[Array, "*b V"], sampling: Sampling) -> Float[Array, "*b V"]:
    """Scaled logits with everything outside top-k and the nucleus at -inf.

    The nucleus is the shortest run of likeliest tokens whose probabilities, after top-k, reach
    top_p: the token that crosses it stays, and all that tie with it.
    """
    return _filtered(logits.astype(jnp.float32), sampling, logits.shape[-1])


def pick_kernel(
    target: Target, logits: Float[Array, "B V"], noise: Float[Array, "B V"], sampling: Sampling
) -> Int[Array, "B"]:
    """`pick` as a kernel."""
    rows, width = logits.shape
    group = 8 if target.kind == "tpu" else 1
    padded = max(128, pl.next_power_of_2(width)), -rows % group
    fill = lambda x, value: jnp.pad(  # noqa: E731
        x.astype(jnp.float32), ((0, padded[1]), (0, padded[0] - width)), constant_values=value
    )
    spec = pl.BlockSpec((group, padded[0]), lambda i: (i, 0))
    made = target.call(
        lambda *refs: _body(*refs, sampling=sampling, width=width),
        grid=((rows + padded[1]) // group,),
        numbers=(),
        in_specs=[spec, spec],
        out_specs=[pl.BlockSpec((group, 1), lambda i: (i, 0))],
        out_shape=[jax.ShapeDtypeStruct((rows + padded[1], 1), jnp.int32)],
        name="pick",
    )
    (picked,) = made(fill(logits, -jnp.inf), fill(noise, 0.0))
    return picked[:rows, 0]


def _body(logits_ref, noise_ref, picked_ref, *, sampling: Sampling, width: int) -> None:
    x = _filtered(logits_ref[...], sampling, width)
    scores = x + noise_ref[...]
    best = jnp.max(scores, axis=-1, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    first = jnp.min(jnp.where(scores == best, place, width), axis=-1, keepdims=True)
    picked_ref[...] = first


def _filtered(x: Float[Array, "*b V"], sampling: Sampling, width: int) -> Float[Array, "*b V"]:
    """`filter_logits` of rows of which `width` are logits and the rest, -inf, fills a block."""
    x = x / max(sampling.temperature, MIN_TEMPERATURE)
    if 0 < sampling.top_k < width:
        kth = _largest(x, lambda above: jnp.sum(above, axis=-1, keepdims=True) >= sampling.top_k)
        x = jnp.where(_ordered(x) < kth, -jnp.inf, x)
    if sampling.top_p < 1:
        mass = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
        limit = sampling.top_p * jnp.sum(mass, axis=-1, keepdims=True)
        share = lambda above: jnp.sum(mass * above, axis=-1, keepdims=True)  # noqa: E731
        end = _largest(x, lambda above: share(above) > limit)
        x = jnp.where(_ordered(x) < end, -jnp.inf, x)
    return x


def _ordered(x: Float[Array, "*b V"]) -> Int[Array, "*b V"]:
    """Integers in the order of the numbers."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _largest(x: Float[Array, "*b V"], enough) -> Int[Array, "*b 1"]:
    """The largest integer of which `enough` is true of the numbers (1 or 0) at or above it."""
    order = _ordered(x)

    def refine(i: Int[Array, ""], found: Int[Array, "*b 1"]) -> Int[Array, "*b 1"]:
        higher = found + jax.lax.shift_left(jnp.int32(1), 31 - i)  # the first step wraps around
        return jnp.where(enough((order >= higher).astype(jnp.float32)), higher, found)

    start = jnp.full((*x.shape[:-1], 1), LOWEST, jnp.int32)
    return jax.lax.fori_loop(0, 32, refine, start)
