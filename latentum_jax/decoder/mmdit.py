"""MMDiT-X: predicts the velocity of noisy latents from the z_q of an image (section 3.1.4).

Latents are channel-last [B h w c] (c = 16; h, w an eighth of the image). Two streams, the context
(the L visual tokens) and x (the patches of the latents), meet in joint attention. What depends on
the timestep alone, every shift, scale and gate (adaLN), is `modulation(t)`: a sampler asks for it
once for all its steps.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from latentum_jax.config import MMDiTConfig
from latentum_jax.models.attention import attend
from latentum_jax.models.layers import (
    MLP,
    Dtype,
    Remat,
    RMSNorm,
    corrected,
    dense,
    shapes_by_path,
    stacked,
)
from latentum_jax.sharding import constrain

FREQUENCIES = 256  # of the timestep embedding
LAST_CONTEXT, CONTEXT, IMAGE, DUAL_IMAGE = 2, 6, 6, 9  # vectors that adaLN gives a block


class Modulation(struct.PyTreeNode):
    """adaLN vectors of one group of blocks, [blocks B vectors D], by stream."""

    context: jax.Array
    x: jax.Array


class AdaLN(nn.Module):
    """The adaLN maps of a group of blocks as one product: [S D] -> [blocks S vectors D]."""

    blocks: int
    vectors: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, c: Float[Array, "S D"]) -> Float[Array, "blocks S vectors D"]:
        d = c.shape[-1]
        axes = ("layers", "embed", "mlp")
        shape = (self.blocks, d, self.vectors * d)
        kernel = self.param(
            "kernel", nn.with_logical_partitioning(nn.initializers.zeros, axes), shape
        )
        bias = self.param(
            "bias",
            nn.with_logical_partitioning(nn.initializers.zeros, axes[::2]),
            (shape[0], shape[2]),
        )
        c = nn.silu(c)
        out = corrected(self, jnp.einsum("sd,lde->lse", c, kernel.astype(self.dtype)), c)
        out += bias.astype(self.dtype)[:, None]
        return out.reshape(self.blocks, c.shape[0], self.vectors, d)


class Projections(nn.Module):
    """qkv with RMS-normalised q and k, and the output projection where there is one."""

    config: MMDiTConfig
    dtype: Dtype
    output: bool = True

    def setup(self) -> None:
        d = self.config.hidden_size
        self.qkv = dense(3 * d, ("embed", "qkv"), bias=True, dtype=self.dtype)
        self.q_norm = RMSNorm(1e-6, self.dtype, "head_dim")
        self.k_norm = RMSNorm(1e-6, self.dtype, "head_dim")
        if self.output:
            self.proj = dense(d, ("heads", "embed"), bias=True, dtype=self.dtype)

    def heads(self, x: Float[Array, "B T D"]) -> tuple[Array, Array, Array]:
        """q, k, v [B T N H]."""
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.config.num_heads, -1)
        return self.q_norm(qkv[:, :, 0]), self.k_norm(qkv[:, :, 1]), qkv[:, :, 2]

    def join(self, mixed: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
        """The output projection of the joined heads."""
        return self.proj(mixed.reshape(*mixed.shape[:2], -1))


class JointBlock(nn.Module):
    """Both streams through one attention; `dual`: x attends to itself besides.

    The `last` block gives its context's keys and values and lets the context go.
    """

    config: MMDiTConfig
    dtype: Dtype
    dual: bool = False
    last: bool = False

    def setup(self) -> None:
        c, dtype = self.config, self.dtype
        self.context_attn = Projections(c, dtype, output=not self.last)
        self.x_attn = Projections(c, dtype)
        self.x_mlp = MLP(c.mlp_size, c.hidden_size, dtype, activation=nn.gelu)
        if self.dual:
            self.x_attn2 = Projections(c, dtype)
        if not self.last:
            self.context_mlp = MLP(c.mlp_size, c.hidden_size, dtype, activation=nn.gelu)

    def __call__(
        self, streams: tuple[Float[Array, "B L D"], Float[Array, "B T D"]], m: Modulation
    ) -> tuple[tuple[Array, Array], None]:
        context, x = (constrain(y, "batch", None, None) for y in streams)
        mc, mx = ([v[:, None, i] for i in range(v.shape[1])] for v in (m.context, m.x))
        quiet = norm(x)
        parts = (
            self.context_attn.heads(modulate(norm(context), *mc[:2])),
            self.x_attn.heads(modulate(quiet, *mx[:2])),
        )
        q, k, v = (jnp.concatenate(pair, axis=1) for pair in zip(*parts, strict=True))
        mixed = attend(q, k, v)
        x = x + mx[2] * self.x_attn.join(mixed[:, context.shape[1] :])
        if self.dual:
            own = attend(*self.x_attn2.heads(modulate(quiet, *mx[6:8])))
            x = x + mx[8] * self.x_attn2.join(own)
        x = x + mx[5] * self.x_mlp(modulate(norm(x), *mx[3:5]))
        if not self.last:
            context = context + mc[2] * self.context_attn.join(mixed[:, : context.shape[1]])
            context = context + mc[5] * self.context_mlp(modulate(norm(context), *mc[3:5]))
        return (context, x), None


def norm(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """LayerNorm without scale and bias, in fp32."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6)).astype(x.dtype)


