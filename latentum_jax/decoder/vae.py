"""The autoencoder of SD3.5: pixels in [-1, 1] to latents and back (section 3.1.4).

Channel-last throughout: pixels [B P P 3], latents [B h w c] with h = P / 8 and c = 16. A level is
as many residual blocks at one resolution; levels are numbered as the file has them, so in the
decoder the smallest resolution comes first.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from latentum_jax.config import VAEConfig
from latentum_jax.models.attention import attend
from latentum_jax.models.layers import Dtype, dense, fan_in, shapes_by_path


class VAE(nn.Module):
    """Encoder and decoder; `scaled` and `unscaled` stand between their z and what MMDiT sees."""

    config: VAEConfig
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.encoder = Encoder(self.config, self.dtype)
        self.decoder = Decoder(self.config, self.dtype)

    def __call__(self, pixels: Float[Array, "B P Q 3"]) -> Float[Array, "B P Q 3"]:
        """Pixels through the mean of their latents."""
        return self.decode(self.encode(pixels)[0])

    def encode(self, pixels: Float[Array, "B P Q 3"]) -> tuple[Array, Array]:
        """Mean and log-variance [B h w c] of z."""
        moments = self.encoder(pixels.astype(self.dtype)).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def decode(self, z: Float[Array, "B h w c"]) -> Float[Array, "B P Q 3"]:
        """Pixels of z, not clipped."""
        return self.decoder(z.astype(self.dtype)).astype(jnp.float32)


def scaled(z: Float[Array, "*b c"], config: VAEConfig) -> Float[Array, "*b c"]:
    """The latents that MMDiT sees, of about unit variance."""
    return (z - config.shift) * config.scale


def unscaled(latents: Float[Array, "*b c"], config: VAEConfig) -> Float[Array, "*b c"]:
    """The inverse of `scaled`."""
    return latents / config.scale + config.shift


class Encoder(nn.Module):
    """Levels from the full resolution down, the middle, and the moments."""

    config: VAEConfig
    dtype: Dtype

    def setup(self) -> None:
        c, dtype = self.config, self.dtype
        before = (c.channels[0], *c.channels[:-1])
        self.conv_in = conv(c.channels[0], dtype)
        self.down_blocks = [
            Level(inputs, features, c.layers_per_level, c.norm_groups, dtype)
            for inputs, features in zip(before, c.channels, strict=True)
        ]
        # Padded at the right and at the bottom alone, where torch's model pads by hand.
        self.downsamplers = [
            conv(features, dtype, stride=2, padding=((0, 1), (0, 1)))
            for features in c.channels[:-1]
        ]
        self.mid_block = Middle(c.channels[-1], c.norm_groups, dtype)
        self.conv_norm_out = group_norm(c.norm_groups, dtype)
        self.conv_out = conv(2 * c.latent_channels, dtype)

    def __call__(self, x: Float[Array, "B P Q 3"]) -> Float[Array, "B h w m"]:
        x = self.conv_in(x)
        for index, level in enumerate(self.down_blocks):
            x = level(x)
            if index < len(self.downsamplers):
                x = self.downsamplers[index](x)
        return self.conv_out(nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """The middle, and levels up to the full resolution."""

    config: VAEConfig
    dtype: Dtype

    def setup(self) -> None:
        c, dtype = self.config, self.dtype
        channels = c.channels[::-1]
        before = (channels[0], *channels[:-1])
        self.conv_in = conv(channels[0], dtype)
        self.mid_block = Middle(channels[0], c.norm_groups, dtype)
        self.up_blocks = [
            Level(inputs, features, c.layers_per_level + 1, c.norm_groups, dtype)
            for inputs, features in zip(before, channels, strict=True)
        ]
        self.upsamplers = [conv(features, dtype) for features in channels[:-1]]
        self.conv_norm_out = group_norm(c.norm_groups, dtype)
        self.conv_out = conv(3, dtype)

    def __call__(self, z: Float[Array, "B h w c"]) -> Float[Array, "B P Q 3"]:
        x = self.mid_block(self.conv_in(z))
        for index, level in enumerate(self.up_blocks):
            x = level(x)
            if index < len(self.upsamplers):
                doubled = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = self.upsamplers[index](doubled)
        return self.conv_out(nn.silu(self.conv_norm_out(x)))


class Level(nn.Module):
    """Residual blocks of one resolution."""

    inputs: int
    features: int
    layers: int
    groups: int
    dtype: Dtype

    def setup(self) -> None:
        inputs = (self.inputs, *[self.features] * (self.layers - 1))
        self.resnets = [Resnet(n, self.features, self.groups, self.dtype) for n in inputs]

    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B h w d"]:
        for resnet in self.resnets:
            x = resnet(x)
        return x


class Middle(nn.Module):
    """A residual block, attention of one head over all places, a residual block."""

    features: int
    groups: int
    dtype: Dtype

    def setup(self) -> None:
        self.resnets = [
            Resnet(self.features, self.features, self.groups, self.dtype) for _ in range(2)
        ]
        self.attention = Attention(self.features, self.groups, self.dtype)

    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B h w c"]:
        return self.resnets[1](self.attention(self.resnets[0](x)))


class Attention(nn.Module):
    """x + attention of its norm, one head."""

    features: int
    groups: int
    dtype: Dtype

    def setup(self) -> None:
        self.group_norm = group_norm(self.groups, self.dtype)
        self.to_q, self.to_k, self.to_v, self.to_out = (
            dense(self.features, axes, bias=True, dtype=self.dtype)
            for axes in [("channels", "channels")] * 4
        )

    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B h w c"]:
        tokens = self.group_norm(x).reshape(x.shape[0], -1, x.shape[-1])
        q, k, v = (f(tokens)[:, :, None] for f in (self.to_q, self.to_k, self.to_v))
        return x + self.to_out(attend(q, k, v)[:, :, 0]).reshape(x.shape)


class Resnet(nn.Module):
    """Two convolutions behind norms and SiLUs, and a 1x1 shortcut where channels change."""

    inputs: int
    features: int
    groups: int
    dtype: Dtype

    def setup(self) -> None:
        self.norm1 = group_norm(self.groups, self.dtype)
        self.conv1 = conv(self.features, self.dtype)
        self.norm2 = group_norm(self.groups, self.dtype)
        self.conv2 = conv(self.features, self.dtype)
        if self.inputs != self.features:
            self.conv_shortcut = conv(self.features, self.dtype, side=1, padding=0)

    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B h w d"]:
        y = self.conv1(nn.silu(self.norm1(x)))
        y = self.conv2(nn.silu(self.norm2(y)))
        return y + (self.conv_shortcut(x) if self.inputs != self.features else x)


def conv(
    features: int, dtype: Dtype, *, side: int = 3, stride: int = 1, padding: object = 1
) -> nn.Conv:
    """A convolution, kernel [side side in out], its output channels carrying a logical axis."""
    return nn.Conv(
        features,
        (side, side),
        stride,
        padding,
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(fan_in, (None, None, None, "channels")),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("channels",)),
    )


def group_norm(groups: int, dtype: Dtype) -> nn.GroupNorm:
    """GroupNorm in fp32."""
    return nn.GroupNorm(groups, epsilon=1e-6, dtype=dtype, use_fast_variance=False)


def expected_shapes(config: VAEConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by path, without making any."""
    pixels = jnp.zeros((1, config.factor, config.factor, 3))
    return shapes_by_path(VAE(config).init, pixels)
