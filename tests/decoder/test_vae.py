"""The autoencoder against the published outputs and against diffusers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from latentum_jax.config import VAEConfig
from latentum_jax.convert.vae import config_from_published, table
from latentum_jax.decoder.vae import VAE, expected_shapes, scaled, unscaled
from tests.decoders import channel_last, vae
from tests.published import GOLDEN, outputs

WITHIN = {"rtol": 1e-4, "atol": 1e-5}


def test_moments_and_pixels_are_the_published_ones():
    """Breaks if a level, the one-sided padding or the attention in the middle is another's."""
    config, params = vae()
    o = outputs("decoder/vae")
    encode = jax.jit(lambda x: VAE(config).apply({"params": params}, x, method="encode"))
    mean, log_variance = encode(2 * channel_last(o["pixels"]) - 1)
    np.testing.assert_allclose(mean, channel_last(o["enc_mean"]), **WITHIN)
    np.testing.assert_allclose(log_variance, channel_last(o["enc_logvar"]), **WITHIN)
    decode = jax.jit(lambda z: VAE(config).apply({"params": params}, z, method="decode"))
    np.testing.assert_allclose(
        decode(channel_last(o["z"])), channel_last(o["decoded"]), rtol=1e-4, atol=1e-5
    )


def test_other_sizes_are_those_of_diffusers():
    """Breaks if a size of the published model is written into the code: three levels of two blocks,
    a picture that is not square."""
    torch.manual_seed(0)
    theirs = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 24),
        layers_per_block=2,
        latent_channels=6,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.7,
        shift_factor=0.1,
    ).eval()
    config = config_from_published(theirs.config)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    params = table(config).import_params(state, expected_shapes(config))
    x = torch.randn(2, 3, 24, 16)
    with torch.no_grad():
        latents = theirs.encode(x).latent_dist
        pixels = theirs.decode(latents.mean).sample
    model = VAE(config)
    mean, log_variance = model.apply({"params": params}, channel_last(x.numpy()), method="encode")
    np.testing.assert_allclose(mean, channel_last(latents.mean.numpy()), **WITHIN)
    np.testing.assert_allclose(log_variance, channel_last(latents.logvar.numpy()), **WITHIN)
    made = model.apply({"params": params}, mean, method="decode")
    np.testing.assert_allclose(made, channel_last(pixels.numpy()), rtol=1e-4, atol=1e-4)
    assert (config.factor, config.scale, config.shift) == (4, 1.7, 0.1)


def test_scaling_by_hand():
    """Breaks if shift and scale are taken in another order: (1.0609 - 0.0609) x 1.5305."""
    z = jnp.full((1, 1, 1, 16), 1.0609)
    np.testing.assert_allclose(scaled(z, VAEConfig()), 1.5305, rtol=1e-6)
    np.testing.assert_allclose(unscaled(scaled(z, VAEConfig()), VAEConfig()), z, rtol=1e-6)


def test_round_trip_and_full_size_keys():
    """Breaks if a transform is not undone by its partner, or a published tensor has no place."""
    listed = json.loads((GOLDEN / "full_size_keys.json").read_text())["sd35_vae"]
    shapes = expected_shapes(VAEConfig())
    assert table(VAEConfig()).published_shapes(shapes) == {
        k: tuple(s) for k, (s, _) in listed.items()
    }
    config, params = vae()
    rows = table(config)
    again = rows.import_params(rows.export_params(params), expected_shapes(config))
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_another_architecture_is_refused():
    """Breaks if a VAE with quantization convolutions loads without them."""
    values = json.loads((GOLDEN / "sd35_tiny/vae/config.json").read_text())
    with pytest.raises(ValueError, match="use_quant_conv is True, expected False"):
        config_from_published(values | {"use_quant_conv": True})
    del values["shift_factor"]
    with pytest.raises(ValueError, match="lacks 'shift_factor'"):
        config_from_published(values)
