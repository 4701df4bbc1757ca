"""The vision head (section 3.1.3): the C codes of one visual token, one after another.

The language model's hidden state is the first input, the embeddings of the codes so far follow;
output i scores code i. Pre-norm causal layers with per-head q/k norms and pairwise rotary
embeddings on positions 0..C-1.

What the first layer makes of a code (q, k and v) follows from the code and its place alone, so it
can be looked up like the embedding instead of multiplied out each time (`VisionHead.ahead`).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from latentum_jax.config import HeadConfig, QuantizerConfig
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.attention import attend, attend_cache
from latentum_jax.models.caches import Cache, Caches, KVCache
from latentum_jax.models.layers import (
    MLP,
    Dtype,
    Remat,
    RMSNorm,
    dense,
    rotary_angles,
    rotate_pairs,
    stacked,
    through_layers,
)
from latentum_jax.sharding import constrain, look_up

AHEAD = "ahead"  # among the head's parameters, where they are held with what it gives
QKV = tuple[jax.Array, jax.Array, jax.Array]  # normalised, rotated; [B T N H] each
Shown = jax.Array | tuple[jax.Array, QKV]  # a layer's input, perhaps with what it makes of it


class HeadLayer(nn.Module):
    """Causal attention and MLP over at most C positions."""

    config: HeadConfig
    hidden: int
    dtype: Dtype

    def setup(self) -> None:
        d, n = self.hidden, self.config.num_heads
        self.norm1, self.norm2 = RMSNorm(1e-6, self.dtype), RMSNorm(1e-6, self.dtype)
        self.qkv = dense(3 * d, ("embed", "qkv"), bias=False, dtype=self.dtype)
        self.q_norm = RMSNorm(1e-5, self.dtype, "head_dim")
        self.k_norm = RMSNorm(1e-5, self.dtype, "head_dim")
        self.proj = dense(d, ("heads", "embed"), bias=True, dtype=self.dtype)
        self.mlp = MLP(int(d * self.config.mlp_ratio), d, self.dtype)
        self.head_dim = d // n

    def heads(self, x: Float[Array, "B T D"], position: Int[Array, "B T"]) -> QKV:
        """q, k and v of x."""
        b, t, _ = x.shape
        q, k, v = jnp.split(self.qkv(self.norm1(x)).reshape(b, t, -1, self.head_dim), 3, axis=2)
        cos, sin = rotary_angles(position, self.head_dim, self.config.rope_theta)
        return rotate_pairs(self.q_norm(q), cos, sin), rotate_pairs(self.k_norm(k), cos, sin), v

    def __call__(
        self, x: Shown, at: Placement, cache: Cache | None = None
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        x, made = x if isinstance(x, tuple) else (x, None)
        b, t, d = x.shape
        x = constrain(x, "batch", None, None)
        q, k, v = self.heads(x, at.position) if made is None else made
        if cache is None:
            mixed = attend(q, k, v, at, at)
        else:
            cache = cache.write(at.position, k, v)
            mixed = attend_cache(q, cache, at.position)
        x = x + self.proj(mixed.reshape(b, t, d))
        return x + self.mlp(self.norm2(x)), cache


class VisionHead(nn.Module):
    """C embedding tables (the last is never read), the layers, one output map for all codebooks."""

    config: HeadConfig
    quantizer: QuantizerConfig
    hidden: int
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    def setup(self) -> None:
        q = self.quantizer
        self.embeddings = self.param(
            "embeddings",
            nn.with_logical_partitioning(
                nn.initializers.normal(0.02), ("codebooks", "codes", "embed")
            ),
            (q.num_codebooks, q.codebook_size, self.hidden),
        )
        made = stacked(HeadLayer, self.config.num_layers, remat=self.remat)
        self.layers = made(self.config, self.hidden, self.dtype)
        self.norm = RMSNorm(1e-5, self.dtype)
        self.head = dense(q.codebook_size, ("embed", "codes"), bias=True, dtype=self.dtype)

    def __call__(
        self, base: Float[Array, "M D"], codes: Int[Array, "M C"]
    ) -> Float[Array, "M C V"]:
        """Teacher-forced logits of every code, M visual tokens at once."""
        count = self.quantizer.num_codebooks
        tables = self.embeddings.reshape(-1, self.hidden)  # one behind the other
        begin = jnp.arange(count - 1) * self.quantizer.codebook_size
        shown = look_up(tables, codes[:, :-1] + begin).astype(self.dtype)
        x = jnp.concatenate([base[:, None].astype(self.dtype), shown], axis=1)
        position = jnp.broadcast_to(jnp.arange(count), (x.shape[0], count))
        x, _ = self._layers(x, position, None)
        return self.head(self.norm(x)).astype(jnp.float32)

    def step(
        self, x: Shown, index: Int[Array, ""], caches: Caches
    ) -> tuple[Float[Array, "B V"], Caches]:
        """Logits of code `index` from its input, what `begin` or `follow` gave."""
        position = jnp.broadcast_to(index, (len(jax.tree.leaves(x)[0]), 1))
        x, caches = self._layers(x, position, caches)
        return self.head(self.norm(x[:, 0])).astype(jnp.float32), caches

    def begin(self, base: Float[Array, "B D"]) -> Shown:
        """The first input: the language model's hidden state."""
        x = base[:, None].astype(self.dtype)
        if self._ahead is None:
            return x
        return x, self._first(x, jnp.zeros((len(x), 1), jnp.int32))

    def follow(self, codes: Int[Array, "B"], index: Int[Array, ""]) -> Shown:
        """The input that code `index` is to the next step: its embedding."""
        x = self.embeddings[index, codes][:, None].astype(self.dtype)
        if self._ahead is None:
            return x
        made = self._ahead[index, codes]
        return x, tuple(made[:, None, i] for i in range(3))

    def ahead(self) -> Float[Array, "C V 3 N H"]:
        """q, k and v of the first layer for every code at the place where it is an input.

        Of 3 layers a step then reads the first one's qkv kernel only for the hidden state.
        """
        x = self.embeddings.astype(self.dtype)
        position = jnp.broadcast_to(1 + jnp.arange(len(x))[:, None], x.shape[:2])
        return jnp.stack(self._first(x, position), axis=2)

    @property
    def _ahead(self) -> jax.Array | None:
        return self.variables["params"].get(AHEAD)

    def _first(self, x: Float[Array, "B T D"], position: Int[Array, "B T"]) -> QKV:
        weights = self.variables["params"]["layers"][0]
        layer = HeadLayer(self.config, self.hidden, self.dtype, parent=None)
        return layer.apply({"params": weights}, x, position, method="heads")

    def empty_caches(self, batch: int, kind: type[Cache] = KVCache) -> Caches:
        """For the C steps of one visual token."""
        count, n = self.quantizer.num_codebooks, self.config.num_heads
        one = lambda: kind.empty(batch, n, count, self.hidden // n, self.dtype)  # noqa: E731
        return tuple(one() for _ in range(self.config.num_layers))

    def _layers(
        self, x: Shown, position: Int[Array, "M T"], caches: Caches | None
    ) -> tuple[Float[Array, "M T D"], Caches | None]:
        layer = HeadLayer(self.config, self.hidden, self.dtype, parent=None)
        return through_layers(self, layer, x, Placement.causal(position), caches)
