"""Files of weights as transformers cuts and names them."""

import json

import numpy as np
from huggingface_hub import save_torch_state_dict
from huggingface_hub.serialization import split_torch_state_dict_into_shards
from safetensors.torch import load_file

from latentum_jax.convert import weights
from latentum_jax.convert.weights import open_weights, write_weights
from latentum_jax.models.stored import Lazy

STATE = {
    f"layers.{i}.weight": np.full((10, 1 + i % 3), i, np.float32) for i in (3, 1, 2, 0, 4, 5, 6)
}


def test_shards_are_those_of_the_hub(tmp_path, monkeypatch):
    """Breaks if a shard holds more, its name or the index differs from what transformers writes."""
    import torch

    monkeypatch.setattr(weights, "SHARD", 200)
    write_weights(tmp_path, {key: Lazy.of(value) for key, value in STATE.items()})
    state = {key: torch.from_numpy(value) for key, value in STATE.items()}
    split = split_torch_state_dict_into_shards(
        state, filename_pattern="model{suffix}.safetensors", max_shard_size=200
    )
    for file, keys in split.filename_to_tensors.items():
        assert sorted(load_file(tmp_path / file)) == sorted(keys)
    (tmp_path / "theirs").mkdir()
    save_torch_state_dict(state, tmp_path / "theirs", max_shard_size=200)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    theirs = json.loads((tmp_path / "theirs/model.safetensors.index.json").read_text())
    assert index["weight_map"] == theirs["weight_map"]
    assert index["metadata"]["total_size"] == theirs["metadata"]["total_size"]
    assert len(list(tmp_path.iterdir())) == len(split.filename_to_tensors) + 2
    for folder in (tmp_path, tmp_path / "theirs"):
        for key, value in open_weights(folder).items():
            np.testing.assert_array_equal(value, STATE[key])


def test_one_file_where_it_is_small(tmp_path):
    """Breaks if a small checkpoint gets an index, or its name is not diffusers' where asked."""
    write_weights(tmp_path, {key: Lazy.of(value) for key, value in STATE.items()}, "diffusion")
    assert [file.name for file in tmp_path.iterdir()] == ["diffusion.safetensors"]
    assert sorted(load_file(tmp_path / "diffusion.safetensors")) == sorted(STATE)
