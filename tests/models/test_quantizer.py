"""MBAQ against the public code; dead codes by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from latentum_jax.config import QuantizerConfig
from latentum_jax.models.latentum import LatentUM
from latentum_jax.models.quantizer import (
    look_up,
    nearest_code,
    restart_dead_codes,
    squared_distances,
    usage_of,
)
from latentum_jax.tokenizer import SpecialIds
from latentum_jax.train.losses import mcq_loss
from latentum_jax.train.stages import mbaq_stage
from tests import published

CONFIG = ConfigDict({"objective": "kl", "loss_chunk": 0})


@pytest.fixture(scope="module")
def golden():
    return published.outputs("quantizer/out")


def test_codes_equal_the_public_code(golden):
    """One code off is another picture: they are exact."""
    quantized = published.run("quantize", jnp.asarray(golden["feature"]))
    np.testing.assert_array_equal(quantized.codes, golden["indices"])
    np.testing.assert_allclose(quantized.z, golden["z"], atol=1e-4)
    np.testing.assert_allclose(quantized.z_q, golden["z_q"], atol=1e-4)


@pytest.mark.parametrize(
    "codes, z_q, x_vq",
    [("indices", "i2f_z_q", "i2f_x_vq"), ("rand_indices", "rand_z_q", "rand_x_vq")],
)
def test_codes_to_features(golden, codes, z_q, x_vq):
    """Codebooks stacked or chunks joined in another order."""
    made = published.run("look_up", jnp.asarray(golden[codes]))
    np.testing.assert_array_equal(made, golden[z_q])
    np.testing.assert_allclose(published.run("understand_quantized", made), golden[x_vq], atol=1e-4)


def test_visual_projector(golden):
    """How drawn pictures enter the context; its activation and order of layers."""
    shown = published.run("show", jnp.asarray(golden["indices"]))
    np.testing.assert_allclose(shown, golden["visual_projector"], atol=1e-4)


def test_gradients_equal_the_public_code():
    """Swapped stop-gradients leave the loss as it is and train the wrong side."""
    golden = published.outputs("quantizer/grad")
    w, q = jnp.asarray(golden["w"]), published.config().quantizer

    def objective(z, codebook):
        codes = nearest_code(z, codebook)
        z_q = z + jax.lax.stop_gradient(look_up(codes, codebook) - z)
        loss = mcq_loss(z, codes, codebook, commitment=q.commitment, entropy=q.entropy)
        return loss["total"] + jnp.sum(z_q * w)

    codebook = published.params()["quantizer"]["codebook"]
    grad_z, grad_codebook = jax.jit(jax.grad(objective, (0, 1)))(jnp.asarray(golden["z"]), codebook)
    np.testing.assert_allclose(grad_z, golden["grad_z"], atol=1e-5)
    assert grad_codebook.shape == (4, 16, 8)
    np.testing.assert_allclose(
        grad_codebook.reshape(golden["grad_codebooks"].shape), golden["grad_codebooks"], atol=1e-5
    )


def test_straight_through(small):
    """The gradient of z_q reaches the features as if z had not been quantized."""
    features = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 128)), jnp.float32)

    @jax.jit
    def gradients(x):
        quantized = lambda x: small.model.apply({"params": small.params}, x, method="quantize")  # noqa: E731
        through = jax.grad(lambda x: jnp.sum(jnp.sin(jnp.arange(16)) * quantized(x).z_q))(x)
        around = jax.grad(lambda x: jnp.sum(jnp.sin(jnp.arange(16)) * quantized(x).z))(x)
        return through, around

    through, around = gradients(features)
    assert jnp.abs(around).max() > 0
    np.testing.assert_allclose(through, around, atol=1e-6)


def test_usage_in_training_equals_the_public_code():
    """A moving average of another decay restarts codes that are in use, or none ever."""
    golden = published.outputs("quantizer/train_mode")
    ids = SpecialIds(0, 1, 2, 3, 4, 5)
    stage = mbaq_stage(LatentUM(published.config()), CONFIG, ids)
    codebook = published.params()["quantizer"]["codebook"]
    z, usage = jnp.asarray(golden["z"]), jnp.asarray(golden["ema_before"])
    np.testing.assert_allclose(stage.extra["usage"], usage)
    codes = nearest_code(z, codebook)
    np.testing.assert_array_equal(codes, golden["indices"])
    trainable, extra, metrics = stage.after(
        {"quantizer/codebook": codebook}, {"usage": usage}, (z, codes), jax.random.key(0)
    )
    np.testing.assert_allclose(extra["usage"], golden["ema_after"], atol=1e-6)
    changed = np.any(trainable["quantizer/codebook"] != codebook, axis=(1, 2))
    np.testing.assert_array_equal(changed, golden["codebook_changed"])
    assert metrics["restarted"] == 0


def test_perplexity_equals_the_public_code():
    """Breaks if what training logs of the codes in use is counted otherwise: usage left as it is,
    of the first codebook in the place of all."""
    key = "quantizer.quantizer.quantizers.0.ema_usage"
    usage = jnp.tile(jnp.asarray(published.state_dict()[key]), (4, 1))
    config = published.config()
    still = dataclasses.replace(config.quantizer, usage_decay=1.0)
    model = LatentUM(dataclasses.replace(config, quantizer=still))
    stage = mbaq_stage(model, CONFIG, SpecialIds(0, 1, 2, 3, 4, 5))
    codebook = published.params()["quantizer"]["codebook"]
    left = jnp.zeros((1, 2, 32)), jnp.zeros((1, 2, 4), int)
    _, _, metrics = stage.after(
        {"quantizer/codebook": codebook}, {"usage": usage}, left, jax.random.key(0)
    )
    perplexity, utilization, active = published.outputs("quantizer/out")["usage0"].tolist()
    np.testing.assert_allclose(metrics["perplexity"], perplexity, rtol=1e-5)
    assert (utilization, active) == (1.0, 16.0)  # not logged: no code is dead here, none restarts
    assert metrics["restarted"] == 0


def test_usage_of_counts_shares():
    """Two books over three positions, by hand."""
    codes = jnp.array([[[0, 1], [0, 1], [2, 0]]])
    expected = [[2 / 3, 0, 1 / 3], [1 / 3, 2 / 3, 0]]
    np.testing.assert_allclose(usage_of(codes, 3), expected, rtol=1e-6)


def test_distances_are_squared():
    """By hand: one chunk of two numbers, two codes."""
    codebook = jnp.array([[[0.0, 0.0], [1.0, 3.0]]])
    assert squared_distances(jnp.array([[1.0, 1.0]]), codebook).tolist() == [[[2.0, 4.0]]]


def test_dead_codes_restart_least_used_first():
    """By hand: below 0.03/4 = 0.0075 is dead, and of three dead codes two may move."""
    config = QuantizerConfig(2, 4, embedding_dim=4, max_restarts=2)
    usage = jnp.array([[0.5, 0.005, 0.0, 0.001], [0.25, 0.25, 0.25, 0.0074]])
    codebook = -jnp.ones((2, 4, 2))
    z = jnp.arange(20.0).reshape(1, 5, 4)
    made, after, dead = restart_dead_codes(jax.random.key(0), codebook, usage, z, config)
    assert dead.tolist() == [[False, False, True, True], [False, False, False, True]]
    expected = jnp.array([[0.5, 0.005, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]])
    np.testing.assert_array_equal(after, expected)
    np.testing.assert_array_equal(made[~dead], codebook[~dead])
    for book in range(2):  # a restarted code is some input's chunk of its own book
        inputs = z[0, :, 2 * book : 2 * book + 2].tolist()
        assert all(code in inputs for code in made[book][dead[book]].tolist())
    again, _, _ = restart_dead_codes(jax.random.key(1), codebook, usage, z, config)
    assert np.any(again != made)


def test_a_living_codebook_is_left_alone():
    """Nothing is below the threshold: nothing moves, whatever the key."""
    config = QuantizerConfig(1, 2, embedding_dim=1)
    codebook, usage = jnp.array([[[1.0], [2.0]]]), jnp.array([[0.9, 0.1]])
    made, after, dead = restart_dead_codes(
        jax.random.key(0), codebook, usage, jnp.zeros((1, 3, 1)), config
    )
    assert not dead.any()
    np.testing.assert_array_equal(made, codebook)
    np.testing.assert_array_equal(after, usage)
