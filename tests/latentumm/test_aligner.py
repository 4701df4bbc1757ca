"""The aligner against torch's own transformer encoder, and dropout as a function of its key."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import unflatten_dict

from latentum_jax.config import AlignerConfig
from latentum_jax.latentumm.aligner import Aligner, dropout, init_aligner_params
from latentum_jax.latentumm.folder import expected_shapes

CONFIG = AlignerConfig.tiny()
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
    """Random in every place, norms and biases too."""
    rng = np.random.default_rng(0)
    flat = {
        path: (rng.standard_normal(shape) * 0.3 + path.endswith("scale")).astype(np.float32)
        for path, shape in expected_shapes(CONFIG).items()
    }
    return unflatten_dict(flat, sep="/")


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(1)
    draw = lambda width: jnp.asarray(rng.standard_normal((3, width)), jnp.float32)  # noqa: E731
    return draw(CONFIG.text_dim), draw(CONFIG.image_dim)


@pytest.fixture(scope="module")
def theirs(params):
    """torch.nn.TransformerEncoder (post-norm) and the norm behind it, with the same weights."""
    c = CONFIG
    layer = torch.nn.TransformerEncoderLayer(
        c.hidden_size,
        c.num_heads,
        dim_feedforward=c.mlp_ratio * c.hidden_size,
        activation="gelu",
        batch_first=True,
    )
    encoder = torch.nn.TransformerEncoder(layer, c.num_layers, enable_nested_tensor=False)
    for i, own in enumerate(encoder.layers):
        ours = params[f"layers_{i}"]
        given = {
            "self_attn.in_proj_weight": ours["qkv"]["kernel"].T,
            "self_attn.in_proj_bias": ours["qkv"]["bias"],
            "self_attn.out_proj.weight": ours["proj"]["kernel"].T,
            "self_attn.out_proj.bias": ours["proj"]["bias"],
        }
        for name, linear in (("linear1", "fc1"), ("linear2", "fc2")):
            given[f"{name}.weight"] = ours[linear]["kernel"].T
            given[f"{name}.bias"] = ours[linear]["bias"]
        for name in ("norm1", "norm2"):
            given[f"{name}.weight"] = ours[name]["scale"]
            given[f"{name}.bias"] = ours[name]["bias"]
        own.load_state_dict({name: torch.tensor(x) for name, x in given.items()})
    return encoder.eval()


def linear(x, own):
    return x @ torch.tensor(own["kernel"]) + torch.tensor(own["bias"])


def norm(x, own):
    width = (x.shape[-1],)
    return torch.nn.functional.layer_norm(x, width, *map(torch.tensor, (own["scale"], own["bias"])))


def run(params, method, *args):
    return Aligner(CONFIG).apply({"params": params}, *args, method=method)


def token(params, x, name, modality):
    return linear(torch.tensor(np.array(x)), params[name]) + torch.tensor(
        params["modality"][modality]
    )


@torch.no_grad()
def test_encoders_equal_torch(params, theirs, pair):
    """Breaks if a norm stands before its sum, modalities are swapped or heads laid otherwise."""
    for method, x, name, modality in (
        ("encode_text", pair[0], "text_in", 0),
        ("encode_image", pair[1], "image_in", 1),
    ):
        h = norm(theirs(token(params, x, name, modality)[:, None]), params["norm"])
        expected = linear(h[:, 0], params["to_latent"])
        np.testing.assert_allclose(run(params, method, x), expected, atol=2e-5, err_msg=method)


@torch.no_grad()
def test_the_fused_latent_equals_torch(params, theirs, pair):
    """Two tokens that see each other. Breaks if they do not, or their order is turned."""
    tokens = [token(params, pair[0], "text_in", 0), token(params, pair[1], "image_in", 1)]
    h = norm(theirs(torch.stack(tokens, 1)), params["norm"]).reshape(3, -1)
    made = torch.nn.functional.gelu(linear(h, params["fuse1"]))
    expected = linear(norm(made, params["fuse_norm"]), params["fuse2"])
    np.testing.assert_allclose(run(params, "fuse", *pair), expected, atol=2e-5)


@torch.no_grad()
def test_the_generator_and_the_way_back(params, pair):
    """enc(G(z)) goes through the image encoder. Breaks if it takes the text's way."""
    z = run(params, "encode_text", pair[0])
    hidden = torch.nn.functional.gelu(linear(torch.tensor(np.array(z)), params["generator"]["fc1"]))
    made = run(params, "generate", z)
    np.testing.assert_allclose(made, linear(hidden, params["generator"]["fc2"]), atol=1e-5)
    again = run(params, "reencode", z)
    np.testing.assert_allclose(again, run(params, "encode_image", made), atol=1e-6)


def test_dropout_is_a_function_of_its_key(params, pair):
    """Breaks if a forward pass without a key is random, or layers share what they drop."""
    still = run(params, "encode_text", pair[0])
    chex.assert_trees_all_equal(still, run(params, "encode_text", pair[0]))
    one, same = (run(params, "encode_text", pair[0], KEY) for _ in range(2))
    chex.assert_trees_all_equal(one, same)
    assert not np.allclose(one, still)
    assert not np.allclose(one, run(params, "encode_text", pair[0], jax.random.key(1)))


def test_dropout_keeps_the_mean():
    """10,000 ones at rate 0.1: zeros are 0.1 of them, the rest 1 / 0.9."""
    x = jnp.ones(10_000)
    made = np.asarray(dropout(x, 0.1, KEY))
    np.testing.assert_allclose(np.unique(made), [0, 1 / 0.9], rtol=1e-6)
    assert 0.088 < (made == 0).mean() < 0.112  # 4 standard errors are 0.012
    assert dropout(x, 0.1, None) is x and dropout(x, 0.0, KEY) is x


def test_published_size():
    """2 layers of 1024 with FFN 4096, 12.6M each: 4 d^2 + 8 d^2 + 13 d = 12,596,224; d is 3072."""
    shapes = expected_shapes(AlignerConfig())
    count = {path: int(np.prod(shape)) for path, shape in shapes.items()}
    layer = sum(size for path, size in count.items() if path.startswith("layers_0/"))
    assert layer == 12 * 1024**2 + 13 * 1024
    # In: 2 (3072 x 1024 + 1024) and 2 x 1024; norms 2 x 2 x 1024; S, fuse, G as they are written.
    rest = 2 * (3072 * 1024 + 1024) + 2 * 1024 + 4 * 1024
    rest += 1024 * 3072 + 3072  # S
    rest += 2048 * 1024 + 1024 + 1024 * 3072 + 3072  # fusion
    rest += 3072 * 1024 + 1024 + 1024 * 3072 + 3072  # G
    assert sum(count.values()) == 2 * layer + rest


def test_fresh_parameters_have_their_shapes():
    """Breaks if `init` and the folder disagree, or parameters come boxed."""
    made = init_aligner_params(CONFIG, KEY)
    shapes = jax.tree.map(lambda x: x.shape, made)
    assert shapes == unflatten_dict(expected_shapes(CONFIG), sep="/")
