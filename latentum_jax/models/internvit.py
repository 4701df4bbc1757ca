"""InternViT, the pixel shuffle behind it, and mlp1 (section 3.1): pixels -> features -> embeddings.

The shuffled features V [B L F] are what MBAQ quantizes; `mlp1` turns them into what the language
model reads.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from latentum_jax.config import VisionConfig
from latentum_jax.models.attention import attend
from latentum_jax.models.layers import MLP, Dtype, Remat, dense, layer_norm, stacked
from latentum_jax.sharding import constrain


class ViTLayer(nn.Module):
    """Pre-norm attention and MLP, each scaled by a learned vector (LayerScale ls1, ls2)."""

    config: VisionConfig
    dtype: Dtype

    def setup(self) -> None:
        c = self.config
        scale = nn.initializers.constant(c.initializer_factor)
        scale = nn.with_logical_partitioning(scale, ("embed",))
        self.norm1 = layer_norm(c.layer_norm_eps, self.dtype)
        self.norm2 = layer_norm(c.layer_norm_eps, self.dtype)
        self.qkv = dense(3 * c.hidden_size, ("embed", "qkv"), bias=True, dtype=self.dtype)
        self.proj = dense(c.hidden_size, ("heads", "embed"), bias=True, dtype=self.dtype)
        self.mlp = MLP(c.mlp_size, c.hidden_size, self.dtype)
        self.ls1 = self.param("ls1", scale, (c.hidden_size,))
        self.ls2 = self.param("ls2", scale, (c.hidden_size,))

    def __call__(self, x: Float[Array, "B T D"], _: None = None) -> tuple[Array, None]:
        b, t, d = x.shape
        x = constrain(x, "batch", None, None)
        qkv = self.qkv(self.norm1(x)).reshape(b, t, 3, self.config.num_heads, -1)
        mixed = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(b, t, d)
        x = x + self.proj(mixed) * self.ls1.astype(self.dtype)
        return x + self.mlp(self.norm2(x)) * self.ls2.astype(self.dtype), None


class InternViT(nn.Module):
    """Patches, class token, learned positions and the layers; the class token is dropped."""

    config: VisionConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    def setup(self) -> None:
        c = self.config
        init = nn.initializers.normal(0.02)
        self.patch_embedding = dense(
            c.hidden_size, ("pixels", "embed"), bias=True, dtype=self.dtype
        )
        self.class_embedding = self.param(
            "class_embedding", nn.with_logical_partitioning(init, ("embed",)), (c.hidden_size,)
        )
        self.position_embedding = self.param(
            "position_embedding",
            nn.with_logical_partitioning(init, ("positions", "embed")),
            (c.grid**2 + 1, c.hidden_size),
        )
        self.layers = stacked(ViTLayer, c.num_layers, remat=self.remat)(c, self.dtype)

    def __call__(self, pixels: Float[Array, "B P P 3"]) -> Float[Array, "B L F"]:
        """V: the last hidden state of the patches (no final norm), pixel-shuffled."""
        x = self.embed(pixels)
        x, _ = self.layers(x, None)
        return pixel_shuffle(x[:, 1:], self.config.shuffle)

    def embed(self, pixels: Float[Array, "B P P 3"]) -> Float[Array, "B T D"]:
        """Class token and patches with their positions, before the first layer."""
        b, side, p = pixels.shape[0], pixels.shape[1], self.config.patch_size
        grid = side // p
        patches = pixels.reshape(b, grid, p, grid, p, 3).transpose(0, 1, 3, 2, 4, 5)
        x = self.patch_embedding(patches.reshape(b, grid * grid, -1).astype(self.dtype))
        cls = jnp.broadcast_to(self.class_embedding.astype(x.dtype), (b, 1, x.shape[-1]))
        return jnp.concatenate([cls, x], axis=1) + self._positions(grid).astype(x.dtype)

    def _positions(self, grid: int) -> Float[Array, "T D"]:
        table, own = self.position_embedding, self.config.grid
        if grid == own:
            return table
        square = table[1:].reshape(own, own, -1)
        resized = resize_bicubic(square, grid)
        return jnp.concatenate([table[:1], resized.reshape(grid * grid, -1)])


def pixel_shuffle(x: Float[Array, "B T D"], r: int) -> Float[Array, "B L F"]:
    """Joins r x r neighbouring patches into one token (ps_version v2), rows first."""
    b, t, d = x.shape
    side = int(t**0.5)
    x = x.reshape(b, side // r, r, side // r, r, d).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, (side // r) ** 2, r * r * d)


def resize_bicubic(square: Float[Array, "h w D"], size: int) -> Float[Array, "s s D"]:
    """Bicubic resize with a = -0.75, half-pixel centres and clamped borders, as torch does it."""
    weights = _cubic_matrix(square.shape[0], size)
    return jnp.einsum("ih,jw,hwd->ijd", weights, _cubic_matrix(square.shape[1], size), square)


def _cubic_matrix(source: int, target: int) -> Float[Array, "target source"]:
    a = -0.75
    centre = (jnp.arange(target) + 0.5) * source / target - 0.5
    base = jnp.floor(centre)
    matrix = jnp.zeros((target, source))
    for tap in range(-1, 3):
        x = jnp.abs(centre - base - tap)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        index = jnp.clip(base + tap, 0, source - 1).astype(int)
        matrix = matrix.at[jnp.arange(target), index].add(jnp.where(x <= 1, near, far))
    return matrix


class Mlp1(nn.Module):
    """LayerNorm and a two-layer MLP from features V to the language model's width."""

    features: int
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.norm = layer_norm(1e-5, self.dtype)
        self.mlp = MLP(self.features, self.features, self.dtype)

    def __call__(self, v: Float[Array, "B L F"]) -> Float[Array, "B L D"]:
        return self.mlp(self.norm(v))
