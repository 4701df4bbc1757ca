"""Small layers against torch's Qwen3."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3RMSNorm,
    Qwen3RotaryEmbedding,
    apply_rotary_pos_emb,
)

from latentum_jax.convert.latentum import TABLE
from latentum_jax.kernels.placement import Placement
from latentum_jax.models import layers
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.layers import (
    MLP,
    RMSNorm,
    Rounded,
    Turned,
    dense,
    rotary_angles,
    rotate_half,
    rotate_pairs,
)
from latentum_jax.models.mome import LanguageModel, Stream
from tests.small import SMALL

CONFIG = dataclasses.replace(SMALL.language, rope_theta=5e5, rms_eps=1e-5)
QWEN = Qwen3Config(
    vocab_size=CONFIG.vocab_size,
    hidden_size=CONFIG.hidden_size,
    intermediate_size=CONFIG.mlp_size,
    num_hidden_layers=CONFIG.num_layers,
    num_attention_heads=CONFIG.num_heads,
    num_key_value_heads=CONFIG.num_kv_heads,
    head_dim=CONFIG.head_dim,
    rms_norm_eps=CONFIG.rms_eps,
    rope_theta=CONFIG.rope_theta,  # transformers 4
    rope_parameters={"rope_type": "default", "rope_theta": CONFIG.rope_theta},  # transformers 5
    tie_word_embeddings=False,
    attn_implementation="eager",
)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_rotate_half_is_qwen3_s():
    """Pairs (i, i + H/2); the head's pairs (2i, 2i + 1) have the same shape and are wrong here."""
    x, position = random(2, 6, 4, CONFIG.head_dim), np.array([[0, 1, 2, 3, 70, 1000]] * 2)
    heads_first = torch.tensor(x).transpose(1, 2)
    cos, sin = Qwen3RotaryEmbedding(QWEN)(heads_first, torch.tensor(position))
    expected, _ = apply_rotary_pos_emb(heads_first, heads_first, cos, sin)
    angles = rotary_angles(jnp.asarray(position), CONFIG.head_dim, CONFIG.rope_theta)
    got = rotate_half(jnp.asarray(x), *angles)
    np.testing.assert_allclose(got, expected.transpose(1, 2), atol=1e-4)


def test_rotate_pairs_is_a_complex_product():
    """The vision head's rotation: numbers 2i and 2i + 1 are one complex number."""
    x, position = random(1, 5, 2, 8), jnp.arange(5)[None]
    angle = np.arange(5)[:, None, None] * 1e4 ** (-np.arange(4) / 4)
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
    expected = np.stack([turned.real, turned.imag], -1).reshape(x.shape)
    got = rotate_pairs(jnp.asarray(x), *rotary_angles(position, 8, 1e4))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_rms_norm_is_qwen3_s():
    """eps inside the root, the scale after the norm, fp32 within whatever comes out."""
    x, scale = random(3, 32) * 1e-2, random(32, seed=1)
    reference = Qwen3RMSNorm(32, eps=1e-3)
    reference.weight.data = torch.tensor(scale)
    expected = reference(torch.tensor(x)).detach()
    variables = {"params": {"scale": jnp.asarray(scale)}}
    np.testing.assert_allclose(RMSNorm(1e-3).apply(variables, jnp.asarray(x)), expected, atol=1e-6)
    halved = RMSNorm(1e-3, jnp.bfloat16).apply(variables, jnp.asarray(x))
    assert halved.dtype == jnp.bfloat16


def test_gelu_is_exact():
    """The tanh approximation is off by up to 5e-4."""
    eye = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    x = random(5, 4)
    expected = torch.nn.functional.gelu(torch.tensor(x))
    got = MLP(4, 4).apply({"params": {"fc1": eye, "fc2": eye}}, jnp.asarray(x))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_understanding_branch_is_qwen3():
    """A whole Qwen3ForCausalLM, its weights loaded through the conversion table."""
    torch.manual_seed(0)
    reference = Qwen3ForCausalLM(QWEN).eval()
    for weight in reference.parameters():
        weight.data = torch.randn_like(weight) * 0.3 + (weight.ndim == 1)  # norms around 1
    state = {
        f"internvl.language_model.{key}": value.detach().numpy()
        for key, value in reference.state_dict().items()
    }
    shapes = {
        path: shape
        for path, shape in expected_shapes(dataclasses.replace(SMALL, language=CONFIG)).items()
        if path.startswith("language/") and "/gen/" not in path
    }
    flat = traverse_util.unflatten_dict(TABLE.import_flat(state, shapes), sep="/")
    params = _with_idle_generation_branch(flat["language"])
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 11))
    model = LanguageModel(CONFIG)

    @jax.jit
    def logits(params, tokens):
        variables = {"params": params}
        at = Placement.causal(jnp.broadcast_to(jnp.arange(11), (2, 11)))
        x = model.apply(variables, tokens, method="embed")
        hidden, _ = model.apply(variables, {"und": x}, Stream({"und": at}))
        return model.apply(variables, hidden["und"], method="logits")

    with torch.no_grad():
        expected = reference(torch.tensor(tokens)).logits
    np.testing.assert_allclose(logits(params, jnp.asarray(tokens)), expected, atol=1e-4)


