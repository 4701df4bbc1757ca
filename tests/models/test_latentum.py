"""The towers put together: sizes, and how MoME begins."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.config import LatentUMConfig
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.latentum import (
    bytes_of_a_token,
    hold,
    init_params,
    look_codes_up,
    matching,
    path_of,
    stack_layers,
    start_generation_branch,
    unstack_layers,
)
from latentum_jax.models.layers import Rounded, Turned
from latentum_jax.models.stored import Lazy
from latentum_jax.models.vision_head import AHEAD
from tests.small import SMALL


@pytest.fixture(scope="module")
def sizes():
    return {path: math.prod(shape) for path, shape in expected_shapes(LatentUMConfig()).items()}


@pytest.mark.parametrize(
    "prefix, millions",
    [
        ("language/layers/gen/", 3633),
        ("head/", 283.2),
        ("quantizer/", 100.7),
        ("vision/", 304.0),
        ("language/", 8044.7),
        ("mlp1/", 17.1),
        ("visual_projector/", 7.2),
        ("", 8757),
    ],
)
def test_full_size(sizes, prefix, millions):
    """The published parameter counts; no array is made."""
    count = sum(size for path, size in sizes.items() if path.startswith(prefix))
    assert count / 1e6 == pytest.approx(millions, abs=0.5 if millions > 3000 else 0.05)


def test_init_makes_the_expected_shapes():
    """The door that makes parameters touches every weight that checkpoints hold."""
    params = jax.eval_shape(lambda key: init_params(SMALL, key), jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    assert {path_of(path): leaf.shape for path, leaf in leaves} == expected_shapes(SMALL)
    assert all(leaf.dtype == jnp.float32 for _, leaf in leaves)


def test_generation_branch_starts_as_a_copy(small):
    """MoME begins from the understanding branch, and touches nothing else."""
    started = start_generation_branch(small.params)
    layers = started["language"]["layers"]
    und, gen = (layers[name]["mlp"]["up_proj"]["kernel"] for name in ("und", "gen"))
    np.testing.assert_array_equal(gen, und)
    before = small.params["language"]["layers"]["gen"]["mlp"]["up_proj"]["kernel"]
    assert np.any(before != und)  # the given parameters are left alone
    for path in matching(started, "layers/gen/"):
        name = path.removeprefix("language/layers/gen/").split("/")
        left, right = layers["gen"], layers["und"]
        for part in name:
            left, right = left[part], right[part]
        np.testing.assert_array_equal(left, right, err_msg=path)
    assert started["head"] is small.params["head"]


@pytest.mark.parametrize("platform", ["gpu", "cpu", "tpu"])
def test_layers_one_by_one(small, platform):
    """Breaks if decoding runs other layers, or in another order, than training has made."""
    unstacked = unstack_layers(small.params, platform=platform)
    assert isinstance(unstacked["head"]["head"]["kernel"], Turned) == (platform != "gpu")
    assert len(unstacked["language"]["layers"]) == SMALL.language.num_layers
    pixels = jax.random.normal(jax.random.key(0), (2, 28, 28, 3))
    expected, got = (
        jax.jit(lambda p, x: small.model.apply({"params": p}, x))(params, pixels)
        for params in (small.params, unstacked)
    )
    np.testing.assert_allclose(got, expected, atol=1e-5)
    swapped = unstacked["head"]["layers"][::-1]
    other = {**unstacked, "head": {**unstacked["head"], "layers": swapped}}
    assert np.abs(small.model.apply({"params": other}, pixels) - expected).max() > 1e-3


@pytest.mark.parametrize("platform", ["gpu", "cpu", "tpu"])
def test_stacking_undoes_unstacking(small, platform):
    """Breaks if what was loaded to run is saved with layers lost, mixed, turned or rounded, or with
    what was computed from them."""
    unstacked = unstack_layers(small.params, platform=platform)
    looked_up = look_codes_up(small.model, unstacked)
    assert looked_up["head"][AHEAD].shape[:2] == small.params["head"]["embeddings"].shape[:2]
    for params in (unstacked, looked_up):
        jax.tree.map(np.testing.assert_array_equal, stack_layers(params), dict(small.params))
    lazy = stack_layers(unstacked, Lazy.stack)["language"]["layers"]["gen"]["q_proj"]["kernel"]
    expected = small.params["language"]["layers"]["gen"]["q_proj"]["kernel"]
    assert lazy.shape == expected.shape and lazy.stacked
    for index in (0, 1, ..., slice(1, 2)):
        np.testing.assert_array_equal(lazy[index], expected[index])


@pytest.mark.parametrize("platform", ["gpu", "cpu"])
def test_bytes_of_a_token(small, platform):
    """Breaks if a table of which a row is read, or the other branch, counts as read whole."""
    shapes = expected_shapes(SMALL).items()
    read = {path: shape for path, shape in shapes if "/gen/" in path or path.startswith("head/")}
    expected = 4 * sum(math.prod(shape) for path, shape in read.items() if "embedd" not in path)
    unstacked = unstack_layers(small.params, platform=platform)
    for params in (small.params, unstacked, look_codes_up(small.model, unstacked)):
        assert bytes_of_a_token(params) == expected


def test_what_is_held(small):
    """Breaks if a dtype goes astray: bf16, the quantizer in fp32, what decoding reads in int8."""
    held = hold(small.params, "bfloat16", "int8")
    layer = held["language"]["layers"][1]
    assert layer["gen"]["q_proj"]["kernel"].values.dtype == jnp.int8
    expected = Rounded.of(
        small.params["language"]["layers"]["gen"]["q_proj"]["kernel"][1].astype(jnp.bfloat16),
        "int8",
    )
    np.testing.assert_array_equal(layer["gen"]["q_proj"]["kernel"].values, expected.values)
    assert held["head"]["layers"][0]["qkv"]["kernel"].scale.dtype == jnp.float32
    assert layer["gen"]["q_norm"]["scale"].dtype == jnp.bfloat16
    assert held["language"]["embed_tokens"].dtype == held["head"]["norm"]["scale"].dtype
    assert held["language"]["embed_tokens"].dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(held["quantizer"])} == {jnp.dtype("float32")}


def test_matching():
    """Stages choose what trains by these paths."""
    params = {"head": {"norm": {"scale": 1}}, "mlp1": {"norm": {"bias": 2}}}
    assert matching(params, "^head/") == ["head/norm/scale"]
    assert matching(params, "norm") == ["head/norm/scale", "mlp1/norm/bias"]
