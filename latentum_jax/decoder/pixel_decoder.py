"""z_q -> pixels (section 3.1.4): Euler steps through MMDiT's velocity, then the VAE."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta
from jaxtyping import Array, Float, UInt8

from latentum_jax.config import DecoderConfig
from latentum_jax.decoder.flow import LEVELS, euler_sigmas
from latentum_jax.decoder.mmdit import MMDiT
from latentum_jax.decoder.vae import VAE, scaled, unscaled
from latentum_jax.kept import program
from latentum_jax.models.latentum import Params
from latentum_jax.models.layers import Dtype, Remat


class PixelDecoder(nn.Module):
    """MMDiT and VAE."""

    config: DecoderConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    def setup(self) -> None:
        self.mmdit = MMDiT(self.config.mmdit, self.dtype, self.remat)
        self.vae = VAE(self.config.vae, self.dtype)

    def __call__(
        self,
        pixels: Float[Array, "B P Q 3"],
        t: Float[Array, " B"],
        context: Float[Array, "B L E"],
        references: Float[Array, "B h w r"] | None = None,
    ) -> Float[Array, "B h w c"]:
        """The velocity of an image's own latents: touches every parameter."""
        latents = scaled(self.vae.encode(pixels)[0], self.config.vae)
        self.vae.decode(latents)
        return self.mmdit(latents, t, context, references)

    def moments(self, pixels: Float[Array, "B P Q 3"]) -> tuple[Array, Array]:
        """Mean and log-variance [B h w c] of the VAE's z for pixels in [-1, 1]."""
        return self.vae.encode(pixels)

    def decode(self, z: Float[Array, "B h w c"]) -> Float[Array, "B P Q 3"]:
        """Pixels, about in [-1, 1], of the VAE's z."""
        return self.vae.decode(z)

    def velocity(
        self,
        x: Float[Array, "B h w c"],
        t: Float[Array, " B"],
        context: Float[Array, "B L E"],
        references: Float[Array, "B h w r"] | None = None,
    ) -> Float[Array, "B h w c"]:
        """MMDiT's velocity at timesteps t (0 to 1000)."""
        return self.mmdit(x, t, context, references)

    def encode(
        self, pixels: Float[Array, "B P Q 3"], eps: Float[Array, "*r B h w c"] | None = None
    ) -> Float[Array, "*r B h w c"]:
        """Latents of pixels in [-1, 1]: drawn with the unit normal `eps`, the mean without."""
        z, log_variance = self.vae.encode(pixels)
        if eps is not None:
            z = z + jnp.exp(0.5 * log_variance) * eps
        return scaled(z, self.config.vae)

    def pixels(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B P Q 3"]:
        """Pixels in [0, 1] of latents."""
        x = self.vae.decode(unscaled(latents, self.config.vae))
        return jnp.clip(x / 2 + 0.5, 0.0, 1.0)


def init_decoder_params(config: DecoderConfig, key: jax.Array) -> Params:
    """Fresh fp32 parameters {"mmdit", "vae"} as a plain nested dict."""
    return meta.unbox(jax.jit(PixelDecoder(config).init)(key, *probe(config))["params"])


def probe(config: DecoderConfig) -> tuple[Array, ...]:
    """The smallest input that touches every parameter."""
    c = config.mmdit
    side = config.vae.factor * c.patch_size
    pixels = jnp.zeros((1, side, side, 3))
    inputs = (pixels, jnp.zeros(1), jnp.zeros((1, 1, c.context_dim)))
    if not c.references:
        return inputs
    shape = (1, c.patch_size, c.patch_size, c.latent_channels * c.references)
    return (*inputs, jnp.zeros(shape))


@program(static=("model", "steps"))
def sample_latents(
    model: PixelDecoder,
    params: Params,
    context: Float[Array, "B L E"],
    noise: Float[Array, "B h w c"],
    references: Float[Array, "B h w r"] | None = None,
    *,
    steps: int,
    guidance: float | Float[Array, ""] | None = None,
) -> Float[Array, "B h w c"]:
    """Latents after `steps` Euler steps from `noise`, one compiled loop.

    With `guidance`, velocities are uncond + guidance (cond - uncond), the second of a zero context,
    both in one doubled batch.
    """
    mmdit = MMDiT(model.config.mmdit, model.dtype)
    apply = functools.partial(mmdit.apply, {"params": params["mmdit"]})
    sigmas = jnp.asarray(euler_sigmas(steps), jnp.float32)
    # Everything that the timestep alone decides, of all steps at once: [blocks steps vectors D].
    m = apply(sigmas[:-1] * LEVELS, method="modulation")
    m = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[:, :, None], m)
    guided = guidance is not None
    if guided:
        context = jnp.concatenate([context, jnp.zeros_like(context)])
        references = None if references is None else jnp.tile(references, (2, 1, 1, 1))
    embedded = apply(context, method="embed_context")

    def step(x: jax.Array, at: tuple) -> tuple[jax.Array, None]:
        sigma, after, vectors = at
        seen = jnp.concatenate([x, x]) if guided else x
        v = apply(seen, vectors, embedded, references, method="velocity")
        if guided:
            cond, uncond = jnp.split(v, 2)
            v = uncond + guidance * (cond - uncond)
        return x + (after - sigma) * v, None

    return jax.lax.scan(step, noise, (sigmas[:-1], sigmas[1:], m))[0]


def to_uint8(pixels: Float[Array, "B P Q 3"]) -> UInt8[Array, "B P Q 3"]:
    """8-bit images; fractions are cut off, as published."""
    return (pixels * 255).astype(jnp.uint8)
