"""InternVL3.5 as the start of training: both published layouts, against transformers."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from latentum_jax.convert.command import convert
from latentum_jax.convert.published import open_model, read_model
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.folder import read_folder, write_folder
from latentum_jax.models.latentum import LatentUM
from latentum_jax.models.mome import Stream
from tests import published
from tests.internvl import random_internvl
from tests.models_on_disk import write_random_model
from tests.published import GOLDEN


def like():
    """Sizes of what an InternVL lacks, small."""
    return published.config()


@pytest.fixture(scope="module")
def theirs():
    """A tiny InternVL of transformers with random weights, norms and scales included."""
    return random_internvl()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("internvl")
    theirs.save_pretrained(path)
    shutil.copyfile(GOLDEN / "tiny/tokenizer.json", path / "tokenizer.json")
    return path


def test_features_and_logits_are_those_of_transformers(theirs, folder):
    """Breaks if q, k and v, a norm, LayerScale or the projector is read from another key."""
    ours = read_model(folder, like())
    model, params = LatentUM(ours.config), jax.tree.map(jnp.asarray, ours.params)
    pixels = torch.randn(2, 3, 56, 56)
    tokens = torch.randint(0, 1000, (2, 9))
    with torch.no_grad():
        made = theirs.get_image_features(pixels)
        features = getattr(made, "pooler_output", made)
        logits = theirs(input_ids=tokens).logits
    apply = lambda method, *a: model.apply({"params": params}, *a, method=method)  # noqa: E731
    v = apply("encode_image", jnp.asarray(pixels.numpy()).transpose(0, 2, 3, 1))
    shown = np.asarray(apply("understand", v)).reshape(features.shape)
    np.testing.assert_allclose(shown, features, rtol=1e-4, atol=1e-4)
    x = {"und": apply("embed", jnp.asarray(tokens.numpy()))}
    at = Placement.causal(jnp.broadcast_to(jnp.arange(9), (2, 9)))
    hidden, _ = apply("hidden", x, Stream({"und": at}))
    np.testing.assert_allclose(apply("text_logits", hidden["und"]), logits, rtol=1e-4, atol=1e-4)


def test_original_layout(tmp_path):
    """Breaks if the keys of a LatentUM without their prefix are not those of its InternVL."""
    values = json.loads((GOLDEN / "tiny/config.json").read_text())["internvl_config"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    parts = ("internvl.vision_model.", "internvl.language_model.", "internvl.mlp1.")
    state = {
        key.removeprefix("internvl."): value
        for key, value in published.state_dict().items()
        if key.startswith(parts) and "_vision." not in key
    }
    save_file(state, str(tmp_path / "model.safetensors"))
    shutil.copyfile(GOLDEN / "tiny/tokenizer.json", tmp_path / "tokenizer.json")
    ours = read_model(tmp_path, like())
    assert ours.config == published.config()
    got = flatten_dict(ours.params, sep="/")
    for path, value in flatten_dict(published.params(), sep="/").items():
        if path.startswith(("vision/", "mlp1/", "language/")) and "/gen/" not in path:
            np.testing.assert_array_equal(got[path], value, err_msg=path)


def test_the_generation_branch_begins_as_a_copy(folder):
    """Breaks if what InternVL lacks is left out, or not of the sizes asked for."""
    ours = read_model(folder, like())
    layers = ours.params["language"]["layers"]
    jax.tree.map(np.testing.assert_array_equal, layers["gen"], layers["und"])
    assert ours.config.quantizer == like().quantizer and ours.config.head == like().head
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(ours.params))


def test_convert(folder, tmp_path):
    """Breaks if the command makes another model of it than training starts from."""
    lazy = open_model(folder, like())
    write_folder(tmp_path / "ours", lazy, dtype=None, storage="orbax")
    ours, expected = read_folder(tmp_path / "ours"), read_model(folder, like())
    assert ours.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, ours.params, expected.params)
    convert(tmp_path / "ours", tmp_path / "published")
    again = read_model(tmp_path / "published")
    jax.tree.map(np.testing.assert_array_equal, again.params, expected.params)


def test_what_is_not_one_is_refused(folder, tmp_path):
    """Breaks if an InternVL with another projector, or our own folder, is taken for this one."""
    values = json.loads((folder / "config.json").read_text())
    broken = shutil.copytree(folder, tmp_path / "broken")
    values["vision_config"]["use_qk_norm"] = True
    (broken / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="qk_normalization is True, expected False"):
        read_model(broken)
    values["vision_config"] |= {"use_qk_norm": False, "image_size": [56, 28]}
    (broken / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"a size is \[56, 28\], expected a square"):
        read_model(broken)
    values["vision_config"]["image_size"] = [56, 56]
    del values["text_config"]["num_key_value_heads"]
    (broken / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="config.json lacks 'num_key_value_heads'"):
        read_model(broken)
    ours = read_model(write_random_model(tmp_path / "ours"))
    assert dataclasses.is_dataclass(ours.config)