def modulate(
    x: Float[Array, "B T D"], shift: Float[Array, "#B 1 D"], scale: Float[Array, "#B 1 D"]
) -> Float[Array, "B T D"]:
    """x (1 + scale) + shift."""
    return x * (1 + scale) + shift


def timestep_embedding(t: Float[Array, " S"]) -> Float[Array, "S 256"]:
    """cos and sin of t at frequencies from 1 down to 1/10000."""
    half = FREQUENCIES // 2
    angle = t[:, None] * jnp.exp(-math.log(10000) * jnp.arange(half) / half)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class Group(nn.Module):
    """Equal blocks in a row, their parameters stacked, with the adaLN of all of them."""

    count: int
    dual: bool
    last: bool
    config: MMDiTConfig
    dtype: Dtype
    remat: Remat = "none"

    def setup(self) -> None:
        made = stacked(JointBlock, self.count, in_axes=0, remat=self.remat)
        self.layers = made(self.config, self.dtype, self.dual, self.last)
        image, context = (
            (DUAL_IMAGE if self.dual else IMAGE),
            (LAST_CONTEXT if self.last else CONTEXT),
        )
        self.x_modulation = AdaLN(self.count, image, self.dtype)
        self.context_modulation = AdaLN(self.count, context, self.dtype)

    def modulation(self, c: Float[Array, "S D"]) -> Modulation:
        return Modulation(self.context_modulation(c), self.x_modulation(c))

    def __call__(self, streams: tuple[Array, Array], m: Modulation) -> tuple[Array, Array]:
        return self.layers(streams, m)[0]


