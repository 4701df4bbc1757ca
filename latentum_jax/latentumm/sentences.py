"""A sentence encoder, to make text embeddings with: BERT, its last hidden states averaged."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from latentum_jax.config import SentenceConfig
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.attention import attend
from latentum_jax.models.layers import MLP, dense, layer_norm, shapes_by_path, stacked


class SentenceLayer(nn.Module):
    """Attention and feed-forward, the norm behind each sum."""

    config: SentenceConfig

    def setup(self) -> None:
        c = self.config
        self.qkv = dense(3 * c.hidden_size, ("embed", "qkv"), bias=True, dtype=jnp.float32)
        self.proj = dense(c.hidden_size, ("heads", "embed"), bias=True, dtype=jnp.float32)
        self.norm1 = layer_norm(c.layer_norm_eps, jnp.float32)
        self.mlp = MLP(c.mlp_size, c.hidden_size)
        self.norm2 = layer_norm(c.layer_norm_eps, jnp.float32)

    def __call__(self, x: Float[Array, "B T D"], at: Placement) -> tuple[Array, None]:
        b, t, d = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.config.num_heads, -1)
        mixed = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], at, at).reshape(b, t, d)
        x = self.norm1(x + self.proj(mixed))
        return self.norm2(x + self.mlp(x)), None


class SentenceEncoder(nn.Module):
    """Words, positions and the first token type, the layers, the mean over words."""

    config: SentenceConfig

    def setup(self) -> None:
        c = self.config
        init = nn.initializers.normal(0.02)
        table = lambda name, rows: self.param(name, init, (rows, c.hidden_size))  # noqa: E731
        self.words = table("words", c.vocab_size)
        self.positions = table("positions", c.max_positions)
        self.types = table("types", 2)
        self.norm = layer_norm(c.layer_norm_eps, jnp.float32)
        self.layers = stacked(SentenceLayer, c.num_layers)(c)

    def __call__(self, tokens: Int[Array, "B T"], valid: Bool[Array, "B T"]) -> Float[Array, "B D"]:
        """Embeddings of length 1, of the tokens that are `valid`."""
        x = self.words[tokens] + self.positions[: tokens.shape[1]] + self.types[0]
        zero = jnp.zeros_like(tokens)  # all at one place: every word sees every other
        x, _ = self.layers(self.norm(x), Placement.causal(zero, valid))
        weights = valid[..., None].astype(x.dtype)
        mean = jnp.sum(x * weights, axis=1) / jnp.maximum(weights.sum(1), 1)
        return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def expected_shapes(config: SentenceConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by path, without making any."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return shapes_by_path(SentenceEncoder(config).init, tokens, jnp.ones((1, 1), bool))
