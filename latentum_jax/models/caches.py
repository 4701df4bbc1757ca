"""Keys and values of the tokens that have gone through a layer, written in place (KV cache)."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from latentum_jax.sharding import constrain

SEGMENT, MOST_SEGMENTS = 128, 4  # slots of one at least, where there are more; so many at most


class KVCache(struct.PyTreeNode):
    """Keys and values [B K S H] of one layer; slot s holds position s of its row.

    Heads come before slots, as the products of attention want them: nothing has to be turned.
    """

    k: jax.Array
    v: jax.Array

    @classmethod
    def empty(cls, batch: int, heads: int, length: int, head_dim: int, dtype: object) -> "KVCache":
        """A cache of `length` slots a row."""
        shape = (batch, heads, length, head_dim)
        zeros = lambda: constrain(jnp.zeros(shape, dtype), "batch", "kv_heads", None, None)  # noqa: E731
        return cls(zeros(), zeros())

    @property
    def length(self) -> int:
        """Slots of a row."""
        return self.k.shape[2]

    def write(
        self,
        position: Int[Array, "B T"],
        k: Float[Array, "B T K H"],
        v: Float[Array, "B T K H"],
    ) -> "KVCache":
        """With keys and values at per-row positions; those outside the cache are dropped."""
        rows = jnp.arange(k.shape[0])[:, None]
        put = {"mode": "drop", "unique_indices": True}
        return KVCache(
            self.k.at[rows, :, position].set(k.astype(self.k.dtype), **put),
            self.v.at[rows, :, position].set(v.astype(self.v.dtype), **put),
        )


class SegmentedCache(struct.PyTreeNode):
    """The same as a CPU reads it best: in segments of Z slots, keys [B K H Z] turned, values
    [B K Z H].

    A segment is a buffer of its own, so that those behind the longest row's end are not read, and
    none has to be copied out of a whole for that. XLA's library for products on a CPU copies a
    right operand that is to be transposed, so keys lie as scores want them. Of 220 slots filled out
    of 602 and two heads of 32 on one core, a layer's attention takes 12 instead of 65 us for one
    row, 57 instead of 154 for 8 and 94 instead of 381 for 16.
    """

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]

    @classmethod
    def empty(
        cls, batch: int, heads: int, length: int, head_dim: int, dtype: object
    ) -> "SegmentedCache":
        """A cache of `length` slots a row, or of a few more."""
        count = min(MOST_SEGMENTS, -(-length // SEGMENT))
        size = -(-length // count)
        zeros = lambda *shape: tuple(jnp.zeros((batch, heads, *shape), dtype) for _ in range(count))  # noqa: E731
        return cls(zeros(head_dim, size), zeros(size, head_dim))

    @property
    def size(self) -> int:
        """Z, slots of a segment."""
        return self.v[0].shape[2]

    @property
    def length(self) -> int:
        """Slots of a row."""
        return self.size * len(self.v)

    def write(
        self,
        position: Int[Array, "B T"],
        k: Float[Array, "B T K H"],
        v: Float[Array, "B T K H"],
    ) -> "SegmentedCache":
        """With keys and values at per-row positions; those outside the cache are dropped."""
        rows = jnp.arange(k.shape[0])[:, None]
        put = {"mode": "drop", "unique_indices": True}
        keys, values = [], []
        for i, (own_k, own_v) in enumerate(zip(self.k, self.v, strict=True)):
            place = position - i * self.size
            place = jnp.where(place < 0, self.size, place)
            keys.append(own_k.at[rows, :, :, place].set(k.astype(own_k.dtype), **put))
            values.append(own_v.at[rows, :, place].set(v.astype(own_v.dtype), **put))
        return SegmentedCache(tuple(keys), tuple(values))


Cache = KVCache | SegmentedCache
Caches = tuple[Cache, ...]  # one a layer
