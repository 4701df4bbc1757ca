"""The vision head against the public code, teacher-forced and step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentum_jax.models.latentum import unstack_layers
from latentum_jax.models.vision_head import AHEAD, VisionHead
from tests import published


@pytest.fixture(scope="module")
def golden():
    return published.outputs("ar_head/out")


def test_teacher_forced(golden):
    """Norms, pairwise rotation, the embedding of the code before: all of the head's layers."""
    base, codes = jnp.asarray(golden["base"][:, 0]), jnp.asarray(golden["codes"])
    logits = published.run("code_logits", base, codes)
    np.testing.assert_allclose(logits, golden["logits_teacher_forced"], atol=1e-4)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], -1)[..., 0]
    np.testing.assert_allclose(chosen, golden["log_prob"], atol=1e-4)


@pytest.mark.parametrize("ahead", [False, True])
def test_cached_steps_draw_the_same_codes(golden, ahead):
    """A step that reads another slot or position draws another picture, and one that looks up what
    the first layer makes of a code, where it is that of another code or place."""
    config = published.config()
    head = VisionHead(config.head, config.quantizer, config.language.hidden_size)
    params = unstack_layers(published.params())["head"]
    if ahead:
        params = {**params, AHEAD: head.apply({"params": params}, method="ahead")}
        first, *others = params["layers"]  # whose kernel is for the hidden state alone
        qkv = {"kernel": jnp.zeros_like(first["qkv"]["kernel"])}
        spoilt = {"params": {**params, "layers": ({**first, "qkv": qkv}, *others)}}
    variables = {"params": params}

    @jax.jit
    def step(variables, x, index, cache):
        logits, cache = head.apply(variables, x, index, cache, method="step")
        code = jnp.argmax(logits, -1)
        return code, head.apply(variables, code, index, method="follow"), logits, cache

    x = head.apply(variables, jnp.asarray(golden["base"][:, 0]), method="begin")
    cache = head.bind(variables).empty_caches(8)
    codes, logps = [], []
    for index in range(config.quantizer.num_codebooks):
        code, x, logits, cache = step(variables, x, jnp.array(index), cache)
        codes.append(code)
        variables = spoilt if ahead else variables
        logps.append(jax.nn.log_softmax(logits).max(-1))
    np.testing.assert_array_equal(np.stack(codes, 1), golden["greedy_cfg1"])
    np.testing.assert_allclose(np.stack(logps, 1), golden["greedy_logps"], atol=1e-4)


def test_codes_see_only_the_codes_before(small):
    """Teacher forcing must not show a code its own answer; the last code is never an input."""
    rng = np.random.default_rng(0)
    base = jnp.asarray(rng.standard_normal((3, 32)), jnp.float32)
    codes = jnp.asarray(rng.integers(0, 8, (3, 2)))
    logits = small.run("code_logits", base, codes)
    last = small.run("code_logits", base, codes.at[:, 1].add(1))
    np.testing.assert_array_equal(last, logits)
    first = small.run("code_logits", base, (codes + jnp.array([1, 0])) % 8)
    np.testing.assert_array_equal(first[:, 0], logits[:, 0])
    assert jnp.abs(first[:, 1] - logits[:, 1]).max() > 1e-3
