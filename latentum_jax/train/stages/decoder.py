"""`vae` and `pixel_decoder`: pixels from z_q (section 3.1.4, A.3).

Parameters are {"decoder": of decoder.pixel_decoder, "latentum": the ViT and quantizer that make
z_q}. A batch holds `pixels` uint8 [B P P 3] as the decoder draws them, the same pictures as `seen`
by the ViT, and for a decoder that takes them the `references` [B R P P 3], oldest first. In the
place of both it may hold what `latentum precompute` made of them: `codes`, `mean`, `log_variance`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from latentum_jax.decoder.flow import LEVELS, flow_loss, logit_normal_sigmas, noised
from latentum_jax.decoder.pixel_decoder import PixelDecoder
from latentum_jax.decoder.vae import scaled
from latentum_jax.images import normalise
from latentum_jax.models.latentum import LatentUM, Params
from latentum_jax.train.stages.sequence import Batch
from latentum_jax.train.stages.stage import Stage

CONTEXT = r"context_embedder/|\w+/(context_modulation|layers/context_\w+)/"
TRAINABLE = {
    "context": rf"^decoder/mmdit/({CONTEXT})",
    "all": r"^decoder/mmdit/(?!position_table|y_embedder)",
}
REFERENCES = r"|^decoder/mmdit/x_embedder/"


def vae_stage(decoder: PixelDecoder, model: LatentUM, config: ConfigDict) -> Stage:
    """|x - decode(z)| + kl_weight KL(q(z|x) || N(0, 1)), both as means over their elements.

    For a tiny VAE on drawn pictures: no perceptual and no adversarial term.
    """

    def loss(params: Params, extra: dict, batch: Batch, key: jax.Array) -> tuple:
        x = unit(batch["pixels"])
        mean, log_variance = _apply(decoder, params["decoder"], x, method="moments")
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        made = _apply(decoder, params["decoder"], z, method="decode")
        distance = jnp.mean(jnp.abs(made - x))
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)
        psnr = -10 * jnp.log10(jnp.mean((made - x) ** 2) / 4)  # pixels span 2
        terms = {"distance": distance, "divergence": config.kl_weight * kl}
        return terms, ({"l1": distance, "kl": kl, "psnr": psnr}, ())

    return Stage(trainable=r"^decoder/vae/", loss=loss)


def pixel_decoder_stage(decoder: PixelDecoder, model: LatentUM, config: ConfigDict) -> Stage:
    """Flow matching (A.3): the clean latents that the velocity implies, against the VAE's.

    `config.part`: "context" trains the context embedder and the context stream of every block, as
    published, and with reference frames the patch embedding that their channels are new in; "all"
    trains all of MMDiT, for one that starts from nothing. The context is dropped (zeros) in a
    share of the rows, for guidance.
    """
    if config.part not in TRAINABLE:
        raise ValueError(f"part is {config.part!r}, expected one of {tuple(TRAINABLE)}")
    references = decoder.config.mmdit.references

    def loss(params: Params, extra: dict, batch: Batch, key: jax.Array) -> tuple:
        keys = dict(zip(("z", "r", "eps", "t", "drop"), jax.random.split(key, 5), strict=True))
        context = z_q_of(model, params["latentum"], batch)
        kept = jax.random.bernoulli(
            keys["drop"], 1 - config.condition_dropout, (len(context), 1, 1)
        )
        x_0 = latents_of(decoder, params["decoder"], batch, keys["z"])
        seen = None
        if references:
            frames = drawn_latents(decoder, params["decoder"], batch["references"], keys["r"])
            seen = jnp.moveaxis(frames, 1, 3).reshape(*x_0.shape[:3], -1)
        sigma = logit_normal_sigmas(keys["t"], len(x_0))
        x_t = noised(x_0, jax.random.normal(keys["eps"], x_0.shape), sigma)
        velocity = _apply(
            decoder,
            params["decoder"],
            x_t,
            sigma * LEVELS,
            jnp.where(kept, context, 0.0),
            seen,
            method="velocity",
        )
        terms = {"flow": flow_loss(x_0, x_t, velocity, sigma)}
        return terms, ({"sigma": sigma.mean()}, ())

    trainable = TRAINABLE[config.part] + (REFERENCES if references else "")
    return Stage(trainable=trainable, loss=loss)


def z_q_of(model: LatentUM, params: Params, batch: Batch) -> Float[Array, "B L E"]:
    """De-quantized features of pictures as the ViT sees them, or of their `codes`."""
    if "codes" in batch:
        return jax.lax.stop_gradient(_apply(model, params, batch["codes"], method="look_up"))
    features = _apply(model, params, normalise(batch["seen"]), method="encode_image")
    return jax.lax.stop_gradient(_apply(model, params, features, method="quantize").z_q)


def latents_of(
    decoder: PixelDecoder, params: Params, batch: Batch, key: jax.Array
) -> Float[Array, "B h w c"]:
    """Latents drawn from the VAE's distribution of a batch's pictures, or from one that was
    computed before, its `mean` and `log_variance`."""
    if "mean" not in batch:
        return drawn_latents(decoder, params, batch["pixels"], key)
    mean, log_variance = (batch[name].astype(jnp.float32) for name in ("mean", "log_variance"))
    z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
    return scaled(z, decoder.config.vae)


def drawn_latents(
    decoder: PixelDecoder, params: Params, pixels: UInt8[Array, "*b P P 3"], key: jax.Array
) -> Float[Array, "*b h w c"]:
    """Latents of pictures, drawn from the VAE's distribution."""
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    c = decoder.config
    side = pixels.shape[-2] // c.vae.factor
    eps = jax.random.normal(key, (len(flat), side, side, c.vae.latent_channels))
    z = _apply(decoder, params, unit(flat), eps, method="encode")
    return jax.lax.stop_gradient(z.reshape(*pixels.shape[:-3], *z.shape[1:]))


def latent_moments(
    decoder: PixelDecoder, params: Params, pixels: UInt8[Array, "B P P 3"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean, and mean square, of the VAE's z before scale and shift."""
    mean, log_variance = _apply(decoder, params, unit(pixels), method="moments")
    return mean.mean(), jnp.mean(mean**2 + jnp.exp(log_variance))


def unit(pixels: UInt8[Array, "*b 3"]) -> Float[Array, "*b 3"]:
    """8-bit pixels in [-1, 1], as the VAE takes them."""
    return pixels / 127.5 - 1.0


def _apply(module: PixelDecoder | LatentUM, params: Params, *args: object, method: str) -> object:
    return module.apply({"params": params}, *args, method=method)
