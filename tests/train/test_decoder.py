"""The decoder's stages: what trains, from what, and that the objective is the paper's."""

import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from latentum_jax.config import DecoderConfig, MMDiTConfig
from latentum_jax.configs.base import base
from latentum_jax.configs.frozenlake_decoder import get_config
from latentum_jax.data.faults import Faults
from latentum_jax.decoder import mmdit
from latentum_jax.decoder.folder import read_decoder_folder
from latentum_jax.decoder.pixel_decoder import PixelDecoder, init_decoder_params
from latentum_jax.models.latentum import LatentUM
from latentum_jax.train.data import open_pictures
from latentum_jax.train.loop import train, train_stage
from latentum_jax.train.recipe import stage_config
from latentum_jax.train.stages import DECODER_STAGES
from latentum_jax.train.stages.decoder import drawn_latents, unit, z_q_of
from latentum_jax.train.start import starting_decoder
from tests.models_on_disk import random_model, write_random_model
from tests.small import DECODER


@pytest.fixture(scope="module")
def latentum(tmp_path_factory):
    return str(write_random_model(tmp_path_factory.mktemp("start") / "model"))


def recipe(latentum):
    """The whole chain at the smallest size."""
    config = get_config()
    config.model.update(random_model().config.to_dict())
    config.decoder.update(DECODER.to_dict())
    config.latentum, config.steps, config.checkpoint_every, config.data.rows = latentum, 3, 3, 2
    for link in config.chain:
        config.links[link].data.rows = 2
    return config


@pytest.fixture(scope="module")
def trained(latentum, tmp_path_factory):
    """A finished chain: its workdir."""
    workdir = tmp_path_factory.mktemp("chain")
    assert train(recipe(latentum), workdir) == workdir / "pixel_decoder" / "model"
    return workdir


def moved(before, after):
    """Paths of the parameters that differ."""
    a, b = (flatten_dict(params, sep="/") for params in (before, after))
    chex.assert_trees_all_equal_shapes(a, b)
    return {path for path in a if not np.array_equal(a[path], b[path])}