def _with_idle_generation_branch(params):
    """NaN in every generation weight: none may be touched."""
    layers = params["layers"]
    idle = jax.tree.map(lambda x: np.full_like(x, np.nan), layers["und"])
    return {**params, "layers": {**layers, "gen": idle}}


def test_dense_is_torchs_linear():
    """Breaks if the kernel is turned, or the bias lost."""
    layer = dense(5, ("embed", "mlp"), bias=True, dtype=jnp.float32)
    linear, x = torch.nn.Linear(3, 5), torch.randn(2, 4, 3)
    weight, bias = (jnp.asarray(p.detach().numpy()) for p in (linear.weight, linear.bias))
    got = layer.apply({"params": {"kernel": weight.T, "bias": bias}}, jnp.asarray(x.numpy()))
    np.testing.assert_allclose(got, linear(x).detach(), atol=1e-6)


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize(("shape", "products"), [((2, 3), "{},6"), ((4, 50), "4,50,{0}|200,{0}")])
def test_a_turned_kernel_is_the_left_operand_of_few_rows(shape, products, long, monkeypatch):
    """Breaks if it multiplies otherwise than torch's linear, whose weights lie like that, or if XLA
    turns the product back, or many rows are turned, either of which costs half the speed on a CPU
    and nobody would notice."""
    monkeypatch.setattr(layers, "LONG", 16 if long else 17)
    linear = torch.nn.Linear(16, 49, bias=False)
    x = torch.randn(*shape, 16)
    kernel, rows = jnp.asarray(linear.weight.detach().numpy()).T, jnp.asarray(x.numpy())
    turned = Turned.of(kernel, "cpu")
    np.testing.assert_array_equal(turned.parts[0], linear.weight.detach()[: 25 if long else 49])
    np.testing.assert_allclose(turned.dot(rows), linear(x).detach(), atol=1e-6)
    np.testing.assert_array_equal(turned.kernel, linear.weight.detach().T)
    text = jax.jit(Turned.dot).lower(turned, rows).compile().as_text()
    made = re.findall(r"f32\[([\d,]+)\]\S* dot\(", text)
    sizes = (25, 24) if long else (49,)
    assert len(made) == len(sizes)
    assert all(any(one in products.format(n).split("|") for one in made) for n in sizes)


def test_weights_in_8_bits_by_hand():
    """int8: the largest of an output becomes 127; 1 of 2 is 63.5, which goes to the even 64. fp8
    keeps what is a power of two away from the largest, 448."""
    kernel = jnp.asarray([[2.0, -4.0], [1.0, 0.5]])
    rounded = Rounded.of(kernel, "int8")
    np.testing.assert_array_equal(rounded.values, [[127, 64], [-127, 16]])
    np.testing.assert_allclose(rounded.scale, [2 / 127, 4 / 127])
    x = jnp.asarray([[1.0, 10.0]])
    expected = [[2 + 10 * 64 * 2 / 127, -4 + 10 * 16 * 4 / 127]]
    np.testing.assert_allclose(rounded.dot(x), expected, rtol=1e-6)
    exact = Rounded.of(kernel, "fp8")
    assert exact.values.dtype == jnp.float8_e4m3fn
    np.testing.assert_allclose(exact.dot(jnp.eye(2)), kernel, rtol=1e-6)
    with pytest.raises(ValueError, match="weights are 'int4', expected one of"):
        Rounded.of(kernel, "int4")


@pytest.mark.parametrize("kind, error", [("int8", 0.01), ("fp8", 0.04)])
def test_a_layer_of_8_bit_weights_is_near_the_other(kind, error):
    """Breaks if a scale belongs to the wrong output, or a column of zeros divides by nothing.

    Of 64 normal numbers the largest is some 2.5: steps of 2.5/127, off by 1/sqrt(12) of one, are
    0.6%; of three bits of mantissa, 2.6%. A column of seven outputs may have thrice that.
    """
    keys = jax.random.split(jax.random.key(0))
    kernel = jax.random.normal(keys[0], (64, 48)) * jnp.linspace(0.0, 5.0, 48)
    x = jax.random.normal(keys[1], (7, 64))
    layer = dense(48, ("embed", "mlp"), bias=False, dtype=jnp.float32)
    full, rounded = (
        layer.apply({"params": {"kernel": k}}, x) for k in (kernel, Rounded.of(kernel, kind))
    )
    off = full - rounded
    assert float(jnp.linalg.norm(off) / jnp.linalg.norm(full)) < error
    size = jnp.linalg.norm(full, axis=0)
    assert float(jnp.max(jnp.linalg.norm(off, axis=0) / jnp.where(size > 0, size, 1))) < 3 * error
