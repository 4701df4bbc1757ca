"""The one attention door: who sees whom is described (`kernels.placement`), not drawn."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from latentum_jax.kernels import flash
from latentum_jax.kernels.decode import decode_attention
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.caches import Cache, SegmentedCache
from latentum_jax.sharding import constrain

PARTS, SMALLEST = 4, 64  # of queries in order at most, and how many are in one at least


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    q_at: Placement | None = None,
    k_at: Placement | None = None,
) -> Float[Array, "B T N H"]:
    """Softmax attention with N/K query heads to a key head, scores and softmax in fp32.

    Without placements everything sees everything; with them a query that may see nothing (padding)
    gives zeros, not NaN.
    """
    k, v = (constrain(x, "batch", None, "kv_heads", None) for x in (k, v))
    if q_at is None or k_at is None:
        # Patches stay together: split over devices, the split would reach the VAE's convolutions,
        # of which jax 0.10.2 then computes other gradients (on CPUs, a kernel's twice).
        return _see_all(constrain(q, "batch", None, "heads", None), k, v)
    q = constrain(q, "batch", "length", "heads", None)
    q, k, v = (x.swapaxes(1, 2) for x in (_scaled(q), k, v))
    return _attend(q, k, v, q_at, k_at).swapaxes(1, 2)


def attend_cache(
    q: Float[Array, "B T N H"],
    cache: Cache,
    position: Int[Array, "B T"],
    *,
    filled: bool = False,
) -> Float[Array, "B T N H"]:
    """Attention over a cache whose slot s holds position s: a token sees those up to its own.

    `filled`: most of the cache is, so that reading it all at once costs least (where it is whole).
    What tokens outside their cache are given means nothing.
    """
    b, t, slots = *q.shape[:2], cache.length
    q = _scaled(q)
    if isinstance(cache, SegmentedCache):
        return _attend_segments(q, cache, position)
    k, v = cache.k, cache.v
    if t == 1:
        lengths = jnp.where(position[:, 0] < slots, position[:, 0] + 1, 0)
        return decode_attention(q[:, 0], k, v, lengths, filled=filled)[:, None]
    k_at = Placement.causal(jnp.broadcast_to(jnp.arange(slots), (b, slots)))
    return _attend(q.swapaxes(1, 2), k, v, Placement.causal(position), k_at).swapaxes(1, 2)


def attend_in_order(
    q: Float[Array, "B T N H"], k: Float[Array, "B T K H"], v: Float[Array, "B T K H"]
) -> Float[Array, "B T N H"]:
    """Causal attention of tokens that come in their order, padding last, without a kernel: queries
    go in `PARTS`, each over the keys up to its end."""
    q, k, v = (x.swapaxes(1, 2) for x in (_scaled(q), k, v))
    b, _, t, _ = q.shape
    at = jnp.broadcast_to(jnp.arange(t), (b, t))
    size = max(SMALLEST, -(-t // PARTS))
    made = []
    for start in range(0, t, size):
        end = min(start + size, t)
        queries, keys = Placement.causal(at[:, start:end]), Placement.causal(at[:, :end])
        seen = k[:, :, :end], v[:, :, :end]
        made.append(flash.forward_twin(q[:, :, start:end], *seen, queries, keys)[0])
    return jnp.concatenate(made, axis=2).swapaxes(1, 2)


def skips_masked(q: Float[Array, "B T N H"], cache: Cache) -> bool:
    """Whether there is a kernel for these sizes, which computes nothing that is masked: an empty
    cache is then as good as the tokens alone, and keys need not be held beside it."""
    return not isinstance(cache, SegmentedCache) and flash.fits(q.swapaxes(1, 2), cache.k)


def _attend_segments(
    q: Float[Array, "B T N H"], cache: SegmentedCache, position: Int[Array, "B T"]
) -> Float[Array, "B T N H"]:
    """`attend_cache` over the segments up to the one that ends the longest row.

    Each is summed up for itself: those that a row sees nothing of add zeros, and it gets the same
    whatever its neighbours' lengths are.
    """
    b, t, n, h = q.shape
    heads, size = cache.v[0].shape[1], cache.size
    grouped = q.reshape(b, t, heads, n // heads, h).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(b, heads, -1, h)  # its queries of a key head, one after another
    at = jnp.where(position < cache.length, position, -1)  # what is not in the cache sees nothing

    def over(count: int) -> Array:
        scores = []
        for i, k in enumerate(cache.k[:count]):
            own = jnp.einsum("bkrh,bkhs->bkrs", grouped, k, preferred_element_type=jnp.float32)
            seen = i * size + jnp.arange(size) <= at[:, :, None]
            own = own.reshape(b, heads, -1, t, size)
            scores.append(jnp.where(seen[:, None, None], own, flash.MASKED))
        tops = [jnp.max(own, axis=-1, keepdims=True) for own in scores]
        top = functools.reduce(jnp.maximum, tops)
        weights = [jnp.exp(own - top) for own in scores]
        total = sum(jnp.sum(own, axis=-1) for own in weights).reshape(b, heads, -1, 1)
        parts = zip(weights, cache.v, strict=False)
        mixed = sum(
            jnp.einsum("bkrs,bksh->bkrh", own.astype(v.dtype).reshape(b, heads, -1, size), v)
            for own, v in parts
        )
        return mixed / total.astype(mixed.dtype)

    needed = jnp.maximum(jnp.max(at), 0) // size
    some = [functools.partial(over, count) for count in range(1, len(cache.v) + 1)]
    made = jax.lax.switch(needed, some).astype(cache.v[0].dtype)
    return made.reshape(b, heads, -1, t, h).transpose(0, 3, 1, 2, 4).reshape(b, t, n, h)


def _attend(
    q: Float[Array, "B N T H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    q_at: Placement,
    k_at: Placement,
) -> Float[Array, "B N T H"]:
    if flash.fits(q, k):
        return flash.flash_attention(q, k, v, q_at, k_at)
    return flash.forward_twin(q, k, v, q_at, k_at)[0]


def _see_all(
    q: Float[Array, "B T N H"], k: Float[Array, "B S K H"], v: Float[Array, "B S K H"]
) -> Float[Array, "B T N H"]:
    b, t, n, h = q.shape
    grouped = _scaled(q).reshape(b, t, k.shape[2], n // k.shape[2], h)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores, axis=-1)
    out = jnp.einsum("bkgts,bskh->btkgh", weights.astype(v.dtype), v)
    return out.reshape(b, t, n, h)


def _scaled(q: Array) -> Array:
    return q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
