"""The aligner: text and image embeddings into one latent space, and back to an image embedding.

h_m(x) = LN(TransformerEncoder(W_m x + e_m)) on a sequence of one token, z_m = S h_m(x) with S
shared; of both tokens in one sequence z_f = MLP([h_0; h_1]). A generator G takes z back, and what
it makes is encoded again: enc(G(z)).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta
from jaxtyping import Array, Float

from latentum_jax.config import AlignerConfig
from latentum_jax.models.latentum import Params
from latentum_jax.models.layers import MLP, Dtype, dense, exact_gelu, layer_norm

Key = jax.Array | None  # of dropout; without one nothing is dropped


class EncoderLayer(nn.Module):
    """Attention and feed-forward, the norm behind each sum (post-norm)."""

    config: AlignerConfig
    dtype: Dtype

    def setup(self) -> None:
        c, d = self.config, self.config.hidden_size
        self.qkv = dense(3 * d, ("embed", "qkv"), bias=True, dtype=self.dtype)
        self.proj = dense(d, ("heads", "embed"), bias=True, dtype=self.dtype)
        self.norm1 = layer_norm(c.layer_norm_eps, self.dtype)
        self.fc1 = dense(c.mlp_ratio * d, ("embed", "mlp"), bias=True, dtype=self.dtype)
        self.fc2 = dense(d, ("mlp", "embed"), bias=True, dtype=self.dtype)
        self.norm2 = layer_norm(c.layer_norm_eps, self.dtype)

    def __call__(self, x: Float[Array, "B T D"], key: Key) -> Float[Array, "B T D"]:
        rate, keys = self.config.dropout, split(key, 4)
        mixed = dropout(self._attend(x, keys[0]), rate, keys[1])
        x = self.norm1(x + mixed)
        made = dropout(exact_gelu(self.fc1(x)), rate, keys[2])
        return self.norm2(x + dropout(self.fc2(made), rate, keys[3]))

    def _attend(self, x: Float[Array, "B T D"], key: Key) -> Float[Array, "B T D"]:
        """Every token sees every token. Not by `models.attention`: weights are dropped here."""
        b, t, d = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.config.num_heads, -1)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scores = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1).astype(v.dtype)
        weights = dropout(weights, self.config.dropout, key)
        return self.proj(jnp.einsum("bnts,bsnh->btnh", weights, v).reshape(b, t, d))


class Aligner(nn.Module):
    """Encoders of both kinds of embeddings, their fusion, and the generator."""

    config: AlignerConfig
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        c, d = self.config, self.config.hidden_size
        self.text_in = dense(d, ("features", "embed"), bias=True, dtype=self.dtype)
        self.image_in = dense(d, ("features", "embed"), bias=True, dtype=self.dtype)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, (None, "embed"))
        self.modality = self.param("modality", zeros, (2, d))
        self.layers = [EncoderLayer(c, self.dtype) for _ in range(c.num_layers)]
        self.norm = layer_norm(c.layer_norm_eps, self.dtype)
        self.to_latent = dense(c.latent_dim, ("embed", "features"), bias=True, dtype=self.dtype)
        self.fuse1 = dense(d, ("embed", "mlp"), bias=True, dtype=self.dtype)
        self.fuse_norm = layer_norm(c.layer_norm_eps, self.dtype)
        self.fuse2 = dense(c.latent_dim, ("mlp", "features"), bias=True, dtype=self.dtype)
        self.generator = MLP(d, c.image_dim, self.dtype, "features")

    def encode_text(self, t: Float[Array, "B d_t"], key: Key = None) -> Float[Array, "B d"]:
        """z_t."""
        return self.to_latent(self._hidden([self._text(t)], key)[:, 0])

    def encode_image(self, v: Float[Array, "B d_v"], key: Key = None) -> Float[Array, "B d"]:
        """z_v, or of what the generator made enc(G(z))."""
        return self.to_latent(self._hidden([self._image(v)], key)[:, 0])

    def fuse(
        self, t: Float[Array, "B d_t"], v: Float[Array, "B d_v"], key: Key = None
    ) -> Float[Array, "B d"]:
        """z_f, of both embeddings in one sequence. The MLP is the published code's, with a norm
        behind its activation."""
        inner, outer = split(key, 2)
        h = self._hidden([self._text(t), self._image(v)], inner)
        made = self.fuse_norm(exact_gelu(self.fuse1(h.reshape(len(h), -1))))
        return self.fuse2(dropout(made, self.config.dropout, outer))

    def generate(self, z: Float[Array, "B d"]) -> Float[Array, "B d_v"]:
        """G(z), an image embedding."""
        return self.generator(z)

    def reencode(self, z: Float[Array, "B d"], key: Key = None) -> Float[Array, "B d"]:
        """enc(G(z))."""
        return self.encode_image(self.generator(z), key)

    def __call__(self, t: Float[Array, "B d_t"], v: Float[Array, "B d_v"]) -> Float[Array, "B d"]:
        """Touches every weight once: the door that makes parameters."""
        return self.reencode(self.encode_text(t) + self.fuse(t, v))

    def _text(self, t: Array) -> Array:
        return self.text_in(t) + self.modality[0].astype(self.dtype)

    def _image(self, v: Array) -> Array:
        return self.image_in(v) + self.modality[1].astype(self.dtype)

    def _hidden(self, tokens: list[Array], key: Key) -> Float[Array, "B T D"]:
        x = jnp.stack(tokens, axis=1)
        for layer, own in zip(self.layers, split(key, len(self.layers)), strict=True):
            x = layer(x, own)
        return self.norm(x)


def split(key: Key, count: int) -> list[Key]:
    """So many keys of one, or of none as many times none."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def dropout(x: Float[Array, "*b"], rate: float, key: Key) -> Float[Array, "*b"]:
    """Zeroes a share `rate` of x and scales what is left by 1 / (1 - rate); x without a key."""
    if key is None or not rate:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def probe(config: AlignerConfig) -> tuple[Array, Array]:
    """What `Aligner.__call__` takes, for making parameters."""
    return jnp.zeros((1, config.text_dim)), jnp.zeros((1, config.image_dim))


def init_aligner_params(config: AlignerConfig, key: jax.Array) -> Params:
    """Fresh fp32 parameters as a plain nested dict."""
    init = jax.jit(lambda k: Aligner(config).init(k, *probe(config))["params"])
    return meta.unbox(init(key))
