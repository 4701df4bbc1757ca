"""MBAQ, the quantizer aligned with the model's behaviour (section 3.1.1, appendix A.1).

Features V are projected down to z, cut into C chunks, and each chunk takes the nearest of its
codebook's V codes by squared L2 distance. z_q is what visual_projector and the pixel decoder read;
up_proj(z_q) stands for mlp1(V) when the model reads quantized features.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from latentum_jax.config import QuantizerConfig
from latentum_jax.kernels import codebook as kernel
from latentum_jax.models.layers import MLP, Dtype


class Quantized(struct.PyTreeNode):
    """z [B L E], its straight-through quantization z_q [B L E] and the codes [B L C]."""

    z: jax.Array
    z_q: jax.Array
    codes: jax.Array


class MBAQ(nn.Module):
    """down_proj, C codebooks, up_proj."""

    config: QuantizerConfig
    feature_size: int
    llm_size: int
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        c = self.config
        self.down_proj = MLP(c.mlp_ratio * self.feature_size, c.embedding_dim, self.dtype)
        self.up_proj = MLP(c.mlp_ratio * self.llm_size, self.llm_size, self.dtype)
        self.codebook = self.param(
            "codebook",
            nn.with_logical_partitioning(uniform_codebook, ("codebooks", "codes", "chunk")),
            (c.num_codebooks, c.codebook_size, c.chunk_dim),
        )

    def __call__(self, features: Float[Array, "B L F"]) -> Quantized:
        z = self.down_proj(features).astype(jnp.float32)
        codes = nearest_code(z, self.codebook)
        z_q = look_up(codes, self.codebook)
        return Quantized(z=z, z_q=z + jax.lax.stop_gradient(z_q - z), codes=codes)

    def look_up(self, codes: Int[Array, "*b C"]) -> Float[Array, "*b E"]:
        """z_q of codes."""
        return look_up(codes, self.codebook)

    def up(self, z_q: Float[Array, "*b L E"]) -> Float[Array, "*b L D"]:
        """The understanding embedding of quantized features."""
        return self.up_proj(z_q)


def uniform_codebook(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
    """Codes start uniform in +-1/V."""
    return jax.random.uniform(key, shape, dtype, -1.0 / shape[1], 1.0 / shape[1])


def chunks(z: Float[Array, "*b E"], num_codebooks: int) -> Float[Array, "*b C d"]:
    """Cuts the last axis into one chunk a codebook."""
    return z.reshape(*z.shape[:-1], num_codebooks, -1)


def squared_distances(
    z: Float[Array, "*b E"], codebook: Float[Array, "C V d"]
) -> Float[Array, "*b C V"]:
    """d^2 of every chunk to every code of its codebook, in fp32."""
    return kernel.squared_distances(chunks(z, codebook.shape[0]), codebook)


def nearest_code(z: Float[Array, "*b E"], codebook: Float[Array, "C V d"]) -> Int[Array, "*b C"]:
    """Index of the nearest code of each codebook."""
    count, _, width = codebook.shape
    return kernel.nearest_code(z.reshape(-1, count, width), codebook).reshape(*z.shape[:-1], count)


def look_up(codes: Int[Array, "*b C"], codebook: Float[Array, "C V d"]) -> Float[Array, "*b E"]:
    """Concatenates the chosen code of every codebook."""
    picked = codebook[jnp.arange(codebook.shape[0]), codes]
    return picked.reshape(*codes.shape[:-1], -1)


def usage_of(codes: Int[Array, "B L C"], num_codes: int) -> Float[Array, "C V"]:
    """Share of the positions that took each code."""
    flat = codes.reshape(-1, codes.shape[-1])
    return jnp.mean(jax.nn.one_hot(flat, num_codes), axis=0)


def restart_dead_codes(
    key: jax.Array,
    codebook: Float[Array, "C V d"],
    usage: Float[Array, "C V"],
    z: Float[Array, "B L E"],
    config: QuantizerConfig,
) -> tuple[Float[Array, "C V d"], Float[Array, "C V"], Bool[Array, "C V"]]:
    """Moves codes used less than dead_share/V onto random inputs of the batch (appendix A.1).

    At most `max_restarts` a codebook, the least used first; their usage goes back to 1/V. Returns
    the new codebook and usage, and which codes moved.
    """
    num_codes = config.codebook_size
    inputs = chunks(z.reshape(-1, z.shape[-1]), config.num_codebooks)
    rows = jax.random.randint(key, usage.shape, 0, inputs.shape[0])
    fresh = inputs[rows, jnp.arange(config.num_codebooks)[:, None]]
    rank = jnp.argsort(jnp.argsort(usage, axis=-1), axis=-1)
    dead = (usage < config.dead_share / num_codes) & (rank < config.max_restarts)
    codebook = jnp.where(dead[..., None], fresh, codebook)
    return codebook, jnp.where(dead, 1.0 / num_codes, usage), dead
