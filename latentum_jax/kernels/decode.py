"""Attention of one new token a row over its cache, as far as the row has filled it.

The cache is split along its slots into blocks; every block gives its own softmax (sum, largest
score and mixed values), so that a single row still keeps a whole GPU busy, and these are put
together at the end. Blocks behind a row's end are not read.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from latentum_jax.kernels.dispatch import Target, dispatch, product
from latentum_jax.kernels.flash import forward_twin
from latentum_jax.kernels.placement import Placement

SMALLEST = 128  # slots of a block at least
MOST = 32  # blocks of a row at most
MASKED = -1e30  # a finite stand-in for -inf
TWIN_SMALLEST, TWIN = 64, 2048  # slots of its blocks at least, and of all rows together


def decode_attention(
    q: Float[Array, "B N H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    lengths: Int[Array, "B"],
    *,
    filled: bool = False,
) -> Float[Array, "B N H"]:
    """Softmax attention of q, which is scaled already, over the first `lengths` slots of its row.

    Scores and softmax are in fp32. A row of length 0 gives zeros. `filled`: most slots are.
    """
    h, slots = q.shape[-1], k.shape[2]
    fits = slots >= SMALLEST and h >= 16 and pl.next_power_of_2(h) == h
    twin = functools.partial(decode_twin, filled=filled)
    return dispatch(decode_kernel, twin, q, k, v, lengths, fits=fits)


def decode_twin(
    q: Float[Array, "B N H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    lengths: Int[Array, "B"],
    *,
    filled: bool = False,
) -> Float[Array, "B N H"]:
    """`decode_attention` in plain JAX, block after block of slots up to the longest row's end.

    A block is copied out before it is read: a cache that is `filled` is read whole, in its place.
    """
    b, slots = len(q), k.shape[2]
    size = slots if filled else min(slots, max(TWIN_SMALLEST, TWIN // b))
    q, q_at = q[:, :, None], Placement.causal(lengths[:, None] - 1)

    def block(i: Array, before: tuple[Array, Array]) -> tuple[Array, Array]:
        o, lse = before
        start = jnp.minimum(i * size, slots - size)
        places = start + jnp.arange(size)
        places = jnp.where(places < i * size, slots, places)  # the block before has seen it
        k_at = Placement.causal(jnp.broadcast_to(places, (b, size)))
        own_k, own_v = (jax.lax.dynamic_slice_in_dim(x, start, size, axis=2) for x in (k, v))
        own, own_lse = forward_twin(q, own_k, own_v, q_at, k_at)
        both = jnp.logaddexp(lse, own_lse)
        share = lambda x: jnp.exp(x - both)[..., None]  # noqa: E731
        return o * share(lse) + own * share(own_lse), both

    if size == slots:
        places = Placement.causal(jnp.broadcast_to(jnp.arange(slots), (b, slots)))
        return forward_twin(q, k, v, q_at, places)[0][:, :, 0]
    nothing = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:3], MASKED)
    o, _ = jax.lax.fori_loop(0, pl.cdiv(jnp.max(lengths), size), block, nothing)
    return o[:, :, 0].astype(v.dtype)


def decode_kernel(
    target: Target,
    q: Float[Array, "B N H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    lengths: Int[Array, "B"],
) -> Float[Array, "B N H"]:
    """`decode_attention` as a kernel, a block of a row's key head at a time."""
    b, n, h = q.shape
    heads, slots = k.shape[1:3]
    group = n // heads
    rows = max(target.sublanes, pl.next_power_of_2(group))
    size = max(SMALLEST, pl.next_power_of_2(pl.cdiv(slots, MOST)))
    blocks = pl.cdiv(slots, size)
    grouped = jnp.pad(q.reshape(b, heads, group, h), ((0, 0), (0, 0), (0, rows - group), (0, 0)))

    def cache_block(i: Array, j: Array, s: Array, *numbers: Any) -> tuple[Any, ...]:
        """On a TPU, where blocks are fetched ahead, one that is not needed is the last needed."""
        for lengths_ref in numbers:
            s = jnp.minimum(s, jax.lax.div(jnp.maximum(lengths_ref[i] - 1, 0), size))
        return i, j, s, 0

    cached = pl.BlockSpec((None, None, size, h), cache_block)
    out = lambda width: pl.BlockSpec(  # noqa: E731
        (None, None, None, rows, width), lambda i, j, s, *_: (i, j, s, 0, 0)
    )
    made = target.call(
        functools.partial(_body, target=target, size=size),
        grid=(b, heads, blocks),
        numbers=(lengths.astype(jnp.int32),),
        in_specs=[
            pl.BlockSpec((None, None, rows, h), lambda i, j, s, *_: (i, j, 0, 0)),
            cached,
            cached,
        ],
        out_specs=[out(h), out(1), out(1)],
        out_shape=[
            jax.ShapeDtypeStruct((b, heads, blocks, rows, width), jnp.float32)
            for width in (h, 1, 1)
        ],
        name="decode_attention",
    )
    mixed, top, total = (x[:, :, :, :group] for x in made(grouped, k, v))
    weight = jnp.exp(top - jnp.max(top, axis=2, keepdims=True))
    total = jnp.sum(weight * total, axis=2)
    mixed = jnp.sum(weight * mixed, axis=2) / jnp.maximum(total, 1e-30)
    return mixed.reshape(b, n, h).astype(v.dtype)


def _body(
    lengths_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    mixed_ref: Any,
    top_ref: Any,
    total_ref: Any,
    *,
    target: Target,
    size: int,
) -> None:
    start = pl.program_id(2) * size
    length = lengths_ref[pl.program_id(0)]

    @pl.when(start < length)
    def _() -> None:
        inside = start + jax.lax.broadcasted_iota(jnp.int32, k_ref.shape, 0) < length
        keys, values = target.load(k_ref, inside), target.load(v_ref, inside)
        scores = product(q_ref[...], keys, turned=True)
        seen = start + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1) < length
        scores = jnp.where(seen, scores, MASKED)
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.where(seen, jnp.exp(scores - top), 0.0)
        mixed_ref[...] = product(weights.astype(values.dtype), values)
        top_ref[...] = top
        total_ref[...] = jnp.sum(weights, axis=-1, keepdims=True)

    @pl.when(start >= length)
    def _() -> None:
        mixed_ref[...] = jnp.zeros_like(mixed_ref)
        top_ref[...] = jnp.full_like(top_ref, MASKED)
        total_ref[...] = jnp.zeros_like(total_ref)
