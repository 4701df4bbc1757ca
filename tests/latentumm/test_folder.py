"""An aligner comes back from disk as it went there, and a broken folder says what is wrong."""

import json

import chex
import jax
import pytest

from latentum_jax.config import AlignerConfig
from latentum_jax.latentumm.aligner import init_aligner_params
from latentum_jax.latentumm.folder import AlignerFolder, read_aligner_folder, write_aligner_folder


@pytest.fixture
def folder(tmp_path):
    config = AlignerConfig.tiny()
    made = AlignerFolder(config, init_aligner_params(config, jax.random.key(0)))
    write_aligner_folder(tmp_path / "a", made)
    return made, tmp_path / "a"


def test_round_trip(folder):
    """Every value of the config and every parameter."""
    made, path = folder
    read = read_aligner_folder(path)
    assert read.config == made.config
    chex.assert_trees_all_equal(read.params, made.params)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "latentum_jax-1"}, "format is 'latentum_jax-1'"),
        ({"aligner": {"text_dim": 3}}, "unknown or missing keys"),
        ({"aligner": AlignerConfig.tiny().to_dict() | {"latent_dim": 3}}, "has shape"),
    ],
)
def test_config_of_something_else(folder, change, said):
    """Refused by name, whether the config or the weights are of something else."""
    file = folder[1] / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=said):
        read_aligner_folder(folder[1])
