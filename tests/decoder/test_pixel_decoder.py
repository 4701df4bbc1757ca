"""Four Euler steps to a picture, as the published decoder takes them."""

import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.decoder.pixel_decoder import sample_latents, to_uint8
from tests.decoders import channel_last, pixel_decoder, run_decoder
from tests.published import outputs

WITHIN = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize(("guidance", "end"), [(None, ""), (2.5, "_cfg2_5")])
def test_picture_is_the_published_one(guidance, end):
    """Breaks if a step, its sign, or the context of guidance's second row is another's."""
    o = outputs("decoder/sample")
    model, params = pixel_decoder("decoder_tiny")
    latents = sample_latents(
        model,
        params,
        jnp.asarray(o["context"]),
        channel_last(o["noise"]),
        steps=4,
        guidance=guidance,
    )
    np.testing.assert_allclose(latents, channel_last(o[f"latents{end}"][-1]), **WITHIN)
    pixels = run_decoder("decoder_tiny", "pixels", latents)
    np.testing.assert_allclose(pixels, channel_last(o[f"image{end}"]), **WITHIN)
    if guidance is None:
        off = np.asarray(to_uint8(pixels), int) - o["image_uint8"]
        assert np.abs(off).max() <= 1 and np.mean(off != 0) < 1e-3  # cut off beside a whole number


def test_reference_frames_are_encoded_as_published():
    """Breaks if frames reach MMDiT in another order, unscaled, or without their noise."""
    o = outputs("ref_decoder/sample")
    frames = jnp.tile(2 * channel_last(o["ref_images"]) - 1, (2, 1, 1, 1))
    z = run_decoder("ref_decoder_tiny", "encode", frames, channel_last(o["vae_eps"]))
    z = z.reshape(2, 4, 14, 14, 16).transpose(0, 2, 3, 1, 4).reshape(2, 14, 14, 64)
    np.testing.assert_allclose(z, channel_last(o["ref_vae"]), **WITHIN)
    model, params = pixel_decoder("ref_decoder_tiny")
    context, noise = jnp.asarray(o["context"]), channel_last(o["noise"])
    latents = sample_latents(model, params, context, noise, z, steps=4)
    np.testing.assert_allclose(latents, channel_last(o["latents"][-1]), **WITHIN)


def test_mean_latents_have_no_noise():
    """Breaks if training on a mean of latents secretly draws."""
    pixels = 2 * channel_last(outputs("decoder/vae")["pixels"]) - 1
    drawn = run_decoder("decoder_tiny", "encode", pixels, jnp.zeros((1, 14, 14, 16)))
    np.testing.assert_array_equal(run_decoder("decoder_tiny", "encode", pixels), drawn)
