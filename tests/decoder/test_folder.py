"""A decoder comes back from disk as it went there, and a broken folder says what is wrong."""

import json

import chex
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from latentum_jax.config import DecoderConfig
from latentum_jax.decoder.folder import (
    DecoderFolder,
    expected_shapes,
    read_decoder_folder,
    write_decoder_folder,
)


def a_decoder() -> DecoderFolder:
    config = DecoderConfig.tiny()
    rng = np.random.default_rng(0)
    flat = {
        path: rng.standard_normal(shape).astype(np.float32)
        for path, shape in expected_shapes(config).items()
    }
    return DecoderFolder(config, unflatten_dict(flat, sep="/"))


def test_round_trip(tmp_path):
    """Tuples that JSON makes lists of, and every parameter, come back equal."""
    made = a_decoder()
    write_decoder_folder(tmp_path / "d", made, dtype="float32")
    read = read_decoder_folder(tmp_path / "d")
    assert read.config == made.config
    chex.assert_trees_all_equal(read.params, made.params)
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_bundled_size():
    """The tiny decoder fits beside the tiny model into 12 MB of bf16."""
    count = sum(np.prod(shape) for shape in expected_shapes(DecoderConfig.tiny()).values())
    assert 2 * count < 3.4e6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "latentum_jax-1"}, "format is 'latentum_jax-1'"),
        ({"decoder": {"mmdit": {}}}, "unknown or missing keys"),
    ],
)
def test_config_of_something_else(tmp_path, change, said):
    """A model folder or a config with other keys is refused by name, before weights are read."""
    write_decoder_folder(tmp_path, a_decoder(), dtype="bfloat16")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=said):
        read_decoder_folder(tmp_path)


def test_weights_of_another_size(tmp_path):
    """Weights that contradict the config are refused, with the parameter named."""
    write_decoder_folder(tmp_path, a_decoder(), dtype="bfloat16")
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    values["decoder"]["mmdit"]["context_dim"] = 7
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="context_embedder/kernel has shape"):
        read_decoder_folder(tmp_path)


def test_to_dict_is_plain():
    """The full size through JSON and back is itself."""
    assert DecoderConfig.from_dict(json.loads(json.dumps(DecoderConfig().to_dict()))) == (
        DecoderConfig()
    )