class MMDiT(nn.Module):
    """Patches, positions, timestep, context, the blocks, and the final layer."""

    config: MMDiTConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    def setup(self) -> None:
        c, dtype = self.config, self.dtype
        d = c.hidden_size
        self.x_embedder = dense(d, ("pixels", "embed"), bias=True, dtype=dtype)
        self.context_embedder = dense(d, ("pixels", "embed"), bias=True, dtype=dtype)
        self.t_embedder = MLP(d, d, dtype, activation=nn.silu)
        if c.pooled_size is not None:  # SD3.5 adds its pooled text to the timestep, LatentUM none
            self.y_embedder = MLP(d, d, dtype, activation=nn.silu)
        self.position_table = self.param(
            "position_table",
            nn.with_logical_partitioning(sincos_table, ("positions", "positions", "embed")),
            (c.position_side, c.position_side, d),
        )
        self.groups = [
            Group(*run, c, dtype, self.remat, name=label) for label, *run in block_groups(c)
        ]
        self.final_modulation = AdaLN(1, 2, dtype)
        self.final_linear = dense(
            c.patch_size**2 * c.latent_channels, ("embed", "pixels"), bias=True, dtype=dtype
        )

    def __call__(
        self,
        x: Float[Array, "B h w c"],
        t: Float[Array, " B"],
        context: Float[Array, "B L E"],
        references: Float[Array, "B h w r"] | None = None,
    ) -> Float[Array, "B h w c"]:
        """The velocity of latents x at timesteps t (0 to 1000); references are clean latents."""
        return self.velocity(x, self.modulation(t), self.embed_context(context), references)

    def embed_context(self, context: Float[Array, "B L E"]) -> Float[Array, "B L D"]:
        """The context stream before the first block."""
        embedded = self.context_embedder(context.astype(self.dtype))
        side = self.config.token_patches
        if side is None:
            return embedded
        # A token stands in the middle of the patches that it covers.
        along = math.isqrt(context.shape[1])
        patches = self._positions(along * side, along * side)
        covered = patches.reshape(along, side, along, side, -1)
        return embedded + covered.mean((1, 3)).reshape(along * along, -1)

    def modulation(self, t: Float[Array, " S"]) -> tuple[Modulation, ...]:
        """adaLN of every group of blocks, and of the final layer behind them, at timesteps t."""
        c = self.t_embedder(timestep_embedding(t).astype(self.dtype))
        if self.is_initializing() and self.config.pooled_size is not None:
            self.y_embedder(jnp.zeros((1, self.config.pooled_size), self.dtype))
        final = self.final_modulation(c)
        return (*(group.modulation(c) for group in self.groups), Modulation(final, final))

    def velocity(
        self,
        x: Float[Array, "B h w c"],
        m: tuple[Modulation, ...],
        context: Float[Array, "B L D"],
        references: Float[Array, "B h w r"] | None = None,
    ) -> Float[Array, "B h w c"]:
        """The same, from what `modulation` and `embed_context` gave."""
        if references is not None:
            x = jnp.concatenate([x, references], axis=-1)
        rows, columns = (side // self.config.patch_size for side in x.shape[1:3])
        tokens = self.x_embedder(self._patches(x).astype(self.dtype))
        tokens = tokens + self._positions(rows, columns)
        for group, vectors in zip(self.groups, m[:-1], strict=True):
            context, tokens = group((context, tokens), vectors)
        shift, scale = (m[-1].x[0, :, None, i] for i in range(2))
        out = self.final_linear(modulate(norm(tokens), shift, scale))
        return self._unpatch(out.astype(jnp.float32), rows, columns)

    def _patches(self, x: Float[Array, "B h w c"]) -> Float[Array, "B T p"]:
        b, h, w, channels = x.shape
        p = self.config.patch_size
        x = x.reshape(b, h // p, p, w // p, p, channels).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(b, (h // p) * (w // p), -1)

    def _unpatch(self, x: Float[Array, "B T p"], rows: int, columns: int) -> Array:
        p = self.config.patch_size
        x = x.reshape(x.shape[0], rows, columns, p, p, -1).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(x.shape[0], rows * p, columns * p, -1)

    def _positions(self, rows: int, columns: int) -> Float[Array, "T D"]:
        """The middle of the table, so that images of every size are centred in it."""
        side = self.config.position_side
        if max(rows, columns) > side:
            raise ValueError(f"{rows} x {columns} patches, expected at most {side} along a side")
        top, left = (side - rows) // 2, (side - columns) // 2
        table = self.position_table[top : top + rows, left : left + columns]
        return table.reshape(rows * columns, -1).astype(self.dtype)


def block_groups(c: MMDiTConfig) -> list[tuple[str, int, bool, bool]]:
    """(name, blocks, dual, last) of each run of equal blocks, in their order."""
    dual = min(c.dual_layers, c.depth - 1)
    runs = [
        ("dual_blocks", dual, True, False),
        ("blocks", c.depth - 1 - dual, False, False),
        ("last_block", 1, c.dual_layers >= c.depth, True),
    ]
    return [run for run in runs if run[1] > 0]


def sincos_table(
    key: jax.Array, shape: tuple[int, int, int], dtype: Dtype = jnp.float32
) -> Float[Array, "side side D"]:
    """sin and cos of the column in the first half of D, of the row in the second."""
    rows, columns, d = shape
    frequency = 1e4 ** (-jnp.arange(d // 4) / (d // 4))
    column, row = (
        jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
        for angle in (jnp.arange(n)[:, None] * frequency for n in (columns, rows))
    )
    column = jnp.broadcast_to(column[None], (rows, columns, d // 2))
    row = jnp.broadcast_to(row[:, None], (rows, columns, d // 2))
    return jnp.concatenate([column, row], axis=-1).astype(dtype)


def with_references(kernel: np.ndarray, config: MMDiTConfig, references: int) -> np.ndarray:
    """The patch embedding [p p c, D] with room for reference frames: channels of zeros (App. D)."""
    c, d = config.latent_channels, kernel.shape[-1]
    by_channel = kernel.reshape(-1, c * (1 + config.references), d)
    new = c * (references - config.references)
    return np.pad(by_channel, ((0, 0), (0, new), (0, 0))).reshape(-1, d)


def expected_shapes(config: MMDiTConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by path, without making any."""
    side = config.patch_size
    x = jnp.zeros((1, side, side, config.latent_channels))
    references = jnp.tile(x, config.references) if config.references else None
    context = jnp.zeros((1, 1, config.context_dim))
    return shapes_by_path(MMDiT(config).init, x, jnp.zeros(1), context, references)
