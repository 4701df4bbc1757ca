"""The vision head (section 3.1.3): the C codes of one visual token, one after another.

The language model's hidden state is the first input, the embeddings of the codes so far follow;
output i scores code i. Pre-norm causal layers with per-head q/k norms and pairwise rotary
embeddings on positions 0..C-1.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from latentum_jax.config import HeadConfig, QuantizerConfig
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.attention import attend, attend_cache
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
from latentum_jax.models.mome import Caches, KVCache
from latentum_jax.sharding import constrain, look_up


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

    def __call__(
        self, x: Float[Array, "B T D"], at: Placement, cache: KVCache | None = None
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        b, t, d = x.shape
        x = constrain(x, "batch", None, None)
        q, k, v = jnp.split(self.qkv(self.norm1(x)).reshape(b, t, -1, self.head_dim), 3, axis=2)
        cos, sin = rotary_angles(at.position, self.head_dim, self.config.rope_theta)
        q, k = rotate_pairs(self.q_norm(q), cos, sin), rotate_pairs(self.k_norm(k), cos, sin)
        if cache is None:
            mixed = attend(q, k, v, at, at)
        else:
            cache = cache.write(at.position, k, v)
            mixed = attend_cache(q, cache.k, cache.v, at.position)
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
        self, x: Float[Array, "B D"], index: Int[Array, ""], caches: Caches
    ) -> tuple[Float[Array, "B V"], Caches]:
        """Logits of code `index` from its input (hidden state or embedding of the code before)."""
        position = jnp.broadcast_to(index, (x.shape[0], 1))
        x, caches = self._layers(x[:, None].astype(self.dtype), position, caches)
        return self.head(self.norm(x[:, 0])).astype(jnp.float32), caches

    def embed_code(self, codes: Int[Array, "B"], index: Int[Array, ""]) -> Float[Array, "B D"]:
        """The embedding that follows code `index` into the next step."""
        return self.embeddings[index, codes]

    def empty_caches(self, batch: int) -> Caches:
        """For the C steps of one visual token."""
        count, n = self.quantizer.num_codebooks, self.config.num_heads
        one = lambda: KVCache.empty(batch, n, count, self.hidden // n, self.dtype)  # noqa: E731
        return tuple(one() for _ in range(self.config.num_layers))

    def _layers(
        self, x: Float[Array, "M T D"], position: Int[Array, "M T"], caches: Caches | None
    ) -> tuple[Float[Array, "M T D"], Caches | None]:
        layer = HeadLayer(self.config, self.hidden, self.dtype, parent=None)
        return through_layers(self, layer, x, Placement.causal(position), caches)
