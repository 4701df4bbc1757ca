"""The conversion table of the pixel decoder, walked both ways."""

import json

import numpy as np
import pytest

from latentum_jax.config import MMDiTConfig
from latentum_jax.convert.mmdit import config_of, table
from latentum_jax.decoder.mmdit import expected_shapes
from tests.decoders import mmdit, mmdit_state
from tests.published import GOLDEN


@pytest.mark.parametrize("name", ["decoder_tiny", "ref_decoder_tiny"])
def test_round_trip_is_bitwise(name):
    """A transform that is not the inverse of its partner changes what is exported."""
    state, (config, _) = mmdit_state(name), mmdit(name)
    rows = table(config)
    exported = rows.export_params(rows.import_params(state, expected_shapes(config)))
    assert sorted(exported) == sorted(state)
    for key, value in exported.items():
        assert value.dtype == state[key].dtype
        np.testing.assert_array_equal(value.view(np.uint16), state[key].view(np.uint16), key)


@pytest.mark.parametrize("references", [0, 4])
def test_full_size_checkpoint_fits(references):
    """Every published tensor has its place and shape, and sizes are read back from them."""
    listed = json.loads((GOLDEN / "full_size_keys.json").read_text())
    listed = listed["mmdit_decoder"] | (listed["ref_decoder_differs"] if references else {})
    listed = {key: tuple(shape) for key, (shape, _) in listed.items()}
    config = MMDiTConfig(references=references)
    assert config_of(listed) == config
    assert table(config).published_shapes(expected_shapes(config)) == listed


def test_wrong_checkpoints_are_refused():
    """A checkpoint of another model must not load quietly."""
    shapes = {key: value.shape for key, value in mmdit_state("decoder_tiny").items()}
    later = {key.replace("blocks.0.x_block.attn2", "blocks.1.x_block.attn2"): s
             for key, s in shapes.items()}  # fmt: skip
    with pytest.raises(ValueError, match=r"blocks \[1\] attend twice, expected the first ones"):
        config_of(later)
    del shapes["context_embedder.weight"]
    with pytest.raises(ValueError, match=r"lacks context_embedder\.weight"):
        config_of(shapes)
