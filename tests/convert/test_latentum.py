"""The conversion table, walked both ways over the published checkpoint."""

import json

import numpy as np
import pytest

from latentum_jax.config import LatentUMConfig
from latentum_jax.convert.latentum import (
    TABLE,
    USAGE,
    config_from_published,
    published_config,
)
from latentum_jax.convert.table import Row, Table
from latentum_jax.models.folder import expected_shapes
from tests import published
from tests.published import GOLDEN

QKV = "internvl.vision_model.encoder.layers.1.attn.qkv.weight"


def fixture_config() -> dict:
    return json.loads((GOLDEN / "tiny/config.json").read_text())


def test_round_trip_is_bitwise():
    """A transform that is not the inverse of its partner changes what is exported."""
    state = published.state_dict()
    exported = TABLE.export_params(TABLE.import_params(state, expected_shapes(published.config())))
    left_out = [key for key in state if key not in exported]
    assert left_out == [key for key in state if key.endswith("ema_usage")]
    assert not set(exported) - set(state)
    for key, value in exported.items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
        assert value.flags.c_contiguous, key  # safetensors writes the buffer as it lies


def test_full_size_checkpoint_fits():
    """Every published tensor of LatentUM-Base has its place and shape, and none is left over."""
    listed = json.loads((GOLDEN / "full_size_keys.json").read_text())["latentum_base"]
    listed = {key: tuple(shape) for key, (shape, _) in listed.items()}
    usage = USAGE.published_shapes({"usage": (8, 2048)})
    assert TABLE.published_shapes(expected_shapes(LatentUMConfig())) | usage == listed


def test_table_covers_every_parameter_once():
    """A parameter in two rows would be overwritten, one in none would stay random."""
    paths = [row.path for row in TABLE.rows]
    assert sorted(paths) == sorted(expected_shapes(LatentUMConfig()))
    assert len({row.key for row in TABLE.rows}) == len(TABLE.rows)


def test_patch_kernel_is_the_convolution():
    """Pixels of a patch in another order would still have the right shape."""
    weight = published.state_dict()["internvl.vision_model.embeddings.patch_embedding.weight"]
    patch = np.random.default_rng(0).standard_normal((14, 14, 3)).astype(np.float32)
    expected = np.einsum("dchw,hwc->d", weight, patch)
    kernel = np.asarray(published.params()["vision"]["patch_embedding"]["kernel"])
    np.testing.assert_allclose(patch.reshape(-1) @ kernel, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s | {"internvl.extra.weight": s[QKV]}, "internvl.extra.weight"),
        (lambda s: {k: v for k, v in s.items() if k != QKV}, f"lacks {QKV}"),
        (lambda s: s | {QKV: s[QKV][:-1]}, rf"{QKV} has shape \[95, 32\], expected \[96, 32\]"),
        (lambda s: s | {QKV.replace("1", "2"): s[QKV]}, QKV.replace("1", "2")),
    ],
)
def test_wrong_keys_are_named(change, message):
    """A checkpoint of another model must not load quietly."""
    with pytest.raises(ValueError, match=message):
        TABLE.import_params(change(published.state_dict()), expected_shapes(published.config()))


def test_part_of_a_model():
    """A base model without the generation branch loads by the same rows."""
    shapes = {p: s for p, s in expected_shapes(published.config()).items() if p.startswith("mlp1")}
    state = {k: v for k, v in published.state_dict().items() if k.startswith("internvl.mlp1")}
    assert set(TABLE.import_flat(state, shapes)) == set(shapes)
    with pytest.raises(ValueError, match="head/unheard_of"):
        TABLE.export_params({"head": {"unheard_of": np.zeros(1)}})


def test_config():
    """Sizes that disagree with the checkpoint show as misshapen keys; these would not show."""
    config = published.config()
    assert config.language.rope_theta == 1e6
    assert config.language.tie_embeddings is False
    assert (config.language.num_heads, config.language.num_kv_heads) == (4, 2)
    assert (config.vision.num_heads, config.vision.num_tokens) == (2, 16)
    assert (config.head.num_heads, config.quantizer.commitment) == (4, 0.25)


def test_config_of_the_base_model_may_come_separately():
    """Published checkpoints leave `internvl_config` empty."""
    values = fixture_config()
    base, values["internvl_config"] = values["internvl_config"], {}
    assert config_from_published(values, base) == published.config()
    with pytest.raises(ValueError, match="OpenGVLab/InternVL3_5-4B"):
        config_from_published(values)


def test_config_errors_name_the_value():
    """Another architecture is refused by name, not by a crash later on."""
    values = fixture_config()
    values["internvl_config"]["vision_config"]["qk_normalization"] = True
    with pytest.raises(ValueError, match="qk_normalization is True, expected False"):
        config_from_published(values)
    values = fixture_config()
    del values["internvl_config"]["llm_config"]["rope_theta"]
    with pytest.raises(ValueError, match="lacks 'rope_theta'"):
        config_from_published(values)


def test_two_claims_of_one_place():
    """Breaks if a slip in a table lets one weight overwrite another."""
    shapes, state = {"a": (2,)}, {"x": np.zeros(2, np.float32), "y": np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match="two keys of a model claim a"):
        Table("a model", (Row("x", "a"), Row("y", "a"))).import_flat(state, shapes)
    with pytest.raises(ValueError, match="two parameters of a model claim x"):
        Table("a model", (Row("x", "a"), Row("x", "b"))).import_flat(state, shapes | {"b": (2,)})
    layers = (Row("layers.{}", "a"), Row("layers.{}", "b", first=1))
    with pytest.raises(ValueError, match="two parameters of a model claim layers.1"):
        Table("a model", layers).published_shapes({"a": (2, 3), "b": (2, 3)})


def test_published_config_is_the_published_one():
    """Breaks if a key of the published config.json is missing from ours, or means another size."""
    assert published_config(published.config()) == fixture_config()
    full = published_config(LatentUMConfig())
    assert config_from_published(full) == LatentUMConfig()
    assert full["base_model_name_or_path"] == "OpenGVLab/InternVL3_5-4B"
