"""The published pixel decoders at a tiny size (tests/golden), as our configs and parameters."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from latentum_jax.config import DecoderConfig, MMDiTConfig, VAEConfig
from latentum_jax.convert import mmdit as table_of_mmdit
from latentum_jax.convert import vae as table_of_vae
from latentum_jax.decoder.mmdit import MMDiT, expected_shapes
from latentum_jax.decoder.pixel_decoder import PixelDecoder
from latentum_jax.decoder.vae import expected_shapes as vae_shapes
from latentum_jax.models.latentum import Params
from tests.published import GOLDEN


@functools.cache
def mmdit_state(name: str) -> dict[str, np.ndarray]:
    """The weights of `golden/NAME` by their published keys, in bfloat16."""
    return load_file(str(GOLDEN / name / "model.safetensors"))


@functools.cache
def mmdit(name: str) -> tuple[MMDiTConfig, Params]:
    """Config and fp32 parameters of the MMDiT in `golden/NAME`."""
    state = mmdit_state(name)
    config = table_of_mmdit.config_of({key: value.shape for key, value in state.items()})
    params = table_of_mmdit.table(config).import_params(state, expected_shapes(config))
    return config, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


@functools.cache
def run_mmdit(name: str) -> object:
    """Its velocity, compiled: (x, t, context, references) channel-last."""
    config, params = mmdit(name)
    return functools.partial(jax.jit(MMDiT(config).apply), {"params": params})


def channel_last(x: np.ndarray) -> jax.Array:
    """[B c h w] -> [B h w c]."""
    return jnp.asarray(x).transpose(0, 2, 3, 1)


@functools.cache
def vae() -> tuple[VAEConfig, Params]:
    """Config and parameters of golden/sd35_tiny/vae."""
    folder = GOLDEN / "sd35_tiny/vae"
    config = table_of_vae.config_from_published(json.loads((folder / "config.json").read_text()))
    state = load_file(str(folder / "diffusion_pytorch_model.safetensors"))
    return config, table_of_vae.table(config).import_params(state, vae_shapes(config))


@functools.cache
def pixel_decoder(name: str) -> tuple[PixelDecoder, Params]:
    """The whole decoder `golden/NAME`."""
    mmdit_config, mmdit_params = mmdit(name)
    vae_config, vae_params = vae()
    config = DecoderConfig(mmdit_config, vae_config, image_size=112)
    return PixelDecoder(config), {"mmdit": mmdit_params, "vae": vae_params}


def run_decoder(name: str, method: str, *args: object) -> object:
    """A method of the whole decoder, compiled."""
    model, params = pixel_decoder(name)
    return jax.jit(lambda p, *a: model.apply({"params": p}, *a, method=method))(params, *args)