def test_each_stage_trains_its_half(trained):
    """Breaks if the VAE drifts under MMDiT, or a table that is computed learns."""
    start = init_decoder_params(DECODER, jax.random.key(0))
    vae = read_decoder_folder(trained / "vae" / "model")
    done = read_decoder_folder(trained / "pixel_decoder" / "model")
    assert {path.split("/")[0] for path in moved(start, vae.params)} == {"vae"}
    drawn = moved(vae.params, done.params)
    assert "mmdit/x_embedder/kernel" in drawn and "mmdit/context_embedder/kernel" in drawn
    assert not [path for path in drawn if re.search("^vae/|position_table|y_embedder", path)]
    for stage in ("vae", "pixel_decoder"):
        lines = (trained / stage / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_latents_get_unit_variance(trained, latentum):
    """Breaks if MMDiT is trained on latents of another size than the noise (SD3's scale, shift)."""
    folder = read_decoder_folder(trained / "vae" / "model")
    assert folder.config.vae.scale != DECODER.vae.scale
    config = recipe(latentum)
    config.seed = 1  # other pictures than it was calibrated on
    feed = open_pictures(config, random_model().config.vision, folder.config, Faults(None, 0))
    pixels = jnp.asarray(np.concatenate([next(feed)["pixels"] for _ in range(20)]))
    model = PixelDecoder(folder.config)
    z = jax.jit(lambda p, x: drawn_latents(model, p, x, jax.random.key(0)))(folder.params, pixels)
    assert abs(float(z.mean())) < 0.1 and 0.8 < float(z.var()) < 1.25


def test_only_the_context_trains_as_published(trained, latentum, tmp_path):
    """Breaks if `part="context"` touches the image stream that SD3.5 brings, or misses a block."""
    config = stage_config(recipe(latentum), "pixel_decoder")
    config.part, config.init_from = "context", str(trained / "vae" / "model")
    done = read_decoder_folder(train_stage(config, tmp_path))
    drawn = moved(read_decoder_folder(config.init_from).params, done.params)
    assert all("context" in path for path in drawn)
    for group in ("dual_blocks", "last_block"):
        assert {f"mmdit/{group}/layers/context_attn/qkv/kernel"} <= drawn


def test_the_published_share_trains():
    """Context embedder and context blocks of SD3.5-medium: about 990M (section 3.1.4)."""
    shapes = mmdit.expected_shapes(MMDiTConfig())
    config = base(random_model().config)
    config.part = "context"
    stage = DECODER_STAGES["pixel_decoder"](
        PixelDecoder(DecoderConfig()), LatentUM(random_model().config), config
    )
    count = sum(
        np.prod(shape)
        for path, shape in shapes.items()
        if re.search(stage.trainable, f"decoder/mmdit/{path}")
    )
    assert 0.98e9 < count < 1.0e9


def test_reference_frames_start_from_a_decoder_without(trained, latentum, tmp_path):
    """Breaks if new channels do not begin at zero, do not train, or frames are not given."""
    config = stage_config(recipe(latentum), "pixel_decoder")
    config.part, config.init_from = "context", str(trained / "pixel_decoder" / "model")
    config.decoder.mmdit.references = 2
    before = read_decoder_folder(config.init_from)
    start = starting_decoder(config)
    kernel = start.params["mmdit"]["x_embedder"]["kernel"].reshape(2, 2, 48, 32)
    np.testing.assert_array_equal(
        kernel[:, :, :16], before.params["mmdit"]["x_embedder"]["kernel"].reshape(2, 2, 16, 32)
    )
    assert not kernel[:, :, 16:].any()
    done = read_decoder_folder(train_stage(config, tmp_path))
    assert done.config.mmdit.references == 2
    assert done.params["mmdit"]["x_embedder"]["kernel"].reshape(2, 2, 48, 32)[:, :, 16:].any()


def test_the_loss_is_that_of_the_paper(latentum):
    """Weighted by hand: v = 0 implies x_0 = x_t, off by sigma (eps - x_0) (appendix A.3)."""
    config = stage_config(recipe(latentum), "pixel_decoder")
    config.condition_dropout = 0.0
    decoder, folder = PixelDecoder(DECODER), random_model()
    params = init_decoder_params(DECODER, jax.random.key(0))
    params["mmdit"]["final_linear"] = jax.tree.map(jnp.zeros_like, params["mmdit"]["final_linear"])
    stage = DECODER_STAGES["pixel_decoder"](decoder, LatentUM(folder.config), config)
    pixels = jnp.full((64, 32, 32, 3), 100, jnp.uint8)
    batch = {"pixels": pixels, "seen": jnp.zeros((64, 28, 28, 3), jnp.uint8)}
    inputs = {"decoder": params, "latentum": folder.params}
    key = jax.random.key(1)
    terms, _ = jax.jit(stage.loss)(inputs, {}, batch, key)
    x_0 = drawn_latents(decoder, params, pixels, jax.random.split(key, 5)[0])
    # E[sigma^2 (eps - x_0)^2] over 64 rows; sigma^2 of the shifted logit-normal has mean 0.542.
    expected = 0.542 * (1 + float(jnp.mean(x_0**2)))
    assert float(terms["flow"]) == pytest.approx(expected, rel=0.15)


def test_z_q_is_the_models_own(latentum):
    """Breaks if the decoder is trained on other features than `LatentUM.z_q` gives it."""
    from latentum_jax.images import see
    from latentum_jax.pretrained import LatentUM as Pretrained

    model = Pretrained.from_pretrained(latentum)
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    seen = see(picture, model.config.vision)[None]
    _, codes = model.encode([picture])
    params = {part: model.params[part] for part in ("vision", "quantizer")}
    ours = z_q_of(model.model, params, {"seen": jnp.asarray(seen)})
    np.testing.assert_allclose(ours, model.z_q(codes), atol=1e-5)


def test_pictures_of_a_folder(latentum, tmp_path):
    """A user's own pictures train a VAE; what is no picture is passed over."""
    for i, size in enumerate([(50, 30), (64, 64)]):
        Image.new("RGB", size, (200, 30 * i, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    config = stage_config(recipe(latentum), "vae")
    config.data.source, config.data.path, config.steps = "images", str(tmp_path), 1
    done = train_stage(config, tmp_path / "run")
    assert read_decoder_folder(done).config.image_size == 32


def test_wrong_configs_are_named(trained, latentum, tmp_path):
    """Breaks if a wrong value is found only after minutes, or leaves a folder behind."""

    def config_of(**changes):
        config = stage_config(recipe(latentum), "pixel_decoder")
        for name, value in changes.items():
            config[name] = value
        return config

    narrow = config_of()
    narrow.decoder.mmdit.context_dim = 8
    empty = config_of()
    empty.data.source, empty.data.path = "images", str(tmp_path)
    deeper = config_of(init_from=str(trained / "vae" / "model"))
    deeper.decoder.mmdit.depth = 3
    for message, config in {
        "latentum is empty": config_of(latentum=""),
        "part is 'joint'": config_of(part="joint"),
        "context_dim is 8, z_q of .* has width 16": narrow,
        "has no pictures": empty,
        "decoder.mmdit.depth is 2 in .*, 3 in the config": deeper,
        "is not a pixel decoder of this library": config_of(init_from=latentum),
    }.items():
        with pytest.raises(ValueError, match=message):
            train_stage(config, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_unit_pixels():
    """0 and 255 are the ends of what the VAE sees; 51 is a fifth of the way."""
    np.testing.assert_allclose(
        unit(jnp.asarray([[0, 255, 51]], jnp.uint8)), [[-1, 1, -0.6]], atol=1e-6
    )


def test_full_size_config_is_the_default():
    """The recipe of a user without sizes of their own is SD3.5-medium."""
    config = base(random_model().config)
    assert DecoderConfig.from_dict(config.decoder.to_dict()) == DecoderConfig()
