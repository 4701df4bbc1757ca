"""The language model with two branches (MoME, section 3.1.2): Qwen3 for text, its copy for images.

Tokens are stored branch-major, `{"und": x_u, "gen": x_g}`: no token passes through both branches,
and an absent branch costs nothing. Norms before the branches, embeddings, lm_head, the attention
operation and its KV cache are shared.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from latentum_jax.config import LanguageConfig
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.attention import attend, attend_cache, attend_in_order, skips_masked
from latentum_jax.models.caches import Cache, Caches, KVCache
from latentum_jax.models.layers import (
    Dtype,
    Remat,
    RMSNorm,
    SwiGLU,
    dense,
    fan_in,
    rotary_angles,
    rotate_half,
    stacked,
    through_layers,
)
from latentum_jax.sharding import constrain, look_up

Branches = Mapping[str, jax.Array]
BRANCHES = ("und", "gen")
SEES_ALL = (("und", BRANCHES), ("gen", BRANCHES))
UND_BLIND = (("und", ("und",)), ("gen", BRANCHES))


class Stream(struct.PyTreeNode):
    """Placements of each branch's tokens, and which branches' keys each branch may look at.

    `sees` states what the masks imply, so that whole tiles of attention are never computed:
    UND_BLIND where no understanding token looks at a token being generated (training, section 3.3).
    `held` is what the caches hold: "nothing" yet (tokens of one branch, in their order and padding
    last, then see each other alone), "some", or "most" of what they can.
    """

    at: dict[str, Placement]
    sees: tuple[tuple[str, tuple[str, ...]], ...] = struct.field(
        pytree_node=False, default=SEES_ALL
    )
    held: Literal["nothing", "some", "most"] = struct.field(pytree_node=False, default="some")


def empty_caches(
    config: LanguageConfig,
    batch: int,
    length: int,
    dtype: Dtype,
    kind: type[Cache] = KVCache,
) -> Caches:
    """Of the language model, `length` slots a row."""
    return tuple(
        kind.empty(batch, config.num_kv_heads, length, config.head_dim, dtype)
        for _ in range(config.num_layers)
    )


class Branch(nn.Module):
    """One branch of one layer: attention projections, per-head q/k norms, feed-forward."""

    config: LanguageConfig
    dtype: Dtype

    def setup(self) -> None:
        c, dtype = self.config, self.dtype
        kv = c.num_kv_heads * c.head_dim
        self.q_proj = dense(c.num_heads * c.head_dim, ("embed", "heads"), bias=False, dtype=dtype)
        self.k_proj = dense(kv, ("embed", "kv_heads"), bias=False, dtype=dtype)
        self.v_proj = dense(kv, ("embed", "kv_heads"), bias=False, dtype=dtype)
        self.o_proj = dense(c.hidden_size, ("heads", "embed"), bias=False, dtype=dtype)
        self.q_norm = RMSNorm(c.rms_eps, dtype, "head_dim")
        self.k_norm = RMSNorm(c.rms_eps, dtype, "head_dim")
        self.mlp = SwiGLU(c.mlp_size, c.hidden_size, dtype)

    def qkv(self, x: Float[Array, "B T D"], position: Int[Array, "B T"]) -> tuple[Array, ...]:
        """Normalised, rotated queries and keys, and values: [B T N H], [B T K H], [B T K H]."""
        c = self.config
        heads = (*x.shape[:2], -1, c.head_dim)
        q, k = (
            self.q_norm(self.q_proj(x).reshape(heads)),
            self.k_norm(self.k_proj(x).reshape(heads)),
        )
        cos, sin = rotary_angles(position, c.head_dim, c.rope_theta)
        return rotate_half(q, cos, sin), rotate_half(k, cos, sin), self.v_proj(x).reshape(heads)

    def output(self, mixed: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
        """o_proj of the joined heads."""
        return self.o_proj(mixed.reshape(*mixed.shape[:2], -1))

    def feed_forward(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """SwiGLU."""
        return self.mlp(x)


class MoMELayer(nn.Module):
    """A Qwen3 layer whose weights depend on the branch and whose attention spans both."""

    config: LanguageConfig
    dtype: Dtype

    def setup(self) -> None:
        c = self.config
        self.input_norm = RMSNorm(c.rms_eps, self.dtype)
        self.post_attention_norm = RMSNorm(c.rms_eps, self.dtype)
        self.und = Branch(c, self.dtype)
        self.gen = Branch(c, self.dtype)

    def __call__(
        self, x: dict[str, jax.Array], stream: Stream, cache: Cache | None = None
    ) -> tuple[dict[str, jax.Array], Cache | None]:
        branch = {"und": self.und, "gen": self.gen}
        x = {name: constrain(h, "batch", "length", None) for name, h in x.items()}
        qkv = {
            name: branch[name].qkv(self.input_norm(h), stream.at[name].position)
            for name, h in x.items()
        }
        if cache is not None:
            for name, (_, k, v) in qkv.items():
                cache = cache.write(stream.at[name].position, k, v)
        mixed = self._attend(qkv, stream, cache)
        x = {name: h + branch[name].output(mixed[name]) for name, h in x.items()}
        x = {
            name: h + branch[name].feed_forward(self.post_attention_norm(h))
            for name, h in x.items()
        }
        return x, cache

    def _attend(
        self, qkv: dict[str, tuple[Array, ...]], stream: Stream, cache: Cache | None
    ) -> dict[str, jax.Array]:
        out = {}
        for name, (q, k, v) in qkv.items():
            if cache is not None:
                if stream.held == "nothing" and not skips_masked(q, cache):
                    out[name] = attend_in_order(q, k, v)
                    continue
                at, filled = stream.at[name].position, stream.held == "most"
                out[name] = attend_cache(q, cache, at, filled=filled)
                continue
            seen = [other for other in dict(stream.sees)[name] if other in qkv]
            k = jnp.concatenate([qkv[other][1] for other in seen], axis=1)
            v = jnp.concatenate([qkv[other][2] for other in seen], axis=1)
            k_at = Placement.join([stream.at[other] for other in seen])
            out[name] = attend(q, k, v, stream.at[name], k_at)
        return out


class LanguageModel(nn.Module):
    """Embeddings, the MoME layers, the final norm and lm_head."""

    config: LanguageConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    def setup(self) -> None:
        c = self.config
        self.embed_tokens = self.param(
            "embed_tokens",
            nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed")),
            (c.vocab_size, c.hidden_size),
        )
        self.layers = stacked(MoMELayer, c.num_layers, remat=self.remat)(c, self.dtype)
        self.norm = RMSNorm(c.rms_eps, self.dtype)
        if not c.tie_embeddings:
            init = nn.with_logical_partitioning(fan_in, ("embed", "vocab"))
            self.lm_head = self.param("lm_head", init, (c.hidden_size, c.vocab_size))

    def embed(self, tokens: Int[Array, "*b T"]) -> Float[Array, "*b T D"]:
        """Token embeddings."""
        return look_up(self.embed_tokens, tokens).astype(self.dtype)

    def __call__(
        self, x: Branches, stream: Stream, caches: Caches | None = None
    ) -> tuple[dict[str, jax.Array], Caches | None]:
        """Hidden states after the final norm, per branch, and the caches with the new keys.

        With caches, every token sees their slots up to its own position, its own keys
        included; without one, tokens see each other as their placements say.
        """
        layer = MoMELayer(self.config, self.dtype, parent=None)
        x, caches = through_layers(self, layer, dict(x), stream, caches)
        return {name: self.norm(h) for name, h in x.items()}, caches

    def logits(self, hidden: Float[Array, "*b D"]) -> Float[Array, "*b vocab"]:
        """lm_head, in fp32."""
        head = self.embed_tokens.T if self.config.tie_embeddings else self.lm_head
        made = jnp.dot(hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)
        return constrain(made, "batch", *[None] * (made.ndim - 2), "vocab")
