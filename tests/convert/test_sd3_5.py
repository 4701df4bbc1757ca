"""SD3.5-medium as the start of a decoder: one file and folders, as diffusers converts them."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from latentum_jax.config import MMDiTConfig, VAEConfig
from latentum_jax.convert import mmdit, vae
from latentum_jax.convert.command import Options, convert
from latentum_jax.convert.decoder import open_decoder, open_sd3_5
from latentum_jax.decoder import mmdit as our_mmdit
from latentum_jax.decoder import vae as our_vae

MMDIT = MMDiTConfig(
    depth=3,
    hidden_size=128,
    num_heads=2,
    mlp_size=512,
    context_dim=40,
    dual_layers=2,
    position_side=6,
)
VAE = VAEConfig(channels=(32, 32, 64, 96), layers_per_level=1)


def random(shapes):
    rng = np.random.default_rng(0)
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


def started(path, **options):
    """Config and parameters of a decoder begun from SD3.5, the latter read."""
    opened = open_sd3_5(path, **options)
    return opened.config, jax.tree.map(lambda x: np.asarray(x[...], np.float32), opened.params)


@pytest.fixture(scope="module")
def parts():
    """MMDiT and VAE with random weights by the keys of the single file."""
    transformer = mmdit.table(MMDIT).published_shapes(our_mmdit.expected_shapes(MMDIT))
    return random(transformer), random(
        vae.ldm_table(VAE).published_shapes(our_vae.expected_shapes(VAE))
    )


def single_file(path, parts, **more):
    prefixes = "model.diffusion_model.", "first_stage_model."
    state = {
        prefix + k: v for prefix, part in zip(prefixes, parts, strict=True) for k, v in part.items()
    }
    save_file(state | more, str(path))
    return path


@pytest.fixture(scope="module")
def file(parts, tmp_path_factory):
    text = {"text_encoders.clip_l.x.weight": np.zeros((2, 2), ml_dtypes.float8_e4m3fn)}
    return single_file(tmp_path_factory.mktemp("sd") / "sd3.5_medium.safetensors", parts, **text)


def of_torch(state):
    return {key: np.ascontiguousarray(value.numpy()) for key, value in state.items()}


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    """The same as diffusers converts it into its own folders."""
    path = tmp_path_factory.mktemp("diffusers")
    transformer, autoencoder = (
        {key: torch.from_numpy(value) for key, value in part.items()} for part in parts
    )
    transformer = {f"model.diffusion_model.{key}": value for key, value in transformer.items()}
    theirs = AutoencoderKL(**vae.published_config(VAE) | {"sample_size": 64})
    converted = convert_ldm_vae_checkpoint(autoencoder, theirs.config)
    theirs.load_state_dict(converted, strict=True)
    theirs.save_pretrained(path / "vae")
    converted = convert_sd3_transformer_checkpoint_to_diffusers(transformer)
    (path / "transformer").mkdir()
    file = path / "transformer/diffusion_pytorch_model.safetensors"
    save_file(of_torch(converted), str(file))
    config = {
        "num_layers": 3,
        "num_attention_heads": 2,
        "attention_head_dim": 64,
        "dual_attention_layers": [0, 1],
        "qk_norm": "rms_norm",
        "pooled_projection_dim": 2048,
        "caption_projection_dim": 128,
        "patch_size": 2,
        "in_channels": 16,
        "joint_attention_dim": 40,
        "pos_embed_max_size": 6,
    }
    (path / "transformer/config.json").write_text(json.dumps(config))
    return path


def test_one_file_is_what_diffusers_makes_of_it(file, folder):
    """Breaks if a key of the one file goes elsewhere than diffusers takes it: q, k, v, levels."""
    (config, one), (same, other) = (
        started(path, context_dim=24, image_size=64) for path in (file, folder)
    )
    assert config == same
    assert config.mmdit == dataclasses.replace(MMDIT, context_dim=24)
    assert (config.vae, config.image_size) == (VAE, 64)
    one, other = (flatten_dict(params, sep="/") for params in (one, other))
    assert sorted(one) == sorted(other)
    for path, value in one.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, other[path], path)


def test_what_is_fresh(file, parts):
    """Breaks if reference frames are noticed at once, or text is still what the decoder reads."""
    config, params = started(file, context_dim=24, references=4, seed=3)
    assert config.mmdit.references == 4
    kernel = params["mmdit"]["x_embedder"]["kernel"].reshape(2, 2, 80, 128)
    theirs = parts[0]["x_embedder.proj.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel[:, :, :16], theirs)
    assert not kernel[:, :, 16:].any()
    context = params["mmdit"]["context_embedder"]
    assert context["kernel"].shape == (24, 128) and not context["bias"].any()
    assert 0.15 < context["kernel"].std() < 0.25  # 24 ** -0.5 is 0.204
    _, other = started(file, context_dim=24, seed=4)
    assert np.abs(context["kernel"] - other["mmdit"]["context_embedder"]["kernel"]).max() > 0.1
    shapes = {p: v.shape for p, v in flatten_dict(params["mmdit"], sep="/").items()}
    assert shapes == our_mmdit.expected_shapes(config.mmdit)


@pytest.mark.parametrize("source", ["file", "folder"])
def test_convert(source, request, tmp_path, monkeypatch):
    """Breaks if the command starts another decoder than the function does."""
    path = request.getfixturevalue(source)
    convert(path, tmp_path / "ours", options=Options(references=2))
    made, expected = open_decoder(tmp_path / "ours"), open_sd3_5(path, references=2)
    assert made.config == expected.config and made.config.mmdit.context_dim == 256
    one, other = (flatten_dict(d.params, sep="/") for d in (made, expected))
    for path, value in one.items():
        np.testing.assert_array_equal(value[...], other[path][...], path)


def test_what_is_not_sd3_5(file, folder, parts, tmp_path):
    """Breaks if another model's file starts a decoder, or an unread key goes unnoticed."""
    odd = single_file(tmp_path / "odd.safetensors", parts, **{"lora.up": np.zeros(1, np.float32)})
    with pytest.raises(ValueError, match="has lora.up, which is no weight of SD3.5"):
        open_sd3_5(odd)
    without = {k: v for k, v in parts[1].items() if k != "decoder.up.3.block.0.norm1.weight"}
    with pytest.raises(ValueError, match=r"lacks decoder\.up\.3\.block\.0\.norm1\.weight"):
        open_sd3_5(single_file(tmp_path / "less.safetensors", (parts[0], without)))
    with pytest.raises(ValueError, match=r"lacks encoder\.down\.0\.block\.0\.conv1\.weight"):
        open_sd3_5(single_file(tmp_path / "none.safetensors", (parts[0], {})))
    torch.save({"a": torch.zeros(1)}, tmp_path / "sd.ckpt")
    with pytest.raises(ValueError, match="sd.ckpt is a pickle, which is read on request alone"):
        open_sd3_5(tmp_path / "sd.ckpt")
    weights = load_file(str(folder / "transformer/diffusion_pytorch_model.safetensors"))
    assert all(value.dtype == np.float32 for value in weights.values())


def test_the_one_file_unpickled(parts, tmp_path):
    """Breaks if torch's own file of the same weights is another decoder."""
    state = {f"model.diffusion_model.{k}": torch.from_numpy(v) for k, v in parts[0].items()}
    state |= {f"first_stage_model.{k}": torch.from_numpy(v) for k, v in parts[1].items()}
    torch.save({"state_dict": state}, tmp_path / "sd.ckpt")
    _, params = started(tmp_path / "sd.ckpt", allow_pickle=True)
    np.testing.assert_array_equal(
        params["vae"]["encoder"]["conv_in"]["bias"], parts[1]["encoder.conv_in.bias"]
    )
